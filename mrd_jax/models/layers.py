"""Defines what the models share: PyTorch's dense layer, and precision."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5  # of all norms


def uniform(bound: float) -> Callable[..., jax.Array]:
  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def full_precision(dtype: jnp.dtype) -> AbstractContextManager:
  """Keeps float32 float32: no TF32 on GPUs, no bfloat16 passes on TPUs."""
  if jnp.dtype(dtype).itemsize < 4:
    return contextlib.nullcontext()
  return jax.default_matmul_precision("highest")


class Linear(nn.Module):
  """A dense layer initialised as PyTorch's Linear and 1x1 convolutions are.

  Weights and bias are uniform within 1 / sqrt(fan_in).
  """

  features: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in = x.shape[-1]
    init = uniform(fan_in**-0.5)
    kernel = self.param("kernel", init, (fan_in, self.features))
    # XLA multiplies matrices faster than it contracts higher ranks on CPU.
    x_2d = x.reshape(-1, fan_in).astype(self.dtype)
    with full_precision(self.dtype):
      y = x_2d @ kernel.astype(self.dtype)
    if self.use_bias:
      bias = self.param("bias", init, (self.features,))
      # Added in float32, so that its gradient, a sum over all rows, is summed
      # in float32 too (`docs/pytorch.md`); the conversions are fused.
      wide = jnp.promote_types(self.dtype, bias.dtype)
      y = (y.astype(wide) + bias).astype(self.dtype)
    return y.reshape(*x.shape[:-1], self.features)
