"""Reads all the layouts of OpenShape's published files, and writes its own.

PyTorch writes; `io/torch_file.py` reads, and executes nothing in a file.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrd_jax.encoder import names
from mrd_jax.encoder.files import read_safetensors
from mrd_jax.errors import BadInput
from mrd_jax.io import torch_file
from mrd_jax.io.files import replacing
from mrd_jax.io.torch_tensor import to_array
from mrd_jax.zoo import layouts

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
  of_torch = path.suffix != ".safetensors"
  load = torch_file.read if of_torch else read_safetensors
  content: Any = load(path)
  if isinstance(content, dict) and "state_dict" in content:
    scale = content.get("logit_scale")
    logit_scale = layouts.logit_scale(scale, str(path))
    content = content["state_dict"]
  if not isinstance(content, dict):
    raise BadInput(f"{path} holds no state dict but a {type(content).__name__}")
  content = {str(key): value for key, value in content.items()}
  for prefix in _PREFIXES:
    for inner, outer in (("ppat.", ""), ("", "ppat.")):
      if f"{prefix}{inner}cls_token" in content:
        state = {
          outer + key[len(prefix) :]: to_array(value, f"{path}: {key}")
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
  import torch  # reading needs none

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
