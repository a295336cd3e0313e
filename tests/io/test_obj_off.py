"""Reads .obj and .off files, whichever program wrote them."""

import time

import numpy as np
import pytest
from meshes import (
  CORNERS,
  QUAD,
  QUAD_FACES,
  QUAD_UV,
  check_corners,
  corner_colors,
  write_obj,
  write_off,
)

from mrd_jax.data.surfaces import color_at
from mrd_jax.io.images import encode_png
from mrd_jax.io.meshes import references
from mrd_jax.io.meshes.read import read_mesh

TRIANGLES = [[3, *face] for face in QUAD_FACES]


def write(path, text):
  path.write_text(text)
  return path


def test_obj_texture_the_right_way_up(tmp_path):
  (tmp_path / "my wood.png").write_bytes(encode_png(CORNERS))
  mtl = "Kd 0 0 0\nmap_Kd -s 1 1 1 -o 0 0 my wood.png\n"
  path = write_obj(tmp_path / "q.obj", QUAD, QUAD_FACES, uv=QUAD_UV, mtl=mtl)
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
  (tmp_path / "c.png").write_bytes(encode_png(CORNERS))
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
  details = [note.detail for note in mesh.notes]
  assert details == ["usemtl: the .mtl has no material gone"]


def test_obj_vertex_colors_before_kd(tmp_path):
  colors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
  path = write_obj(
    tmp_path / "q.obj", QUAD, QUAD_FACES, colors=colors, mtl="Kd 0.1 0.1 0.1"
  )
  mesh = read_mesh(path)
  rgb = corner_colors(mesh, [0, 1], [1, 2])
  np.testing.assert_allclose(rgb, colors[[1, 3]], atol=1e-6)


@pytest.mark.parametrize(
  ("mtl", "note"),
  [
    (None, "mtllib: 'q.mtl' is missing"),
    ("newmtl m\nKd 1 0 0\nmap_Kd no.png", "'no.png' is missing"),
    ("newmtl m\nKd 1 0 0\nmap_Kd bad.png", "cannot be read as an image"),
    ("newmtl m\nKd 1 0 0\nmap_Kd ../out.png", "lies outside"),
    ("newmtl m\nKd 1 0 0\nKd red", "could not convert"),
  ],
)
def test_what_an_obj_lacks_is_noted(tmp_path, mtl, note):
  (tmp_path / "bad.png").write_bytes(encode_png(CORNERS)[:50])
  path = write_obj(tmp_path / "q.obj", QUAD, QUAD_FACES, uv=QUAD_UV, mtl="Kd 1")
  path.with_suffix(".mtl").unlink()
  if mtl:
    path.with_suffix(".mtl").write_text(mtl)
  mesh = read_mesh(path)
  assert len(mesh.notes) == 1 and note in mesh.notes[0].detail
  assert mesh.colored == bool(mtl) and len(mesh.faces) == 2
  if mtl:
    rgba = color_at(mesh, np.array([0]), np.full((1, 3), 1 / 3))[0]
    np.testing.assert_allclose(rgba, [1, 0, 0, 1], atol=1e-6)


def test_no_line_of_an_mtl_takes_long(tmp_path, monkeypatch):
  """A texture is looked for once, and names of libraries are told apart once."""
  looked = []
  monkeypatch.setattr(
    references,
    "_without_case",
    lambda folder, name: looked.append(name) or folder / name,
  )
  path = write_obj(
    tmp_path / "q.obj", QUAD, QUAD_FACES, uv=QUAD_UV, mtl="map_Kd a.png\n" * 500
  )
  assert read_mesh(path).notes and looked == ["a.png"]
  path.write_text("mtllib " + "a " * 100_000 + "\n" + path.read_text())
  start = time.monotonic()
  assert len(read_mesh(path).faces) == 2
  assert time.monotonic() - start < 5


@pytest.mark.parametrize("kd", ["", "nan nan nan", "red"])
def test_kd_without_a_number(tmp_path, kd):
  mesh = read_mesh(
    write_obj(tmp_path / "q.obj", QUAD, QUAD_FACES, mtl=f"Kd {kd}\n")
  )
  assert mesh.materials[0].factor.tolist() == pytest.approx([0.4] * 3 + [1])
  assert [note.kind for note in mesh.notes] == [
    "colours of materials that are no numbers are left out"
  ]


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
  found = corner_colors(read_mesh(path), [0, 1], [1, 2])
  np.testing.assert_allclose(found, colors[[1, 3]] / 255, atol=1e-6)
  path = write_off(tmp_path / "f.off", QUAD, QUAD_FACES, face_colors=colors[2:])
  found = corner_colors(read_mesh(path), [0, 1], [0, 0])
  np.testing.assert_allclose(found, colors[2:] / 255, atol=1e-6)
  rows = np.hstack([QUAD, QUAD * 0 + 0.5, colors / 255, alpha / 255, QUAD_UV])
  lines = [" ".join(map(str, row)) for row in [*rows.tolist(), *TRIANGLES]]
  text = "STCNOFF\n4 2 0\n" + "\n".join(lines)
  found = corner_colors(read_mesh(write(tmp_path / "all.off", text)), [1], [2])
  np.testing.assert_allclose(found, colors[[3]] / 255, atol=1e-6)
  # Of a quad's two triangles, both have its colour; normals are not colours.
  text = "NOFF\n4 1 0\n" + "".join(f"{x} {y} {z} 0 0 1\n" for x, y, z in QUAD)
  mesh = read_mesh(write(tmp_path / "n.off", text + "4 0 1 2 3 0.2 0.4 0.6\n"))
  found = corner_colors(mesh, [0, 1], [0, 1])
  np.testing.assert_allclose(found, [[0.2, 0.4, 0.6]] * 2, atol=1e-6)
