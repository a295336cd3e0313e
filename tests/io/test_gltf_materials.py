"""Reads the materials of glTF files, against the specification's own rules."""

import numpy as np
import pytest
import trimesh
from meshes import (
  CORNERS,
  QUAD,
  QUAD_FACES,
  QUAD_UV,
  check_corners,
  corner_colors,
  gltf_quad,
  textured,
)

from mrd_jax.data.surfaces import color_at
from mrd_jax.io.meshes.gltf_materials import transform_uv
from mrd_jax.io.meshes.read import read_mesh


def encode(linear):
  """sRGB of linear values, written anew."""
  return [
    12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055
    for x in linear
  ]


def look(mesh):
  """(4,) colour in the middle of the first face."""
  return color_at(mesh, np.array([0]), np.full((1, 3), 1 / 3))[0]


def test_colors_multiply_in_linear_light(tmp_path):
  own = np.full((4, 3), 0.5, np.float32)
  image = np.full((1, 1, 3), 200, np.uint8)
  material = textured()
  material["pbrMetallicRoughness"]["baseColorFactor"] = [0.2, 0.5, 1, 0.3]
  gltf = gltf_quad(material, {"TEXCOORD_0": [QUAD_UV], "COLOR_0": [own]}, image)
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
  gltf = gltf_quad(material, {"COLOR_0": [own, kind != np.float32]})
  mesh = read_mesh(gltf.write(tmp_path / "q.glb"))
  assert mesh.colored
  rgb = corner_colors(mesh, [0, 0, 1], [0, 1, 1])
  np.testing.assert_allclose(rgb, np.eye(3), atol=1e-6)


def test_uncolored(tmp_path):
  for material in (None, {}, {"pbrMetallicRoughness": {"metallicFactor": 0}}):
    assert not read_mesh(gltf_quad(material).write(tmp_path / "q.glb")).colored


def test_wrap_modes_and_second_coordinates(tmp_path):
  """The set of coordinates that the material names, and its sampler."""
  far = QUAD_UV + [2, -3]
  gltf = gltf_quad(
    textured(texCoord=1),
    {"TEXCOORD_0": [QUAD_UV * 0], "TEXCOORD_1": [far.astype(np.float32)]},
    CORNERS,
  )
  check_corners(read_mesh(gltf.write(tmp_path / "q.glb")))
  gltf = gltf_quad(
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
  gltf = gltf_quad(textured(), image=CORNERS)
  mesh = read_mesh(gltf.write(tmp_path / "q.glb"))
  assert not mesh.colored and "no TEXCOORD_0" in mesh.notes[0].detail


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
  gltf = gltf_quad(
    textured(extensions={"KHR_texture_transform": transform}),
    {"TEXCOORD_2": [np.float32(QUAD_UV * 2 - [0.5, 1])]},
    CORNERS,
  )
  check_corners(read_mesh(gltf.write(tmp_path / "q.glb")))


def test_specular_glossiness(tmp_path):
  glossy = {"diffuseFactor": [1, 0.5, 0, 1], "diffuseTexture": {"index": 0}}
  material = {"extensions": {"KHR_materials_pbrSpecularGlossiness": glossy}}
  image = np.full((1, 1, 3), 255, np.uint8)
  gltf = gltf_quad(material, {"TEXCOORD_0": [QUAD_UV]}, image)
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
    gltf = gltf_quad(material, {"TEXCOORD_0": [QUAD_UV]}, image)
    found = look(read_mesh(gltf.write(tmp_path / "q.glb")))
    assert found[3] == pytest.approx(expected, abs=1e-6)
    assert found[:3] * 255 == pytest.approx([128] * 3, abs=1e-3)


def test_an_image_elsewhere_is_noted(tmp_path):
  gltf = gltf_quad(textured(), {"TEXCOORD_0": [QUAD_UV]}, CORNERS)
  gltf.tree["images"] = [{"uri": "../c.png"}]
  mesh = read_mesh(gltf.write(tmp_path / "q.glb"))
  assert len(mesh.notes) == 1 and "images[0]" in mesh.notes[0].detail
  assert not mesh.colored


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
