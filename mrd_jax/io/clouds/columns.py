"""Tells coordinates from colours."""

from collections.abc import Sequence

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.colors import find_colors
from mrd_jax.io.notes import Note

Cloud = tuple[np.ndarray, np.ndarray | None]


def split_columns(
  field: str, points: np.ndarray, names: Sequence[str] | None = None
) -> Cloud:
  """Splits (N, 3) or (N, 6), or other columns that have names, into xyz and rgb.

  Args:
    field: What messages call it.
    points: (N, columns).
    names: As `named_columns`; None is x, y, z and perhaps r, g, b.

  Returns:
    xyz and rgb, which may be None.
  """
  if names is not None:
    return named_columns(field, points, names, [])
  if points.ndim != 2 or points.shape[1] not in (3, 6):
    raise BadInput(
      f"{field} has shape {points.shape}, must be (N, 3): xyz, or (N, 6): xyz "
      "and rgb; say what other columns are with --columns x,y,z,..."
    )
  return points[:, :3], points[:, 3:] if points.shape[1] == 6 else None


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
  place = {name: index for index, name in enumerate(names)}
  xyz = points[:, [place[axis] for axis in "xyz"]]
  return xyz, points[:, [place[name] for name in rgb]] if rgb else None
