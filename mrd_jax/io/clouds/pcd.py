"""Reads point clouds from .pcd files."""

from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput

SUFFIXES = (".pcd",)


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads x, y, z and packed colours."""
  from pypcd4.pypcd4 import PointCloud

  cloud = PointCloud.from_path(path)
  fields = cloud.fields
  if not {"x", "y", "z"} <= set(fields):
    raise BadInput(f"FIELDS are {', '.join(fields)}, must include x, y, z")
  if not cloud.points:
    raise BadInput("has no points")
  data = np.atleast_1d(cloud.pc_data)
  if len(data) != cloud.points:  # pypcd4 does not mind
    raise EOFError(f"{len(data)} of {cloud.points} points")
  xyz = np.stack([data[axis] for axis in "xyz"], axis=1)
  packed = next((name for name in ("rgb", "rgba") if name in fields), None)
  if packed is None:
    return xyz, None
  if data[packed].dtype.itemsize != 4:
    raise BadInput(
      f"{packed} has SIZE {data[packed].dtype.itemsize}, must be 4 bytes: "
      "packed 0xAARRGGBB"
    )
  return xyz, PointCloud.decode_rgb(data[packed])
