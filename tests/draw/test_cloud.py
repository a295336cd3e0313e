"""Clouds as pictures: what is in front, what is up."""

import numpy as np
import pytest

from mrd_jax.draw import cloud
from mrd_jax.errors import BadInput


def spheres():
  """A small blue sphere in a large red one: (4000, 3) each, and colours."""
  near, far = np.random.default_rng(0).normal(size=(2, 4000, 3))
  near /= np.linalg.norm(near, axis=1, keepdims=True)
  far *= 0.5 / np.linalg.norm(far, axis=1, keepdims=True)
  return near, far, np.repeat([[1.0, 0, 0], [0, 0, 1.0]], 4000, axis=0)


def test_render_shows_the_nearer_surface_in_its_colour():
  near, far, rgb = spheres()
  image = cloud.render(np.concatenate([near, far]), rgb, 64)
  assert image.shape == (64, 64, 3) and image.dtype == np.float32
  assert image.min() >= 0 and image.max() <= 1
  np.testing.assert_allclose(image[0, 0], cloud.BACKGROUND, atol=0.02)
  assert image[32, 32, 0] > 0.5 > 0.1 > image[32, 32, 2]


@pytest.mark.parametrize("up", ["y", "z"])
def test_up_is_up(up):
  near, far, rgb = spheres()
  xyz = np.concatenate([near * 0.2 + [0, 1, 0], far * 0.4 - [0, 1, 0]])
  if up == "z":
    xyz = xyz[:, [0, 2, 1]] * [1, -1, 1]  # a rotation
  image = cloud.picture(np.concatenate([xyz, rgb], axis=1), up=up)
  assert image.shape == (cloud.PIXELS, cloud.PIXELS, 3)
  rows_red = np.nonzero(image[..., 0] - image[..., 2] > 0.3)[0]
  rows_blue = np.nonzero(image[..., 2] - image[..., 0] > 0.3)[0]
  assert rows_red.max() < rows_blue.min()


def test_degenerate_clouds():
  two = np.array([[0.0, 0, 0], [0, 1, 0]])
  repeated = np.repeat(two, 40, axis=0)
  for xyz in (two, repeated, two[:, [1, 0, 2]] * 1e-3):
    image = cloud.render(xyz, np.zeros_like(xyz), 32)
    assert np.isfinite(image).all() and image.min() < 0.6
  grey = cloud.picture(repeated)  # without colours
  assert grey.min() < 0.6 and np.ptp(grey, axis=-1).max() < 0.05
  with pytest.raises(BadInput, match="coincide"):
    cloud.picture(two[[0, 0]])
