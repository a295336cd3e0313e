"""What a sample draws, and that its key is all that decides it.

Statistics are over many keys; their tolerances are five standard errors.
"""

import functools
import re

import jax
import numpy as np
import pytest
from random_batches import (
  OPENSHAPE,
  QUICK,
  keys,
  make_batch,
  rows,
  sample_of,
  within_five_errors,
)

from mrd_jax.data import examples as inputs
from mrd_jax.data.records import ImageKind, TextKind
from mrd_jax.parallel import sharding

PICKS = 4096
NONE, RAW, BLIP, MSFT, RETRIEVAL = TextKind
_, VIEW, THUMBNAIL = ImageKind


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def picked(pick, **fields):
  """What many keys pick of one record."""
  sample = sample_of(make_batch(1), 0)._replace(**fields)
  return jax.vmap(lambda key: pick(sample, key))(keys(PICKS))


def padded(values: list) -> np.ndarray:
  return np.pad(values, (0, 8 - len(values)))


# Twice the unit vectors, so that what is picked shows.
FEATURES = 2 * np.eye(8, dtype=np.float16)


def assert_shares(features: np.ndarray, expected: np.ndarray) -> None:
  share = (features > 0).mean(axis=0)
  tolerance = 5 * np.sqrt(expected * (1 - expected) / PICKS)
  assert (np.abs(share - expected) <= tolerance).all(), share


@pytest.mark.parametrize(
  ("kinds", "expected"),
  [
    ([RAW, RAW, BLIP, MSFT] + [RETRIEVAL] * 3, [1 / 6] * 4 + [1 / 9] * 3),
    # No MSFT caption.  Heads (BLIP): a third each; tails: a half each.
    ([RAW, BLIP, RETRIEVAL], [5 / 12, 1 / 6, 5 / 12]),
    # No BLIP caption, nothing retrieved.
    ([NONE, MSFT, RAW, NONE, RAW], [0, 1 / 4, 3 / 8, 0, 3 / 8]),
    ([BLIP], [1 / 2]),  # else no text at all
    ([BLIP, MSFT], [1 / 2, 1 / 2]),
    ([NONE] * 7 + [RETRIEVAL], [0] * 7 + [1]),
    ([RAW], [1]),
    ([], []),
  ],
)
def test_one_source_is_drawn_then_one_of_its_texts(kinds, expected):
  kinds = padded(kinds).astype(np.uint8)
  texts = picked(inputs.pick_text, text_feat=FEATURES, text_kind=kinds)
  text, has_text = map(np.asarray, texts)
  assert text.dtype == np.float32
  # One feature where there is a text, zeros where there is none.
  assert set(np.unique(text)) <= {0, 2}
  np.testing.assert_array_equal(text.sum(axis=1), np.where(has_text, 2, 0))
  assert_shares(text, padded(expected))


WITH_THUMBNAILS, VIEWS_ONLY = (
  functools.partial(inputs.pick_image, thumbnails=value)
  for value in (True, False)
)


@pytest.mark.parametrize(
  ("pick", "kinds", "expected"),
  [
    # A coin for the thumbnail.
    (
      WITH_THUMBNAILS,
      [VIEW, THUMBNAIL, VIEW, VIEW, NONE],
      [1 / 6, 1 / 2, 1 / 6, 1 / 6],
    ),
    (WITH_THUMBNAILS, [VIEW, VIEW, NONE, VIEW], [1 / 3, 1 / 3, 0, 1 / 3]),
    (WITH_THUMBNAILS, [NONE, NONE, THUMBNAIL], [0, 0, 1]),
    (VIEWS_ONLY, [VIEW, THUMBNAIL, VIEW, VIEW], [1 / 3, 0, 1 / 3, 1 / 3]),
    (VIEWS_ONLY, [NONE, NONE, THUMBNAIL], [0, 0, 1]),  # else no image at all
  ],
)
def test_the_image_is_a_view_or_by_a_coin_the_thumbnail(pick, kinds, expected):
  kinds = padded(kinds).astype(np.uint8)
  image = picked(pick, image_feat=FEATURES, image_kind=kinds)
  image = np.asarray(image)
  assert image.dtype == np.float32
  np.testing.assert_array_equal(image.sum(axis=1), 2)
  assert_shares(image, padded(expected))


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


def train(batch: inputs.Batch, step, seed):
  return inputs.train_examples(batch, OPENSHAPE, seed=seed, step=step)


# The seed is traced, too: one program for all of them.
trained = jax.jit(train, compiler_options=QUICK)
STEP = np.int32(7)


def test_a_training_sample_depends_on_its_position_and_not_on_the_batch():
  batch = make_batch(8)
  examples = trained(batch, STEP, 0)
  four = trained(rows(batch, range(4)), STEP, 0)
  assert_same_draws(four, rows(examples, range(4)))
  neighbours = rows(batch, [1, 2, 0, 3, 7, 6, 5, 4])
  assert_same(
    sample_of(trained(neighbours, STEP, 0), 3), sample_of(examples, 3)
  )
  # The row in the split has no say.
  assert_same(trained(batch._replace(row=batch.row[::-1]), STEP, 0), examples)


def test_training_samples_differ_by_seed_step_and_position():
  batch = rows(make_batch(1), [0] * 8)
  points = [
    np.asarray(trained(batch, step, seed).points)
    for step, seed in ((STEP, 0), (STEP + 1, 0), (STEP, 1))
  ]
  assert len({p.tobytes() for p in np.concatenate(points)}) == 24


def test_a_training_batch_has_all_parts_and_no_second_normalisation():
  batch = make_batch(8)
  steps = [trained(batch, np.int32(step), 0) for step in range(32)]
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
  assert_same_draws(examples, trained(make_batch(8), STEP, 0))


def test_the_input_stage_makes_devices_talk_about_nothing(sharded):
  assert not re.search(
    "all-gather|all-reduce|collective-|all-to-all|reduce-scatter",
    sharded[0].as_text(),
  )
