"""Reads point clouds of every format."""

import numpy as np
import pytest
import trimesh
from clouds import (
  BYTES,
  COLOURED,
  PCD_HEADER,
  PLY_HEADER,
  RGB,
  XYZ,
  axes,
  channels,
  check,
  pcd,
  ply_bytes,
  rejected,
)
from pypcd4 import Encoding, PointCloud
from trimesh.exchange.ply import export_ply

from mrd_jax.io.clouds.read import read_cloud


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
@pytest.mark.parametrize("coloured", [False, True])
def test_ply_of_trimesh(tmp_path, encoding, coloured):
  cloud = trimesh.PointCloud(XYZ, BYTES if coloured else None)
  path = tmp_path / "a.PLY"
  path.write_bytes(export_ply(cloud, encoding=encoding))
  found = read_cloud(path).astype(np.float32)
  if encoding == "ascii":  # trimesh writes 8 decimals
    np.testing.assert_allclose(found[:, :3], XYZ, atol=1e-8)
    found[:, :3] = XYZ
  np.testing.assert_array_equal(found, COLOURED if coloured else XYZ)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_ply_types(tmp_path, order, dtype):
  path = tmp_path / "a.ply"
  normals = dict(zip(("nx", "ny", "nz"), XYZ.T, strict=True))
  columns = axes(XYZ.astype(dtype)) | normals | channels()
  alpha = {"alpha": BYTES[:, 0], "quality": XYZ[:, 1]}
  path.write_bytes(ply_bytes(columns | alpha, order=order))
  check(path, COLOURED)
  for rgb in (RGB, RGB * 255, RGB.astype("f8")):
    path.write_bytes(ply_bytes(axes() | channels(rgb), order=order))
    np.testing.assert_allclose(read_cloud(path), COLOURED, rtol=2e-7)
  # Rounding does not make bytes of them.
  white = np.full_like(RGB, 1.0000001)
  path.write_bytes(ply_bytes(axes() | channels(white), order=order))
  np.testing.assert_allclose(read_cloud(path)[:, 3:], 1, atol=1e-6)


def test_ply_without_faces(tmp_path):
  """As Open3D and MeshLab write clouds."""
  path = tmp_path / "a.ply"
  header = "element face 0\nproperty list uchar int vertex_indices\n"
  path.write_bytes(ply_bytes(axes(), header=header))
  check(path, XYZ)


def test_ply_by_hand(tmp_path):
  path = tmp_path / "a.ply"
  text = PLY_HEADER.format(n=2) + "0 1 2 255 0 51 \r\n3 4 1e-1 0 0 0\n\n"
  path.write_bytes(text.encode())
  check(
    path, np.array([[0, 1, 2, 1, 0, 0.2], [3, 4, 0.1, 0, 0, 0]], np.float32)
  )


@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_npy(tmp_path, coloured, dtype):
  points = (COLOURED if coloured else XYZ).astype(dtype)
  np.save(tmp_path / "a.npy", points)
  check(tmp_path / "a.npy", points.astype(np.float32))


def test_npy_of_other_layouts(tmp_path):
  np.save(tmp_path / "a.npy", np.asfortranarray(COLOURED))
  check(tmp_path / "a.npy", COLOURED)
  np.save(tmp_path / "a.npy", XYZ.astype(">f4"))
  check(tmp_path / "a.npy", XYZ)


def test_integers_are_bytes(tmp_path):
  """Even where no colour is above 1."""
  points = np.array([[5, 6, 7, 0, 1, 0], [8, 9, 10, 1, 0, 1]])
  np.save(tmp_path / "a.npy", points)
  expected = points.astype(np.float32)
  expected[:, 3:] /= np.float32(255)
  check(tmp_path / "a.npy", expected)


@pytest.mark.parametrize(
  ("xyz_key", "rgb_key"),
  [("points", "rgb"), ("xyz", "color"), ("pos", "colors"), ("pc", "rgb")],
)
def test_npz(tmp_path, xyz_key, rgb_key):
  path = tmp_path / "a.npz"
  for save in (np.savez, np.savez_compressed):
    save(path, **{xyz_key: XYZ, "normals": XYZ})
    check(path, XYZ)
    save(path, **{xyz_key: COLOURED})
    check(path, COLOURED)
    save(path, **{xyz_key: XYZ, rgb_key: BYTES})
    check(path, COLOURED)
  alpha = np.full((50, 1), 200, np.uint8)
  np.savez(path, **{xyz_key: XYZ, rgb_key: np.hstack([BYTES, alpha])})
  check(path, COLOURED)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [" ", " \t ", ",", " , "])
def test_xyz_separators(tmp_path, separator, end):
  path = tmp_path / "a.xyz"
  lines = [separator.join(repr(float(x)) for x in row) for row in COLOURED]
  path.write_bytes(end.join(lines).encode())
  check(path, COLOURED)
  lines = ["# x, y, z", "//X Y Z", "", *lines[:9], "  # half", *lines[9:], ""]
  path.write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
  check(path, COLOURED)


def test_xyz_colours(tmp_path):
  path = tmp_path / "a.xyz"
  np.savetxt(path, np.hstack([XYZ, BYTES]), "%.9g")
  check(path, COLOURED)
  np.savetxt(path, XYZ, "%.9g")
  check(path, XYZ)


@pytest.mark.parametrize("encoding", ["binary", "binary_compressed"])
@pytest.mark.parametrize(
  ("field", "dtype"), [(None, ""), ("rgb", "f4"), ("rgb", "u4"), ("rgba", "u4")]
)
def test_pcd(tmp_path, encoding, field, dtype):
  path = tmp_path / "a.pcd"
  pcd(field, dtype).save(path, Encoding(encoding))
  check(path, XYZ if field is None else COLOURED)


def test_pcd_that_compresses(tmp_path):
  """Noise is stored as it is; this is not."""
  path = tmp_path / "a.pcd"
  grid = np.arange(3000, dtype=np.float32).reshape(-1, 3) // 30
  PointCloud.from_xyz_points(grid).save(path, Encoding.BINARY_COMPRESSED)
  assert b"binary_compressed" in path.read_bytes()
  assert path.stat().st_size < grid.nbytes / 2
  check(path, grid)
  path.write_bytes(path.read_bytes()[:-5])
  rejected(path, "cannot be read")


@pytest.mark.parametrize("n", [1, 2])
def test_pcd_by_hand(tmp_path, n):
  path = tmp_path / "a.pcd"
  rows = f"0 1 2 {255 << 16 | 51}\n3 4 0.1 {255 << 8}\n".splitlines(True)[:n]
  expected = [[0, 1, 2, 1, 0, 0.2], [3, 4, 0.1, 0, 1, 0]][:n]
  path.write_text(PCD_HEADER.format(n=n) + "".join(rows))
  check(path, np.array(expected, np.float32))


def test_coordinates_far_from_the_origin_are_exact(tmp_path):
  points = XYZ.astype(float) + np.array([5e5, 5e6, 0])
  np.save(tmp_path / "a.npy", points)
  np.testing.assert_array_equal(read_cloud(tmp_path / "a.npy"), points)
