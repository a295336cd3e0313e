"""Tells coordinates, colours and normals apart."""

from collections.abc import Sequence

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.colors import LIKE_COLORS, find_colors
from mrd_jax.io.notes import Note

Cloud = tuple[np.ndarray, np.ndarray | None]
COLORED = ("x", "y", "z", "r", "g", "b")
ORIENTED = ("x", "y", "z", "nx", "ny", "nz")
NORMALS = "normals are left out"
OTHERS = "columns that are neither xyz nor rgb are left out"


def split_columns(
  field: str,
  points: np.ndarray,
  names: Sequence[str] | None,
  notes: list[Note],
) -> Cloud:
  """Splits (N, 3) or (N, 6), or other columns that have names, into xyz and rgb.

  Args:
    field: What messages call it.
    points: (N, columns).
    names: As `named_columns`; None is x, y, z and perhaps r, g, b, or normals
      if they look it.
    notes: What is left out is appended.

  Returns:
    xyz and rgb, which may be None.
  """
  if names is not None:
    return named_columns(field, points, names, notes)
  if points.ndim != 2 or points.shape[1] not in (3, 6):
    raise BadInput(
      f"{field} has shape {points.shape}, must be (N, 3): xyz, or (N, 6): xyz "
      "and rgb; say what other columns are with --columns x,y,z,..."
    )
  rgb = points[:, 3:] if points.shape[1] == 6 else None
  if rgb is not None and are_normals(rgb):
    fits = [COLORED, ORIENTED] if (rgb >= 0).all() else [ORIENTED]
    return named_columns(field, points, only_fit(fits, 6), notes)
  return points[:, :3], rgb


def are_normals(values_N3: np.ndarray) -> bool:
  """Says whether all are of length 1, or 0 where there is no normal."""
  if values_N3.dtype.kind not in "iuf":
    return False
  with np.errstate(over="ignore"):
    length_N = np.linalg.norm(values_N3, axis=1)
  is_unit_N = np.abs(length_N - 1) < 0.02
  return bool(is_unit_N.any() and (is_unit_N | (length_N == 0)).all())


def only_fit(fits: Sequence[Sequence[str]], count: int) -> Sequence[str]:
  """Returns the one thing that so many columns may be, by their names.

  Raises:
    BadInput: if nothing fits, or more than one thing.
  """
  if len(fits) == 1:
    return fits[0]
  what = (
    " or ".join(",".join(names) for names in fits)
    or "neither colours nor normals"
  )
  raise BadInput(
    f"columns 4 to {count} may be {what}; say what they are, for example with "
    f"--columns {','.join((*fits, ORIENTED)[0])}"
  )


def named_columns(
  field: str, points: np.ndarray, names: Sequence[str], notes: list[Note]
) -> Cloud:
  """Picks xyz and rgb by the names of columns.

  Args:
    field: What messages call it.
    points: (N, columns).
    names: A name a column: x, y, z, of `colors.NAMES`, or anything else for what
      is not read.
    notes: What is left out is appended.
  """
  names = [name.strip().lower() for name in names]
  if points.ndim != 2 or points.shape[1] != len(names):
    raise BadInput(
      f"{field} has shape {points.shape}, but {len(names)} columns have names: "
      f"{', '.join(names)}; mend --columns or the header"
    )
  if not {"x", "y", "z"} <= set(names):
    raise BadInput(
      f"columns are {', '.join(names)}, must include x, y, z; name them with "
      "--columns"
    )
  rgb = find_colors(names, notes)
  rest = set(names) - {"x", "y", "z", *(rgb or ())}
  if {"nx", "ny", "nz"} <= rest:
    notes.append(Note(NORMALS, "nx, ny, nz"))
    rest -= {"nx", "ny", "nz"}
  if rgb is None:  # `find_colors` has said what becomes of these
    rest = {name for name in rest if not LIKE_COLORS.search(name)}
  if rest:
    notes.append(Note(OTHERS, ", ".join(sorted(rest))))
  place = {name: index for index, name in enumerate(names)}
  xyz = points[:, [place[axis] for axis in "xyz"]]
  return xyz, points[:, [place[name] for name in rgb]] if rgb else None
