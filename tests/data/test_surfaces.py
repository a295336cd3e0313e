"""Colours of a surface and samples of it, against closed forms."""

import dataclasses

import numpy as np
import pytest
from meshes import CORNERS, QUAD, QUAD_FACES, QUAD_UV
from scipy import stats

from mrd_jax.data.surfaces import color_at, sample_surface
from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import Material, Part, join, to_linear, to_srgb


def quad(material=None, *, linear=False, color=None, uv=QUAD_UV):
  own = material or Material()
  part = Part(QUAD.astype(float), QUAD_FACES, own, uv[QUAD_FACES], color)
  return join([part], linear=linear, notes=[])


def at(mesh, x, y):
  """Colour at a place of the quad, whose triangles share the diagonal."""
  weights = np.array(
    [[(1 - x) / 2, (x - y) / 2, (1 + y) / 2]]
    if y <= x
    else [[(1 - y) / 2, (1 + x) / 2, (y - x) / 2]]
  )
  return color_at(mesh, np.array([0 if y <= x else 1]), weights)[0]


def test_points_fall_evenly_by_area():
  # A large and a small triangle, one without area, and one with all at once.
  vertices = np.array(
    [[0, 0, 0], [6, 0, 0], [0, 2, 0], [9, 0, 0], [10, 0, 0], [9, 2, 0]], float
  )
  faces = np.array([[0, 0, 1], [0, 1, 2], [0, 3, 4], [3, 4, 5], [5, 5, 5]])
  mesh = join([Part(vertices, faces, Material())], linear=False, notes=[])
  xyz, rgb = sample_surface(mesh, 20_000, seed=3)
  assert xyz.shape == (20_000, 3) and xyz.dtype == np.float32 and rgb is None
  small = xyz[:, 0] > 7
  assert stats.binomtest(int(small.sum()), 20_000, 1 / 7).pvalue > 1e-3
  # In a right triangle, x^ = 1 - x/6 has density 2 x^, and y/2 given x is even.
  x = xyz[~small, 0] / 6
  assert stats.kstest(1 - (1 - x) ** 2, "uniform").pvalue > 1e-3
  y = xyz[~small, 1] / 2 / (1 - x)
  assert stats.kstest(y, "uniform").pvalue > 1e-3


def test_seed_decides():
  mesh = quad(Material(texture=CORNERS))
  first, again, other = (
    sample_surface(mesh, 50, seed=seed) for seed in (1, 1, (2, 1))
  )
  np.testing.assert_array_equal(first[0], again[0])
  np.testing.assert_array_equal(first[1], again[1])
  assert (first[0] != other[0]).any()


@pytest.mark.parametrize("size", [1e-150, 1e-18, 1e18])
def test_areas_of_extreme_sizes(size):
  mesh = quad()
  mesh = dataclasses.replace(mesh, vertices=mesh.vertices * size)
  xyz, _ = sample_surface(mesh, 1000, seed=0)
  if size > 1e-40:
    assert np.ptp(xyz, axis=0)[:2] == pytest.approx(2 * size, rel=0.02)


def test_no_surface():
  line = Part(QUAD.astype(float), np.array([[0, 1, 0]]), Material())
  with pytest.raises(BadInput, match="degenerate"):
    sample_surface(join([line], linear=False, notes=[]), 10, seed=0)
  clear = Material(np.array([1, 1, 1, 0.01], np.float32), alpha="blend")
  with pytest.raises(BadInput, match="transparent"):
    sample_surface(quad(clear), 10, seed=0)


def test_texture_lies_as_written():
  mesh = quad(Material(texture=CORNERS))
  for row, y in enumerate((0.5, -0.5)):
    for column, x in enumerate((-0.5, 0.5)):
      texel = CORNERS[row, column] / 255
      np.testing.assert_array_equal(at(mesh, x, y)[:3], texel)


@pytest.mark.parametrize(
  ("wrap", "columns"),
  [
    # From five texels left of an image of 4 to five right of it.
    ("repeat", [3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0]),
    ("clamp", [0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3]),
    ("mirror", [3, 3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0, 0]),
  ],
)
def test_wrap_modes(wrap, columns):
  image = np.zeros((1, 4, 3), np.uint8)
  image[0, :, 0] = np.arange(4) * 60
  uv = np.array([[-1.25, 0], [2.25, 0], [2.25, 0], [-1.25, 0]], np.float32)
  mesh = quad(Material(texture=image, wrap=(wrap, wrap)), uv=uv)
  found = [
    at(mesh, (k + 0.5) / 7 - 1, -0.9)[0] * 255 / 60 for k in range(len(columns))
  ]
  np.testing.assert_allclose(found, columns, atol=1e-5)


def test_srgb_transfer():
  assert to_srgb(np.array(0.5)) == pytest.approx(0.735357, abs=1e-6)
  assert to_linear(np.array(0.5)) == pytest.approx(0.214041, abs=1e-6)
  values = np.linspace(0, 1, 1001)
  back = to_linear(to_srgb(values))
  np.testing.assert_allclose(back, values, atol=1e-7)


def test_linear_factor_times_srgb_texture():
  image = np.full((1, 1, 3), 128, np.uint8)
  factor = np.array([0.5, 0.25, 1, 1], np.float32)
  own = np.full((2, 3, 4), 0.5, np.float32)
  mesh = quad(Material(factor, image), linear=True, color=own)
  texel = ((128 / 255 + 0.055) / 1.055) ** 2.4
  product = texel * factor[:3] * 0.5
  encoded = 1.055 * product ** (1 / 2.4) - 0.055
  np.testing.assert_allclose(at(mesh, 0.1, 0)[:3], encoded, atol=1e-6)


def test_colors_of_other_formats_are_multiplied_as_they_are():
  own = np.zeros((2, 3, 4), np.float32)
  own[:, :, 3] = 1
  own[0, 1, 0] = own[0, 2, 1] = 1
  mesh = quad(color=own)
  # Halfway between the vertices (1, -1) and (1, 1): straight interpolation.
  np.testing.assert_allclose(at(mesh, 1, 0), [0.5, 0.5, 0, 1], atol=1e-6)


def test_a_part_without_color_is_grey_beside_others():
  red = Material(np.array([1, 0, 0, 1], np.float32))
  for linear in (False, True):
    parts = [Part(QUAD.astype(float), QUAD_FACES, m) for m in (Material(), red)]
    mesh = join(parts, linear=linear, notes=[])
    assert mesh.colored
    rgba = color_at(mesh, np.array([0, 3]), np.eye(3)[:2])
    np.testing.assert_allclose(rgba[0], [0.4, 0.4, 0.4, 1], atol=1e-6)
    np.testing.assert_allclose(rgba[1], [1, 0, 0, 1], atol=1e-6)
  assert sample_surface(quad(), 5, seed=0)[1] is None


def test_holes_have_no_points():
  image = np.zeros((1, 2, 4), np.uint8)
  image[0, 0, 3], image[0, 1, 3] = 100, 200
  mask = Material(texture=image, alpha="mask", cutoff=0.5)
  xyz, rgb = sample_surface(quad(mask), 3000, seed=0)
  assert len(xyz) == 3000 and rgb is not None and xyz[:, 0].min() >= 0
  opaque = dataclasses.replace(mask, alpha="opaque")
  assert sample_surface(quad(opaque), 3000, seed=0)[0][:, 0].min() < -0.9
  assert at(quad(opaque), -0.5, 0)[3] == 1
  blend = dataclasses.replace(mask, alpha="blend")
  assert at(quad(blend), -0.5, 0)[3] == pytest.approx(100 / 255)


def test_unused_vertices_are_dropped():
  vertices = np.vstack([[np.nan] * 3, QUAD, [[1e9] * 3]])
  part = Part(vertices, QUAD_FACES + 1, Material())
  mesh = join([part], linear=False, notes=[])
  np.testing.assert_array_equal(mesh.vertices[mesh.faces], QUAD[QUAD_FACES])
  assert len(mesh.vertices) == 4
