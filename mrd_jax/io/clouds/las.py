"""Reads point clouds from .las and .laz files, of laser scanners."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.columns import Cloud
from mrd_jax.io.colors import find_colors
from mrd_jax.io.notes import Note

SUFFIXES = (".las", ".laz")
_DENSEST = 10  # points a byte; .laz takes about a tenth of 20 to 40 bytes each


def read(path: Path, notes: list[Note], columns: Sequence[str] | None) -> Cloud:
  """Reads coordinates, scaled and moved as the header says, and colours."""
  try:
    import laspy  # type: ignore  # an extra
  except ImportError:
    raise BadInput(
      "laspy, which reads this format, is not installed: pip install "
      "mrd-jax[las], or convert the file to .ply"
    ) from None
  with laspy.open(path) as file:
    count = file.header.point_count
    if count > _DENSEST * path.stat().st_size:
      raise EOFError(f"{count} points, more than the file can hold")
    las = file.read()
  if len(las.points) != count:
    raise EOFError(f"{len(las.points)} of {count} points")
  names = [name.lower() for name in las.point_format.dimension_names]
  rgb = find_colors(names, notes)
  xyz = np.stack([np.asarray(x) for x in (las.x, las.y, las.z)], axis=1)
  if not rgb:
    return xyz, None
  return xyz, np.stack([np.asarray(las[name]) for name in rgb], axis=1)
