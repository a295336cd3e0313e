"""Reads all the layouts of OpenShape's published files, and writes its own.

Nothing in a file is executed: PyTorch reads it with `weights_only=True`.
"""

import contextlib
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mrd_jax.encoder import names
from mrd_jax.encoder.files import read_safetensors
from mrd_jax.errors import BadInput
from mrd_jax.io.archives import TooCostly
from mrd_jax.io.files import replacing
from mrd_jax.io.pickle_cost import check_torch_file
from mrd_jax.io.safe_pickle import NUMBERS

Style = Literal["bare", "module"]

# Where the encoder's tensors may be: a trainer's (DataParallel), the demo's
# ViT-L/14 and ViT-B/32 files, ours.
_PREFIXES = ("module.", "pc_encoder.", "module.pc_encoder.", "")


def read(path: Path) -> tuple[names.State, float | None]:
  """Reads a .pt or .safetensors file in any of the published layouts.

  A layout is a plain state dict or {"state_dict": ...} beside an optimizer's
  state, which is ignored; keys have the prefix `module.`, `pc_encoder.` or
  none; without a projection they lack `ppat.`, too.

  Returns:
    Arrays by OpenShape's keys, without prefix; and ln(1 / temperature), None
    if the file does not say.

  Raises:
    BadInput: if the file is missing, damaged, of another model, or holds
      anything but tensors and plain values.
  """
  logit_scale = None
  load = read_safetensors if path.suffix == ".safetensors" else _load
  content: Any = load(path)
  if isinstance(content, dict) and "state_dict" in content:
    # OpenShape keeps it in a module of its own.
    scale: Any = content.get("logit_scale")
    if isinstance(scale, dict):
      scale = next(iter(scale.values()), None)
    if scale is not None:
      if isinstance(scale, float):
        scale = torch.tensor(scale)
      scale = _as_array(scale, f"{path}: logit_scale")
      if scale.size != 1 or not np.isfinite(scale).all():
        raise BadInput(f"{path}: logit_scale is {scale}, must be a number")
      logit_scale = float(scale.item())
    content = content["state_dict"]
  if not isinstance(content, dict):
    raise BadInput(f"{path} holds no state dict but a {type(content).__name__}")
  content = {str(key): value for key, value in content.items()}
  for prefix in _PREFIXES:
    for inner, outer in (("ppat.", ""), ("", "ppat.")):
      if f"{prefix}{inner}cls_token" in content:
        state = {
          outer + key[len(prefix) :]: _as_array(value, f"{path}: {key}")
          for key, value in content.items()
          if key.startswith(prefix)
        }
        return state, logit_scale
  raise BadInput(
    f"{path} has no cls_token: it is not an OpenShape PointBERT; it holds "
    f"{names.few(content)}"
  )


def write(
  path: Path, state: names.State, logit_scale: float | None, style: Style
) -> None:
  """Writes a .pt file as OpenShape's trainer does, without its optimizer.

  Args:
    path: The file.
    state: Arrays by OpenShape's keys.
    logit_scale: ln(1 / temperature).
    style: "module": keys begin with `module.`, as those of OpenShape's
      checkpoints; "bare": they do not.
  """
  prefix = "module." if style == "module" else ""
  content: dict[str, Any] = {
    "state_dict": {
      # A copy: what JAX lends is read-only, which PyTorch does not know.
      prefix + key: torch.from_numpy(np.array(value))
      for key, value in state.items()
    },
    "text_proj": None,
    "image_proj": None,
  }
  if logit_scale is not None:
    content["logit_scale"] = {f"{prefix}logit_scale": torch.tensor(logit_scale)}
  # A file of ours: of a path PyTorch's writer says no more than "unexpected pos".
  with replacing(path) as temporary, temporary.open("wb") as file:
    torch.save(content, file)


def _load(path: Path) -> Any:
  """Reads a .pt file of tensors and plain values."""
  try:
    check_torch_file(path)
    # Learning rates and scores in a trainer's file may be numpy scalars.
    with torch.serialization.safe_globals(NUMBERS):
      return torch.load(path, map_location="cpu", weights_only=True)
  except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
    raise BadInput(f"{path} cannot be read: {error.strerror}") from error
  except TooCostly as error:
    raise BadInput(
      f"{path} is {error}; do not trust where it came from"
    ) from None
  except Exception as error:  # what damage leads to is anything
    # PyTorch names what it refused, in a page of advice to trust the file.
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
      raise BadInput(
        f"{path} is refused, nothing in it was executed: it holds "
        f"{refused[1]}, which is neither a tensor nor a plain value; ask for a "
        "file with the state dict alone"
      ) from error
    raise BadInput(
      f"{path} cannot be read as a PyTorch file; it is damaged or of another "
      "kind, fetch or export it again"
    ) from error


def _as_array(value: Any, name: str) -> np.ndarray:
  """Returns a tensor, of floats in float32, as numpy has no bfloat16."""
  # Sparse, quantised, nested and meta tensors stay what they are.
  with contextlib.suppress(TypeError, RuntimeError):
    if isinstance(value, torch.Tensor):
      value = value.detach()
      if value.nbytes > value.untyped_storage().nbytes():
        raise BadInput(
          f"{name} has more numbers than are stored; write it anew"
        )
      value = (value.float() if value.is_floating_point() else value).numpy()
  if not isinstance(value, np.ndarray) or value.dtype.kind == "c":
    raise BadInput(f"{name} must be a dense tensor of real numbers")
  if value.dtype.kind in "biu":
    return value
  return value.astype(np.float32, copy=False)
