"""Reads point clouds from .las and .laz files, of laser scanners."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.columns import Cloud
from mrd_jax.io.colors import find_colors
from mrd_jax.io.notes import Note

SUFFIXES = (".las", ".laz")
_RECORD = 54  # bytes of a variable length record, at least
_SMALLEST = 40  # bytes of a point, or fewer
_DENSEST = 400  # bytes of points a byte; .laz takes about a tenth of them


def read(path: Path, notes: list[Note], columns: Sequence[str] | None) -> Cloud:
  """Reads coordinates, scaled and moved as the header says, and colours."""
  try:
    import laspy  # type: ignore  # an extra
  except ImportError:
    raise BadInput(
      "laspy, which reads this format, is not installed: pip install "
      "mrd-jax[las], or convert the file to .ply"
    ) from None
  # What it says of a file would be printed raw.
  logging.getLogger("laspy").setLevel(logging.CRITICAL)
  size = path.stat().st_size
  _check_counts(path, size)
  # Not the parallel reader, which ends the process where a table of pieces says
  # that they are large.
  one = laspy.LazBackend.Lazrs
  with (
    path.open("rb") as source,
    laspy.LasReader(source, laz_backend=one, read_evlrs=False) as file,
  ):
    count = file.header.point_count
    each = max(file.header.point_format.size, _SMALLEST)
    if count * each > _DENSEST * size:
      raise EOFError(f"{count} points, more than the file can hold")
    points: Any = file.read_points(-1)
  if len(points) != count:
    raise EOFError(f"{len(points)} of {count} points")
  names = [name.lower() for name in points.point_format.dimension_names]
  rgb = find_colors(names, notes)
  xyz = np.stack([np.asarray(points[axis]) for axis in "xyz"], axis=1)
  if not rgb:
    return xyz, None
  return xyz, np.stack([np.asarray(points[name]) for name in rgb], axis=1)


def _check_counts(path: Path, size: int) -> None:
  """Raises EOFError if a file has no room for what the libraries count on.

  laspy reads as many records as the header says, also behind the file's end, and
  lazrs takes the memory for as many pieces as their table says.
  """
  with path.open("rb") as file:

    def number(at: int, length: int) -> int:
      file.seek(at)
      return int.from_bytes(file.read(length), "little")

    records, points = number(100, 4), number(96, 4)
    table = number(points, 8)
    if table == 2**64 - 1:  # it was not known yet
      table = number(max(0, size - 8), 8)
    pieces = number(table + 4, 4) if table < size else 0
    is_compressed = number(104, 1) >= 64
  if records > size // _RECORD or (is_compressed and pieces > size):
    raise EOFError("counts more records than the file can hold")
