"""Points are drawn and augmented by OpenShape's steps, with its numbers.

Statistics are over many keys; their tolerances are five standard errors.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batches import (
  KEYS,
  PLAIN,
  QUICK,
  keys,
  make_batch,
  sample_of,
  within_five_errors,
)
from scipy.spatial.transform import Rotation

from mrd_jax.config.pretraining import AugmentConfig
from mrd_jax.data.examples import Batch, augment, draw_points


def cloud(stored: int, exists: int) -> Batch:
  """One record whose red value is the point's index; padding is garbage."""
  sample = sample_of(make_batch(1, stored=stored), 0)
  rgb = np.array(sample.rgb)
  rgb[:, 0] = np.arange(stored)
  return sample._replace(rgb=rgb, num_points=np.int32(exists))


def normalised(xyz: np.ndarray) -> np.ndarray:
  """Facts 2.4, steps 2 and 3, in float64."""
  xyz = np.stack([xyz[:, 0], xyz[:, 2], xyz[:, 1]], axis=1).astype(np.float64)
  xyz = xyz - xyz.mean(axis=0)
  return xyz / np.sqrt((xyz**2).sum(axis=1)).max()


@functools.partial(jax.jit, static_argnums=1, compiler_options=QUICK)
def draw_many(sample: Batch, config: AugmentConfig, keys):
  return jax.vmap(lambda key: draw_points(sample, config, key))(keys)


# num_points is 16: more than are stored, fewer, as many as exist, padded.
@pytest.mark.parametrize(
  ("stored", "exists"), [(12, 12), (24, 24), (24, 16), (24, 9)]
)
def test_points_are_drawn_swapped_and_normalised(stored, exists):
  sample = cloud(stored, exists)
  xyz, rgb, n = map(np.asarray, draw_many(sample, PLAIN, keys(64)))
  draw, count = min(16, stored), min(16, exists)
  assert xyz.shape == rgb.shape == (64, draw, 3)
  assert (n == count).all()
  for k in range(64):
    index = np.rint(rgb[k, :count, 0] * 255).astype(int)
    # A permutation of the existing points, or a subset of them.
    assert len(set(index)) == count and index.max() < exists
    expected = normalised(sample.xyz[index])
    np.testing.assert_allclose(xyz[k, :count], expected, atol=1e-6)
    np.testing.assert_allclose(
      rgb[k, :count], sample.rgb[index] / 255, atol=1e-7
    )
    # Rows that do not exist come last and are zero.
    assert (xyz[k, count:] == 0).all() and (rgb[k, count:] == 0).all()
    np.testing.assert_allclose(xyz[k, :count].mean(axis=0), 0, atol=1e-6)
    radius = np.linalg.norm(xyz[k], axis=1).max()
    assert radius == pytest.approx(1, abs=1e-6)


def test_every_existing_point_comes_first_equally_often():
  _, rgb, _ = draw_many(cloud(24, 9), PLAIN, keys(KEYS))
  first = np.rint(np.asarray(rgb)[:, 0, 0] * 255).astype(int)
  share = np.bincount(first, minlength=9) / KEYS
  assert share.shape == (9,)
  np.testing.assert_allclose(share, 1 / 9, atol=5 * np.sqrt(8 / 81 / KEYS))


def test_without_swap_the_axes_stay():
  config = dataclasses.replace(PLAIN, swap_yz=False)
  sample = cloud(16, 16)
  xyz, rgb, _ = draw_many(sample, config, keys(1))
  index = np.rint(np.asarray(rgb)[0, :, 0] * 255).astype(int)
  expected = normalised(sample.xyz[index])[:, [0, 2, 1]]
  np.testing.assert_allclose(xyz[0], expected, atol=1e-6)


def test_a_cloud_without_extent_becomes_zeros():
  sample = cloud(24, 9)
  same = np.array(sample.xyz)
  same[:9] = 123, -456, 789
  for degenerate in (
    sample._replace(xyz=same),
    sample._replace(num_points=np.int32(1)),
  ):
    xyz, _, n = draw_many(degenerate, PLAIN, keys(64))
    np.testing.assert_allclose(xyz, 0, atol=0)
    assert (np.asarray(n) == degenerate.num_points).all()


XYZ = np.random.default_rng(3).normal(size=(64, 3)).astype(np.float32)
XYZ[1:4] = np.eye(3)  # their images, less that of the origin, are R's rows
XYZ[4] = 0
RGB = np.random.default_rng(4).uniform(size=(64, 3)).astype(np.float32)


@functools.partial(jax.jit, static_argnames="rotate", compiler_options=QUICK)
def augment_many(numbers, rotate):
  # The numbers are traced, so that all tests share two programs.
  config = dataclasses.replace(PLAIN, rotate=rotate, **numbers)
  return jax.vmap(lambda key: augment(XYZ, RGB, jnp.int32(64), config, key))(
    keys(KEYS)
  )


def augmented(rotate=False, **changes) -> tuple[np.ndarray, np.ndarray]:
  numbers = {k: v for k, v in vars(PLAIN).items() if isinstance(v, float)}
  xyz, rgb = augment_many(numbers | changes, rotate)
  return np.asarray(xyz), np.asarray(rgb)


def test_point_dropout_moves_points_onto_the_first_and_leaves_colours():
  xyz, rgb = augmented(point_dropout=0.875)
  assert (rgb == RGB).all()
  moved = (xyz == XYZ[0]).all(axis=-1)
  kept = (xyz == XYZ).all(axis=-1)
  assert (moved | kept).all() and moved[:, 0].all()
  # The ratio is one U(0, 1) * 0.875 a cloud; the 63 points follow it.
  share = moved[:, 1:].mean(axis=1)
  uniform = 0.875 / np.sqrt(12)
  binomial = np.sqrt((0.4375 - 0.4375**2 - uniform**2) / 63)
  deviation = np.hypot(uniform, binomial)
  within_five_errors(share, 0.4375, deviation)
  assert share.std() == pytest.approx(deviation, rel=0.15)
  assert share.min() < 0.05 and 0.8 < share.max() < 0.875 + 5 * 0.05
  # Every point is as likely to go as any other.
  within_five_errors(moved[:, 1:], 0.4375, 0.5)


def test_scale_is_one_factor_in_its_range():
  xyz, rgb = augmented(scale_low=0.8, scale_high=1.25)
  assert (rgb == RGB).all()
  factor = xyz[:, 1, 0]
  np.testing.assert_allclose(
    xyz, factor[:, None, None] * XYZ, rtol=1e-5, atol=1e-6
  )
  assert 0.8 <= factor.min() < 0.81 and 1.24 < factor.max() <= 1.25
  within_five_errors(factor, 1.025, 0.45 / np.sqrt(12))


def test_shift_is_one_vector_in_its_box():
  xyz, _ = augmented(shift=0.1)
  shift = xyz[:, 4]
  np.testing.assert_allclose(xyz, XYZ + shift[:, None], atol=1e-6)
  assert (np.abs(shift) <= 0.1).all()
  assert (shift.min(axis=0) < -0.098).all()
  assert (shift.max(axis=0) > 0.098).all()
  within_five_errors(shift, 0, 0.2 / np.sqrt(12))
  correlation = np.corrcoef(shift.T)[np.triu_indices(3, 1)]
  np.testing.assert_allclose(correlation, 0, atol=5 / np.sqrt(KEYS))


def rotations(xyz: np.ndarray) -> np.ndarray:
  """R of `points @ R`, by what became of the unit vectors."""
  r = xyz[:, 1:4].astype(np.float64) - xyz[:, 4:5]
  np.testing.assert_allclose(r @ r.transpose(0, 2, 1) - np.eye(3), 0, atol=1e-5)
  np.testing.assert_allclose(np.linalg.det(r), 1, atol=1e-5)
  np.testing.assert_allclose(xyz, np.einsum("ni,kij->knj", XYZ, r), atol=1e-5)
  return r


RZ_RY_RX = "xyz"  # as SciPy names it


def test_tilt_is_rz_ry_rx_of_clipped_normal_angles():
  r = rotations(augmented(tilt=0.06, tilt_max=0.1)[0])
  angles = Rotation.from_matrix(r).as_euler(RZ_RY_RX)
  rebuilt = Rotation.from_euler(RZ_RY_RX, angles).as_matrix()
  np.testing.assert_allclose(r, rebuilt, atol=1e-5)
  assert np.abs(angles).max() <= 0.1 + 1e-5
  within_five_errors(angles, 0, 0.06)
  # P(|N(0, 0.06)| > 0.1) = 0.0956 of them sit on the bound.
  clipped = np.abs(angles).ravel() > 0.1 - 1e-5
  within_five_errors(clipped, 0.0956, np.sqrt(0.0956 * 0.9044))
  # P(|N| < 0.06) = 0.6827.
  inner = np.abs(angles).ravel() < 0.06
  within_five_errors(inner, 0.6827, np.sqrt(0.6827 * 0.3173))


def test_rotation_is_about_z_by_any_angle():
  r = rotations(augmented(rotate=True)[0])
  np.testing.assert_allclose(r[:, 2], np.tile([0, 0, 1], (KEYS, 1)), atol=1e-6)
  np.testing.assert_allclose(r[:, :2, 2], 0, atol=1e-6)
  turn = np.arctan2(r[:, 1, 0], r[:, 0, 0])
  share = np.histogram(turn, bins=8, range=(-np.pi, np.pi))[0] / KEYS
  np.testing.assert_allclose(share, 1 / 8, atol=5 * np.sqrt(7 / 64 / KEYS))


# With p = 0 nothing at all is changed: all the rest is off.
@pytest.mark.parametrize(("p", "fill"), [(0.0, 0.4), (0.5, 0.4), (0.2, 0.7)])
def test_colours_are_dropped_as_a_whole_with_probability_p(p, fill):
  xyz, rgb = augmented(colour_drop=p, colour_fill=fill)
  assert (xyz == XYZ).all()
  grey = (rgb == np.float32(fill)).all(axis=(1, 2))
  kept = (rgb == RGB).all(axis=(1, 2))
  assert (grey ^ kept).all()
  within_five_errors(grey, p, np.sqrt(p * (1 - p)))


def test_the_order_is_dropout_scale_shift_tilt_turn():
  """out = (s x + t) @ R_tilt @ R_turn, with the first point's for dropped ones.

  The tilt's three angles are +-0.1 almost always, so that the third column
  of R, on which a turn that comes after it has no influence, is known.
  """
  xyz, _ = augmented(
    point_dropout=0.2,
    scale_low=0.8,
    scale_high=1.25,
    shift=0.1,
    tilt=100.0,
    tilt_max=0.1,
    rotate=True,
  )
  moved = (xyz == xyz[:, :1]).all(axis=-1)
  third_column = []
  for out, gone in zip(xyz.astype(np.float64), moved, strict=True):
    kept = np.flatnonzero(~gone)
    design = np.concatenate([XYZ[kept], np.ones((len(kept), 1))], axis=1)
    fit = np.linalg.lstsq(design, out[kept], rcond=None)[0]
    linear, offset = fit[:3], fit[3]
    np.testing.assert_allclose(design @ fit, out[kept], atol=1e-5)
    scale = np.cbrt(np.linalg.det(linear))
    assert 0.8 - 1e-5 <= scale <= 1.25 + 1e-5
    r = linear / scale
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-4)
    # Before the rotations, and not scaled.
    assert np.abs(offset @ r.T).max() <= 0.1 + 1e-5
    # Moved before all the rest.
    np.testing.assert_allclose(out[0], XYZ[0] @ linear + offset, atol=1e-5)
    third_column.append(r[:, 2])
  angles = [*itertools.product((-0.1, 0.1), repeat=3)]
  corners = Rotation.from_euler(RZ_RY_RX, angles).as_matrix()[:, :, 2]
  distance = np.abs(np.array(third_column)[:, None] - corners).max(axis=-1)
  assert (distance.min(axis=1) < 1e-4).mean() > 0.98
