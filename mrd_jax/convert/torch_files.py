"""Writes OpenShape's .pt files."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mrd_jax.io.files import replacing
from mrd_jax.zoo.tensors import State

Style = Literal["bare", "module"]


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
