"""Refuses point clouds that cannot be used, naming file and field."""

import pickle
import re
import sys
import time

import numpy as np
import pytest
import trimesh
from bounds import bounded
from clouds import (
  BYTES,
  COLOURED,
  PCD_HEADER,
  PLY_HEADER,
  RGB,
  XYZ,
  axes,
  check,
  pcd,
  ply_bytes,
  rejected,
)
from pypcd4 import Encoding
from trimesh.exchange.ply import export_ply

from mrd_jax.io.clouds.read import SUFFIXES

DAMAGED = r"cannot be read as \.ply.*damaged"
NO_Z = PLY_HEADER.format(n=2).replace("float z", "float w")
PCD_NO_Z = PCD_HEADER.format(n=2).replace("x y z", "x y w")
PCD_ONE_BYTE = PCD_HEADER.format(n=2).replace("4 4 4 4", "4 4 4 1")


@pytest.mark.parametrize(
  ("suffix", "content", "match"),
  [
    ("ply", "", DAMAGED),
    ("ply", "not a ply", DAMAGED),
    ("ply", PLY_HEADER.format(n=2)[:60], DAMAGED),
    ("ply", PLY_HEADER.format(n=3) + "0 0 0 1 1 1\n0 1 2 3 4 5\n", DAMAGED),
    ("ply", PLY_HEADER.format(n=2) + "0 0 0 1 1 1\n0 1 2 3\n", DAMAGED),
    ("ply", PLY_HEADER.format(n=2) + "0 0 0 1 1 1\n\n0 1 2 3 4 5\n", DAMAGED),
    ("ply", PLY_HEADER.format(n=2) + "0 0 0 1 1 1\n0 1 a 3 4 5\n", DAMAGED),
    ("ply", NO_Z + "0 0 0 1 1 1\n" * 2, DAMAGED),
    ("ply", PLY_HEADER.format(n=99999) + "0 0 0 1 1 1\n", "99999, more than"),
    ("ply", PLY_HEADER.format(n=0), "no points"),
    ("xyz", "", "no points"),
    ("xyz", "# x y z\n\n", "no points"),
    ("xyz", "1 2\n3 4\n", r"\(2, 2\), must be"),
    ("xyz", "1 2 3 4 5 6 7\n", r"\(1, 7\), must be"),
    ("xyz", "1 2 3\n4 5\n", "cannot be read"),
    ("xyz", "1 2 3\n4 5 x\n", "cannot be read.*x"),
    ("xyz", "x,y,z\n1,2,3\n", "cannot be read"),
    ("xyz", "0,5 1,5 2,5\n3,5 4,5 5,5\n", "cannot be read"),  # decimal commas
    ("xyz", "1 2 nan\n4 5 nan\n", "xyz holds NaN"),
    ("xyz", "1 2 nan\n4 5 1e999\n", "xyz holds NaN or infinite"),
    ("xyz", "1 2 3 0 2 0\n4 5 6 0 -1 0\n", "rgb runs from -1 to 2.*normals"),
    ("xyz", "1 2 3 0 256 0\n", "rgb runs from 0 to 256"),
    ("xyz", "1 2 3 0 inf 0\n", "rgb holds NaN or inf"),
    ("xyz", "\0\xff" * 40, "cannot be read"),
    ("pcd", "", "cannot be read"),
    ("pcd", "\0\xff" * 40, "cannot be read"),
    ("pcd", PCD_HEADER.format(n=2)[:90], "cannot be read"),
    ("pcd", PCD_HEADER.format(n=0), "no points"),
    ("pcd", PCD_HEADER.format(n=3) + "0 1 2 3\n" * 2, "2 of 3 points"),
    ("pcd", PCD_HEADER.format(n=2) + "0 1 2 3\n0 1 a 3", "cannot be read"),
    ("pcd", PCD_HEADER.format(n=2) + "nan 1 2 3\nnan 1 2 3", "xyz holds NaN"),
    ("pcd", PCD_NO_Z + "0 1 2 3\n" * 2, "FIELDS are x, y, w, rgb"),
    ("pcd", PCD_ONE_BYTE + "0 1 2 3\n" * 2, "rgb has SIZE 1"),
  ],
)
def test_bad_text(tmp_path, suffix, content, match):
  path = tmp_path / f"a.{suffix}"
  path.write_bytes(content.encode("latin1"))
  rejected(path, match)


@pytest.mark.parametrize("encoding", ["ascii", "binary", "mixed"])
def test_meshes_are_no_clouds(tmp_path, encoding):
  path = tmp_path / "a.ply"
  if encoding == "mixed":  # a triangle and a quad
    header = "element face 2\nproperty list uchar int vertex_indices\n"
    faces = b"\x03" + bytes(12) + b"\x04" + bytes(16)
    path.write_bytes(ply_bytes(axes(), header=header) + faces)
  else:
    path.write_bytes(export_ply(trimesh.creation.box(), encoding=encoding))
  rejected(path, r"is a mesh.*sample_surface")


@pytest.mark.parametrize(
  ("points", "match"),
  [
    (np.zeros((0, 3)), "no points"),
    (np.zeros((4, 2)), r"shape \(4, 2\), must be \(N, 3\)"),
    (np.zeros((3, 50)), r"shape \(3, 50\)"),
    (np.zeros(3), r"shape \(3,\)"),
    (np.zeros((1, 50, 3)), r"shape \(1, 50, 3\)"),
    (np.zeros((4, 3), complex), "xyz holds complex128"),
    (np.zeros((4, 3), bool), "xyz holds bool"),
    (np.full((4, 3), np.nan), "xyz holds NaN"),
    (np.hstack([XYZ, XYZ]), "normals"),
    (np.hstack([XYZ, 300 * RGB]), "rgb runs from"),
    (np.hstack([XYZ, np.full_like(RGB, np.inf)]), "rgb holds NaN"),
  ],
)
def test_bad_arrays(tmp_path, points, match):
  np.save(tmp_path / "a.npy", points)
  rejected(tmp_path / "a.npy", match)


def test_npz_keys(tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, vertices=XYZ, faces=XYZ)
  rejected(path, r"holds \['vertices', 'faces'\], must hold one of")
  np.savez(path, **{"new\nline": XYZ})
  rejected(path, r"new\\nline")
  np.savez(path)
  rejected(path, "no arrays")
  np.savez(path, points=COLOURED, rgb=BYTES)
  rejected(path, "points has 6 columns and rgb")
  np.savez(path, points=XYZ, rgb=BYTES[1:])
  rejected(path, r"rgb has shape \(49, 3\), must be \(50, 3\)")
  np.savez(path, points=XYZ, rgb=BYTES[:, :2])
  rejected(path, r"rgb has shape \(50, 2\)")


class Bomb:
  """Would end the tests if it were unpickled."""

  def __reduce__(self):
    return sys.exit, ("unpickled",)


def test_pickles_stay_closed(tmp_path):
  pickled = np.array(Bomb(), object)
  np.save(tmp_path / "a.npy", pickled, allow_pickle=True)
  rejected(tmp_path / "a.npy", "pickle.*mrd_jax.prepare openshape")
  np.savez(tmp_path / "a.npz", points=pickled)
  rejected(tmp_path / "a.npz", "pickle")
  (tmp_path / "a.npy").write_bytes(pickle.dumps(Bomb()))
  rejected(tmp_path / "a.npy", "cannot be read")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("lost", [1, 16])  # 16 bytes are one point of the PCD
def test_cut_off(tmp_path, suffix, lost):
  path = tmp_path / f"a{suffix}"
  if suffix in (".las", ".laz"):
    laspy = pytest.importorskip("laspy")
    las = laspy.create(point_format=3)
    las.x, las.y, las.z = XYZ.T
    las.write(path)
  elif suffix == ".npy":
    np.save(path, XYZ)
  elif suffix == ".npz":
    np.savez(path, points=XYZ)
  elif suffix == ".pcd":
    pcd("rgb").save(path, Encoding.BINARY)
  elif suffix == ".ply":
    path.write_bytes(export_ply(trimesh.PointCloud(XYZ, BYTES)))
  else:
    path.write_text("1 2 3\n" * 5 + "4 5 6"[: 5 - min(lost, 3)])
    rejected(path, "cannot be read")
    return
  path.write_bytes(path.read_bytes()[:-lost])
  rejected(path, re.escape(f"cannot be read as {suffix}"))


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    (100, 2**32 - 1, "more records than the file can hold"),
    (105, 65_000, "more than the file can hold"),  # bytes of a point
    (107, 2**31, "points, more than the file can hold"),
  ],
)
def test_counts_of_a_las_header(tmp_path, suffix, field, value, message):
  """Of which laspy would read as many, or take the memory for them."""
  laspy = pytest.importorskip("laspy")
  las = laspy.create(point_format=3)
  las.x, las.y, las.z = np.tile(XYZ, (20, 1)).T
  path = tmp_path / f"a{suffix}"
  las.write(path)
  content = bytearray(path.read_bytes())
  size = 2 if field == 105 else 4
  content[field : field + size] = value.to_bytes(size, "little")
  path.write_bytes(content)
  with bounded(path):
    rejected(path, message)


def test_laspy_prints_nothing(tmp_path, caplog):
  laspy = pytest.importorskip("laspy")
  las = laspy.create(point_format=3)
  las.x, las.y, las.z = XYZ.T
  path = tmp_path / "a.laz"
  las.write(path)
  # Told apart by its name, it warns of what it cannot read.
  path.write_bytes(
    path.read_bytes().replace(b"laszip encoded", b"LASF_Spec\0\x1b[2J")
  )
  rejected(path, r"cannot be read as \.laz")
  assert not caplog.records


def test_pieces_of_a_laz_file(tmp_path):
  """A table of too many would end the process."""
  laspy = pytest.importorskip("laspy")
  las = laspy.create(point_format=3)
  las.x, las.y, las.z = XYZ.T
  path = tmp_path / "a.laz"
  las.write(path)
  content = bytearray(path.read_bytes())
  # No items of a point: a panic of lazrs, which is no Exception.
  items = content.index(b"laszip encoded") + 52 + 32
  path.write_bytes(content[:items] + b"\0\0" + content[items + 2 :])
  rejected(path, r"cannot be read as \.laz")
  start = int.from_bytes(content[96:100], "little")
  table = int.from_bytes(content[start : start + 8], "little")
  content[table + 4 : table + 8] = b"\xff" * 4
  path.write_bytes(content)
  rejected(path, "more records than the file can hold")


def test_headers_of_pcd_without_end(tmp_path):
  path = tmp_path / "a.pcd"
  text = PCD_HEADER.format(n=1) + "1 2 3 4\n"
  path.write_text(text.replace("1 1 1 1", "1 1 1 99999999"))
  with bounded(path):
    rejected(path, "COUNT says more than 10,000 numbers of a field")
  path.write_text(text.replace("VERSION", "\n" * 100_000 + "VERSION"))
  start = time.monotonic()
  check(path, np.float32([[1, 2, 3, 0, 0, 4 / 255]]))
  assert time.monotonic() - start < 5


def test_missing_and_unknown(tmp_path):
  rejected(tmp_path / "a.ply", "no such file")
  (tmp_path / "b.ply").mkdir()
  rejected(tmp_path / "b.ply", "no such file")
  (tmp_path / "a.e57").write_text("")
  rejected(tmp_path / "a.e57", r"'\.e57' is unknown.*\.npy, \.npz, \.pcd")
  rejected(tmp_path / "a", "unknown")
