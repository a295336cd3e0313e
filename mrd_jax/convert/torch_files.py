"""Reads the layouts of published files, and writes OpenShape's.

PyTorch writes; `io/torch_file.py` reads, and executes nothing in a file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrd_jax.encoder.files import read_safetensors
from mrd_jax.io import torch_file
from mrd_jax.io.files import replacing
from mrd_jax.zoo import layouts
from mrd_jax.zoo.tensors import State

Style = Literal["bare", "module"]

# What a trainer's or OpenShape's demo file puts before the encoder's names.
_PREFIXES = ("pc_encoder.", "MAE_encoder.")


def read(path: Path) -> tuple[Mapping[str, Any], float | None]:
  """Reads a .pt, .pth or .safetensors file in any of the published layouts.

  A layout is a plain state dict or {"state_dict": ...} beside an optimizer's
  state, which is ignored (`zoo/layouts.py`); keys may begin with `pc_encoder.`
  or `MAE_encoder.`; without a projection OpenShape's lack `ppat.`.

  Returns:
    Tensors by the authors' keys, without prefix; and ln(1 / temperature), None
    if the file does not say.

  Raises:
    BadInput: if the file is missing, damaged, of another model, or holds
      anything but tensors and plain values.
  """
  of_torch = path.suffix != ".safetensors"
  load = torch_file.read if of_torch else read_safetensors
  found, logit_scale = layouts.state_dict(load(path), str(path))
  state: dict[str, Any] = {}
  # The demo's files have other modules beside the encoder.
  inner = [p for p in _PREFIXES if any(key.startswith(p) for key in found)]
  for key, value in found.items():
    prefix = next((p for p in inner if key.startswith(p)), "")
    if inner[:1] == ["pc_encoder."] and not prefix:
      continue
    state[key.removeprefix(prefix)] = value
  if "cls_token" in state and "sa.mlp_convs.0.weight" in state:
    state = {f"ppat.{key}": value for key, value in state.items()}
  return state, logit_scale


def write(
  path: Path, state: State, logit_scale: float | None, style: Style
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
