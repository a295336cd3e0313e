"""Meshes from files: every format, and whatever is wrong with them."""

import base64
import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import trimesh
from meshes import (
  CORNERS,
  FORMATS,
  QUAD,
  QUAD_FACES,
  QUAD_UV,
  make_meshes,
  png,
  write_obj,
  write_off,
)
from PIL import Image

from mrd_jax.data.surfaces import color_at
from mrd_jax.errors import BadInput
from mrd_jax.io import images
from mrd_jax.io.meshes import read as files
from mrd_jax.io.meshes.read import read_mesh
from mrd_jax.io.meshes.references import read_reference

SIGNS = {(-1, 1): (0, 0), (1, 1): (0, 1), (-1, -1): (1, 0), (1, -1): (1, 1)}


def corner_colors(mesh):
  """(place, 8-bit sRGB) near each corner of every face."""
  found = []
  for face in range(len(mesh.faces)):
    for corner in range(3):
      weights = np.full((1, 3), 0.05)
      weights[0, corner] = 0.9
      place = weights[0] @ mesh.vertices[mesh.faces[face]]
      rgba = color_at(mesh, np.array([face]), weights)[0]
      found.append((place, np.rint(rgba[:3] * 255)))
  return found


def check_corners(mesh):
  """Whether the quad shows `CORNERS` the right way up."""
  for place, rgb in corner_colors(mesh):
    if np.abs(place[:2]).min() > 0.1:
      row, column = SIGNS[tuple(np.sign(place[:2]).astype(int))]
      np.testing.assert_array_equal(rgb, CORNERS[row, column])


def triangles(mesh):
  """The corners of all faces, in an order that does not depend on the file."""
  corners = mesh.vertices[mesh.faces].round(5).tolist()
  return sorted(sorted(map(tuple, face)) for face in corners)


def write(path, text):
  path.write_text(text)
  return path


def test_made_meshes_of_all_formats(tmp_path):
  start = time.perf_counter()
  paths = make_meshes(tmp_path / "a", 36, seed=1)
  assert time.perf_counter() - start < 5
  again = make_meshes(tmp_path / "b", 36, seed=1)
  for one, two in zip(paths, again, strict=True):
    assert one.read_bytes() == two.read_bytes()
  assert {path.suffix[1:] for path in paths} == set(FORMATS)
  meshes = [read_mesh(path) for path in paths]
  assert not any(mesh.notes for mesh in meshes)
  colored = [mesh.colored for mesh in meshes]
  assert 15 < sum(colored) < 30
  for path, mesh in zip(paths, meshes, strict=True):
    assert np.isfinite(mesh.vertices).all() and len(mesh.faces) >= 12
    assert mesh.linear == (path.suffix in (".glb", ".gltf"))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("up", ["y", "z"])
def test_geometry_is_what_trimesh_wrote(tmp_path, suffix, up):
  shape = trimesh.creation.capsule(1.5, 0.4, (8, 8))
  shape.apply_translation([0.1, 0.2, 0.3])
  path = tmp_path / f"capsule.{suffix}"
  if suffix == "gltf":
    for name, data in shape.export(file_type="gltf").items():
      (tmp_path / name.replace("model", "capsule")).write_bytes(data)
  else:
    shape.export(path)
  mesh = read_mesh(path, up=up)
  expected = np.asarray(shape.vertices)
  if up == "z" and suffix not in ("glb", "gltf"):  # a quarter turn about x
    turn = trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0])
    expected = expected @ turn[:3, :3].T
  reference = trimesh.Trimesh(expected, shape.faces, process=False)
  found = np.array(triangles(mesh))
  np.testing.assert_allclose(found, triangles(reference), atol=2e-5)
  assert not mesh.colored and not mesh.notes
  with pytest.raises(BadInput, match="up is 'x'"):
    read_mesh(path, up="x")


def test_obj_texture_the_right_way_up(tmp_path):
  path = write_obj(
    tmp_path / "quad.obj",
    QUAD,
    QUAD_FACES,
    uv=QUAD_UV,
    mtl="Kd 0 0 0\nmap_Kd -s 1 1 1 -o 0 0 my wood.png\n",
    images=[("my wood.png", CORNERS)],
  )
  mesh = read_mesh(path)
  check_corners(mesh)
  assert not mesh.notes


@pytest.mark.parametrize(
  "line", ["f 1/1 2/2 3/3 4/4", "f -4/-4 -3/-3 -2/-2 -1/-1", "f 1//9 2//9 3//9"]
)
def test_obj_polygons_and_indices(tmp_path, line):
  """Backward indices count from where they stand, not from the file's end."""
  quad = "".join(f"v {x} {y} {z}\n" for x, y, z in QUAD)
  uv = "".join(f"vt {u} {1 - v}\n" for u, v in QUAD_UV)
  text = f"mtllib m.mtl\n{quad}{uv}usemtl m\n{line}\nv 9 9 9\nvt 9 9\n"
  write(tmp_path / "m.mtl", "newmtl m\nmap_Kd c.png\n")
  (tmp_path / "c.png").write_bytes(png(CORNERS))
  mesh = read_mesh(write(tmp_path / "q.obj", text))
  np.testing.assert_array_equal(
    mesh.vertices[mesh.faces], QUAD[QUAD_FACES[: len(mesh.faces)]]
  )
  if "//" not in line:
    check_corners(mesh)


def test_obj_materials(tmp_path):
  """Several in two libraries, one without colour, one that is nowhere."""
  write(tmp_path / "a.mtl", "newmtl red one\nKd 1 0 0\nnewmtl plain\nNs 3\n")
  write(tmp_path / "b.mtl", "newmtl half\nKd 0.5\n")
  lines = [f"v {x} {y} {z}" for x, y, z in QUAD]
  lines += ["mtllib a.mtl", "mtllib b.mtl", "f 1 2 3"]
  for name in ("red one", "plain", "half", "gone"):
    lines += [f"usemtl {name}", "f 1 3 4"]
  mesh = read_mesh(write(tmp_path / "q.obj", "\n".join(lines)))
  rgb = color_at(mesh, np.arange(5), np.full((5, 3), 1 / 3))[:, :3]
  expected = [[0.4] * 3, [1, 0, 0], [0.4] * 3, [0.5] * 3, [0.4] * 3]
  np.testing.assert_allclose(rgb, expected, atol=1e-6)
  assert mesh.notes == ("usemtl: the .mtl has no material gone",)


def test_obj_vertex_colors_before_kd(tmp_path):
  colors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
  path = write_obj(
    tmp_path / "q.obj", QUAD, QUAD_FACES, colors=colors, mtl="Kd 0.1 0.1 0.1"
  )
  mesh = read_mesh(path)
  rgb = color_at(mesh, np.array([0, 1]), np.eye(3)[[1, 2]])[:, :3]
  np.testing.assert_allclose(rgb, colors[[1, 3]], atol=1e-6)


@pytest.mark.parametrize(
  ("mtl", "note"),
  [
    (None, "mtllib: 'q.mtl' is missing"),
    ("newmtl m\nKd 1 0 0\nmap_Kd no.png", "'no.png' is missing"),
    ("newmtl m\nKd 1 0 0\nmap_Kd bad.png", "cannot be read as an image"),
    ("newmtl m\nKd 1 0 0\nmap_Kd ../out.png", "lies outside"),
    ("newmtl m\nKd 1 0 0\nmap_Kd link.png", "lies outside"),
    ("newmtl m\nKd 1 0 0\nmap_Kd http://a.b/c.png", "is not a file beside"),
    ("newmtl m\nKd 1 0 0\nmap_Kd file:///c.png", "is not a file beside"),
    ("newmtl m\nKd 1 0 0\nmap_Kd /etc/passwd", "missing"),
    ("newmtl m\nKd 1 0 0\nKd red", "could not convert"),
  ],
)
def test_what_an_obj_lacks_is_noted(tmp_path, mtl, note):
  (tmp_path / "out.png").write_bytes(png(CORNERS))
  folder = tmp_path / "in"
  folder.mkdir()
  (folder / "link.png").symlink_to(tmp_path / "out.png")
  (folder / "bad.png").write_bytes(png(CORNERS)[:50])
  path = write_obj(folder / "q.obj", QUAD, QUAD_FACES, uv=QUAD_UV, mtl="Kd 1")
  path.with_suffix(".mtl").unlink()
  if mtl:
    write(path.with_suffix(".mtl"), mtl)
  mesh = read_mesh(path)
  assert len(mesh.notes) == 1 and note in mesh.notes[0]
  assert mesh.colored == bool(mtl) and len(mesh.faces) == 2
  if mtl:
    rgba = color_at(mesh, np.array([0]), np.full((1, 3), 1 / 3))[0]
    np.testing.assert_allclose(rgba, [1, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
  "reference", ["C:\\Users\\me\\c.png", "/home/me/tex/c.png", "sub\\..\\c.png"]
)
def test_paths_of_another_machine(tmp_path, reference):
  """The file of that name beside the mesh is meant."""
  path = write_obj(
    tmp_path / "q.obj",
    QUAD,
    QUAD_FACES,
    uv=QUAD_UV,
    mtl=f"map_Kd {reference}",
    images=[("c.png", CORNERS)],
  )
  check_corners(read_mesh(path))


def ply(path, vertex, vertex_rows, face, face_rows, head=""):
  text = f"ply\nformat ascii 1.0\n{head}element vertex {len(vertex_rows)}\n"
  text += "".join(f"property {p}\n" for p in vertex)
  text += f"element face {len(face_rows)}\n"
  text += "".join(f"property {p}\n" for p in face) + "end_header\n"
  rows = [*vertex_rows, *face_rows]
  return write(path, text + "".join(" ".join(map(str, r)) + "\n" for r in rows))


XYZ = ["float x", "float y", "float z"]
INDEX = ["list uchar int vertex_indices"]
TRIANGLES = [[3, *face] for face in QUAD_FACES]


@pytest.mark.parametrize("kind", ["uchar", "ushort", "float"])
@pytest.mark.parametrize("of", ["vertex", "face"])
def test_ply_colors(tmp_path, kind, of):
  top = {"uchar": 255, "ushort": 65535, "float": 1.0}[kind]
  names = [f"{kind} {color}" for color in ("red", "green", "blue")]
  fifth = top // 5 if top > 1 else 0.2
  rgb = np.array([[top, 0, 0], [0, top, 0], [0, 0, top], [top, fifth, 0]])
  if of == "vertex":
    rows = np.hstack([QUAD, rgb]).tolist()
    rows = [
      [x if i < 3 else type(top)(x) for i, x in enumerate(r)] for r in rows
    ]
    path = ply(tmp_path / "q.ply", XYZ + names, rows, INDEX, TRIANGLES)
  else:
    faces = [[*f, *c] for f, c in zip(TRIANGLES, rgb[:2].tolist(), strict=True)]
    path = ply(tmp_path / "q.ply", XYZ, QUAD, INDEX + names, faces)
  mesh = read_mesh(path)
  found = color_at(mesh, np.array([0, 1]), np.eye(3)[[0, 2]])[:, :3]
  expected = rgb[[0, 3]] if of == "vertex" else rgb[:2]
  np.testing.assert_allclose(found, expected / top, atol=1e-6)


@pytest.mark.parametrize("where", ["s t", "u v", "texture_u texture_v", "face"])
def test_ply_texture(tmp_path, where):
  (tmp_path / "c.png").write_bytes(png(CORNERS))
  uv = QUAD_UV * [1, -1] + [0, 1]
  head = "comment TextureFile c.png\n"
  if where == "face":
    faces = [
      [*row, 6, *uv[face].ravel()]
      for row, face in zip(TRIANGLES, QUAD_FACES, strict=True)
    ]
    index = [*INDEX, "list uchar float texcoord"]
    path = ply(tmp_path / "q.ply", XYZ, QUAD, index, faces, head)
  else:
    names = [f"float {name}" for name in where.split()]
    rows = np.hstack([QUAD, uv])
    path = ply(tmp_path / "q.ply", XYZ + names, rows, INDEX, TRIANGLES, head)
  check_corners(read_mesh(path))
  (tmp_path / "c.png").unlink()
  mesh = read_mesh(path)
  assert not mesh.colored and "'c.png' is missing" in mesh.notes[0]


def test_ply_polygons(tmp_path):
  """Quads, and triangles and quads in one file."""
  path = ply(tmp_path / "q.ply", XYZ, QUAD, INDEX, [[4, 0, 1, 2, 3]])
  expected = QUAD[QUAD_FACES]
  mesh = read_mesh(path)
  np.testing.assert_array_equal(mesh.vertices[mesh.faces], expected)
  path = ply(
    tmp_path / "m.ply", XYZ, QUAD, INDEX, [[4, 0, 1, 2, 3], [3, 0, 1, 2]]
  )
  assert len(read_mesh(path).faces) == 3


def test_clouds_are_sent_elsewhere(tmp_path):
  path = ply(tmp_path / "c.ply", XYZ, QUAD, INDEX, [])
  with pytest.raises(BadInput, match=r"c.ply: .*mrd_jax.embed"):
    read_mesh(path)
  with pytest.raises(BadInput, match=r"c.obj: .*no triangles.*mrd_jax.embed"):
    read_mesh(write(tmp_path / "c.obj", "v 0 0 0\nv 1 1 1\n"))


@pytest.mark.parametrize("first", ["OFF\n4 2 0", "OFF4 2 0", "OFF 4 2 0"])
def test_off_headers(tmp_path, first):
  rows = [" ".join(map(str, row)) for row in [*QUAD, *TRIANGLES]]
  text = "\n".join([f"# a comment\n{first} # another", "", *rows])
  mesh = read_mesh(write(tmp_path / "q.off", text))
  np.testing.assert_array_equal(mesh.vertices[mesh.faces], QUAD[QUAD_FACES])


def test_off_colors(tmp_path):
  colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 0, 0]])
  alpha = np.full((4, 1), 255)
  path = write_off(
    tmp_path / "v.off", QUAD, QUAD_FACES, colors=np.hstack([colors, alpha])
  )
  found = color_at(read_mesh(path), np.array([0, 1]), np.eye(3)[[1, 2]])
  np.testing.assert_allclose(found[:, :3], colors[[1, 3]] / 255, atol=1e-6)
  path = write_off(tmp_path / "f.off", QUAD, QUAD_FACES, face_colors=colors[2:])
  found = color_at(read_mesh(path), np.array([0, 1]), np.eye(3)[[0, 0]])
  np.testing.assert_allclose(found[:, :3], colors[2:] / 255, atol=1e-6)
  rows = np.hstack([QUAD, QUAD * 0 + 0.5, colors / 255, alpha / 255, QUAD_UV])
  lines = [" ".join(map(str, row)) for row in [*rows.tolist(), *TRIANGLES]]
  text = "STCNOFF\n4 2 0\n" + "\n".join(lines)
  found = color_at(
    read_mesh(write(tmp_path / "all.off", text)), np.array([1]), np.eye(3)[[2]]
  )
  np.testing.assert_allclose(found[:, :3], colors[[3]] / 255, atol=1e-6)
  # Of a quad's two triangles, both have its colour; normals are not colours.
  text = "NOFF\n4 1 0\n" + "".join(f"{x} {y} {z} 0 0 1\n" for x, y, z in QUAD)
  mesh = read_mesh(write(tmp_path / "n.off", text + "4 0 1 2 3 0.2 0.4 0.6\n"))
  found = color_at(mesh, np.array([0, 1]), np.eye(3)[[0, 1]])
  np.testing.assert_allclose(found[:, :3], [[0.2, 0.4, 0.6]] * 2, atol=1e-6)


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("a.off", "OFF\n4 2 0\n0 0 0\n", "cut off"),
    ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n", "refers to row 3"),
    ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1\n", "fewer vertices"),
    ("a.off", "OFF BINARY\n", "binary"),
    ("a.off", "", "does not begin with OFF"),
    ("a.obj", "", "no triangles"),
    ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "refers to row 3"),
    ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -4\n", "refers to -4"),
    ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "refers to 0"),
    ("a.obj", "v 0 0 0\nv 1 0\nv 0 1 0\nf 1 2 3\n", "cannot be read as .obj"),
    ("a.obj", "v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n", "NaN"),
    ("a.obj", "v 0 0 0\nv 1 0 inf\nv 0 1 0\nf 1 2 3\n", "NaN or infinite"),
    ("a.obj", "v 0 0 0\nv 1e30 0 0\nv 0 1 0\nf 1 2 3\n", "1e.30 large"),
    ("a.obj", "v 5 5 5\nf 1 1 1\n", "0 large"),
    ("a.ply", "", "no end_header"),
    ("a.ply", "ply\nformat ascii 1.0\nelement vertex 4", "no end_header"),
    ("a.stl", "", "a.stl"),
    ("a.stl", "solid x\nfacet normal 0 0 1\nvertex 0 0 0\n", "endsolid"),
    ("a.gltf", "", "a.gltf"),
    ("a.glb", "glTF", "a.glb"),
    ("a.fbx", "", "suffix '.fbx' is unknown"),
  ],
)
def test_bad_files(tmp_path, name, text, message):
  path = write(tmp_path / name, text)
  with pytest.raises(BadInput, match=message) as caught:
    read_mesh(path)
  assert str(path) in str(caught.value)


def test_no_such_file(tmp_path):
  with pytest.raises(BadInput, match="no such file"):
    read_mesh(tmp_path / "a.obj")
  (tmp_path / "b.obj").mkdir()
  with pytest.raises(BadInput, match="no such file"):
    read_mesh(tmp_path / "b.obj")


def test_nan_in_a_binary_ply(tmp_path):
  shape = trimesh.Trimesh(QUAD * [1, np.nan, 1], QUAD_FACES, process=False)
  shape.export(tmp_path / "n.ply")
  with pytest.raises(BadInput, match="NaN or infinite"):
    read_mesh(tmp_path / "n.ply")


def test_far_shapes_are_moved(tmp_path):
  far = [500_000.25, 4_649_000.5, 100]
  path = write_obj(tmp_path / "far.obj", QUAD + np.array(far), QUAD_FACES)
  mesh = read_mesh(path)
  np.testing.assert_allclose(
    mesh.vertices[mesh.faces], QUAD[QUAD_FACES], atol=1e-6
  )
  assert "moved to the origin from [500000.25, 4649000.5" in mesh.notes[0]
  near = write_obj(tmp_path / "near.obj", QUAD + 50, QUAD_FACES)
  assert read_mesh(near).vertices.min() == 49


def test_too_many_faces(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "MAX_FACES", 1)
  path = write_obj(tmp_path / "q.obj", QUAD, QUAD_FACES)
  with pytest.raises(BadInput, match="has 2 triangles, at most 1 are"):
    read_mesh(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_cut_is_refused_or_read(tmp_path, suffix):
  """A file that ends anywhere: BadInput, or a mesh of what is there."""
  path = make_meshes(tmp_path, 6)[FORMATS.index(suffix)]
  data = path.read_bytes()
  rng = np.random.default_rng(0)
  whole = len(read_mesh(path).faces)
  refused = 0
  for end in rng.integers(0, len(data) - 8, 60):
    path.write_bytes(data[:end])
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      try:
        assert len(read_mesh(path).faces) <= whole
      except BadInput as error:
        assert str(path) in str(error) and "\n" not in str(error)
        refused += 1
  # An .obj does not say how long it is.
  assert refused == 60 or suffix == "obj"


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_bytes_never_raise_anything_else(tmp_path, suffix, capfd):
  path = make_meshes(tmp_path, 6)[FORMATS.index(suffix)]
  data = np.frombuffer(path.read_bytes(), np.uint8)
  rng = np.random.default_rng(1)
  for _ in range(60):
    damaged = data.copy()
    # Half of the time in what describes the rest.
    end = len(data) if rng.random() < 0.5 else min(400, len(data))
    places = rng.integers(0, end, rng.integers(1, 6))
    damaged[places] = rng.integers(0, 256, len(places))
    path.write_bytes(damaged.tobytes())
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      try:
        assert np.isfinite(read_mesh(path).vertices).all()
      except BadInput as error:
        assert str(path) in str(error)
  assert capfd.readouterr() == ("", "")


def test_images_too_large_are_refused(tmp_path):
  """Before they are decoded, whatever Pillow's own limit is."""

  def chunk(kind, body):
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc

  for side in (9000, 60_000):
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")
    path = write_obj(
      tmp_path / "q.obj", QUAD, QUAD_FACES, uv=QUAD_UV, mtl="map_Kd bomb.png"
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(
      BadInput, match=r"q.obj: a texture of .* is larger than"
    ):
      read_mesh(path)


def test_large_textures_are_reduced(monkeypatch):
  monkeypatch.setattr(images, "MAX_SIDE", 4)
  big = np.kron(CORNERS, np.ones((5, 8, 1), np.uint8))
  found = images.decode_texture(png(big), alpha=False)
  assert found.shape == (2, 4, 3)
  np.testing.assert_array_equal(found[:, ::2], CORNERS)
  # Where alpha is not asked for, the colour below it counts in full.
  clear = np.dstack([big, np.zeros(big.shape[:2], np.uint8)])
  found = images.decode_texture(png(clear), alpha=False)
  np.testing.assert_array_equal(found[:, ::2], CORNERS)


def test_images_of_other_modes():
  grey = images.decode_texture(png(np.array([[7, 200]], np.uint8)), alpha=True)
  np.testing.assert_array_equal(grey, [[[7, 7, 7, 255], [200, 200, 200, 255]]])
  deep = np.array([[0x1234, 0xFFFF]], np.uint16)
  found = images.decode_texture(png(deep), alpha=False)
  np.testing.assert_array_equal(found[0, :, 0], [0x12, 0xFF])
  file = io.BytesIO()
  Image.fromarray(CORNERS).convert("P").save(file, "PNG")
  found = images.decode_texture(file.getvalue(), alpha=False)
  np.testing.assert_array_equal(found, CORNERS)
  with pytest.raises(OSError, match="cannot be read as an image"):
    images.decode_texture(b"%!PS-Adobe-3.0 EPSF-3.0\n", alpha=False)


def test_references_in_the_file_itself(tmp_path):
  body = base64.b64encode(b"\0\1").decode()
  assert read_reference(tmp_path, f"data:a/b;base64,{body}") == b"\0\1"
  assert read_reference(tmp_path, "data:,a%20b") == b"a b"
  with pytest.raises(OSError, match="damaged"):
    read_reference(tmp_path, "data:a/b;base64,&&")


def test_the_log_of_trimesh_is_left_as_it_was(tmp_path, caplog):
  read_mesh(make_meshes(tmp_path, 1)[0])
  trimesh.util.log.warning("still heard")
  assert "still heard" in caplog.text
