"""Draws clouds for classification, on the device.

Point-BERT's recipe (its `runner_finetune.py`): farthest point sampling, in
training a random choice of what it found, then a scale and a shift by axis.
As in pre-training the cloud is normalised first, and the points that the
encoder gets are in random order: its groups hold the first points of a ball.
Randomness follows (seed, step, position in the global batch), or the record.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mrd_jax.config.finetuning import AugmentConfig
from mrd_jax.data.examples import Batch, normalize_cloud
from mrd_jax.data.records import XYZ_LEVELS
from mrd_jax.keys import named
from mrd_jax.models.point_ops import sample_clouds
from mrd_jax.parallel import sharding


class Clouds(NamedTuple):
  """Holds what the classifier takes.

  Attributes:
    points: (B, num_points, 6) float32: xyz, and a grey for rgb.
    num_points: (B,) int32, how many leading points of each exist.
  """

  points: jax.Array
  num_points: jax.Array


class Drawer(NamedTuple):
  """Draws the clouds of a batch.

  Attributes:
    config: How.
    swap_yz: Whether the encoder's clouds are z up; those of records are y up.
    colour_fill: The grey.
    fps_chunk: Clouds per step of farthest point sampling (`point_ops`).
    batch_sharding: Layout of the batch, as for the encoder.
  """

  config: AugmentConfig
  swap_yz: bool
  colour_fill: float
  fps_chunk: int
  batch_sharding: NamedSharding

  def train(self, batch: Batch, *, seed: int, step: jax.Array) -> Clouds:
    """Draws the clouds of a training step."""
    step_key = named(jax.random.key(seed), "samples", step)
    keys_B = _fold_in(step_key, jnp.arange(len(batch.row)))
    return self._draw(batch, keys_B, augmented=True)

  def test(self, batch: Batch, *, seed: int) -> Clouds:
    """Draws the clouds to evaluate, each the same in every batch."""
    keys_B = _fold_in(named(jax.random.key(seed), "test"), batch.row)
    return self._draw(batch, keys_B, augmented=False)

  def copies(self, batch: Batch, *, seed: int, copy: jax.Array) -> Clouds:
    """Draws copy number `copy` of the clouds, augmented as in training."""
    copy_key = named(jax.random.key(seed), "votes", copy)
    keys_B = _fold_in(copy_key, batch.row)
    return self._draw(batch, keys_B, augmented=True)

  def _draw(self, batch: Batch, keys_B: jax.Array, augmented: bool) -> Clouds:
    def placed(xyz_N3: jax.Array, num_points: jax.Array) -> jax.Array:
      xyz_N3 = xyz_N3.astype(jnp.float32) / XYZ_LEVELS
      if self.swap_yz:
        xyz_N3 = xyz_N3[:, jnp.array([0, 2, 1])]
      exists_N1 = (jnp.arange(len(xyz_N3)) < num_points)[:, None]
      return normalize_cloud(xyz_N3, exists_N1)

    def local(
      xyz_BN3: jax.Array, num_points_B: jax.Array, keys_B: jax.Array
    ) -> Clouds:
      xyz_BP3, n_B = draw_points(
        jax.vmap(placed)(xyz_BN3, num_points_B),
        num_points_B,
        self.config,
        keys_B,
        random=augmented,
        chunk=self.fps_chunk,
      )
      if augmented:
        xyz_BP3 = jax.vmap(
          lambda xyz_P3, key: augment(xyz_P3, self.config, key)
        )(xyz_BP3, keys_B)
      grey_BP3 = jnp.full_like(xyz_BP3, self.colour_fill)
      return Clouds(jnp.concatenate([xyz_BP3, grey_BP3], axis=-1), n_B)

    draw = sharding.on_own_share(local, self.batch_sharding)
    with jax.named_scope("input"):
      return draw(batch.xyz, batch.num_points, keys_B)


_fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))


def draw_points(
  xyz_BN3: jax.Array,
  num_points_B: jax.Array,
  config: AugmentConfig,
  keys_B: jax.Array,
  *,
  random: bool,
  chunk: int,
) -> tuple[jax.Array, jax.Array]:
  """Draws points of each cloud in random order.

  Args:
    xyz_BN3: (B, N, 3) float32.
    num_points_B: (B,) int32, how many leading rows exist.
    config: How many points.
    keys_B: (B,) of the order, with which the first sampled point changes.
    random: Whether `config.num_points` are chosen at random of
      `config.sampled_points` that farthest point sampling found; else it finds
      `config.num_points`.
    chunk: Clouds sampled at a time (`point_ops.sample_clouds`).

  Returns:
    (B, config.num_points, 3) float32 and (B,) how many leading rows exist; the
    rest are zero.  A smaller cloud keeps all its points.
  """
  samples = config.sampled_points if random else config.num_points

  def shuffled(xyz_N3, num_points, key):
    exists_N = jnp.arange(len(xyz_N3)) < num_points
    draws_N = jax.random.uniform(named(key, "order"), (len(xyz_N3),))
    return xyz_N3[jnp.argsort(jnp.where(exists_N, draws_N, jnp.inf))]

  def chosen(xyz_N3, num_points, samples_S, key):
    # Beyond `num_points` samples are repetitions; they are to come last.
    rank_S = jax.random.uniform(named(key, "choice"), (samples,))
    is_new_S = jnp.arange(samples) < num_points
    chosen_P = jnp.argsort(jnp.where(is_new_S, rank_S, jnp.inf))
    chosen_P = chosen_P[: config.num_points]
    n = jnp.minimum(num_points, config.num_points)
    exists_P1 = (jnp.arange(config.num_points) < n)[:, None]
    return jnp.where(exists_P1, xyz_N3[samples_S[chosen_P]], 0), n

  xyz_BN3 = jax.vmap(shuffled)(xyz_BN3, num_points_B, keys_B)
  samples_BS = sample_clouds(xyz_BN3, num_points_B, samples, chunk=chunk)
  return jax.vmap(chosen)(xyz_BN3, num_points_B, samples_BS, keys_B)


def augment(
  xyz_P3: jax.Array, config: AugmentConfig, key: jax.Array
) -> jax.Array:
  """Scales and shifts each axis on its own (Point-BERT's
  `PointcloudScaleAndTranslate`)."""
  scale_3 = jax.random.uniform(
    named(key, "scale"), (3,), minval=config.scale_low, maxval=config.scale_high
  )
  shift_3 = jax.random.uniform(
    named(key, "shift"), (3,), minval=-config.shift, maxval=config.shift
  )
  return xyz_P3 * scale_3 + shift_3
