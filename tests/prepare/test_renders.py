"""Views of a mesh, against what a camera must see."""

import sys

import numpy as np
import pytest
import trimesh
from meshes import CORNERS, QUAD, QUAD_FACES, QUAD_UV

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import Material, Part, join
from mrd_jax.prepare.mesh import renders
from mrd_jax.prepare.mesh.renders import camera_directions, render_views

TANGENT = np.tan(np.radians(20))


def paint(*rgba):
  return Material(np.array(rgba, np.float32))


def mesh_of(*shapes, linear=False):
  """Of (trimesh or (vertices, faces), material) pairs."""
  parts = []
  for shape, material in shapes:
    vertices, faces = (
      (shape.vertices, shape.faces)
      if isinstance(shape, trimesh.Trimesh)
      else shape
    )
    uv = QUAD_UV[faces] if material.texture is not None else None
    parts.append(
      Part(np.asarray(vertices, float), np.asarray(faces), material, uv)
    )
  return join(parts, linear=linear, notes=[])


@pytest.fixture
def look(monkeypatch):
  """Renders from given directions instead of the preset ones."""

  def render(mesh, *directions, **options):
    found = np.array(directions, float)
    monkeypatch.setattr(renders, "camera_directions", lambda views: found)
    return render_views(mesh, views=len(found), **options)

  return render


def test_camera_directions():
  toward = camera_directions(12)
  np.testing.assert_allclose(np.linalg.norm(toward, axis=1), 1)
  elevation = np.degrees(np.arcsin(toward[:, 1]))
  np.testing.assert_allclose(elevation, [25, 0, 55, -25] * 3)
  # The first sees front (+z), right (+x) and top at once.
  assert (toward[0] > 0.3).all() and toward[0, 2] == toward[0].max()
  azimuth = np.degrees(np.arctan2(toward[:, 0], toward[:, 2])) % 360
  np.testing.assert_allclose(np.sort(azimuth), 5 + 30 * np.arange(12))
  # Nothing on the sphere is far from every camera but what lies below.
  ball = trimesh.creation.icosphere(3).vertices
  apart = np.degrees(np.arccos((ball @ toward.T).clip(-1, 1).max(axis=1)))
  assert apart[ball[:, 1] > -0.5].max() < 45


def test_sphere_is_a_disc_in_every_view():
  ball = trimesh.creation.icosphere(5)
  images = render_views(mesh_of((ball, paint(0, 0, 0, 1))), views=12)
  assert images.shape == (12, 224, 224, 3) and images.dtype == np.uint8
  # A sphere of radius 1 at distance d is seen within arcsin(1/d); the camera
  # stands where the farthest of all vertices just stays in the frame.
  toward = camera_directions(12)
  distance = 0
  for direction in toward:
    along = ball.vertices @ direction
    right = np.cross([0, 1, 0], direction)
    right /= np.linalg.norm(right)
    up = np.cross(direction, right)
    aside = np.abs(ball.vertices @ np.stack([right, up]).T).max(axis=1)
    distance = max(distance, (along + aside / (0.94 * TANGENT)).max())
  radius = np.tan(np.arcsin(1 / distance)) / TANGENT * 112
  assert radius == pytest.approx(0.94 * 112, abs=0.5)
  center = np.arange(224) + 0.5 - 112
  far = np.hypot(center[:, None], center[None])
  for image in images:
    dark = image.max(axis=2)
    assert (dark[far < radius - 1] == 0).all()  # no ray slips through an edge
    assert (dark[far > radius + 1] == 255).all()
    covered = 1 - dark / 255
    assert covered.sum() == pytest.approx(np.pi * radius**2, rel=2e-3)


def test_light_falls_from_the_camera(look):
  ball = trimesh.creation.icosphere(6)
  image = look(
    mesh_of((ball, paint(1, 1, 1, 1))), [0, 0, 1], background=(0, 0, 0)
  )
  assert image[0, 112, 112] == pytest.approx(255, abs=1)
  # Of a ball at distance d, a ray at angle a meets the surface at sin = d sin a.
  distance = 1 / np.sin(np.arctan(0.94 * TANGENT))
  angle = np.arctan(60.5 / 112 * TANGENT)
  cosine = np.sqrt(1 - (distance * np.sin(angle)) ** 2)
  expected = 255 * (0.5 + 0.5 * cosine)
  for pixel in (image[0, 112, 172], image[0, 51, 112], image[0, 172, 111]):
    np.testing.assert_allclose(pixel, expected, atol=3)


def test_the_nearer_box_hides_the_other(look):
  red, blue = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((1, 1, 1))
  blue.apply_translation([0, 0, -3])
  mesh = mesh_of((red, paint(1, 0, 0, 1)), (blue, paint(0, 0, 1, 1)))
  front, back, right = look(mesh, [0, 0, 1], [0, 0, -1], [1, 0, 0])
  assert front[112, 112] == pytest.approx([255, 0, 0], abs=1)
  assert back[112, 112] == pytest.approx([0, 0, 255], abs=1)
  assert not ((front == [0, 0, 255]).all(axis=2)).any()
  # From +x, what is towards +z is on the left.
  assert right[112, 40, 0] > 200 > right[112, 40, 2]
  assert right[112, 184, 2] > 200 > right[112, 184, 0]


@pytest.mark.parametrize("linear", [False, True])
def test_textured_quad_head_on(look, linear):
  mesh = mesh_of(((QUAD, QUAD_FACES), Material(texture=CORNERS)), linear=linear)
  front, back = look(
    mesh, [0, 0, 1], [0, 0, -1], image_size=100, background=(0.5, 0.5, 0.5)
  )
  # Vertices at x = 1 lie at 0.94 of the half frame: pixels 3 to 97.
  for row, column, rgb in (
    (40, 40, CORNERS[0, 0]),
    (40, 60, CORNERS[0, 1]),
    (60, 40, CORNERS[1, 0]),
    (60, 60, CORNERS[1, 1]),
  ):
    # The light there: the ray's angle to the face's normal.
    angle = np.arctan(np.hypot(9.5, 10) / 50 * TANGENT)
    expected = rgb * (0.5 + 0.5 * np.cos(angle))
    np.testing.assert_allclose(front[row, column], expected, atol=1)
    np.testing.assert_allclose(back[row, 99 - column], expected, atol=1)
  for image in (front, back):
    assert (image[:, :3] == 128).all()
    assert (image[3:97, 3:97] != 128).any(axis=2).all()


def test_edges_are_smooth(look):
  turned = trimesh.creation.box((1, 1, 1e-3))
  turn = trimesh.transformations.rotation_matrix(0.3, [0, 0, 1])
  turned.apply_transform(turn)
  mesh = mesh_of((turned, paint(0, 0, 0, 1)))
  assert set(np.unique(look(mesh, [0, 0, 1], samples=1))) == {0, 255}
  levels = np.unique(look(mesh, [0, 0, 1], samples=2))
  np.testing.assert_array_equal(levels, [0, 64, 128, 191, 255])


def test_what_is_transparent_shows_what_is_behind(look):
  behind = QUAD * [1, 1, 0] - [0, 0, 1]
  pane = Material(np.array([1, 0, 0, 0.25], np.float32), alpha="blend")
  solid = paint(0, 0, 1, 1)
  mesh = mesh_of(((QUAD, QUAD_FACES), pane), ((behind, QUAD_FACES), solid))
  image = look(mesh, [0, 0, 1], image_size=65)[0]
  np.testing.assert_allclose(image[32, 32], [64, 0, 191], atol=2)
  # The pane reaches farther out in the picture: there is background behind.
  np.testing.assert_allclose(image[32, 3], [255, 191, 191], atol=3)
  hole = Material(
    texture=np.array([[[0, 255, 0, 0], [0, 255, 0, 255]]], np.uint8),
    alpha="mask",
  )
  mesh = mesh_of(((QUAD, QUAD_FACES), hole), ((behind, QUAD_FACES), solid))
  image = look(mesh, [0, 0, 1], image_size=65)[0]
  np.testing.assert_allclose(image[32, 20], [0, 0, 255], atol=6)
  np.testing.assert_allclose(image[32, 44], [0, 255, 0], atol=6)


def test_many_panes_end():
  pane = Material(np.array([1, 1, 1, 0], np.float32), alpha="blend")
  panes = [((QUAD + [0, 0, k / 10], QUAD_FACES), pane) for k in range(40)]
  assert (render_views(mesh_of(*panes), views=1, image_size=16) == 255).all()


def test_same_bytes_whatever_place_and_size():
  shape = trimesh.creation.torus(1, 0.3, 20, 10)
  first = render_views(mesh_of((shape, paint(0.2, 0.9, 0.4, 1))), views=3)
  again = render_views(mesh_of((shape, paint(0.2, 0.9, 0.4, 1))), views=3)
  np.testing.assert_array_equal(first, again)
  shape.apply_scale(2.0**40)
  shape.apply_translation([2.0**44, 0, 0])
  moved = render_views(mesh_of((shape, paint(0.2, 0.9, 0.4, 1))), views=3)
  assert (moved != first).any(axis=3).mean() < 0.01


@pytest.mark.parametrize(
  "scale", [[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1e-3, 1e-3], [0.05, 5, 0.05]]
)
def test_flat_and_thin_shapes(scale):
  shape = trimesh.creation.box((1, 1, 1))
  vertices = shape.vertices * scale
  mesh = mesh_of(((vertices, shape.faces), paint(0, 0, 0, 1)))
  images = render_views(mesh, views=12, image_size=48)
  dark = images.max(axis=3) < 255
  assert dark.any(axis=(1, 2)).sum() >= 9  # a sheet may be seen on its edge
  assert not dark[:, 0].any() and not dark[:, :, 0].any()


def test_no_size():
  mesh = mesh_of(((np.ones((3, 3)), [[0, 1, 2]]), paint(1, 1, 1, 1)))
  with pytest.raises(BadInput, match="no size"):
    render_views(mesh)


def test_without_embreex(monkeypatch):
  monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
  with pytest.raises(BadInput, match="pip install embreex"):
    render_views(mesh_of(((QUAD, QUAD_FACES), paint(1, 1, 1, 1))))
