"""Defines what the models share: PyTorch's dense layer, and precision."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5  # of all norms


def uniform(bound: float) -> Callable[..., jax.Array]:
  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def precision_of(dtype: Any) -> Literal["highest"] | None:
  """Returns the precision that keeps products of a type in that type.

  Without it float32 becomes TF32 on GPUs and bfloat16 on TPUs.
  """
  return "highest" if jnp.dtype(dtype).itemsize >= 4 else None


def matmul(
  x_RI: jax.Array, kernel_IO: jax.Array, gradient_dtype: Any = jnp.float32
) -> jax.Array:
  """Multiplies rows by a layer's weights, in the rows' type.

  Differentiated as it stands, a product in half precision rounds the weights'
  gradient before devices (or the parts of a batch) sum it.  Here it leaves
  the matrix units as they have accumulated it.

  Args:
    x_RI: (R, I) rows.
    kernel_IO: (I, O) weights, float32 or wider.
    gradient_dtype: Of the weights' gradient, unless the rows' is wider.

  Returns:
    (R, O), of the rows' type.
  """
  return _matmul(x_RI, kernel_IO, gradient_dtype)


def _product(x_RI, kernel_IO, gradient_dtype):
  del gradient_dtype
  return jnp.matmul(
    x_RI, kernel_IO.astype(x_RI.dtype), precision=precision_of(x_RI.dtype)
  )


def _product_backward(gradient_dtype, kept, dy_RO):
  x_RI, kernel_IO = kept
  dx_RI = _product(dy_RO, kernel_IO.astype(dy_RO.dtype).T, None)
  dkernel_IO = jnp.matmul(
    x_RI.T,
    dy_RO,
    precision=precision_of(x_RI.dtype),
    preferred_element_type=jnp.promote_types(x_RI.dtype, gradient_dtype),
  )
  return dx_RI, dkernel_IO.astype(kernel_IO.dtype)


_matmul = jax.custom_vjp(_product, nondiff_argnums=(2,))
_matmul.defvjp(
  lambda x, kernel, gradient_dtype: (_product(x, kernel, None), (x, kernel)),
  _product_backward,
)


class Linear(nn.Module):
  """A dense layer initialised as PyTorch's Linear and 1x1 convolutions are.

  Weights and bias are uniform within 1 / sqrt(fan_in).  `gradient_dtype` is
  that of `matmul`.
  """

  features: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  gradient_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in = x.shape[-1]
    init = uniform(fan_in**-0.5)
    kernel = self.param("kernel", init, (fan_in, self.features))
    # XLA multiplies matrices faster than it contracts higher ranks on CPU.
    x_2d = x.reshape(-1, fan_in).astype(self.dtype)
    y = matmul(x_2d, kernel, self.gradient_dtype)
    if self.use_bias:
      bias = self.param("bias", init, (self.features,))
      # Added in float32, so that its gradient, a sum over all rows, is summed
      # in float32 too (`docs/pytorch.md`); the conversions are fused.
      wide = jnp.promote_types(self.dtype, bias.dtype)
      y = (y.astype(wide) + bias).astype(self.dtype)
    return y.reshape(*x.shape[:-1], self.features)
