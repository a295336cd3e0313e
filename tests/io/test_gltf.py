"""Reads glTF files written by hand, against the specification's own rules."""

import importlib.util

import numpy as np
import pytest
import trimesh
from meshes import (
  CORNERS,
  QUAD,
  QUAD_FACES,
  QUAD_UV,
  Gltf,
  check_corners,
  gltf_quad,
  textured,
)

from mrd_jax.errors import BadInput
from mrd_jax.io.images import encode_png
from mrd_jax.io.meshes import gltf as gltf_format
from mrd_jax.io.meshes.read import read_mesh


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_texture_the_right_way_up(tmp_path, suffix):
  gltf = gltf_quad(textured(), {"TEXCOORD_0": [QUAD_UV]}, CORNERS)
  mesh = read_mesh(gltf.write(tmp_path / f"q{suffix}"))
  check_corners(mesh)
  assert mesh.colored and not mesh.notes


def test_files_beside(tmp_path):
  """A buffer and an image in files, whose names are escaped."""
  gltf = gltf_quad(textured(), {"TEXCOORD_0": [QUAD_UV]}, CORNERS)
  gltf.tree["images"] = [{"uri": "my%20picture.png"}]
  path = gltf.write(tmp_path / "q.gltf", uri="sub/data.bin")
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "data.bin").write_bytes(gltf.data)
  (tmp_path / "my picture.png").write_bytes(encode_png(CORNERS))
  check_corners(read_mesh(path))


@pytest.mark.parametrize(
  ("uri", "message"),
  [("../data.bin", "outside"), ("no.bin", "missing"), ("a.bin", "is cut off")],
)
def test_buffers_that_cannot_be_read(tmp_path, uri, message):
  gltf = gltf_quad()
  (tmp_path / "a.bin").write_bytes(gltf.data[:20])
  path = gltf.write(tmp_path / "q.gltf", uri=uri)
  with pytest.raises(BadInput, match=rf"q.gltf: buffers\[0\].*{message}"):
    read_mesh(path)


def test_transforms_of_nested_nodes(tmp_path):
  gltf = Gltf()
  mesh = gltf.mesh(QUAD, QUAD_FACES)
  turn = [0, np.sin(0.4), 0, np.cos(0.4)]  # by 0.8 about y
  matrix = np.eye(4)
  matrix[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
  matrix[:3, 3] = [0, 0, 5]
  leaf = gltf.node(False, mesh=mesh, scale=[1, 2, -3])
  middle = gltf.node(
    False, children=[leaf], matrix=matrix.T.ravel().tolist(), camera=0
  )
  gltf.node(
    mesh=mesh,
    children=[middle],
    translation=[1, 2, 3],
    rotation=turn,
    scale=[2, 2, 2],
    name="world",
  )
  gltf.node(False, mesh=mesh, translation=[99, 0, 0])  # of no scene
  gltf.add("cameras", {"type": "perspective", "perspective": {}})
  found = read_mesh(gltf.write(tmp_path / "n.glb"))
  c, s = np.cos(0.8), np.sin(0.8)
  root = np.diag([2.0, 2, 2, 1])
  root[:3, :3] = 2 * np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
  root[:3, 3] = [1, 2, 3]
  leaf_matrix = root @ matrix @ np.diag([1, 2, -3, 1])
  points = np.hstack([QUAD, np.ones((4, 1))])
  expected = np.concatenate(
    [(points @ m.T)[:, :3] for m in (root, leaf_matrix)]
  )
  np.testing.assert_allclose(
    found.vertices[np.lexsort(found.vertices.round(4).T)],
    expected[np.lexsort(expected.round(4).T)],
    atol=1e-5,
  )
  assert len(found.vertices) == 8


def test_the_same_file_is_read_the_same_way(tmp_path):
  """trimesh names some nodes at random."""
  gltf = Gltf()
  mesh = gltf.mesh(QUAD, QUAD_FACES)
  gltf.tree["meshes"][mesh]["primitives"] *= 3
  for k in range(12):
    gltf.node(mesh=mesh, translation=[k, 0, 0])
  path = gltf.write(tmp_path / "s.glb")
  first, second = read_mesh(path), read_mesh(path)
  assert len(first.faces) == 72
  np.testing.assert_array_equal(first.vertices, second.vertices)


def test_without_scenes_or_names(tmp_path):
  gltf = gltf_quad()
  gltf.node(False, children=[0], translation=[0, 7, 0])
  del gltf.tree["scenes"], gltf.tree["scene"]
  mesh = read_mesh(gltf.write(tmp_path / "q.glb"))
  assert mesh.vertices[:, 1].min() == 6 and len(mesh.faces) == 2


def test_nodes_in_a_circle_end(tmp_path):
  gltf = gltf_quad()
  gltf.tree["nodes"][0]["children"] = [1]
  gltf.node(False, children=[0])
  path = gltf.write(tmp_path / "q.glb")
  try:
    assert len(read_mesh(path).faces) >= 2
  except BadInput as error:
    assert str(path) in str(error)


def test_strips_and_triangles_without_indices(tmp_path):
  gltf = Gltf()
  strip = gltf.accessor(QUAD[[0, 1, 3, 2]])
  loose = gltf.accessor(
    (QUAD[QUAD_FACES] + [5, 0, 0]).reshape(-1, 3).astype("f4")
  )
  points = gltf.accessor(QUAD + np.float32(100))
  primitives = [
    {"attributes": {"POSITION": strip}, "mode": 5},
    {"attributes": {"POSITION": loose}},
    {"attributes": {"POSITION": points}, "mode": 0},
  ]
  gltf.node(mesh=gltf.add("meshes", {"primitives": primitives}))
  mesh = read_mesh(gltf.write(tmp_path / "s.glb"))
  area = trimesh.triangles.area(mesh.vertices[mesh.faces])
  np.testing.assert_allclose(area, [2, 2, 2, 2])
  details = [note.detail for note in mesh.notes]
  assert details == ["1 primitives of points, lines or fans are left out"]
  gltf.tree["meshes"][0]["primitives"] = primitives[2:]
  with pytest.raises(BadInput, match="no triangles"):
    read_mesh(gltf.write(tmp_path / "p.glb"))


def test_quantized_positions(tmp_path):
  """KHR_mesh_quantization: integers that stand for [-1, 1]."""
  gltf = Gltf()
  packed = np.zeros((4, 4), np.int16)
  packed[:, :3] = QUAD * 32767
  position = gltf.accessor(packed[:, :3], normalized=True)
  # Rows of 8 bytes, three numbers in each.
  gltf.tree["accessors"][position]["bufferView"] = gltf.view(packed.tobytes())
  gltf.tree["bufferViews"][-1]["byteStride"] = 8
  uv = gltf.accessor(np.rint(QUAD_UV * 255).astype(np.uint8), normalized=True)
  gltf.texture(encode_png(CORNERS))
  gltf.add("materials", textured())
  attributes = {"POSITION": position, "TEXCOORD_0": uv}
  indices = gltf.accessor(QUAD_FACES.ravel().astype(np.uint8))
  primitive = {"attributes": attributes, "indices": indices, "material": 0}
  gltf.node(
    mesh=gltf.add("meshes", {"primitives": [primitive]}), scale=[2, 2, 2]
  )
  mesh = read_mesh(gltf.write(tmp_path / "q.glb"))
  np.testing.assert_allclose(
    mesh.vertices[mesh.faces], 2 * QUAD[QUAD_FACES], atol=1e-6
  )
  check_corners(mesh)


def test_draco_without_its_decoder(tmp_path, monkeypatch):
  gltf = gltf_quad()
  primitive = gltf.tree["meshes"][0]["primitives"][0]
  compressed = {"bufferView": 0, "attributes": {"POSITION": 0}}
  primitive["extensions"] = {"KHR_draco_mesh_compression": compressed}
  path = gltf.write(tmp_path / "d.glb")
  with monkeypatch.context() as patch:
    patch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install DracoPy"):
      read_mesh(path)
  # With it, this is no compressed mesh, and placeholders are not taken for one.
  del gltf.tree["accessors"][0]["bufferView"]
  with pytest.raises(BadInput, match="d.glb: .*(compressed|Draco)"):
    read_mesh(gltf.write(path))


def test_draco(tmp_path):
  pytest.importorskip("DracoPy")
  ball = trimesh.creation.icosphere(2)
  data = ball.export(file_type="glb", extension_draco=True)
  if b"KHR_draco_mesh_compression" not in data:
    pytest.skip("this trimesh does not compress")
  (tmp_path / "b.glb").write_bytes(data)
  mesh = read_mesh(tmp_path / "b.glb")
  assert len(mesh.faces) == len(ball.faces)
  np.testing.assert_allclose(
    np.linalg.norm(mesh.vertices, axis=1), 1, atol=1e-3
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t["asset"].update(version="1.0"), "asset.version is 1.0"),
    (
      lambda t: t.update(extensionsRequired=["EXT_meshopt_compression"]),
      "meshopt.*gltf-transform",
    ),
    (
      lambda t: t["accessors"][0].update(sparse={}),
      r"accessors\[0\] is sparse",
    ),
    (
      lambda t: t["accessors"][0].update(count=10**12),
      r"accessors\[0\].count is 1000000000000",
    ),
    (lambda t: t["accessors"][0].update(count=5), "cannot be read as .glb"),
    (lambda t: t["bufferViews"][0].update(byteLength=9**9), "cannot be read"),
    (lambda t: t.pop("meshes"), "cannot be read as .glb"),
    (lambda t: t["nodes"].clear(), "cannot be read as .glb"),
    (lambda t: t.update(nodes=[{}]), "no triangles"),
    (lambda t: t["nodes"][0].update(scale=[0, 0, 0]), "is 0 large"),
    (lambda t: t["nodes"][0].update(scale=[1e300] * 3), "large"),
    (lambda t: t["nodes"][0].update(translation=[float("nan")] * 3), "NaN"),
    (
      lambda t: t.update(
        materials=[{"pbrMetallicRoughness": {"baseColorFactor": [1]}}]
      ),
      r"materials\[0\]: the base colour is \[1.0\]",
    ),
  ],
)
def test_bad_documents(tmp_path, change, message):
  gltf = gltf_quad({})
  change(gltf.tree)
  with pytest.raises(BadInput, match=rf"q.glb: .*{message}"):
    read_mesh(gltf.write(tmp_path / "q.glb"))


@pytest.mark.parametrize("name", ["TEXCOORD_0", "COLOR_0"])
def test_attributes_of_another_width(tmp_path, name):
  gltf = gltf_quad(textured(), {"TEXCOORD_0": [QUAD_UV]}, CORNERS)
  primitive = gltf.tree["meshes"][0]["primitives"][0]
  primitive["attributes"][name] = gltf.accessor(np.zeros((4,), np.float32))
  with pytest.raises(BadInput, match=rf"{name} has shape \(4,"):
    read_mesh(gltf.write(tmp_path / "q.glb"))


def test_cut_off_says_so(tmp_path):
  path = gltf_quad().write(tmp_path / "q.glb")
  data = path.read_bytes()
  for end in (60, len(data) - 10):
    path.write_bytes(data[:end])
    with pytest.raises(BadInput, match=rf"has {end} of {len(data)} bytes"):
      read_mesh(path)


def test_instances_are_counted(tmp_path, monkeypatch):
  monkeypatch.setattr(gltf_format, "MAX_FACES", 100)
  gltf = gltf_quad()
  for _ in range(100):
    gltf.node(mesh=0)
  with pytest.raises(BadInput, match="more than 100 triangles, instances"):
    read_mesh(gltf.write(tmp_path / "q.glb"))


def test_skins_are_noted(tmp_path):
  gltf = gltf_quad()
  gltf.add("skins", {"joints": [0]})
  assert "skins" in read_mesh(gltf.write(tmp_path / "q.glb")).notes[0].detail
