"""Lists the systems, and finds the one that a file is of."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.zoo import (
  cg3d,
  cg3d_pointmlp,
  clip2point,
  openshape,
  pointclip,
  recon,
  reconpp,
  spconv,
  ulip,
  uni3d,
)
from mrd_jax.zoo.system import System
from mrd_jax.zoo.tensors import few

# By the name in a model's config.json.  Of a file of CLIP's own both view
# systems can be made; PointCLIP's is all of it.
SYSTEMS: dict[str, System] = {
  "pointbert": openshape,
  "spconv": spconv,
  "uni3d": uni3d,
  "ulip": ulip,
  "recon": recon,
  "reconpp": reconpp,
  "cg3d": cg3d,
  "cg3d_pointmlp": cg3d_pointmlp,
  "clip2point": clip2point,
  "pointclip": pointclip,
}
_LARGEST = 2**24


def identify(state: Mapping[str, np.ndarray], name: str) -> tuple[str, Any]:
  """Finds the system and the size of a state dict.

  Args:
    state: Arrays by the published keys, without a trainer's prefix.
    name: The file, for messages.

  Returns:
    A key of `SYSTEMS` and a `Size` of it.

  Raises:
    BadInput: if it is of no system that is known.
  """
  for key, system in SYSTEMS.items():
    size = system.infer(state)
    if size is not None:
      return key, size
  known = ", ".join(system.NAME for system in SYSTEMS.values())
  raise BadInput(
    f"{name} is of no system that is known ({known}); it holds {few(state)}"
  )


def build_size(hint: Any, value: Any, name: str) -> Any:
  """Makes a `Size` of what its `dataclasses.asdict` has become in JSON.

  Args:
    hint: The class, or the type of one of its fields.
    value: What stands there.
    name: Of it, for messages.

  Raises:
    BadInput: naming the field that is missing, unknown or of another type.
  """
  if isinstance(hint, types.UnionType):
    sections = [x for x in typing.get_args(hint) if dataclasses.is_dataclass(x)]
    if not sections:
      if value is None:
        return None
      return build_size(typing.get_args(hint)[0], value, name)
    # Of several sections, that with these fields.
    hint = next(
      (
        section
        for section in sections
        if isinstance(value, dict) and value.keys() == _hints(section).keys()
      ),
      sections[0],
    )
  if dataclasses.is_dataclass(hint):
    hints = _hints(hint)
    if not isinstance(value, dict) or value.keys() != hints.keys():
      raise BadInput(f"{name} must have the fields {', '.join(sorted(hints))}")
    made: Any = hint
    return made(
      **{
        key: build_size(hints[key], part, f"{name}.{key}")
        for key, part in value.items()
      }
    )
  if typing.get_origin(hint) is Literal:
    choices = typing.get_args(hint)
    if value in choices:
      return value
    words = ", ".join(map(repr, choices))
    raise BadInput(f"{name} is {value!r}, must be one of {words}")
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, list | tuple):
      raise BadInput(f"{name} is {value!r}, must be a list")
    part = typing.get_args(hint)[0]
    return tuple(build_size(part, x, f"{name}[]") for x in value)
  if hint is float and type(value) is int:
    value = float(value)
  if type(value) is not hint:
    raise BadInput(f"{name} is {value!r}, must be of type {hint.__name__}")
  number: Any = value
  if hint in (int, float) and not 0 < number <= _LARGEST:
    raise BadInput(f"{name} is {value}, must be between 0 and {_LARGEST:,}")
  return value


def _hints(section: Any) -> dict[str, Any]:
  return typing.get_type_hints(section)
