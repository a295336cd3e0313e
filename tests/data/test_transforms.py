"""The input stage: OpenShape's steps, their numbers, and who sees what key.

Statistics are over many keys; their tolerances are five standard errors.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.config.pretraining import AugmentConfig
from mrd_jax.data.examples import (
  Batch,
  augment,
  draw_points,
  eval_examples,
  pick_image,
  pick_text,
  train_examples,
)
from mrd_jax.parallel import sharding

PLAIN = AugmentConfig.plain(num_points=16, swap_yz=True, colour_fill=0.4)
OPENSHAPE = dataclasses.replace(
  PLAIN,
  point_dropout=0.875,
  scale_low=0.8,
  scale_high=1.25,
  shift=0.1,
  tilt=0.06,
  tilt_max=0.18,
  rotate=True,
  colour_drop=0.5,
)
KEYS = 512
# Compiles in half the time, for what is asked about many keys.
QUICK = {"xla_backend_optimization_level": 0}
NONE, RAW, BLIP, MSFT, RETRIEVAL = range(5)
VIEW, THUMBNAIL = 1, 2


def make_batch(size: int, *, stored=20, dim=4, seed=0) -> Batch:
  """Random records whose number of points differs; padding holds garbage."""
  rng = np.random.default_rng(seed)
  return Batch(
    row=np.arange(100, 100 + size, dtype=np.int32),
    xyz=rng.integers(-32767, 32768, (size, stored, 3)).astype(np.int16),
    rgb=rng.integers(0, 256, (size, stored, 3)).astype(np.uint8),
    num_points=rng.integers(5, stored + 1, size).astype(np.int32),
    image_feat=rng.normal(size=(size, 3, dim)).astype(np.float16),
    image_kind=np.tile(np.uint8([VIEW, VIEW, THUMBNAIL]), (size, 1)),
    text_feat=rng.normal(size=(size, 4, dim)).astype(np.float16),
    text_kind=np.tile(np.uint8([RAW, BLIP, MSFT, RETRIEVAL]), (size, 1)),
    label=np.full(size, -1, np.int32),
  )


def sample_of(batch: Batch, i: int) -> Batch:
  return jax.tree.map(lambda x: x[i], batch)


def rows(batch: Batch, index) -> Batch:
  return jax.tree.map(lambda x: x[np.asarray(index)], batch)


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


def keys(n: int, seed=0) -> jax.Array:
  return jax.random.split(jax.random.key(seed), n)


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
  numbers = {
    field.name: getattr(PLAIN, field.name)
    for field in dataclasses.fields(PLAIN)
    if isinstance(getattr(PLAIN, field.name), float)
  }
  xyz, rgb = augment_many(numbers | changes, rotate)
  return np.asarray(xyz), np.asarray(rgb)


def within_five_errors(values, expected, deviation):
  """The mean of independent values is what it should be."""
  values = np.asarray(values)
  error = deviation / np.sqrt(len(values))
  np.testing.assert_allclose(values.mean(axis=0), expected, atol=5 * error)


def test_nothing_is_changed_when_everything_is_off():
  xyz, rgb = augmented()
  np.testing.assert_array_equal(xyz, np.broadcast_to(XYZ, xyz.shape))
  np.testing.assert_array_equal(rgb, np.broadcast_to(RGB, rgb.shape))


def test_point_dropout_moves_points_onto_the_first_and_leaves_colours():
  xyz, rgb = augmented(point_dropout=0.875)
  np.testing.assert_array_equal(rgb, np.broadcast_to(RGB, rgb.shape))
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
  np.testing.assert_array_equal(rgb, np.broadcast_to(RGB, rgb.shape))
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


def rz_ry_rx(x: float, y: float, z: float) -> np.ndarray:
  cx, cy, cz = np.cos([x, y, z])
  sx, sy, sz = np.sin([x, y, z])
  rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
  ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
  rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
  return rz @ ry @ rx


def test_tilt_is_rz_ry_rx_of_clipped_normal_angles():
  r = rotations(augmented(tilt=0.06, tilt_max=0.1)[0])
  angles = np.stack(
    [
      np.arctan2(r[:, 2, 1], r[:, 2, 2]),
      -np.arcsin(r[:, 2, 0]),
      np.arctan2(r[:, 1, 0], r[:, 0, 0]),
    ],
    axis=1,
  )
  rebuilt = np.stack([rz_ry_rx(*a) for a in angles])
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


@pytest.mark.parametrize(("p", "fill"), [(0.5, 0.4), (0.2, 0.7)])
def test_colours_are_dropped_as_a_whole_with_probability_p(p, fill):
  xyz, rgb = augmented(colour_drop=p, colour_fill=fill)
  np.testing.assert_array_equal(xyz, np.broadcast_to(XYZ, xyz.shape))
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
  corners = np.stack(
    [
      rz_ry_rx(x, y, z)[:, 2]
      for x in (-0.1, 0.1)
      for y in (-0.1, 0.1)
      for z in (-0.1, 0.1)
    ]
  )
  distance = np.abs(np.array(third_column)[:, None] - corners).max(axis=-1)
  assert (distance.min(axis=1) < 1e-4).mean() > 0.98


PICKS = 4096


@functools.partial(jax.jit, compiler_options=QUICK)
def picked_texts(kinds):
  sample = sample_of(make_batch(1), 0)._replace(
    text_feat=2 * jnp.eye(8, dtype=jnp.float16), text_kind=kinds
  )
  return jax.vmap(lambda key: pick_text(sample, key))(keys(PICKS))


@pytest.mark.parametrize(
  ("kinds", "expected", "no_text"),
  [
    pytest.param(
      [RAW, RAW, BLIP, MSFT, RETRIEVAL, RETRIEVAL, RETRIEVAL, NONE],
      [1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 9, 1 / 9, 1 / 9, 0],
      0,
      id="all",
    ),
    pytest.param(
      # Heads (BLIP): a third each; tails (no MSFT): a half each.
      [RAW, BLIP, RETRIEVAL] + [NONE] * 5,
      [5 / 12, 1 / 6, 5 / 12] + [0] * 5,
      0,
      id="no MSFT caption",
    ),
    pytest.param(
      [NONE, MSFT, RAW, NONE, RAW] + [NONE] * 3,
      [0, 1 / 4, 3 / 8, 0, 3 / 8, 0, 0, 0],
      0,
      id="no BLIP caption, nothing retrieved",
    ),
    pytest.param(
      [BLIP] + [NONE] * 7, [1 / 2] + [0] * 7, 1 / 2, id="BLIP alone"
    ),
    pytest.param(
      [BLIP, MSFT] + [NONE] * 6, [1 / 2] * 2 + [0] * 6, 0, id="captions alone"
    ),
    pytest.param([NONE] * 7 + [RETRIEVAL], [0] * 7 + [1], 0, id="retrieved"),
    pytest.param([RAW] + [NONE] * 7, [1] + [0] * 7, 0, id="raw alone"),
    pytest.param([NONE] * 8, [0] * 8, 1, id="none"),
  ],
)
def test_one_source_is_drawn_then_one_of_its_texts(kinds, expected, no_text):
  text, has_text = map(np.asarray, picked_texts(np.uint8(kinds)))
  assert text.dtype == np.float32
  assert set(np.unique(text)) <= {0, 2}
  # One feature where there is a text, zeros where there is none.
  np.testing.assert_array_equal(text.sum(axis=1), np.where(has_text, 2, 0))
  expected = np.array([*expected, no_text])
  share = np.append((text > 0).mean(axis=0), (~has_text).mean())
  tolerance = 5 * np.sqrt(expected * (1 - expected) / PICKS)
  assert (np.abs(share - expected) <= tolerance).all(), share


@functools.partial(jax.jit, compiler_options=QUICK)
def picked_images(kinds):
  sample = sample_of(make_batch(1), 0)._replace(
    image_feat=2 * jnp.eye(5, dtype=jnp.float16), image_kind=kinds
  )
  return jax.vmap(lambda key: pick_image(sample, key))(keys(PICKS))


@pytest.mark.parametrize(
  ("kinds", "expected"),
  [
    pytest.param(
      [VIEW, THUMBNAIL, VIEW, VIEW, NONE],
      [1 / 6, 1 / 2, 1 / 6, 1 / 6, 0],
      id="a coin for the thumbnail",
    ),
    pytest.param(
      [VIEW, VIEW, NONE, VIEW, VIEW],
      [1 / 4, 1 / 4, 0, 1 / 4, 1 / 4],
      id="no thumbnail",
    ),
    pytest.param(
      [NONE, NONE, THUMBNAIL, NONE, NONE], [0, 0, 1, 0, 0], id="no view"
    ),
  ],
)
def test_the_image_is_a_view_or_by_a_coin_the_thumbnail(kinds, expected):
  image = np.asarray(picked_images(np.uint8(kinds)))
  assert image.dtype == np.float32
  np.testing.assert_array_equal(image.sum(axis=1), 2)
  expected = np.array(expected)
  share = (image > 0).mean(axis=0)
  tolerance = 5 * np.sqrt(expected * (1 - expected) / PICKS)
  assert (np.abs(share - expected) <= tolerance).all(), share


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_same_draws(a, b):
  """Equal but for the rounding of the coordinates.

  XLA may add up a cloud's mean in another order when a device holds another
  number of clouds.
  """
  assert_same(
    a._replace(points=a.points[..., 3:]), b._replace(points=b.points[..., 3:])
  )
  np.testing.assert_allclose(a.points, b.points, atol=1e-6)


@functools.partial(jax.jit, compiler_options=QUICK)
def evaluate(batch: Batch, seed):
  return eval_examples(batch, OPENSHAPE, seed=seed)


def evaluated(batch: Batch, seed=0):
  return evaluate(batch, seed)


def test_evaluation_takes_the_cloud_as_it_is_and_the_first_text_and_image():
  batch = make_batch(8)
  kinds = batch.text_kind.copy()
  kinds[2] = NONE
  batch = batch._replace(
    text_kind=kinds,
    text_feat=np.where(
      kinds[:, :, None] == NONE, np.float16(0), batch.text_feat
    ),
  )
  examples = evaluated(batch)
  np.testing.assert_array_equal(examples.image, batch.image_feat[:, 0])
  np.testing.assert_array_equal(examples.text, batch.text_feat[:, 0])
  np.testing.assert_array_equal(examples.has_text, np.arange(8) != 2)
  assert not np.asarray(examples.text[2]).any()
  points = np.asarray(examples.points)
  assert points.shape == (8, 16, 6) and points.dtype == np.float32
  for i, n in enumerate(np.asarray(examples.num_points)):
    assert n == min(16, batch.num_points[i])
    colours = {tuple(c) for c in batch.rgb[i, : batch.num_points[i]].tolist()}
    drawn = np.rint(points[i, :n, 3:] * 255).astype(int)
    assert {tuple(c) for c in drawn.tolist()} <= colours
    radius = np.linalg.norm(points[i, :n, :3], axis=1).max()
    assert radius == pytest.approx(1, abs=1e-6)
    assert not points[i, n:].any()


def test_evaluation_sees_a_record_the_same_wherever_it_comes():
  batch = make_batch(8)
  examples = evaluated(batch)
  order = [5, 2, 7, 0, 1, 3, 6, 4]
  assert_same(evaluated(rows(batch, order)), rows(examples, order))
  some = [5, 5, 2, 0, 5, 0, 0, 1]
  assert_same(evaluated(rows(batch, some)), rows(examples, some))


def test_evaluation_shuffles_by_record_and_seed():
  batch = rows(make_batch(1), [0] * 8)
  points = np.asarray(evaluated(batch).points)
  assert (points == points[:1]).all()
  other_rows = batch._replace(row=np.arange(8, dtype=np.int32))
  points = np.asarray(evaluated(other_rows).points)
  assert len({p.tobytes() for p in points}) == 8
  other_seed = np.asarray(evaluated(other_rows, seed=1).points)
  assert not (points == other_seed).all(axis=(1, 2)).any()


def train(batch: Batch, step, seed):
  return train_examples(batch, OPENSHAPE, seed=seed, step=step)


# The seed is traced, too: one program for all of them.
train_compiled = jax.jit(train, compiler_options=QUICK)


def trained(batch: Batch, step, seed=0):
  return train_compiled(batch, step, seed)


STEP = np.int32(7)


def test_a_training_sample_depends_on_its_position_and_not_on_the_batch():
  batch = make_batch(8)
  examples = trained(batch, STEP)
  four = jax.jit(train, compiler_options=QUICK)(rows(batch, range(4)), STEP, 0)
  assert_same_draws(four, rows(examples, range(4)))
  neighbours = rows(batch, [1, 2, 0, 3, 7, 6, 5, 4])
  assert_same(sample_of(trained(neighbours, STEP), 3), sample_of(examples, 3))
  # The row in the split has no say.
  assert_same(trained(batch._replace(row=batch.row[::-1]), STEP), examples)


def test_training_samples_differ_by_seed_step_and_position():
  batch = rows(make_batch(1), [0] * 8)
  points = [
    np.asarray(examples.points)
    for examples in (
      trained(batch, STEP),
      trained(batch, STEP + 1),
      trained(batch, STEP, seed=1),
    )
  ]
  assert len({p.tobytes() for p in np.concatenate(points)}) == 24


def test_a_training_batch_has_all_parts_and_no_second_normalisation():
  batch = make_batch(8)
  steps = [trained(batch, np.int32(step)) for step in range(32)]
  examples = jax.tree.map(lambda *x: np.concatenate(x), *steps)
  points = examples.points
  assert points.shape == (256, 16, 6) and points.dtype == np.float32
  count = np.tile(np.minimum(batch.num_points, 16), 32)
  np.testing.assert_array_equal(examples.num_points, count)
  assert examples.has_text.all()
  exists = np.arange(16) < count[:, None]
  radius = np.where(exists, np.linalg.norm(points[..., :3], axis=-1), 0)
  # At most the unit ball scaled by 1.25 and shifted by 0.1 an axis.
  assert radius.max() <= 1.25 + 0.1 * np.sqrt(3) + 1e-5
  assert (radius.max(axis=1) > 1.05).mean() > 0.1
  grey = (points[..., 3:] == np.float32(0.4)).all(axis=-1)
  lost = (grey | ~exists).all(axis=1)
  within_five_errors(lost, 0.5, 0.5)


@pytest.fixture(scope="module")
def sharded():
  """The compiled input stage over eight devices, and what it draws."""
  mesh = sharding.make_mesh(fsdp=2)
  split = sharding.batch_sharding(mesh)
  batch = make_batch(8)
  run = (
    jax.jit(
      train,
      in_shardings=(split, None, None),
      out_shardings=split,
      compiler_options=QUICK,
    )
    .lower(batch, STEP, 0)
    .compile()
  )
  return run, run(jax.device_put(batch, split), STEP, 0)


def test_eight_devices_draw_what_one_draws(sharded):
  _, examples = sharded
  assert len(examples.points.addressable_shards) == 8
  assert examples.points.addressable_shards[0].data.shape == (1, 16, 6)
  assert_same_draws(examples, trained(make_batch(8), STEP))


def test_the_input_stage_makes_devices_talk_about_nothing(sharded):
  collectives = re.findall(
    r"all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"
    r"|collective-broadcast",
    sharded[0].as_text(),
  )
  assert not collectives
