"""Batches of random records, and what is asked of many draws."""

import dataclasses

import jax
import numpy as np

from mrd_jax.config.pretraining import AugmentConfig
from mrd_jax.data.examples import Batch
from mrd_jax.data.records import ImageKind, TextKind

PLAIN = AugmentConfig(
  num_points=16,
  swap_yz=True,
  point_dropout=0.0,
  scale_low=1.0,
  scale_high=1.0,
  shift=0.0,
  tilt=0.0,
  tilt_max=0.0,
  rotate=False,
  colour_drop=0.0,
  colour_fill=0.4,
)
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
TEXTS = [TextKind.RAW, TextKind.BLIP, TextKind.MSFT, TextKind.RETRIEVAL]
IMAGES = [ImageKind.VIEW, ImageKind.VIEW, ImageKind.THUMBNAIL]


def make_batch(size: int, *, stored=20, dim=4, seed=0) -> Batch:
  """Random records whose number of points differs; padding holds garbage."""
  rng = np.random.default_rng(seed)
  return Batch(
    row=np.arange(100, 100 + size, dtype=np.int32),
    xyz=rng.integers(-32767, 32768, (size, stored, 3)).astype(np.int16),
    rgb=rng.integers(0, 256, (size, stored, 3)).astype(np.uint8),
    num_points=rng.integers(5, stored + 1, size).astype(np.int32),
    image_feat=rng.normal(size=(size, 3, dim)).astype(np.float16),
    image_kind=np.tile(np.uint8(IMAGES), (size, 1)),
    text_feat=rng.normal(size=(size, 4, dim)).astype(np.float16),
    text_kind=np.tile(np.uint8(TEXTS), (size, 1)),
    label=np.full(size, -1, np.int32),
  )


def sample_of(batch: Batch, i: int) -> Batch:
  return jax.tree.map(lambda x: x[i], batch)


def rows(batch: Batch, index) -> Batch:
  return jax.tree.map(lambda x: x[np.asarray(index)], batch)


def keys(n: int, seed=0) -> jax.Array:
  return jax.random.split(jax.random.key(seed), n)


def within_five_errors(values, expected, deviation):
  """The mean of independent values is what it should be."""
  values = np.asarray(values)
  error = deviation / np.sqrt(len(values))
  np.testing.assert_allclose(values.mean(axis=0), expected, atol=5 * error)
