"""Reads values that a Python file gives to a name, and runs nothing of it."""

import ast
import warnings
from pathlib import Path
from typing import Any

from mrd_jax.errors import BadInput

_BYTES = 2**18  # the parser takes some hundred times as much memory


def read_items(path: Path, name: str, remedy: str) -> dict[Any, Any]:
  """Reads a dict that a file builds of plain values.

  Its statements may be `NAME = {...}` and `NAME["key"] = ...`.

  Args:
    path: The file, of at most 256 KiB.
    name: Of the dict.
    remedy: How to mend it, the end of the messages.

  Raises:
    BadInput: naming the file, and the line that is anything else.
  """
  if path.exists() and not path.is_file():  # a pipe would be waited for
    raise BadInput(f"{path}: is no file; {remedy}")
  try:
    with path.open("rb") as file:
      source = file.read(_BYTES + 1)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  if len(source) > _BYTES:
    raise BadInput(f"{path}: has more than {_BYTES:,} bytes; {remedy}")
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of a backslash in a text
      statements = ast.parse(source).body
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    raise BadInput(
      f"{path}: is no Python source ({reason}); {remedy}"
    ) from error
  items = {}
  for statement in statements:
    try:
      match statement:
        case ast.Assign([ast.Name(target)], value) if target == name:
          items |= ast.literal_eval(value)
        case ast.Assign(
          [ast.Subscript(ast.Name(target), ast.Constant(key))], value
        ) if target == name:
          items[key] = ast.literal_eval(value)
        case _:
          raise ValueError
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
      raise BadInput(
        f"{path}: line {statement.lineno} must give {name} plain values, "
        f"nothing else is read; {remedy}"
      ) from error
  return items
