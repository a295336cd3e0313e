"""Reads point clouds from text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.columns import Cloud, named_columns, split_columns
from mrd_jax.io.notes import Note

SUFFIXES = (".xyz", ".txt", ".csv", ".pts")
_NORMALS = "normals are left out"


def read(path: Path, notes: list[Note], columns: Sequence[str] | None) -> Cloud:
  """Reads columns: of .xyz 3 or 6, of the others what `_guess` tells apart."""
  # Not trimesh, which turns float colours into 0 and miscounts commas.
  lines = [
    line
    for line in path.read_text(encoding="utf-8-sig").splitlines()
    if line.strip() and not line.lstrip().startswith(("#", "//"))
  ]
  if not lines:
    raise BadInput("has no points")
  delimiter = next((d for d in ",;" if d in lines[0]), None)
  if path.suffix.lower() == ".xyz":
    table = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
    return split_columns("the table", table, columns)
  first = lines[0].split(delimiter)
  if not _is_number(first[0]):  # a header
    columns, lines = columns or first, lines[1:]
  elif len(first) == 1 and len(lines) > 1:  # .pts begin with their count
    if len(lines) - 1 != int(first[0]):
      raise EOFError(f"{len(lines) - 1} of {first[0]} points")
    lines = lines[1:]
    delimiter = next((d for d in ",;" if d in lines[0]), None)
  if not lines:
    raise BadInput("has no points")
  table = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
  if columns is None:
    columns = _guess(table, path.suffix.lower() == ".pts")
    if "nx" in columns:
      notes.append(Note(_NORMALS, "columns 4 to 6 are of length 1"))
  return named_columns("the table", table, columns, notes)


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
    fits.append(("x", "y", "z", "r", "g", "b", "label")[:count])
  length_N = np.linalg.norm(table[:, 3:6], axis=1)
  is_unit_N = np.abs(length_N - 1) < 0.02
  if is_unit_N.any() and (is_unit_N | (length_N == 0)).all():
    fits.append(("x", "y", "z", "nx", "ny", "nz", "label")[:count])
  if count == 7 and _are_colors(table[:, 4:]):
    fits.append(tuple("xyzirgb"))
  if len(fits) != 1:
    what = (
      " or ".join(",".join(names) for names in fits)
      or "neither colours nor normals"
    )
    raise BadInput(
      f"columns 4 to {count} may be {what}; say what they are, for example with "
      f"--columns {','.join((fits or [('x', 'y', 'z', 'nx', 'ny', 'nz')])[0])}"
    )
  return fits[0]


def _are_colors(values: np.ndarray) -> bool:
  return bool((values >= 0).all() and (values <= 255).all())
