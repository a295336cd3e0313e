"""Reads point clouds from text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.columns import (
  COLORED,
  ORIENTED,
  Cloud,
  are_normals,
  named_columns,
  only_fit,
  split_columns,
)
from mrd_jax.io.notes import Note

SUFFIXES = (".xyz", ".txt", ".csv", ".pts")
_BEGINNING = 2**16  # characters


def read(path: Path, notes: list[Note], columns: Sequence[str] | None) -> Cloud:
  """Reads columns: of .xyz 3 or 6, of the others what `_guess` tells apart."""
  # Not trimesh, which turns float colours into 0 and miscounts commas.
  lines = _rows(path.read_text(encoding="utf-8-sig"))
  if not lines:
    raise BadInput("has no points")
  delimiter = _delimiter(lines[0])
  if path.suffix.lower() == ".xyz":
    table = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
    return split_columns("the table", table, columns, notes)
  first = lines[0].split(delimiter)
  if not _is_number(first[0]):  # a header
    columns, lines = columns or first, lines[1:]
  elif len(first) == 1 and len(lines) > 1:  # .pts begin with their count
    if len(lines) - 1 != int(first[0]):
      raise EOFError(f"{len(lines) - 1} of {first[0]} points")
    lines = lines[1:]
    delimiter = _delimiter(lines[0])
  if not lines:
    raise BadInput("has no points")
  table = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
  if columns is None:
    columns = _guess(table, path.suffix.lower() == ".pts")
  return named_columns("the table", table, columns, notes)


def may_have_points(path: Path) -> bool:
  """Says whether a .txt or .csv begins with a row of three numbers or more.

  Perhaps behind comments, and a header or a count.  Any other file may, and one
  that cannot be read: its reader says more.
  """
  if path.suffix.lower() not in (".txt", ".csv"):
    return True
  try:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
      rows = _rows(file.read(_BEGINNING))[:2]
  except OSError:
    return True
  cells = [row.split(_delimiter(row)) for row in rows]
  return any(len(row) > 2 and all(map(_is_number, row)) for row in cells)


def _rows(text: str) -> list[str]:
  """Returns the lines that are neither blank nor comments."""
  return [
    line
    for line in text.splitlines()
    if line.strip() and not line.lstrip().startswith(("#", "//"))
  ]


def _delimiter(row: str) -> str | None:
  """Returns what stands between columns; None is blanks."""
  return next((mark for mark in ",;" if mark in row), None)


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _guess(table: np.ndarray, is_pts: bool) -> Sequence[str]:
  """Tells what 3, 6 or 7 columns are, by their values; returns names.

  Three are x, y, z.  Behind them stand colours (from 0 to 1, or to 255),
  normals (of length 1, or 0 where there is none), or an intensity and colours,
  as the seven of .pts always are; behind colours or normals may stand a label.

  Raises:
    BadInput: if nothing fits, or more than one thing.
  """
  count = table.shape[1]
  if count == 3:
    return tuple("xyz")
  if count == 7 and is_pts:
    return tuple("xyzirgb")
  if count not in (6, 7):
    raise BadInput(
      f"the table has shape {table.shape}, must have 3, 6 or 7 columns; say "
      "what they are with --columns x,y,z,..."
    )
  fits = []
  if _are_colors(table[:, 3:6]):
    fits.append((*COLORED, "label")[:count])
  if are_normals(table[:, 3:6]):
    fits.append((*ORIENTED, "label")[:count])
  if count == 7 and _are_colors(table[:, 4:]):
    fits.append(tuple("xyzirgb"))
  return only_fit(fits, count)


def _are_colors(values: np.ndarray) -> bool:
  return bool((values >= 0).all() and (values <= 255).all())
