"""Finds the weights in the files of the published systems' trainers."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.torch_tensor import OtherTensor, Tensor, to_array

# Where trainers keep the weights: OpenShape and ULIP, DeepSpeed (Uni3D), ReCon
# and CG3D, others.
_PLACES = ("state_dict", "module", "base_model", "model")


def state_dict(
  content: Any, name: str = "the file"
) -> tuple[Mapping[str, Any], float | None]:
  """Finds the weights in what `read` gives of a trainer's file.

  They are {"state_dict" | "module" | "base_model" | "model": weights, ...}, or
  all of it.  Keys lose any `module.` that they begin with, which PyTorch's
  parallel modules put there, and otherwise stay as they were published.

  Args:
    content: Of the file.
    name: Of the file, for messages.

  Returns:
    A `Tensor` by each key (an array if the file has NumPy's), plain values left
    out; and ln(1 / temperature), from beside the weights or among them, None if
    the file does not say.

  Raises:
    BadInput: if there are none, two become one key, or one is no dense tensor
      of real numbers.
  """
  found, scale = content, None
  if isinstance(content, dict):
    place = next((p for p in _PLACES if isinstance(content.get(p), dict)), None)
    found = content if place is None else content[place]
    scale = None if place is None else content.get("logit_scale")
  if not isinstance(found, dict):
    raise BadInput(f"{name} holds no state dict but a {type(found).__name__}")
  state: dict[str, Tensor | np.ndarray] = {}
  for key, value in found.items():
    if isinstance(value, OtherTensor | np.ndarray):
      value = to_array(value, f"{name}: {key}")
    elif not isinstance(value, Tensor):
      continue
    key = re.sub(r"\A(module\.)+", "", str(key))
    if key in state:
      raise BadInput(f"{name} holds {key} twice, with module. and without")
    state[key] = value
  if not state:
    raise BadInput(f"{name} holds no tensors where a state dict would be")
  if scale is None:
    scale = state.get("logit_scale")
  return state, logit_scale(scale, name)


def logit_scale(value: Any, name: str) -> float | None:
  """Returns ln(1 / temperature) of what a trainer's file has under this name.

  Args:
    value: A tensor or number, a dict with one (the state dict of a module of
      its own), or nothing.
    name: Of the file, for messages.

  Raises:
    BadInput: if it is no finite number.
  """
  if isinstance(value, dict):
    value = next(iter(value.values()), None)
  if value is None:
    return None
  if isinstance(value, float):
    value = np.float64(value)
  scale = to_array(value, f"{name}: logit_scale")
  if scale.size != 1 or not np.isfinite(scale).all():
    raise BadInput(f"{name}: logit_scale is {scale}, must be a number")
  return float(scale.item())


def encoder_state(state: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Takes the encoder's tensors, by the keys that `zoo/` knows.

  OpenShape's demo files have it under `pc_encoder.` beside other modules,
  ReCon's under `MAE_encoder.` beside its projections; without a projection
  OpenShape's lacks `ppat.`.

  Args:
    state: Of `state_dict`.
    name: The file, for messages.

  Raises:
    BadInput: if two tensors become one key, or it is a CLIP of transformers,
      whose heads and activation no tensor says.
  """
  if any(key.startswith("vision_model.") for key in state):
    raise BadInput(
      f"{name} has the names of transformers' CLIPModel; put the config.json "
      "that was published with it beside model.safetensors"
    )
  if any(key.startswith("pc_encoder.") for key in state):
    state = {k: v for k, v in state.items() if k.startswith("pc_encoder.")}
  found: dict[str, Any] = {}
  for key, value in state.items():
    for prefix in ("pc_encoder.", "MAE_encoder."):
      key = key.removeprefix(prefix)
    if key in found:
      raise BadInput(f"{name} holds {key} twice, with a prefix and without")
    found[key] = value
  if "cls_token" in found and "sa.mlp_convs.0.weight" in found:
    found = {f"ppat.{key}": value for key, value in found.items()}
  return found
