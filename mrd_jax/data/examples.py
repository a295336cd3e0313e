"""Makes of stored records what a step learns from, on the device.

Decoding, the draw of points, image and text, and OpenShape's augmentations in
OpenShape's order, as pure functions of one record and one random key.  The
key depends on (seed, step, position in the global batch) alone, so what is
drawn for a sample is the same on any number of devices, processes and workers
(XLA may round a coordinate differently in the last bit).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.config.pretraining import AugmentConfig
from mrd_jax.data.records import XYZ_LEVELS, ImageKind, TextKind
from mrd_jax.keys import named


class Batch(NamedTuple):
  """Encoded records (`records.encode`), padded and stacked.

  Attributes:
    row: (B,) int32 row of the record in its split.
    xyz: (B, N, 3) int16.
    rgb: (B, N, 3) uint8.
    num_points: (B,) int32, how many leading points exist.
    image_feat: (B, V, D) float16.
    image_kind: (B, V) uint8 `ImageKind`, NONE where padded.
    text_feat: (B, T, D) float16.
    text_kind: (B, T) uint8 `TextKind`, NONE where padded.
    label: (B,) int32, -1 where there is none.
  """

  row: jax.Array
  xyz: jax.Array
  rgb: jax.Array
  num_points: jax.Array
  image_feat: jax.Array
  image_kind: jax.Array
  text_feat: jax.Array
  text_kind: jax.Array
  label: jax.Array


class Examples(NamedTuple):
  """What the encoder and the losses take.

  Attributes:
    points: (B, num_points, 6) float32: xyz (z up), rgb.
    num_points: (B,) int32, how many leading points of each exist.
    image: (B, D) float32 one image feature of each.
    text: (B, D) float32 one text feature of each, zero where there is none.
    has_text: (B,) bool.
  """

  points: jax.Array
  num_points: jax.Array
  image: jax.Array
  text: jax.Array
  has_text: jax.Array


def train_examples(
  batch: Batch, config: AugmentConfig, *, seed: int, step: jax.Array
) -> Examples:
  """Draws and augments a training batch; see `AugmentConfig`."""
  step_key = named(jax.random.key(seed), "samples", step)
  fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  keys_B = fold_in(step_key, jnp.arange(len(batch.row)))

  def one(sample: Batch, key: jax.Array) -> Examples:
    xyz, rgb, n = draw_points(sample, config, named(key, "points"))
    xyz, rgb = augment(xyz, rgb, n, config, named(key, "augment"))
    image = pick_image(sample, named(key, "image"), config.thumbnails)
    text, has_text = pick_text(sample, named(key, "text"))
    return Examples(jnp.concatenate([xyz, rgb], -1), n, image, text, has_text)

  with jax.named_scope("input"):
    return jax.vmap(one)(batch, keys_B)


def draw_points(
  sample: Batch, config: AugmentConfig, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Decodes a cloud and draws its points in random order.

  The record's centre and scale are not needed: the cloud is normalised.

  Returns:
    xyz (num_points, 3) centred on its mean and scaled into the unit ball, rgb
    (num_points, 3), and how many leading points exist; the rest are zero.
  """
  stored = sample.xyz.shape[0]
  draw = min(config.num_points, stored)
  exists_N = jnp.arange(stored) < sample.num_points
  order_N = jnp.argsort(
    jnp.where(exists_N, jax.random.uniform(key, (stored,)), jnp.inf)
  )[:draw]
  n = jnp.minimum(sample.num_points, draw)
  exists_P1 = (jnp.arange(draw) < n)[:, None]

  xyz = sample.xyz[order_N].astype(jnp.float32) / XYZ_LEVELS
  if config.swap_yz:
    xyz = xyz[:, jnp.array([0, 2, 1])]
  rgb = jnp.where(exists_P1, sample.rgb[order_N].astype(jnp.float32) / 255, 0)
  return normalize_cloud(xyz, exists_P1), rgb, n


def normalize_cloud(xyz_N3: jax.Array, exists_N1: jax.Array) -> jax.Array:
  """Centres a cloud on its mean and scales it into the unit ball.

  A cloud with no extent becomes zeros, as OpenShape has it.
  """
  count = jnp.maximum(exists_N1.sum(), 1)
  mean_3 = jnp.where(exists_N1, xyz_N3, 0).sum(axis=0) / count
  xyz_N3 = jnp.where(exists_N1, xyz_N3 - mean_3, 0)
  radius = jnp.sqrt((xyz_N3**2).sum(axis=-1).max())
  return jnp.where(radius < 1e-6, 0, xyz_N3 / jnp.maximum(radius, 1e-6))


def augment(
  xyz_N3: jax.Array,
  rgb_N3: jax.Array,
  num_points: jax.Array,
  config: AugmentConfig,
  key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Applies OpenShape's augmentations to one cloud, in its order.

  Point dropout moves points onto the first one and leaves their colours, as
  OpenShape does.  Rows that do not exist may take any finite value.
  """

  def uniform(purpose: str, low: float, high: float, shape=()) -> jax.Array:
    drawn = named(key, purpose)
    return jax.random.uniform(drawn, shape, minval=low, maxval=high)

  n = xyz_N3.shape[0]
  ratio = uniform("point_dropout", 0.0, 1.0) * config.point_dropout
  dropped_N1 = uniform("dropped", 0.0, 1.0, (n, 1)) <= ratio
  xyz_N3 = jnp.where(dropped_N1, xyz_N3[0], xyz_N3)
  xyz_N3 = xyz_N3 * uniform("scale", config.scale_low, config.scale_high)
  xyz_N3 = xyz_N3 + uniform("shift", -config.shift, config.shift, (3,))
  tilt_3 = config.tilt * jax.random.normal(named(key, "tilt"), (3,))
  xyz_N3 = _rotate(xyz_N3, jnp.clip(tilt_3, -config.tilt_max, config.tilt_max))
  turn = uniform("rotate", 0.0, 2 * jnp.pi)
  if config.rotate:
    xyz_N3 = _rotate(xyz_N3, jnp.array([0.0, 0.0, 1.0]) * turn)
  grey = jax.random.bernoulli(named(key, "colour_drop"), config.colour_drop)
  return xyz_N3, jnp.where(grey, config.colour_fill, rgb_N3)


def _rotate(xyz_N3: jax.Array, angles_3: jax.Array) -> jax.Array:
  """Rows times R = Rz Ry Rx, in float32 on any device."""
  (cx, cy, cz), (sx, sy, sz) = jnp.cos(angles_3), jnp.sin(angles_3)
  one, zero = jnp.ones(()), jnp.zeros(())
  rx = jnp.array([[one, zero, zero], [zero, cx, -sx], [zero, sx, cx]])
  ry = jnp.array([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
  rz = jnp.array([[cz, -sz, zero], [sz, cz, zero], [zero, zero, one]])
  highest = jax.lax.Precision.HIGHEST
  r = jnp.matmul(jnp.matmul(rz, ry, precision=highest), rx, precision=highest)
  return jnp.matmul(xyz_N3, r, precision=highest)


def pick_image(sample: Batch, key: jax.Array, thumbnails: bool) -> jax.Array:
  """Picks an image feature: by a coin the thumbnail, else a view.

  Args:
    sample: One record; with a thumbnail or a view at least.
    key: () of the draw.
    thumbnails: False takes a thumbnail only where there is no view.

  Returns:
    (D,) float32.
  """
  is_view_V = sample.image_kind == ImageKind.VIEW
  is_thumbnail_V = sample.image_kind == ImageKind.THUMBNAIL
  coin = thumbnails & jax.random.bernoulli(named(key, "thumbnail"))
  use_thumbnail = is_thumbnail_V.any() & (coin | ~is_view_V.any())
  images_V = jnp.where(use_thumbnail, is_thumbnail_V, is_view_V)
  index = _pick(images_V, named(key, "image"))
  return sample.image_feat[index].astype(jnp.float32)


def pick_text(sample: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Picks a text feature by OpenShape's rule.

  The sources are the raw texts, a caption (a coin between BLIP and MSFT,
  nothing if the one drawn is missing) and the retrieved texts.  One of the
  sources that have a text is drawn, then one of its texts.

  Returns:
    (D,) float32, zero where there is no text, and () bool whether there is.
  """
  kind_T = sample.text_kind
  caption = jnp.where(
    jax.random.bernoulli(named(key, "caption")), TextKind.BLIP, TextKind.MSFT
  )
  sources_3T = jnp.stack(
    [kind_T == TextKind.RAW, kind_T == caption, kind_T == TextKind.RETRIEVAL]
  )
  present_3 = sources_3T.any(axis=1)
  source = _pick(present_3, named(key, "source"))
  text = sample.text_feat[_pick(sources_3T[source], named(key, "text"))]
  has_text = present_3.any()
  return jnp.where(has_text, text.astype(jnp.float32), 0), has_text


def _pick(mask_N: jax.Array, key: jax.Array) -> jax.Array:
  """Index of a uniformly drawn True entry; 0 if there is none."""
  draw_N = jax.random.uniform(key, mask_N.shape)
  return jnp.argmax(jnp.where(mask_N, draw_N, -1.0))
