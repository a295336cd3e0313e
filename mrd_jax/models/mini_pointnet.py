"""Embeds each group of points: the mini-PointNet.

A group has many points of few channels, so that what is written and read
decides the time, not the operations.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models.layers import EPSILON, matmul, precision_of, uniform

MOMENTUM = 0.9  # of BatchNorm's running statistics; PyTorch's 0.1


class _Weights(nn.Module):
  """Kernel and bias of a `Linear`, for one who folds something into them."""

  features: int

  @nn.compact
  def __call__(self, fan_in: int) -> tuple[jax.Array, jax.Array]:
    init = uniform(fan_in**-0.5)
    kernel = self.param("kernel", init, (fan_in, self.features))
    return kernel, self.param("bias", init, (self.features,))


class _Norm(nn.Module):
  """BatchNorm as the affine map that it is once its statistics are known.

  Variables as those of `nn.BatchNorm`.
  """

  @nn.compact
  def __call__(
    self, moments: tuple[jax.Array, jax.Array] | None, features: int
  ) -> tuple[jax.Array, jax.Array]:
    """Scale and shift of each channel.

    Args:
      moments: Mean and variance of the batch, which are recorded; None uses
        the running ones.
      features: How many channels.
    """
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    scale_C = self.param("scale", ones, (features,))
    bias_C = self.param("bias", zeros, (features,))
    running = [
      self.variable("batch_stats", name, init, (features,))
      for name, init in (("mean", jnp.zeros), ("var", jnp.ones))
    ]
    if moments is None:
      mean_C, var_C = (variable.value for variable in running)
    else:
      mean_C, var_C = moments
      if not self.is_initializing():
        for variable, new in zip(running, moments, strict=True):
          variable.value = MOMENTUM * variable.value + (1 - MOMENTUM) * new
    factor_C = scale_C * jax.lax.rsqrt(var_C + EPSILON)
    return factor_C, bias_C - mean_C * factor_C


@jax.custom_vjp
def _gram(x_RC: jax.Array) -> jax.Array:
  """(R, C) -> (C, C) x'x, in float32 at least."""
  return jax.lax.dot_general(
    x_RC,
    x_RC,
    (((0,), (0,)), ((), ())),
    precision=precision_of(x_RC.dtype),
    preferred_element_type=jnp.promote_types(x_RC.dtype, jnp.float32),
  )


def _gram_backward(x_RC, g_CC):
  # A matrix of a sum over all rows: rounded to the rows' half precision, its
  # error would be the same in every row.  So its remainder is multiplied too,
  # in one sum of products: rounded before, they would swallow the remainder's.
  g_CC = g_CC + g_CC.T
  high_CC = g_CC.astype(x_RC.dtype)
  if high_CC.dtype == g_CC.dtype:
    return (jnp.matmul(x_RC, high_CC, precision=precision_of(x_RC.dtype)),)
  low_CC = (g_CC - high_CC.astype(g_CC.dtype)).astype(x_RC.dtype)
  twice_RC = jnp.concatenate([x_RC, x_RC], axis=1)
  return (twice_RC @ jnp.concatenate([high_CC, low_CC]),)


_gram.defvjp(lambda x_RC: (_gram(x_RC), x_RC), _gram_backward)


def _moments_of_linear(
  x_RI: jax.Array, kernel_IC: jax.Array, bias_C: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mean and variance of the channels of x W + b, from those of x.

  mean = W' E[x] + b; variance = diag(W' Cov[x] W).
  """
  rows = x_RI.shape[0]
  mean_I = x_RI.mean(0, dtype=jnp.promote_types(x_RI.dtype, jnp.float32))
  covariance_II = _gram(x_RI) / rows - jnp.outer(mean_I, mean_I)
  times = functools.partial(jnp.matmul, precision="highest")
  variance_C = (times(covariance_II, kernel_IC) * kernel_IC).sum(0)
  return times(mean_I, kernel_IC) + bias_C, jnp.maximum(variance_C, 0)


class MiniPointNet(nn.Module):
  """Embeds each group: three (Linear, BatchNorm, ReLU), then max over points.

  A group has many points of few channels, so that what is written and read
  decides the time.  BatchNorm's statistics of a layer come from the covariance
  of its (narrow) input, before the layer is computed; they are folded into
  its weights; and the last bias and ReLU, which grow with their argument, come
  after the maximum.

  Statistics are float32 and, since the batch axis is global under `jit`, those
  of the global batch.  The running variance is the biased one (PyTorch keeps
  the unbiased: a factor n / (n - 1) with n = B * G * K).

  When the collection "intermediates" is mutable, it gets mean and variance of
  each BatchNorm's input: `training/accumulate.py` makes the statistics of a
  batch from those of its parts.
  """

  sa_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BGKC: jax.Array, train: bool) -> jax.Array:
    shape = x_BGKC.shape[:-1]
    x_RC = x_BGKC.reshape(-1, x_BGKC.shape[-1])
    wide = jnp.promote_types(self.dtype, jnp.float32)
    for i, features in enumerate((64, 64, self.sa_dim)):
      kernel, bias_C = _Weights(features, name=f"linear_{i}")(x_RC.shape[-1])
      sowing = self.is_mutable_collection("intermediates")
      moments = None
      if train or sowing:
        moments = _moments_of_linear(x_RC, kernel, bias_C)
      if sowing:
        self.sow("intermediates", f"into_norm_{i}", moments)
      norm = _Norm(name=f"norm_{i}")
      factor_C, shift_C = norm(moments if train else None, features)
      x_RC = matmul(x_RC, kernel * factor_C)
      if i == 2:
        x_RC = x_RC.reshape(*shape, features).max(axis=2)
      shift_C = bias_C * factor_C + shift_C
      x_RC = nn.relu(x_RC.astype(wide) + shift_C).astype(self.dtype)
    return x_RC
