"""Computes self-attention in the form that is fast where it runs.

No form keeps the (L, L) weights of all heads for the backward pass: each
keeps the log of their sums and computes them a second time (FlashAttention,
arXiv 2205.14135).  NVIDIA's GPUs do so in cuDNN's kernel, which never writes
them; a CPU takes one head at a time, so that they stay in its cache; other
devices take all heads at once.  Which form runs is decided when the program
is lowered: one exported program is right on every platform, if cuDNN's form is
not in it (without a GPU it never is, elsewhere with "xla"): JAX exports no such.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.config.shared import Attention
from mrd_jax.models.layers import precision_of
from mrd_jax.parallel import devices


def takes_cudnn(implementation: Attention, dtype: Any) -> bool:
  """Says whether CUDA devices shall compute attention in cuDNN's kernel.

  Args:
    implementation: "auto" takes it in half precision where this process has a
      GPU of compute capability 8.0 or newer; "cudnn" asks for it, "xla" never
      takes it.
    dtype: Of queries, keys and values.

  Raises:
    BadInput: if it is asked for and cannot run.
  """
  return devices.takes(
    "model.attention",
    implementation,
    runs=jnp.dtype(dtype).itemsize == 2 and devices.cuda_capability() >= 8,
    needs="an NVIDIA GPU of compute capability 8.0 or newer and half precision",
  )


def padded_length(length: int, implementation: Attention, dtype: Any) -> int:
  """Returns the number of tokens to compute with: even for cuDNN's kernel.

  JAX lowers the kernel's gradient for even lengths only.  The encoder's
  lengths are odd: groups and a cls token.
  """
  return length + length % 2 if takes_cudnn(implementation, dtype) else length


def attention(
  q_BLHK: jax.Array,
  k_BLHK: jax.Array,
  v_BLHK: jax.Array,
  implementation: Attention,
  length: int | None = None,
) -> jax.Array:
  """Computes softmax(q k' / sqrt(K)) v for every head.

  Args:
    q_BLHK: (B, L, H, K) queries of H heads of width K.
    k_BLHK: (B, L, H, K) keys.
    v_BLHK: (B, L, H, K) values.
    implementation: See `takes_cudnn`; "cudnn" needs half precision.
    length: How many leading tokens exist, L by default.  The others have no
      weight, and what they get means nothing.

  Returns:
    (B, L, H, K).
  """
  length = length or q_BLHK.shape[1]
  cudnn = takes_cudnn(implementation, q_BLHK.dtype)
  return jax.lax.platform_dependent(
    q_BLHK,
    k_BLHK,
    v_BLHK,
    cpu=functools.partial(head_by_head, length=length),
    cuda=functools.partial(by_cudnn if cudnn else all_heads, length=length),
    default=functools.partial(all_heads, length=length),
  )


def head_by_head(
  q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, length: int
) -> jax.Array:
  """Computes `attention` with one head's weights at a time."""
  heads = (q_BLHK, k_BLHK[:, :length], v_BLHK[:, :length])
  y_HBLK = jax.lax.map(
    lambda head: _softmax_product(*head),
    tuple(x.transpose(2, 0, 1, 3) for x in heads),
  )
  return y_HBLK.transpose(1, 2, 0, 3)


def all_heads(
  q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, length: int
) -> jax.Array:
  """Computes `attention` with the weights of all heads at once."""
  heads = (q_BLHK, k_BLHK[:, :length], v_BLHK[:, :length])
  return _softmax_product(*(x.swapaxes(1, 2) for x in heads)).swapaxes(1, 2)


def by_cudnn(
  q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, length: int
) -> jax.Array:
  """Computes `attention` in cuDNN's kernel; its gradient needs an even L."""
  lengths_B = jnp.full(len(q_BLHK), length, jnp.int32)
  return jax.nn.dot_product_attention(
    q_BLHK,
    k_BLHK,
    v_BLHK,
    query_seq_lengths=lengths_B,
    key_value_seq_lengths=lengths_B,
    implementation="cudnn",
  )


@jax.custom_vjp
def _softmax_product(
  q_BLK: jax.Array, k_BMK: jax.Array, v_BMK: jax.Array
) -> jax.Array:
  """softmax(q k' / sqrt(K)) v of matrices; B is any number of axes."""
  return _forward(q_BLK, k_BMK, v_BMK)[0]


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
  """Multiplies matrices and leaves sums in float32 at least."""
  return jnp.matmul(
    a,
    b,
    precision=precision_of(a.dtype),
    preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
  )


def _scores(q_BLK: jax.Array, k_BMK: jax.Array) -> jax.Array:
  return _multiply(q_BLK, k_BMK.mT) * q_BLK.shape[-1] ** -0.5


def _forward(q_BLK, k_BMK, v_BMK):
  scores_BLM = _scores(q_BLK, k_BMK)
  top_BL1 = scores_BLM.max(axis=-1, keepdims=True)
  weights_BLM = jnp.exp(scores_BLM - top_BL1)
  sum_BL1 = weights_BLM.sum(axis=-1, keepdims=True)
  y_BLK = _multiply(weights_BLM.astype(v_BMK.dtype), v_BMK) / sum_BL1
  y_BLK = y_BLK.astype(v_BMK.dtype)
  return y_BLK, (q_BLK, k_BMK, v_BMK, y_BLK, top_BL1 + jnp.log(sum_BL1))


def _backward(kept, dy_BLK):
  q_BLK, k_BMK, v_BMK, y_BLK, log_sum_BL1 = kept
  dtype = q_BLK.dtype
  p_BLM = jnp.exp(_scores(q_BLK, k_BMK) - log_sum_BL1)
  dp_BLM = _multiply(dy_BLK, v_BMK.mT)
  # Through the softmax: ds = p (dp - sum p dp), and sum p dp = y dy.
  own_BL1 = (dy_BLK.astype(dp_BLM.dtype) * y_BLK).sum(-1, keepdims=True)
  ds_BLM = p_BLM * (dp_BLM - own_BL1) * q_BLK.shape[-1] ** -0.5
  ds_BLM = ds_BLM.astype(dtype)
  gradients = (
    _multiply(ds_BLM, k_BMK),
    _multiply(ds_BLM.mT, q_BLK),
    _multiply(p_BLM.astype(dtype).mT, dy_BLK),
  )
  return tuple(gradient.astype(dtype) for gradient in gradients)


_softmax_product.defvjp(_forward, _backward)
