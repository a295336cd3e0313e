"""Builds clouds and files of them, and checks how they are read."""

import numpy as np
import pytest
from pypcd4 import PointCloud

from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.read import read_cloud

XYZ = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
XYZ[7] = XYZ[3]  # neither merged nor dropped
BYTES = np.random.default_rng(1).integers(0, 256, (50, 3), dtype=np.uint8)
RGB = BYTES.astype(np.float32) / 255
COLOURED = np.concatenate([XYZ, RGB], axis=1)
PCD_HEADER = (
  "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\n"
  "COUNT 1 1 1 1\nWIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\n"
  "DATA ascii\n"
)
PLY_HEADER = (
  "ply\nformat ascii 1.0\nelement vertex {n}\nproperty float x\n"
  "property float y\nproperty float z\nproperty uchar red\n"
  "property uchar green\nproperty uchar blue\nend_header\n"
)


def lattice(
  seed: int, batch: int, points: int, levels: int = 1024
) -> np.ndarray:
  """Random clouds (batch, points, 3) float32, of multiples of 1 / levels."""
  rng = np.random.default_rng(seed)
  steps = rng.integers(-levels, levels + 1, size=(batch, points, 3))
  return (steps / levels).astype(np.float32)


def ply_bytes(columns: dict, *, order="<", header="") -> bytes:
  """A binary PLY of columns, each of its own type."""
  names = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort"}
  encoding = {"<": "little", ">": "big"}[order]
  data = np.rec.fromarrays(list(columns.values()), names=list(columns))
  properties = "".join(
    f"property {names[x.dtype.str[1:]]} {name}\n" for name, x in columns.items()
  )
  return (
    f"ply\nformat binary_{encoding}_endian 1.0\ncomment by hand\n"
    f"element vertex {len(data)}\n{properties}{header}end_header\n"
  ).encode() + data.astype(data.dtype.newbyteorder(order)).tobytes()


def axes(xyz=XYZ) -> dict:
  return dict(zip("xyz", xyz.T, strict=True))


def channels(rgb=BYTES) -> dict:
  return dict(zip(("red", "green", "blue"), rgb.T, strict=True))


def pcd(rgb_field: str | None, dtype="f4") -> PointCloud:
  if rgb_field is None:
    return PointCloud.from_xyz_points(XYZ)
  packed = PointCloud.encode_rgb(BYTES).view(dtype)
  return PointCloud.from_points(
    [*XYZ.T, packed], ("x", "y", "z", rgb_field), (np.float32,) * 3 + (dtype,)
  )


def check(path, expected):
  found = read_cloud(path)
  assert found.dtype == np.float64
  np.testing.assert_array_equal(found.astype(np.float32), expected)


def rejected(path, match: str):
  with pytest.raises(BadInput, match=match) as error:
    read_cloud(path)
  message = str(error.value)
  assert message.startswith(f"{path}: ") and "\n" not in message
