"""Computes self-attention in the form that is fast where it runs.

`jax.nn.dot_product_attention` keeps the (L, L) weights of all heads for the
backward pass.  Accelerators fuse most of that; a CPU writes and reads it
several times.  There, in float32, one head at a time goes forward and
backward, and its weights are computed twice (as FlashAttention does,
arXiv 2205.14135), so that they stay in the cache.
"""

import jax
import jax.numpy as jnp

from mrd_jax.config.shared import Attention


def attention(
  q_BLHK: jax.Array,
  k_BLHK: jax.Array,
  v_BLHK: jax.Array,
  implementation: Attention,
) -> jax.Array:
  """Computes softmax(q k' / sqrt(K)) v for every head.

  Args:
    q_BLHK: (B, L, H, K) queries of H heads of width K.
    k_BLHK: (B, L, H, K) keys.
    v_BLHK: (B, L, H, K) values.
    implementation: "cudnn" (half precision on NVIDIA GPUs) or "xla".

  Returns:
    (B, L, H, K).
  """
  wide = jnp.dtype(q_BLHK.dtype).itemsize >= 4
  if implementation == "xla" and wide and jax.default_backend() == "cpu":
    heads = (x.transpose(2, 0, 1, 3) for x in (q_BLHK, k_BLHK, v_BLHK))
    y_HBLK = jax.lax.map(lambda head: _head(*head), tuple(heads))
    return y_HBLK.transpose(1, 2, 0, 3)
  return jax.nn.dot_product_attention(
    q_BLHK, k_BLHK, v_BLHK, implementation=implementation
  )


@jax.custom_vjp
def _head(q_BLK: jax.Array, k_BLK: jax.Array, v_BLK: jax.Array) -> jax.Array:
  """One head: (B, L, K) each."""
  return _forward(q_BLK, k_BLK, v_BLK)[0]


def _scores(q_BLK: jax.Array, k_BLK: jax.Array) -> jax.Array:
  return q_BLK @ k_BLK.swapaxes(1, 2) * q_BLK.shape[-1] ** -0.5


def _forward(q_BLK, k_BLK, v_BLK):
  scores_BLL = _scores(q_BLK, k_BLK)
  top_BL1 = scores_BLL.max(axis=-1, keepdims=True)
  weights_BLL = jnp.exp(scores_BLL - top_BL1)
  sum_BL1 = weights_BLL.sum(axis=-1, keepdims=True)
  y_BLK = weights_BLL @ v_BLK / sum_BL1
  return y_BLK, (q_BLK, k_BLK, v_BLK, y_BLK, top_BL1 + jnp.log(sum_BL1))


def _backward(kept, dy_BLK):
  q_BLK, k_BLK, v_BLK, y_BLK, log_sum_BL1 = kept
  p_BLL = jnp.exp(_scores(q_BLK, k_BLK) - log_sum_BL1)
  dp_BLL = dy_BLK @ v_BLK.swapaxes(1, 2)
  # Through the softmax: ds = p (dp - sum p dp), and sum p dp = y dy.
  own_BL1 = (dy_BLK * y_BLK).sum(axis=-1, keepdims=True)
  ds_BLL = p_BLL * (dp_BLL - own_BL1) * q_BLK.shape[-1] ** -0.5
  return (
    ds_BLL @ k_BLK,
    ds_BLL.swapaxes(1, 2) @ q_BLK,
    p_BLL.swapaxes(1, 2) @ dy_BLK,
  )


_head.defvjp(_forward, _backward)
