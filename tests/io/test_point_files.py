"""Reading of point-cloud files."""

import pickle
import re
import sys

import numpy as np
import pytest
import trimesh
from pypcd4 import Encoding, PointCloud
from trimesh.exchange.ply import export_ply

from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.read import SUFFIXES, read_cloud

XYZ = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
XYZ[7] = XYZ[3]  # neither merged nor dropped
BYTES = np.random.default_rng(1).integers(0, 256, (50, 3), dtype=np.uint8)
RGB = BYTES.astype(np.float32) / 255
COLOURED = np.concatenate([XYZ, RGB], axis=1)


def ply_bytes(data, *, order="<", header="", n=None) -> bytes:
  """A binary PLY of a structured array."""
  names = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort"}
  encoding = {"<": "little", ">": "big"}[order]
  properties = "".join(
    f"property {names[data.dtype[name].str[1:]]} {name}\n"
    for name in data.dtype.names
  )
  return (
    f"ply\nformat binary_{encoding}_endian 1.0\ncomment by hand\n"
    f"element vertex {len(data) if n is None else n}\n"
    f"{properties}{header}end_header\n"
  ).encode() + data.astype(data.dtype.newbyteorder(order)).tobytes()


def structured(**columns) -> np.ndarray:
  """Columns, each of its own type, as a structured array."""
  data = np.zeros(
    len(columns["x"]), [(name, x.dtype) for name, x in columns.items()]
  )
  for name, x in columns.items():
    data[name] = x
  return data


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


def check(path, expected):
  found = read_cloud(path)
  assert found.dtype == np.float64
  np.testing.assert_array_equal(found.astype(np.float32), expected)


def rejected(path, match: str):
  with pytest.raises(BadInput, match=match) as error:
    read_cloud(path)
  message = str(error.value)
  assert message.startswith(f"{path}: ") and "\n" not in message


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
  path.write_bytes(ply_bytes(structured(**columns, **alpha), order=order))
  check(path, COLOURED)
  for rgb in (RGB, RGB * 255, RGB.astype("f8")):
    data = structured(**axes(), **channels(rgb))
    path.write_bytes(ply_bytes(data, order=order))
    np.testing.assert_allclose(read_cloud(path), COLOURED, rtol=2e-7)


def test_ply_without_faces(tmp_path):
  """As Open3D and MeshLab write clouds."""
  path = tmp_path / "a.ply"
  header = "element face 0\nproperty list uchar int vertex_indices\n"
  path.write_bytes(ply_bytes(structured(**axes()), header=header))
  check(path, XYZ)


def test_ply_by_hand(tmp_path):
  path = tmp_path / "a.ply"
  text = PLY_HEADER.format(n=2) + "0 1 2 255 0 51 \r\n3 4 1e-1 0 0 0\n\n"
  path.write_bytes(text.encode())
  check(
    path, np.array([[0, 1, 2, 1, 0, 0.2], [3, 4, 0.1, 0, 0, 0]], np.float32)
  )


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_mesh(tmp_path, encoding):
  path = tmp_path / "a.ply"
  path.write_bytes(export_ply(trimesh.creation.box(), encoding=encoding))
  rejected(path, r"is a mesh.*sample_surface")


def test_mesh_of_triangles_and_quads(tmp_path):
  path = tmp_path / "a.ply"
  header = "element face 2\nproperty list uchar int vertex_indices\n"
  faces = b"\x03" + bytes(12) + b"\x04" + bytes(16)
  path.write_bytes(ply_bytes(structured(**axes()), header=header) + faces)
  rejected(path, "is a mesh")


@pytest.mark.parametrize(
  "text",
  [
    "",
    "not a ply",
    PLY_HEADER.format(n=2)[:60],
    PLY_HEADER.format(n=3) + "0 0 0 1 1 1\n0 1 2 3 4 5\n",
    PLY_HEADER.format(n=2) + "0 0 0 1 1 1\n0 1 2 3\n",
    PLY_HEADER.format(n=2) + "0 0 0 1 1 1\n\n0 1 2 3 4 5\n",
    PLY_HEADER.format(n=2) + "0 0 0 1 1 1\n0 1 a 3 4 5\n",
    PLY_HEADER.format(n=2).replace("float z", "float w") + "0 0 0 1 1 1\n" * 2,
  ],
)
def test_damaged_ascii_ply(tmp_path, text):
  path = tmp_path / "a.ply"
  path.write_text(text)
  rejected(path, r"cannot be read as \.ply.*damaged")


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


@pytest.mark.parametrize("xyz_key", ["points", "xyz", "pos", "pc"])
@pytest.mark.parametrize("rgb_key", ["rgb", "color", "colors"])
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


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
  "separator", [" ", "  ", "\t", " \t ", ",", ", ", " , "]
)
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


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("", "no points"),
    ("# x y z\n\n", "no points"),
    ("1 2\n3 4\n", r"\(2, 2\), must be"),
    ("1 2 3 4 5 6 7\n", r"\(1, 7\), must be"),
    ("1 2 3\n4 5\n", "cannot be read"),
    ("1 2 3\n4 5 x\n", "cannot be read.*x"),
    ("x,y,z\n1,2,3\n", "cannot be read"),
    ("0,5 1,5 2,5\n3,5 4,5 5,5\n", "cannot be read"),  # decimal commas
    ("1 2 3\n4 5 nan\n", "xyz holds NaN"),
    ("1 2 3\n4 5 1e999\n", "xyz holds NaN or infinite"),
    ("1 2 3 0 1 0\n4 5 6 0 -1 0\n", "rgb runs from -1 to 1.*normals"),
    ("1 2 3 0 256 0\n", "rgb runs from 0 to 256"),
    ("1 2 3 0 inf 0\n", "rgb holds NaN or inf"),
  ],
)
def test_bad_xyz(tmp_path, text, match):
  path = tmp_path / "a.xyz"
  path.write_text(text)
  rejected(path, match)


def test_xyz_that_is_not_text(tmp_path):
  (tmp_path / "a.xyz").write_bytes(b"\x00\xff" * 40)
  rejected(tmp_path / "a.xyz", "cannot be read")


@pytest.mark.parametrize("encoding", ["binary", "binary_compressed"])
@pytest.mark.parametrize(
  ("field", "dtype"),
  [(None, ""), ("rgb", "f4"), ("rgb", "u4"), ("rgba", "u4")],
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


@pytest.mark.parametrize(
  ("content", "match"),
  [
    (b"", "cannot be read"),
    (b"\x00\xff" * 40, "cannot be read"),
    (PCD_HEADER.format(n=2)[:90].encode(), "cannot be read"),
    (PCD_HEADER.format(n=0).encode(), "no points"),
    (PCD_HEADER.format(n=3).encode() + b"0 1 2 3\n" * 2, "2 of 3 points"),
    (PCD_HEADER.format(n=2).encode() + b"0 1 2 3\n0 1 a 3", "cannot be read"),
    (PCD_HEADER.format(n=2).encode() + b"0 1 2 3\nnan 1 2 3", "xyz holds NaN"),
    (
      PCD_HEADER.format(n=2).replace("x y z", "x y w").encode()
      + b"0 1 2 3\n" * 2,
      "FIELDS are x, y, w, rgb",
    ),
    (
      PCD_HEADER.format(n=2).replace("4 4 4 4", "4 4 4 1").encode()
      + b"0 1 2 3\n" * 2,
      "rgb has SIZE 1",
    ),
  ],
)
def test_bad_pcd(tmp_path, content, match):
  path = tmp_path / "a.pcd"
  path.write_bytes(content)
  rejected(path, match)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("lost", [1, 16])  # 16 bytes are one point of the PCD
def test_cut_off(tmp_path, suffix, lost):
  path = tmp_path / f"a{suffix}"
  if suffix == ".npy":
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


def test_missing_and_unknown(tmp_path):
  rejected(tmp_path / "a.ply", "no such file")
  (tmp_path / "b.ply").mkdir()
  rejected(tmp_path / "b.ply", "no such file")
  (tmp_path / "a.las").write_text("")
  rejected(tmp_path / "a.las", r"'\.las' is unknown.*\.npy, \.npz, \.pcd")
  rejected(tmp_path / "a", "unknown")


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


def test_sixteen_bit_colours(tmp_path):
  path = tmp_path / "a.ply"
  data = structured(**axes(), **channels(BYTES.astype("u2") * 257))
  path.write_bytes(ply_bytes(data))
  rejected(path, "must lie in 0 to 1 or 0 to 255")


def test_empty_ply(tmp_path):
  (tmp_path / "a.ply").write_text(PLY_HEADER.format(n=0))
  rejected(tmp_path / "a.ply", "no points")


def test_coordinates_far_from_the_origin_are_exact(tmp_path):
  points = XYZ.astype(float) + np.array([5e5, 5e6, 0])
  np.save(tmp_path / "a.npy", points)
  np.testing.assert_array_equal(read_cloud(tmp_path / "a.npy"), points)
