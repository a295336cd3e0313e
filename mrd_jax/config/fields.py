"""Checks the fields of a config."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from mrd_jax.errors import BadInput


def parse_window(text: str) -> tuple[int, int] | None:
  """The steps that `config.profile` names, None for "".

  Raises:
    BadInput: unless it is "START:STOP" with 0 <= START < STOP.
  """
  if not text:
    return None
  found = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text, re.ASCII)
  if not found or int(found[1]) >= int(found[2]):
    raise BadInput(
      f"config.profile is {text!r}, must be START:STOP, two step numbers of "
      "which the second is larger, or ''"
    )
  return int(found[1]), int(found[2])


def build(cls: type, values: Any, name: str) -> Any:
  """A frozen dataclass of a section's values.

  Args:
    cls: The dataclass; its fields may be dataclasses.
    values: A dict of exactly its fields.
    name: Of the section, for messages.

  Raises:
    BadInput: naming the field that is missing, unknown or of another type.
  """
  if not isinstance(values, dict):
    raise BadInput(f"{name} must be a section of fields, it is {values!r}")
  hints = typing.get_type_hints(cls)
  fields = {field.name for field in dataclasses.fields(cls)}
  for odd in sorted(fields ^ values.keys()):
    problem = "is missing" if odd in fields else "is not a field"
    raise BadInput(
      f"{name}.{odd} {problem}; {name} has {', '.join(sorted(fields))}"
    )
  return cls(
    **{
      field: _check(hints[field], value, f"{name}.{field}")
      for field, value in values.items()
    }
  )


def _check(hint: Any, value: Any, name: str) -> Any:
  if dataclasses.is_dataclass(hint):
    return build(typing.cast(type, hint), value, name)
  if typing.get_origin(hint) is Literal:
    choices = typing.get_args(hint)
    if value not in choices:
      raise BadInput(
        f"{name} is {value!r}, must be one of {', '.join(map(repr, choices))}"
      )
    return value
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, (list, tuple)) or not all(
      isinstance(item, str) for item in value
    ):
      raise BadInput(f"{name} is {value!r}, must be a tuple of strings")
    return tuple(value)
  if hint is float and type(value) is int:
    value = float(value)
  assert not isinstance(hint, types.GenericAlias), hint
  if type(value) is not hint:
    raise BadInput(f"{name} is {value!r}, must be of type {hint.__name__}")
  if hint is float and not math.isfinite(value):
    raise BadInput(f"{name} is {value}, must be finite")
  return value


BELOW_ONE = 1 - 1e-9


def check_ranges(
  config: Any, ranges: Mapping[str, tuple[float, float]]
) -> None:
  """Raises BadInput if a field, by its dotted name, is out of its range."""
  for name, (low, high) in ranges.items():
    value: Any = config
    for part in name.split("."):
      value = getattr(value, part)
    if not low <= value <= high:
      raise BadInput(
        f"config.{name} is {value}, must be between {low} and {high}"
      )


def in_steps(epochs: float, steps: int, steps_per_epoch: int) -> int:
  """An interval that is given in epochs or in steps, in steps."""
  return steps or max(round(epochs * steps_per_epoch), 1)
