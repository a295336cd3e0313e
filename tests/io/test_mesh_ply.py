"""Reads meshes from .ply files: colours, textures, polygons."""

import meshes
import numpy as np
import pytest
import trimesh

from mrd_jax.errors import BadInput
from mrd_jax.io.images import encode_png
from mrd_jax.io.meshes.read import read_mesh

XYZ = ["float x", "float y", "float z"]
INDEX = ["list uchar int vertex_indices"]
TRIANGLES = [[3, *face] for face in meshes.QUAD_FACES]


def ply(path, vertex, vertex_rows, face, face_rows, head=""):
  text = f"ply\nformat ascii 1.0\n{head}element vertex {len(vertex_rows)}\n"
  text += "".join(f"property {p}\n" for p in vertex)
  text += f"element face {len(face_rows)}\n"
  text += "".join(f"property {p}\n" for p in face) + "end_header\n"
  rows = [*vertex_rows, *face_rows]
  path.write_text(text + "".join(" ".join(map(str, r)) + "\n" for r in rows))
  return path


@pytest.mark.parametrize("kind", ["uchar", "ushort", "float"])
@pytest.mark.parametrize("of", ["vertex", "face"])
def test_ply_colors(tmp_path, kind, of):
  top = {"uchar": 255, "ushort": 65535, "float": 1.0}[kind]
  names = [f"{kind} {color}" for color in ("red", "green", "blue")]
  fifth = top // 5 if top > 1 else 0.2
  rgb = np.array([[top, 0, 0], [0, top, 0], [0, 0, top], [top, fifth, 0]])
  if of == "vertex":
    rows = np.hstack([meshes.QUAD, rgb]).tolist()
    rows = [
      [x if i < 3 else type(top)(x) for i, x in enumerate(r)] for r in rows
    ]
    path = ply(tmp_path / "q.ply", XYZ + names, rows, INDEX, TRIANGLES)
  else:
    faces = [[*f, *c] for f, c in zip(TRIANGLES, rgb[:2].tolist(), strict=True)]
    path = ply(tmp_path / "q.ply", XYZ, meshes.QUAD, INDEX + names, faces)
  found = meshes.corner_colors(read_mesh(path), [0, 1], [0, 2])
  expected = rgb[[0, 3]] if of == "vertex" else rgb[:2]
  np.testing.assert_allclose(found, expected / top, atol=1e-6)


@pytest.mark.parametrize("where", ["s t", "u v", "texture_u texture_v", "face"])
def test_ply_texture(tmp_path, where):
  (tmp_path / "c.png").write_bytes(encode_png(meshes.CORNERS))
  uv = meshes.QUAD_UV * [1, -1] + [0, 1]
  head = "comment TextureFile c.png\n"
  if where == "face":
    faces = [
      [*row, 6, *uv[face].ravel()]
      for row, face in zip(TRIANGLES, meshes.QUAD_FACES, strict=True)
    ]
    index = [*INDEX, "list uchar float texcoord"]
    path = ply(tmp_path / "q.ply", XYZ, meshes.QUAD, index, faces, head)
  else:
    names = [f"float {name}" for name in where.split()]
    rows = np.hstack([meshes.QUAD, uv])
    path = ply(tmp_path / "q.ply", XYZ + names, rows, INDEX, TRIANGLES, head)
  meshes.check_corners(read_mesh(path))
  (tmp_path / "c.png").unlink()
  mesh = read_mesh(path)
  assert not mesh.colored and "'c.png' is missing" in mesh.notes[0].detail


def test_ply_polygons(tmp_path):
  """Quads, and triangles and quads in one file."""
  path = ply(tmp_path / "q.ply", XYZ, meshes.QUAD, INDEX, [[4, 0, 1, 2, 3]])
  expected = meshes.QUAD[meshes.QUAD_FACES]
  mesh = read_mesh(path)
  np.testing.assert_array_equal(mesh.vertices[mesh.faces], expected)
  path = ply(
    tmp_path / "m.ply", XYZ, meshes.QUAD, INDEX, [[4, 0, 1, 2, 3], [3, 0, 1, 2]]
  )
  assert len(read_mesh(path).faces) == 3


def test_clouds_are_sent_elsewhere(tmp_path):
  path = ply(tmp_path / "c.ply", XYZ, meshes.QUAD, INDEX, [])
  with pytest.raises(BadInput, match=r"c.ply: .*mrd_jax.embed"):
    read_mesh(path)


def test_nan_in_a_binary_ply(tmp_path):
  shape = trimesh.Trimesh(
    meshes.QUAD * [1, np.nan, 1], meshes.QUAD_FACES, process=False
  )
  shape.export(tmp_path / "n.ply")
  with pytest.raises(BadInput, match="NaN or infinite"):
    read_mesh(tmp_path / "n.ply")
