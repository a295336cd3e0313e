"""Reads a point cloud from any of the usual files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io import clouds
from mrd_jax.io.colors import SLACK, color_scale
from mrd_jax.io.formats import chosen, find_formats
from mrd_jax.io.notes import Note

# A format is a module that has its SUFFIXES and read(path, notes, columns) ->
# xyz, rgb or None.
_FORMATS = find_formats(clouds)
SUFFIXES = tuple(_FORMATS)


def read_cloud(
  path: str | os.PathLike[str],
  *,
  columns: Sequence[str] | None = None,
  notes: list[Note] | None = None,
) -> np.ndarray:
  """Reads one point cloud, its points in the order of the file.

  .npy: an array (N, 3) of xyz or (N, 6) of xyz and rgb.
  .npz: such an array, or xyz and rgb as two arrays: the first of
    `npz.XYZ_KEYS` and the first of `npz.RGB_KEYS` that the file has, or R, G
    and B as three.
  .pcd: fields x, y, z and, for colours, packed rgb or rgba, or r, g, b; ascii,
    binary or binary_compressed.
  .ply: a cloud, not a mesh: vertex properties x, y, z and, for colours, a
    triple of `colors.NAMES`; ascii or binary.
  .xyz: text, 3 or 6 columns between spaces or commas; # and // begin comment
    lines.
  Of six columns (.npy, .npz, .xyz) the last three are colours, but normals if
    all have length 1 or 0, which are left out; what may be both is refused.
  .txt, .csv, .pts: text, columns named by a header, or 3, 6 or 7 that are told
    apart by their values (`xyz.read`).
  .las, .laz: coordinates and colours, where laspy is installed.

  Colours that are integers, or whose maximum is above 1, are on the scale 0 to
  255 (integers of 16 bits with one above that: 0 to 65535); the others are on
  the scale 0 to 1.  The scale is found for each file by itself, and text counts
  as floats.  Alpha is dropped.  So are points without coordinates, a depth
  camera's "no return", which is noted.

  Args:
    path: The file; its suffix, in any case, says the format.
    columns: Names of the columns of a table (text, .npy), x, y, z and perhaps
      r, g, b among them; None finds them out.
    notes: What is left out is appended.

  Returns:
    (N, 3) float64 xyz in the unit of the file, which may be geographic, or
    (N, 6) with rgb in [0, 1] where the file has colours.

  Raises:
    BadInput: naming the file and the field, if the file is missing, unknown,
      damaged, a mesh or a pickle, or if it has no points, another shape, no
      finite coordinates, or colours that are not finite or out of range.
  """
  path = Path(path)
  notes = [] if notes is None else notes
  with chosen(_FORMATS, path) as format:
    try:
      xyz, rgb = format.read(path, notes, columns)
      return _join(xyz, rgb, notes)
    except ValueError as error:
      if "Object arrays" not in str(error):  # numpy's refusal to unpickle
        raise
      raise BadInput(
        "it is a pickle, which could run code and is never opened; convert "
        "OpenShape's .npy files with python -m mrd_jax.prepare openshape, save "
        "others as a plain array"
      ) from None


def _join(
  xyz: np.ndarray, rgb: np.ndarray | None, notes: list[Note]
) -> np.ndarray:
  """Checks xyz (N, 3) and rgb (N, 3 or 4); see `read_cloud`."""
  for field, values in (("xyz", xyz), ("rgb", rgb)):
    if values is not None and values.dtype.kind not in "iuf":
      raise BadInput(f"{field} holds {values.dtype}, must hold numbers")
  if not len(xyz):
    raise BadInput("has no points")
  xyz_N3 = xyz.astype(np.float64)
  there_N = np.isfinite(xyz_N3).all(axis=1)
  if not there_N.any():
    raise BadInput("xyz holds NaN or infinite values in every point")
  if not there_N.all():
    detail = f"{(~there_N).sum():,} of {len(xyz):,}"
    notes.append(Note("points without finite coordinates are dropped", detail))
  if rgb is None:
    return xyz_N3[there_N]
  n = len(xyz)
  if rgb.shape not in ((n, 3), (n, 4)):
    raise BadInput(
      f"rgb has shape {rgb.shape}, must be ({n}, 3): a colour for each point"
    )
  xyz_N3, rgb = xyz_N3[there_N], rgb[there_N, :3]
  if not np.isfinite(rgb).all():
    raise BadInput("rgb holds NaN or infinite values: drop those points")
  scale, low, high = color_scale(rgb), rgb.min(), rgb.max()
  if low < -SLACK or high > scale + SLACK:
    raise BadInput(
      f"rgb runs from {low:g} to {high:g}, must lie in 0 to 1 or 0 to 255; if "
      "these columns are normals, drop them"
    )
  rgb_N3 = (rgb / scale).clip(0, 1)
  return np.concatenate([xyz_N3, rgb_N3], axis=1)
