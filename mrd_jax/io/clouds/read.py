"""Reads a point cloud from any of the usual files."""

import os
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io import clouds
from mrd_jax.io.formats import chosen, find_formats

# A format is a module that has its SUFFIXES and read(path) -> xyz, rgb or None.
_FORMATS = find_formats(clouds)
SUFFIXES = tuple(_FORMATS)


def read_cloud(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads one point cloud, its points in the order of the file.

  .npy: an array (N, 3) of xyz or (N, 6) of xyz and rgb.
  .npz: such an array as `points`, or xyz and rgb as two arrays: the first of
    `npz.XYZ_KEYS` and the first of `npz.RGB_KEYS` that the file has.
  .pcd: fields x, y, z and, for colours, packed rgb or rgba; ascii, binary or
    binary_compressed.
  .ply: a cloud, not a mesh: vertex properties x, y, z and, for colours, red,
    green, blue; ascii or binary.
  .xyz: text, 3 or 6 columns between spaces or commas; # and // begin comment
    lines.

  Colours that are integers, or whose maximum is above 1, are on the scale 0 to
  255 and are divided by 255; the others are on the scale 0 to 1.  The scale is
  found for each file by itself, and text counts as floats.  Alpha is dropped.

  Args:
    path: The file; its suffix, in any case, says the format.

  Returns:
    (N, 3) float64 xyz in the unit of the file, which may be geographic, or
    (N, 6) with rgb in [0, 1] where the file has colours.

  Raises:
    BadInput: naming the file and the field, if the file is missing, unknown,
      damaged, a mesh or a pickle, or if it has no points, another shape, NaN
      or infinite values, or colours out of range.
  """
  path = Path(path)
  with chosen(_FORMATS, path) as format:
    try:
      return _join(*format.read(path))
    except ValueError as error:
      if "Object arrays" not in str(error):  # numpy's refusal to unpickle
        raise
      raise BadInput(
        "it is a pickle, which could run code and is never opened; convert "
        "OpenShape's .npy files with python -m mrd_jax.prepare openshape, save "
        "others as a plain array"
      ) from None


def _join(xyz: np.ndarray, rgb: np.ndarray | None) -> np.ndarray:
  """Checks xyz (N, 3) and rgb (N, 3 or 4); see `read_cloud`."""
  for field, values in (("xyz", xyz), ("rgb", rgb)):
    if values is not None and values.dtype.kind not in "iuf":
      raise BadInput(f"{field} holds {values.dtype}, must hold numbers")
  if not len(xyz):
    raise BadInput("has no points")
  xyz_N3 = xyz.astype(np.float64)
  if not np.isfinite(xyz_N3).all():
    raise BadInput("xyz holds NaN or infinite values: drop those points")
  if rgb is None:
    return xyz_N3
  n = len(xyz)
  if rgb.shape not in ((n, 3), (n, 4)):
    raise BadInput(
      f"rgb has shape {rgb.shape}, must be ({n}, 3): a colour for each point"
    )
  rgb_N3 = rgb[:, :3].astype(np.float64)
  if not np.isfinite(rgb_N3).all():
    raise BadInput("rgb holds NaN or infinite values: drop those points")
  low, high = rgb_N3.min(), rgb_N3.max()
  if low < 0 or high > 255:
    raise BadInput(
      f"rgb runs from {low:g} to {high:g}, must lie in 0 to 1 or 0 to 255; if "
      "these columns are normals, drop them"
    )
  if rgb.dtype.kind in "iu" or high > 1:
    rgb_N3 /= 255
  return np.concatenate([xyz_N3, rgb_N3], axis=1)
