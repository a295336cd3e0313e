"""Reads every real file: the cases, each of which stands for a kind."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import REPOSITORY

from mrd_jax.data.shape_files import read_shape
from mrd_jax.data.surfaces import color_at, sample_mesh
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.columns import COLORED, ORIENTED, OTHERS
from mrd_jax.io.clouds.columns import NORMALS as NO_NORMALS
from mrd_jax.io.colors import UNKNOWN
from mrd_jax.io.meshes.mesh import UNCOLORED
from mrd_jax.io.meshes.read import read_mesh
from mrd_jax.io.meshes.references import NO_TEXTURE, NO_UV

CASES = REPOSITORY / "tests" / "cases"
RED = (220 / 255, 40 / 255, 30 / 255)
DROPPED = "points without finite coordinates are dropped"
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
CLOUD = np.random.default_rng(0).normal(size=(20, 3)).round(3)


def read(path, root=None, **options):
  """The points, and the kinds of what is lost."""
  notes = []
  points, _ = read_shape(path, root=root, notes=notes, **options)
  assert all(note.file == str(path) for note in notes)
  return points, [note.kind for note in notes]


@pytest.mark.parametrize(
  ("case", "lost"),
  [
    ("m01_shapenet_v2/02691156/abc123/models/model_normalized.obj", []),
    ("m04_mixed_vt/box.obj", [NO_UV]),
    ("m07_case_tex/box.obj", []),
    ("m11_mixed/ascii.ply", []),
    ("m11_mixed/binary.ply", []),
    *(
      (f"m13_colour_names/{name}.ply", [])
      for name in (
        *("diffuse", "float01", "float255", "r_g_b", "rgba", "ushort"),
      )
    ),
  ],
)
def test_meshes_are_red(case, lost):
  root = CASES / "meshes" / case.partition("/")[0]
  points, found = read(CASES / "meshes" / case, root)
  assert points.shape == (10_000, 6) and found == lost
  red = np.abs(points[:, 3:] - RED).max(axis=1) < 0.02
  white = (points[:, 3:] == 1).all(axis=1)  # a box of 1 x 2 x 1
  assert (red | white).all()
  assert white.mean() == pytest.approx(0.2 if lost else 0, abs=0.02)


def test_strips():
  """All sides of the box, each facing outwards."""
  mesh = read_mesh(CASES / "meshes" / "m09_tristrips" / "box.ply")
  a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
  assert len(mesh.faces) == 12
  pairs = mesh.faces.reshape(6, 2, 3)
  normals = np.cross(b - a, c - a).reshape(6, 2, 3)
  np.testing.assert_array_equal(normals[:, 0], normals[:, 1])  # turned alike
  assert all(len(np.unique(pair)) == 4 for pair in pairs)
  assert np.linalg.norm(normals, axis=-1).sum() / 2 == pytest.approx(10)


def test_polygons_of_several_sizes_in_text_and_binary():
  text, binary = (
    read_mesh(CASES / "meshes" / "m11_mixed" / f"{name}.ply")
    for name in ("ascii", "binary")
  )
  np.testing.assert_array_equal(text.faces, binary.faces)
  np.testing.assert_array_equal(text.vertices, binary.vertices)
  np.testing.assert_array_equal(text.color, binary.color)


@pytest.mark.parametrize(
  ("case", "points", "colors", "lost"),
  [
    ("organized_nan.pcd", 1714, True, [DROPPED]),
    ("ascii_spaces.pcd", 2000, False, []),
    ("diffuse.ply", 2000, True, []),
    ("ushort_colour.ply", 2000, True, []),
    ("coord_color.npz", 2000, True, []),
    ("modelnet.txt", 2000, False, ["normals are left out"]),
  ],
)
def test_clouds(case, points, colors, lost):
  cloud, found = read(CASES / "clouds" / case)
  assert cloud.shape == (points, 6 if colors else 3) and found == lost
  first = read(CASES / "clouds" / "modelnet.txt")[0]
  if points == 2000:
    np.testing.assert_allclose(cloud[:, :3], first, atol=1e-5)
  if colors:
    assert 0.45 < cloud[:, 3:].mean() < 0.55


def test_the_same_mesh_is_the_same_cloud(tmp_path):
  """Wherever it lies and whatever it is called."""
  path = CASES / "meshes" / "m11_mixed" / "binary.ply"
  other = shutil.copy(path, tmp_path / "other.ply")
  points, up = read_shape(other, up="z")
  assert up == "y"
  xyz, rgb = sample_mesh(read_mesh(path, up="z"))
  np.testing.assert_array_equal(points, np.hstack([xyz, rgb]))


# Names in the .mtl, the lines of the .obj, the colour, and what is lost.
RED_MTL = "newmtl m\nKd 1 0 0\n"
GREY = (UNCOLORED,) * 3
FACE = "f 1/1 2/2 3/3\n"


@pytest.mark.parametrize(
  ("mtl", "obj", "color", "lost"),
  [
    (RED_MTL, f"mtllib a.mtl\n{FACE}", (1, 0, 0), 0),  # no usemtl
    ("\ufeff" + RED_MTL, f"mtllib a.mtl\nusemtl m\n{FACE}", (1, 0, 0), 0),
    (RED_MTL, f"mtllib no.mtl a.mtl\nusemtl m\n{FACE}", (1, 0, 0), 1),
    (RED_MTL, f"mtllib a.mtl b.mtl\nusemtl m\n{FACE}", (1, 0, 0), 0),
    ("newmtl\tm\nKd\t1\t0 0", f"mtllib a.mtl\nusemtl m\n{FACE}", (1, 0, 0), 0),
    ("newmtl m\nmap_Kd no.png\nKd 0 0 0", f"mtllib a.mtl\n{FACE}", GREY, 1),
    ("newmtl m\nKd 1 1 1\nmap_Kd no.png", f"mtllib a.mtl\n{FACE}", GREY, 1),
    ("newmtl m\nKd 0 0 0", f"mtllib a.mtl\n{FACE}", (0, 0, 0), 0),  # is black
  ],
)
def test_materials(tmp_path, mtl, obj, color, lost):
  (tmp_path / "a.mtl").write_text(mtl)
  (tmp_path / "b.mtl").write_text("newmtl other\nKd 0 1 0\n")
  (tmp_path / "a.obj").write_text(TRIANGLE + obj)
  mesh = read_mesh(tmp_path / "a.obj")
  rgba = color_at(mesh, np.zeros(1, int), np.full((1, 3), 1 / 3))
  np.testing.assert_allclose(rgba[0, :3], color, atol=1e-6)
  assert len(mesh.notes) == lost


def test_some_vertices_have_colors(tmp_path):
  path = tmp_path / "a.obj"
  path.write_text("v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0\nf 1 2 3\n")
  mesh = read_mesh(path)
  rgba = color_at(mesh, np.zeros(3, int), np.eye(3))
  expected = [[1, 0, 0], [0, 1, 0], GREY]
  np.testing.assert_allclose(rgba[:, :3], expected, atol=1e-6)
  assert [note.detail for note in mesh.notes] == ["1 of 3 v lines"]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("indent", ["", "  ", "\t"])
def test_headers_of_ply(tmp_path, end, indent):
  text = (CASES / "meshes" / "m11_mixed" / "ascii.ply").read_text()
  head, _, body = text.partition("end_header\n")
  lines = head.splitlines() + ["end_header"]
  lines[1:] = [indent + line for line in lines[1:]]
  path = tmp_path / "a.ply"
  whole = end.join([*lines, *body.splitlines(), ""])
  path.write_bytes(whole.encode())
  expected = read_mesh(CASES / "meshes" / "m11_mixed" / "ascii.ply")
  mesh = read_mesh(path)
  np.testing.assert_array_equal(mesh.vertices, expected.vertices)
  np.testing.assert_array_equal(mesh.faces, expected.faces)
  # A binary one, of which a byte of the first number is a line feed.
  binary = (CASES / "clouds" / "diffuse.ply").read_bytes()
  head, _, body = binary.partition(b"end_header\n")
  lines = [indent + line for line in [*head.decode().splitlines()[1:]]]
  head = end.join(["ply", *lines, "end_header", ""]).encode()
  path.write_bytes(head + b"\n" + body[1:])
  assert read(path)[0].shape == (2000, 6)


def test_off_in_lower_case(tmp_path):
  path = tmp_path / "a.off"
  path.write_text("\ufeffoff\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
  assert len(read_mesh(path).faces) == 1


def test_colors_that_are_not_understood(tmp_path):
  """Those of a Gaussian splat, for example."""
  text = (CASES / "clouds" / "diffuse.ply").read_bytes()
  for index, name in enumerate((b"red", b"green", b"blue")):
    text = text.replace(b"diffuse_" + name, b"f_dc_%d" % index)
  (tmp_path / "a.ply").write_bytes(text)
  points, lost = read(tmp_path / "a.ply")
  assert points.shape == (2000, 3) and lost == [UNKNOWN]


def test_pcd_with_tabs_and_upper_case(tmp_path):
  text = (CASES / "clouds" / "ascii_spaces.pcd").read_text()
  text = text.replace("FIELDS x y z", "FIELDS X  Y\tZ").replace("   ", "\t")
  (tmp_path / "a.pcd").write_text(text.replace("ascii", "ASCII"))
  expected = read(CASES / "clouds" / "ascii_spaces.pcd")[0]
  np.testing.assert_array_equal(read(tmp_path / "a.pcd")[0], expected)


def test_npz_of_point_e_and_of_numpy(tmp_path):
  path, rgb = tmp_path / "a.npz", np.random.default_rng(1).random((20, 3))
  channels = dict(zip("RGB", rgb.T, strict=True))
  for arrays in (
    {"coords": CLOUD} | channels,
    {"coord": CLOUD, "color": rgb * 255},
    {"arr_0": np.hstack([CLOUD, rgb])},
  ):
    np.savez(path, **arrays)
    np.testing.assert_allclose(read(path)[0], np.hstack([CLOUD, rgb]))


NORMALS = CLOUD / np.linalg.norm(CLOUD, axis=1, keepdims=True)
BYTES = np.random.default_rng(1).integers(0, 256, (20, 3))
LABEL = np.arange(20)[:, None] - 300  # no colour


@pytest.mark.parametrize("suffix", ["txt", "csv", "pts"])
@pytest.mark.parametrize(
  ("columns", "colors"),
  [
    ([], False),
    ([NORMALS], False),
    ([BYTES], True),
    ([BYTES / 255], True),
    ([LABEL, BYTES], True),
    ([BYTES, LABEL], True),
    ([NORMALS, LABEL], False),
  ],
)
def test_columns_of_text(tmp_path, suffix, columns, colors):
  path = tmp_path / f"a.{suffix}"
  table = np.hstack([CLOUD, *columns])
  if suffix == "pts" and table.shape[1] == 7:
    table = np.hstack([CLOUD, LABEL, BYTES])  # as the format has it
    colors = True
  np.savetxt(path, table, "%.6f", delimiter="," if suffix == "csv" else " ")
  if suffix == "pts":
    path.write_text(f"20\n{path.read_text()}")
  points = read(path)[0]
  expected = np.hstack([CLOUD, BYTES / 255]) if colors else CLOUD
  np.testing.assert_allclose(points, expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["xyz", "npy", "npz"])
def test_normals_are_no_colors(tmp_path, suffix):
  """What may be both is refused, and the sentence names what decides."""
  path = tmp_path / f"a.{suffix}"

  def save(columns):
    table = np.hstack([CLOUD, columns])
    if suffix == "xyz":
      np.savetxt(path, table)
    else:
      with path.open("wb") as file:
        (np.save if suffix == "npy" else np.savez)(file, table)

  save(NORMALS)
  points, lost = read(path)
  assert points.shape == (20, 3) and lost == [NO_NORMALS]
  save(np.abs(NORMALS))
  with pytest.raises(BadInput, match="b or x,y,z,nx,ny,nz; .*--columns x,y,z"):
    read(path)
  points, lost = read(path, columns=COLORED)
  assert points.shape == (20, 6) and not lost
  points, lost = read(path, columns=ORIENTED)
  assert points.shape == (20, 3) and lost == [NO_NORMALS]


def test_columns_that_are_left_out_are_said(tmp_path):
  path = tmp_path / "a.npy"
  np.save(path, np.hstack([CLOUD, NORMALS, BYTES, LABEL, LABEL]))
  names = (*ORIENTED, "red", "green", "blue", "time", "alpha")
  notes = []
  points, _ = read_shape(path, columns=names, notes=notes)
  assert points.shape == (20, 6)
  assert [(note.kind, note.detail) for note in notes] == [
    (NO_NORMALS, "nx, ny, nz"),
    (OTHERS, "alpha, time"),
  ]
  names = (*ORIENTED, "f_dc_0", "f_dc_1", "f_dc_2", "time", "alpha")
  assert read(path, columns=names)[1] == [UNKNOWN, NO_NORMALS, OTHERS]


def test_columns_that_are_named(tmp_path):
  path = tmp_path / "a.csv"
  rows = np.hstack([BYTES, LABEL, CLOUD])
  names = ["red", "green", "blue", "label", "x", "y", "z"]
  np.savetxt(
    path, rows, "%.6f", delimiter=";", header=";".join(names), comments=""
  )
  expected = np.hstack([CLOUD, BYTES / 255])
  np.testing.assert_allclose(read(path)[0], expected)
  np.savetxt(path, rows, "%.6f", delimiter=";")
  np.testing.assert_allclose(read(path, columns=names)[0], expected)
  np.save(tmp_path / "a.npy", rows)
  found = read(tmp_path / "a.npy", columns=names)[0]
  np.testing.assert_allclose(found, expected)
  with pytest.raises(BadInput, match="7 columns have names.*--columns"):
    read(CASES / "clouds" / "modelnet.txt", columns=names)


@pytest.mark.parametrize(
  ("columns", "match"),
  [
    ([np.abs(NORMALS)], "x,y,z,r,g,b or x,y,z,nx,ny,nz; .*--columns"),
    ([BYTES, BYTES[:, :1]], "x,y,z,r,g,b,label or x,y,z,i,r,g,b; .*--columns"),
    ([CLOUD * 9], "neither colours nor normals; .*--columns"),
    ([CLOUD[:, :1]], r"\(20, 4\), must have 3, 6 or 7 columns; .*--columns"),
  ],
)
def test_ambiguous_columns_are_refused(tmp_path, columns, match):
  np.savetxt(tmp_path / "a.txt", np.hstack([CLOUD, *columns]))
  with pytest.raises(BadInput, match=match):
    read(tmp_path / "a.txt")


def test_a_cloud_without_one_point_left(tmp_path):
  np.save(tmp_path / "a.npy", np.full((4, 3), np.nan))
  with pytest.raises(
    BadInput, match="xyz holds NaN or infinite values in every"
  ):
    read(tmp_path / "a.npy")


def test_textures_below_the_folder_that_was_given(tmp_path):
  """Nothing above it, no link that leads out; followed folders belong to it."""
  case = CASES / "meshes" / "m01_shapenet_v2" / "02691156"
  outside = Path(shutil.copytree(case, tmp_path / "outside"))
  root = tmp_path / "in"
  shutil.copytree(case, root / "02691156")
  (root / "linked").symlink_to(outside)
  name = "abc123/models/model_normalized.obj"
  lost = functools.partial(read, root=root)
  assert lost(root / "02691156" / name)[1] == []
  assert lost(root / "linked" / name)[1] == []
  assert read(root / "02691156" / name)[1] == [NO_TEXTURE]  # alone
  texture = root / "02691156" / "abc123" / "images" / "texture0.jpg"
  texture.unlink()
  texture.symlink_to(outside / "abc123" / "images" / "texture0.jpg")
  points, notes = lost(root / "02691156" / name)
  assert points.shape == (10_000, 3) and notes == [NO_TEXTURE]


def test_two_textures_that_differ_in_case(tmp_path):
  folder = shutil.copytree(CASES / "meshes" / "m07_case_tex", tmp_path / "m")
  shutil.copy(Path(folder) / "tex.png", Path(folder) / "TEX.png")
  points, lost = read(Path(folder) / "box.obj")
  assert points.shape == (10_000, 3) and lost == [NO_TEXTURE]
