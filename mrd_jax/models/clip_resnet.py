"""Computes the image tower of CLIP's ResNets, as OpenAI's RN50 and RN101.

Radford et al. (2021), section 2.4 and OpenAI's `ModifiedResNet`: three
convolutions as stem, average pooling wherever others take a stride, attention
pooling at the end.  BatchNorm takes its running statistics: nothing trains it.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models.layers import EPSILON, Linear, precision_of

_EXPANSION = 4  # channels that a bottleneck returns, over its width
_HEAD_DIM = 64


@dataclasses.dataclass(frozen=True)
class ResNetSize:
  """The image tower.

  Attributes:
    embed_dim: D, width of the embedding space.
    width: Channels after the stem; the last stage has 32 times as many.
    layers: Bottlenecks of the four stages.
    image_size: Side of an image in pixels, a multiple of 32.
  """

  embed_dim: int
  width: int
  layers: tuple[int, ...]
  image_size: int


class _ConvNorm(nn.Module):
  """A convolution without bias and its BatchNorm."""

  features: int
  side: int
  stride: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    x_BHWC = nn.Conv(
      self.features,
      (self.side, self.side),
      self.stride,
      # Not "SAME", which pads an even side at its end only.
      padding=self.side // 2,
      use_bias=False,
      dtype=self.dtype,
      precision=precision_of(self.dtype),
      name="conv",
    )(x_BHWC)
    return nn.BatchNorm(True, epsilon=EPSILON, name="norm")(
      x_BHWC.astype(jnp.promote_types(self.dtype, jnp.float32))
    )


def _pool(x_BHWC: jax.Array, side: int) -> jax.Array:
  if side == 1:
    return x_BHWC
  return nn.avg_pool(x_BHWC, (side, side), (side, side))


class Bottleneck(nn.Module):
  """A residual block; a stride is average pooling before the last product."""

  width: int
  stride: int
  shortcut: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    conv = functools.partial(_ConvNorm, stride=1, dtype=self.dtype)
    y = nn.relu(conv(self.width, 1, name="reduce")(x_BHWC))
    y = nn.relu(conv(self.width, 3, name="spatial")(y))
    y = conv(_EXPANSION * self.width, 1, name="expand")(_pool(y, self.stride))
    if self.shortcut:
      x_BHWC = conv(_EXPANSION * self.width, 1, name="shortcut")(
        _pool(x_BHWC, self.stride)
      )
    return nn.relu(x_BHWC + y)


class AttentionPool(nn.Module):
  """Attends from the pixels' mean to itself and to all pixels."""

  embed_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BLC: jax.Array) -> jax.Array:
    width = x_BLC.shape[-1]
    x_BLC = jnp.concatenate([x_BLC.mean(1, keepdims=True), x_BLC], axis=1)
    x_BLC += self.param(
      "position_embedding",
      nn.initializers.normal(width**-0.5),
      x_BLC.shape[1:],
    )
    linear = functools.partial(Linear, dtype=self.dtype)
    q, k, v = (
      linear(width, name=name)(x).reshape(*x.shape[:-1], -1, _HEAD_DIM)
      for name, x in (("q", x_BLC[:, :1]), ("k", x_BLC), ("v", x_BLC))
    )
    with jax.default_matmul_precision(precision_of(self.dtype)):
      y = jax.nn.dot_product_attention(q, k, v, implementation="xla")
    return linear(self.embed_dim, name="out")(y.reshape(len(x_BLC), width))


class CLIPResNet(nn.Module):
  """The image tower.

  Attributes:
    size: The architecture.
    dtype: Type of the matrix products; norms and sums are float32.
  """

  size: ResNetSize
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, pixels_BCHW: jax.Array) -> jax.Array:
    """Embeds images.

    Args:
      pixels_BCHW: (B, 3, S, S) with S = image_size, normalised as the system
        has it.

    Returns:
      (B, D) float32, not of unit length.
    """
    size = self.size
    x = pixels_BCHW.transpose(0, 2, 3, 1)
    stem = ((size.width // 2, 2), (size.width // 2, 1), (size.width, 1))
    for i, (width, stride) in enumerate(stem):
      conv = _ConvNorm(width, 3, stride, self.dtype, name=f"stem_{i}")
      x = nn.relu(conv(x))
    x = _pool(x, 2)
    for stage, depth in enumerate(size.layers):
      for i in range(depth):
        x = Bottleneck(
          size.width * 2**stage,
          stride=2 if stage and not i else 1,
          shortcut=not i,
          dtype=self.dtype,
          name=f"stage_{stage}_block_{i}",
        )(x)
    x_BLC = x.reshape(len(x), -1, x.shape[-1])
    pool = AttentionPool(size.embed_dim, self.dtype, name="pool")
    return pool(x_BLC).astype(jnp.promote_types(self.dtype, jnp.float32))
