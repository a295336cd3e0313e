"""Declares the fields of a config, and checks configs by their declarations.

A section of a config is a frozen dataclass.  Each of its fields is made by
`field`, which says its default, its range, why it is there, and whether it may
change when a run goes on.  The type hint says the rest: bool, int, float, str,
`tuple[str, ...]`, a dict, a `Literal` of choices, another section, one of
several; or None too.  Numbers of a plain dataclass, which declares nothing, are
positive.
"""

import dataclasses
import functools
import itertools
import math
import re
import types
import typing
from typing import Any, Literal, NamedTuple

import ml_collections

from mrd_jax.errors import BadInput

SHARE = (0, 1 - 1e-9)  # of what must stay below the whole
_UNDECLARED = {int: (1, 2**24), float: (1e-9, 2**24)}


def field(
  default: Any,
  why: str = "",
  *,
  between: tuple[float, float] | None = None,
  may_change: bool = False,
) -> Any:
  """Declares a field of a section.

  A subclass that only wants another default writes `name: type = default` and
  inherits the rest of the declaration.

  Args:
    default: Its value in `Config()`.
    why: What it is, in a sentence; of a section its docstring says it.
    between: The smallest and the largest number allowed.
    may_change: Whether a run may go on with another value: it changes nothing
      that is learned, but for rounding.  Of a section: each of its fields.
  """
  return dataclasses.field(
    default=default,
    metadata={"why": why, "between": between, "may_change": may_change},
  )


class Declared(NamedTuple):
  """A field as it is declared; `field` says what the rest is."""

  name: str
  hint: Any
  default: Any
  why: str
  between: tuple[float, float] | None
  may_change: bool

  @property
  def is_section(self) -> bool:
    return bool(self.sections)

  @property
  def sections(self) -> tuple[Any, ...]:
    """Lists the sections that it may be; none of a value."""
    hints = typing.get_args(self.hint) or (self.hint,)
    return tuple(filter(dataclasses.is_dataclass, hints))

  @property
  def values(self) -> str:
    """Says which values are allowed, in words."""
    if typing.get_origin(self.hint) is Literal:
      return " or ".join(map(repr, typing.get_args(self.hint)))
    if typing.get_origin(self.hint) is tuple:
      kind = typing.get_args(self.hint)[0].__name__
      return f"tuple of {'string' if kind == 'str' else kind}s"
    if self.between is None:
      return self.hint.__name__
    low, high = self.between
    return f"{self.hint.__name__}, {low:.10g} to {high:.10g}"


@functools.cache
def declared(section: type) -> tuple[Declared, ...]:
  """Lists the fields of a section, sections of it among them."""
  hints = typing.get_type_hints(section)
  fields = []
  for item in dataclasses.fields(section):
    # Of the nearest class that declares more than another default.
    declarations = (
      base.__dataclass_fields__[item.name].metadata
      for base in section.__mro__
      if item.name in getattr(base, "__dataclass_fields__", ())
    )
    between = _UNDECLARED.get(hints[item.name])
    undeclared = {"why": "", "between": between, "may_change": False}
    declaration = next(filter(None, declarations), undeclared)
    fields.append(
      Declared(item.name, hints[item.name], item.default, **declaration)
    )
  return tuple(fields)


def describe(section: type) -> list[Declared]:
  """Lists the fields of a section and of those in it, by dotted names."""
  found = []
  for item in declared(section):
    if not item.is_section:
      found.append(item)
      continue
    found += [
      inner._replace(
        name=f"{item.name}.{inner.name}",
        may_change=item.may_change or inner.may_change,
      )
      for inner in describe(item.hint)
    ]
  return found


def by_section(config: type) -> list[tuple[str, str, list[Declared]]]:
  """Lists what `describe` does as (name, docstring, fields) of its sections."""
  docs = {item.name: item.hint.__doc__ for item in declared(config)} | {
    "": config.__doc__
  }
  groups = itertools.groupby(
    describe(config), lambda item: item.name.rpartition(".")[0]
  )
  return [(name, docs[name] or "", list(fields)) for name, fields in groups]


def may_change(section: type) -> set[str]:
  """Names the fields that may have other values when a run goes on."""
  return {item.name for item in describe(section) if item.may_change}


def build(section: type, values: Any, name: str) -> Any:
  """Makes a section of a dict that has exactly its fields.

  Args:
    section: Its class.
    values: The dict, or a ConfigDict; sections are dicts in it.
    name: Of the section, for messages.

  Raises:
    BadInput: naming the field that is missing or unknown.
  """
  if isinstance(values, ml_collections.ConfigDict):
    values = values.to_dict()
  if not isinstance(values, dict):
    raise BadInput(f"{name} must be a section of fields, it is {values!r}")
  fields = {item.name: item for item in declared(section)}
  for odd in sorted(fields.keys() ^ values.keys()):
    problem = "is missing" if odd in fields else "is not a field"
    raise BadInput(
      f"{name}.{odd} {problem}; {name} has {', '.join(sorted(fields))}"
    )
  return section(
    **{
      key: build(_section(fields[key], value), value, f"{name}.{key}")
      if fields[key].is_section
      else value
      for key, value in values.items()
    }
  )


def _section(item: Declared, values: Any) -> Any:
  """Chooses the section that has these fields, else the first."""
  for section in item.sections:
    names = {field.name for field in dataclasses.fields(section)}
    if isinstance(values, dict) and values.keys() == names:
      return section
  return item.sections[0]


def check(section: Any, name: str) -> None:
  """Checks the fields of a section, for its `__post_init__`.

  Whole numbers become floats and lists tuples where those are declared.

  Args:
    section: A dataclass.
    name: Of the section, for messages; "" leaves it out of them.

  Raises:
    BadInput: naming the field, what it must be, and what it is.
  """
  for item in declared(type(section)):
    value = getattr(section, item.name)
    if item.hint is Any:
      continue  # whoever declares it checks it
    path = f"{name}.{item.name}" if name else item.name
    if not item.is_section:
      object.__setattr__(section, item.name, _checked(item, value, path))
    elif isinstance(value, item.sections):
      check(value, path)
    else:
      raise BadInput(f"{path} must be a section of fields, it is {value!r}")


def _checked(item: Declared, value: Any, name: str) -> Any:
  or_none = ""
  if isinstance(item.hint, types.UnionType):  # of something and None
    if value is None:
      return None
    or_none = " or None"
    item = item._replace(hint=typing.get_args(item.hint)[0])
  if typing.get_origin(item.hint) is Literal:
    choices = typing.get_args(item.hint)
    if value not in choices:
      raise BadInput(
        f"{name} is {value!r}, must be one of {', '.join(map(repr, choices))}"
      )
    return value
  if typing.get_origin(item.hint) is tuple:
    kind = typing.get_args(item.hint)[0]
    if not isinstance(value, (list, tuple)) or not all(
      isinstance(part, kind) for part in value
    ):
      raise BadInput(f"{name} is {value!r}, must be a {item.values}")
    part = item._replace(hint=kind, between=_UNDECLARED.get(kind))
    return tuple(_checked(part, x, name) for x in value)
  if item.hint is float and type(value) is int:
    value = float(value)
  kind = typing.get_origin(item.hint) or item.hint  # dict[str, Any] is a dict
  if type(value) is not kind:
    raise BadInput(
      f"{name} is {value!r}, must be of type {kind.__name__}{or_none}"
    )
  if item.hint is float and not math.isfinite(value):
    raise BadInput(f"{name} is {value}, must be finite")
  if item.between:
    low, high = item.between
    if not low <= value <= high:
      raise BadInput(f"{name} is {value}, must be between {low} and {high}")
  return value


def as_config_dict(config: Any) -> ml_collections.ConfigDict:
  """Makes the ConfigDict of a config, as config files return it."""
  return ml_collections.ConfigDict(dataclasses.asdict(config))


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
  """Lists the fields of nested dicts by their dotted names.

  An empty dict is a value.
  """
  flat = {}
  for name, value in values.items():
    if isinstance(value, dict) and value:
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def parse_window(text: str) -> tuple[int, int] | None:
  """Reads the steps that `config.profile` names, None for "".

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


def in_steps(epochs: float, steps: int, steps_per_epoch: int) -> int:
  """Counts the steps of an interval that is given in epochs or in steps."""
  return steps or max(round(epochs * steps_per_epoch), 1)
