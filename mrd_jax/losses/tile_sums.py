"""What a tile of a relation leaves, and what is made of it once all are there.

R tiles of a row, or of a column, leave (R, N) each; `tiled.py` makes them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Part(NamedTuple):
  """What is kept of a softmax over a tile; its sum is exp(top + log_sum).

  A softmax over many tiles needs one shift for all of them, the largest logit
  of the row, which no tile knows.  So each tile shifts by its own largest
  logit and leaves both numbers; once all tiles are there, the largest of their
  tops is the row's, and exp(top - largest + log_sum) is a tile's share of the
  row's sum.  Nothing overflows, and no precision is lost to a large common
  shift, as it would be in top + log_sum.  The value does not depend on the
  shift, so to the gradient it is a constant.

  Attributes:
    top: (..., N) the largest logit, without its gradient.
    log_sum: (..., N) logarithm of the sum of exp(logit - top).
  """

  top: jax.Array
  log_sum: jax.Array

  def centred(self) -> jax.Array:
    """Takes the largest of all tops from the logarithms of the sums: (R, N)."""
    return self.top - self.top.max(axis=0) + self.log_sum


def log_softmax(logits_AS: jax.Array, axis: int) -> tuple[jax.Array, Part]:
  """Takes the log softmax within a tile, and what to keep of it."""
  top = jax.lax.stop_gradient(logits_AS.max(axis, keepdims=True))
  centred_AS = logits_AS - top
  log_sum = jnp.log(jnp.exp(centred_AS).sum(axis, keepdims=True))
  return centred_AS - log_sum, Part(top.squeeze(axis), log_sum.squeeze(axis))


def log_likelihood(part: Part, own_RN: jax.Array) -> jax.Array:
  """Takes the log softmax at each sample's own pair, Eq. 1: (N,)."""
  own_N = own_RN.sum(axis=0)  # it is in one of the tiles
  log_sum_N = jax.nn.logsumexp(part.centred(), axis=0)
  return own_N - part.top.max(axis=0) - log_sum_N


def jeffrey(
  p: Part, q: Part, within_RB: jax.Array, tilt_RB: jax.Array
) -> jax.Array:
  """Computes Eq. 11 summed over the rows: KL(p || q) + KL(q || p).

  By the chain rule, with P_r and Q_r the shares of tile r in the row's two
  softmaxes, and p_r and q_r the softmaxes within the tile,

    KL(p || q) = sum_r P_r (log P_r - log Q_r + KL(p_r || q_r)),

  and the same with p and q exchanged.  A tile has left within = KL(p_r || q_r)
  + KL(q_r || p_r) and tilt = KL(p_r || q_r) - KL(q_r || p_r), which are sums of
  (p_r - q_r) and of (p_r + q_r) times log p_r - log q_r.  Like that, no large
  numbers cancel where the student is near its teacher.
  """
  log_p_RB, log_q_RB = (jax.nn.log_softmax(x.centred(), axis=0) for x in (p, q))
  p_RB, q_RB = jnp.exp(log_p_RB), jnp.exp(log_q_RB)
  between_RB = (p_RB - q_RB) * (log_p_RB - log_q_RB)
  return jnp.sum(
    between_RB + ((p_RB + q_RB) * within_RB + (p_RB - q_RB) * tilt_RB) / 2
  )


def mean_squared_error(
  pairs_RB: jax.Array, sums: Sequence[jax.Array], *, normalized: bool
) -> jax.Array:
  """Computes Eq. 10 of distances, divided by their exact means if at all.

  For s the student's distances, t the teacher's and u = s - t, alpha and beta
  one over the means of s and t, alpha s - beta t = alpha u + (alpha - beta) t,
  so there is no difference of large sums where student and teacher agree; and
  alpha - beta = -alpha beta mean(u).

  Args:
    pairs_RB: Number of pairs.
    sums: (R, B) each, of u, t, u^2, u t and t^2.
    normalized: Whether distances are divided by their means.
  """
  pairs = jnp.maximum(pairs_RB.sum(), 1)

  def mean(sum_RB: jax.Array) -> jax.Array:
    # The error of a mean distance enters many times where the relations differ
    # little.  A plain sum over all rows rounds as often as there are rows; this
    # adds up what they deviate from its result, which is small.
    rough = jax.lax.stop_gradient(sum_RB.sum() / pairs)
    return rough + (sum_RB - rough * pairs_RB).sum() / pairs

  u, t, uu, ut, tt = map(mean, sums)
  s = u + t
  alpha = beta = jnp.ones_like(pairs)
  gap = jnp.zeros_like(pairs)  # alpha - beta
  if normalized:
    alpha, beta = (1 / jnp.where(x > 0, x, 1) for x in (s, t))
    all_zero = (s <= 0) | (t <= 0)  # a relation of zeros stays so
    gap = jnp.where(all_zero, alpha - beta, -alpha * beta * u)
  return alpha**2 * uu + 2 * alpha * gap * ut + gap**2 * tt
