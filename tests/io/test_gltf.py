"""glTF files written by hand, against the specification's own rules."""

import importlib.util
import json

import numpy as np
import pytest
import trimesh
from meshes import CORNERS, QUAD, QUAD_FACES, QUAD_UV, Gltf, png
from test_mesh_files import check_corners

from mrd_jax.data.surfaces import color_at
from mrd_jax.errors import BadInput
from mrd_jax.io.meshes import gltf as gltf_format
from mrd_jax.io.meshes.gltf_materials import transform_uv
from mrd_jax.io.meshes.read import read_mesh


def encode(linear):
  """sRGB of linear values, written anew."""
  return [
    12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055
    for x in linear
  ]


def look(mesh, face=0):
  """(4,) colour in the middle of a face."""
  return color_at(mesh, np.array([face]), np.full((1, 3), 1 / 3))[0]


def quad(material=None, attributes=(), image=None, **sampler):
  """A document with one quad; `material` may refer to texture 0."""
  gltf = Gltf()
  if image is not None:
    gltf.texture(png(image), **sampler)
  index = None if material is None else gltf.add("materials", material)
  found = {
    name: gltf.accessor(*args) for name, args in dict(attributes).items()
  }
  gltf.node(mesh=gltf.mesh(QUAD, QUAD_FACES, index, **found))
  return gltf


def textured(**info):
  return {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **info}}}


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_texture_the_right_way_up(tmp_path, suffix):
  gltf = quad(textured(), {"TEXCOORD_0": [QUAD_UV]}, CORNERS)
  mesh = read_mesh(gltf.write(tmp_path / f"q{suffix}"))
  check_corners(mesh)
  assert mesh.colored and not mesh.notes


def test_files_beside(tmp_path):
  """A buffer and an image in files, whose names are escaped."""
  gltf = quad(textured(), {"TEXCOORD_0": [QUAD_UV]}, CORNERS)
  gltf.tree["images"] = [{"uri": "my%20picture.png"}]
  path = gltf.write(tmp_path / "q.gltf")
  tree = json.loads(path.read_text())
  tree["buffers"][0]["uri"] = "sub/data.bin"
  path.write_text(json.dumps(tree))
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "data.bin").write_bytes(gltf.data)
  (tmp_path / "my picture.png").write_bytes(png(CORNERS))
  check_corners(read_mesh(path))


@pytest.mark.parametrize(
  ("uri", "message"),
  [
    ("../data.bin", "outside"),
    ("%2e%2e/data.bin", "outside"),
    ("/data.bin", "missing"),
    ("sub/../../data.bin", "outside"),
    ("link.bin", "outside"),
    ("http://a.b/data.bin", "not a file beside"),
    ("file:///data.bin", "not a file beside"),
    ("no.bin", "missing"),
    ("short.bin", "is cut off"),
  ],
)
def test_buffers_elsewhere_are_refused(tmp_path, uri, message):
  folder = tmp_path / "in"
  folder.mkdir()
  path = quad().write(folder / "q.gltf")
  (tmp_path / "data.bin").write_bytes(quad().data)
  (folder / "link.bin").symlink_to(tmp_path / "data.bin")
  (folder / "short.bin").write_bytes(quad().data[:20])
  tree = json.loads(path.read_text())
  tree["buffers"][0]["uri"] = uri
  path.write_text(json.dumps(tree))
  with pytest.raises(BadInput, match=rf"q.gltf: buffers\[0\].*{message}"):
    read_mesh(path)


@pytest.mark.parametrize("uri", ["../c.png", "http://a.b/c.png", "no.png"])
def test_images_elsewhere_are_noted(tmp_path, uri):
  folder = tmp_path / "in"
  folder.mkdir()
  (tmp_path / "c.png").write_bytes(png(CORNERS))
  gltf = quad(textured(), {"TEXCOORD_0": [QUAD_UV]}, CORNERS)
  gltf.tree["images"] = [{"uri": uri}]
  mesh = read_mesh(gltf.write(folder / "q.glb"))
  assert len(mesh.notes) == 1 and "images[0]" in mesh.notes[0]
  assert not mesh.colored


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
  order = np.lexsort(expected.T)
  np.testing.assert_allclose(
    found.vertices[np.lexsort(found.vertices.round(4).T)],
    expected[np.lexsort(expected.round(4).T)],
    atol=1e-5,
  )
  assert len(order) == len(found.vertices) == 8


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
  gltf = quad()
  gltf.node(False, children=[0], translation=[0, 7, 0])
  del gltf.tree["scenes"], gltf.tree["scene"]
  mesh = read_mesh(gltf.write(tmp_path / "q.glb"))
  assert mesh.vertices[:, 1].min() == 6 and len(mesh.faces) == 2


def test_nodes_in_a_circle_end(tmp_path):
  gltf = quad()
  gltf.tree["nodes"][0]["children"] = [1]
  gltf.node(False, children=[0])
  path = gltf.write(tmp_path / "q.glb")
  try:
    assert len(read_mesh(path).faces) >= 2
  except BadInput as error:
    assert str(path) in str(error)


def test_colors_multiply_in_linear_light(tmp_path):
  own = np.full((4, 3), 0.5, np.float32)
  image = np.full((1, 1, 3), 200, np.uint8)
  material = textured()
  material["pbrMetallicRoughness"]["baseColorFactor"] = [0.2, 0.5, 1, 0.3]
  gltf = quad(material, {"TEXCOORD_0": [QUAD_UV], "COLOR_0": [own]}, image)
  texel = ((200 / 255 + 0.055) / 1.055) ** 2.4
  expected = encode([texel * 0.5 * x for x in (0.2, 0.5, 1)])
  found = look(read_mesh(gltf.write(tmp_path / "q.glb")))
  # The material is opaque, so that its alpha says nothing.
  np.testing.assert_allclose(found, [*expected, 1], atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("width", [3, 4])
@pytest.mark.parametrize("material", [None, {}])
def test_vertex_colors(tmp_path, kind, width, material):
  top = 1 if kind == np.float32 else np.iinfo(kind).max
  own = (np.eye(4)[:, :width] * top).astype(kind)
  gltf = quad(material, {"COLOR_0": [own, kind != np.float32]})
  mesh = read_mesh(gltf.write(tmp_path / "q.glb"))
  assert mesh.colored
  rgb = color_at(mesh, np.array([0, 0, 1]), np.eye(3)[[0, 1, 1]])[:, :3]
  np.testing.assert_allclose(rgb, np.eye(3), atol=1e-6)


def test_uncolored(tmp_path):
  for material in (None, {}, {"pbrMetallicRoughness": {"metallicFactor": 0}}):
    assert not read_mesh(quad(material).write(tmp_path / "q.glb")).colored


def test_wrap_modes_and_second_coordinates(tmp_path):
  """The set of coordinates that the material names, and its sampler."""
  far = QUAD_UV + [2, -3]
  gltf = quad(
    textured(texCoord=1),
    {"TEXCOORD_0": [QUAD_UV * 0], "TEXCOORD_1": [far.astype(np.float32)]},
    CORNERS,
  )
  check_corners(read_mesh(gltf.write(tmp_path / "q.glb")))
  gltf = quad(
    textured(),
    {"TEXCOORD_0": [np.tile(np.float32([[5.2, -6.4]]), (4, 1))]},
    CORNERS,
    wrapS=33071,
    wrapT=33648,
  )
  # Clamped to the right column; 6.4 mirrored is 0.4, the upper row.
  found = look(read_mesh(gltf.write(tmp_path / "w.glb")))
  np.testing.assert_allclose(found[:3] * 255, CORNERS[0, 1], atol=1e-4)


def test_texture_without_coordinates(tmp_path):
  gltf = quad(textured(), image=CORNERS)
  mesh = read_mesh(gltf.write(tmp_path / "q.glb"))
  assert not mesh.colored and "no TEXCOORD_0" in mesh.notes[0]


def test_texture_transform(tmp_path):
  def turned(**transform):
    info = {"extensions": {"KHR_texture_transform": transform}}
    return transform_uv(info, np.array([[0.25, 0.5], [1, 0]]))

  np.testing.assert_allclose(
    turned(scale=[2, 4], offset=[0.5, -1]), [[1, 1], [2.5, -1]]
  )
  # As seen on the image, whose v runs down, +u turns towards -v: upwards.
  np.testing.assert_allclose(turned(rotation=np.pi / 2)[1], [0, -1], atol=1e-7)
  transform = {"scale": [0.5, 0.5], "offset": [0.25, 0.5], "texCoord": 2}
  gltf = quad(
    textured(extensions={"KHR_texture_transform": transform}),
    {"TEXCOORD_2": [np.float32(QUAD_UV * 2 - [0.5, 1])]},
    CORNERS,
  )
  check_corners(read_mesh(gltf.write(tmp_path / "q.glb")))


def test_specular_glossiness(tmp_path):
  glossy = {"diffuseFactor": [1, 0.5, 0, 1], "diffuseTexture": {"index": 0}}
  material = {"extensions": {"KHR_materials_pbrSpecularGlossiness": glossy}}
  image = np.full((1, 1, 3), 255, np.uint8)
  gltf = quad(material, {"TEXCOORD_0": [QUAD_UV]}, image)
  found = look(read_mesh(gltf.write(tmp_path / "q.glb")))
  np.testing.assert_allclose(found, [*encode([1, 0.5, 0]), 1], atol=1e-6)


def test_alpha(tmp_path):
  for mode, cutoff, expected in (
    (None, {}, 1),
    ("OPAQUE", {}, 1),
    ("BLEND", {}, 0.3 * 128 / 255),
    ("MASK", {}, 0),
    ("MASK", {"alphaCutoff": 0.1}, 1),
  ):
    material = textured()
    material["pbrMetallicRoughness"]["baseColorFactor"] = [1, 1, 1, 0.3]
    material.update(cutoff, **({"alphaMode": mode} if mode else {}))
    image = np.full((1, 1, 4), 128, np.uint8)
    gltf = quad(material, {"TEXCOORD_0": [QUAD_UV]}, image)
    found = look(read_mesh(gltf.write(tmp_path / "q.glb")))
    assert found[3] == pytest.approx(expected, abs=1e-6)
    assert found[:3] * 255 == pytest.approx([128] * 3, abs=1e-3)


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
  corners = mesh.vertices[mesh.faces]
  area = np.linalg.norm(
    np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]),
    axis=1,
  )
  np.testing.assert_allclose(area / 2, [2, 2, 2, 2])
  assert mesh.notes == ("1 primitives of points, lines or fans are left out",)
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
  gltf.texture(png(CORNERS))
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


def draco_file(path):
  pytest.importorskip("DracoPy")
  ball = trimesh.creation.icosphere(2)
  data = ball.export(file_type="glb", extension_draco=True)
  if b"KHR_draco_mesh_compression" not in data:
    pytest.skip("this trimesh does not compress")
  path.write_bytes(data)
  return ball


def test_draco_without_its_decoder(tmp_path, monkeypatch):
  gltf = quad()
  primitive = gltf.tree["meshes"][0]["primitives"][0]
  primitive["extensions"] = {
    "KHR_draco_mesh_compression": {
      "bufferView": 0,
      "attributes": {"POSITION": 0},
    }
  }
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
  ball = draco_file(tmp_path / "b.glb")
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
  gltf = quad({})
  change(gltf.tree)
  with pytest.raises(BadInput, match=rf"q.glb: .*{message}"):
    read_mesh(gltf.write(tmp_path / "q.glb"))


@pytest.mark.parametrize("name", ["TEXCOORD_0", "COLOR_0"])
def test_attributes_of_another_width(tmp_path, name):
  gltf = quad(textured(), {"TEXCOORD_0": [QUAD_UV]}, CORNERS)
  primitive = gltf.tree["meshes"][0]["primitives"][0]
  primitive["attributes"][name] = gltf.accessor(np.zeros((4,), np.float32))
  with pytest.raises(BadInput, match=rf"{name} has shape \(4,"):
    read_mesh(gltf.write(tmp_path / "q.glb"))


def test_cut_off_says_so(tmp_path):
  path = quad().write(tmp_path / "q.glb")
  data = path.read_bytes()
  for end in (60, len(data) - 10):
    path.write_bytes(data[:end])
    with pytest.raises(BadInput, match=rf"has {end} of {len(data)} bytes"):
      read_mesh(path)


def test_instances_are_counted(tmp_path):
  gltf = quad()
  for _ in range(100):
    gltf.node(mesh=0)
  path = gltf.write(tmp_path / "q.glb")
  with pytest.raises(BadInput, match="more than 100 triangles, instances"):
    gltf_format.read(path.read_bytes(), tmp_path, [], 100)


def test_skins_are_noted(tmp_path):
  gltf = quad()
  gltf.add("skins", {"joints": [0]})
  assert "skins" in read_mesh(gltf.write(tmp_path / "q.glb")).notes[0]


def test_texture_of_trimesh_export(tmp_path):
  """A second writer: trimesh's, whose v runs up in memory."""
  from PIL import Image
  from trimesh.visual import TextureVisuals
  from trimesh.visual.material import PBRMaterial

  visual = TextureVisuals(
    uv=QUAD_UV * [1, -1] + [0, 1],
    material=PBRMaterial(baseColorTexture=Image.fromarray(CORNERS)),
  )
  shape = trimesh.Trimesh(QUAD, QUAD_FACES, visual=visual, process=False)
  shape.export(tmp_path / "t.glb")
  check_corners(read_mesh(tmp_path / "t.glb"))
