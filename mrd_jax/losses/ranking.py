"""Margin ranking over all pairs of every anchor (Eq. 12) without forming them.

For an anchor, sort its B candidates by the teacher and let u_1 .. u_B be the
student's distances in that order.  The loss over all pairs r < q is

  L = sum_{r<q} max(0, u_r + m - u_q) = sum_r c_r u_r + m * #active,
  c_r = #{q > r: u_q < u_r + m} - #{q < r: u_r < u_q + m},

piecewise linear with gradient dL/du_r = c_r.  So only counts are needed:
"how many of the first p elements have a rank below t", which a wavelet
matrix (one stable partition per bit of the rank) answers in O(log B) for each
query.  O(B log B) time and O(B) memory an anchor, against O(B^2) for the
pairs.
"""

import jax
import jax.numpy as jnp

from mrd_jax.losses import relations


def _prefix_counts(
  rank_B: jax.Array, prefix_Q: jax.Array, threshold_Q: jax.Array
) -> jax.Array:
  """For every query, #{i < prefix: rank_i < threshold}: (Q,) int32."""
  n = rank_B.shape[0]
  sequence_B = rank_B
  low_Q, high_Q = jnp.zeros_like(prefix_Q), prefix_Q
  count_Q = jnp.zeros_like(prefix_Q)
  # n.bit_length() bits hold every threshold, which goes up to n inclusive.
  for bit in reversed(range(n.bit_length())):
    is_one_B = (sequence_B >> bit) & 1
    zeros_before = jnp.cumulative_sum(1 - is_one_B, include_initial=True)
    zeros = zeros_before[n]
    # Ranks that share the threshold's higher bits sit in [low, high) of the
    # sequence; those with a 0 where the threshold has a 1 are below it.
    low_zeros_Q, high_zeros_Q = zeros_before[low_Q], zeros_before[high_Q]
    one_Q = ((threshold_Q >> bit) & 1) == 1
    count_Q = count_Q + jnp.where(one_Q, high_zeros_Q - low_zeros_Q, 0)
    low_Q = jnp.where(one_Q, zeros + low_Q - low_zeros_Q, low_zeros_Q)
    high_Q = jnp.where(one_Q, zeros + high_Q - high_zeros_Q, high_zeros_Q)
    # Stable partition by this bit.
    position_B = jnp.where(
      is_one_B == 1,
      zeros + jnp.arange(n) - zeros_before[:n],
      zeros_before[:n],
    )
    sequence_B = (
      jnp.zeros_like(sequence_B)
      .at[position_B]
      .set(sequence_B, unique_indices=True)
    )
  return count_Q


def _active_pairs(u_B: jax.Array, margin: float) -> tuple[jax.Array, jax.Array]:
  """How often each element is in an active pair, as earlier and as later.

  A pair r < q is active when u_q < u_r + margin.  Both counts use this one
  floating-point predicate; two differently rounded ones would disagree on
  ties.  Infinite elements are in no active pair.
  """
  index_B = jnp.arange(u_B.shape[0], dtype=jnp.int32)
  order_B = jnp.argsort(u_B, stable=True)
  sorted_B = u_B[order_B]
  rank_B = jnp.zeros_like(index_B).at[order_B].set(index_B)
  shifted_B = u_B + margin
  below = jnp.searchsorted(sorted_B, shifted_B, side="left")
  not_above = jnp.searchsorted(sorted_B + margin, u_B, side="right")
  counts = _prefix_counts(
    rank_B,
    jnp.concatenate([index_B + 1, index_B]),
    jnp.concatenate([below, not_above]).astype(jnp.int32),
  )
  up_to_r, before_q = jnp.split(counts, 2)
  return below - up_to_r, index_B - before_q


def ranking_hinge(
  u_AB: jax.Array, margin: float, *, anchor_chunk: int = 64
) -> jax.Array:
  """Sum over anchors and pairs r < q of max(0, u_r + margin - u_q).

  Args:
    u_AB: (A, B) the student's distances, each row in the teacher's order;
      +inf marks columns that do not exist, which must come last.
    margin: Non-negative margin.
    anchor_chunk: Anchors counted at a time.

  Returns:
    () the sum; its gradient with respect to `u_AB` is exact, 0 at +inf.
  """
  return anchor_hinges(u_AB, margin, anchor_chunk=anchor_chunk).sum()


def anchor_hinges(
  u_AB: jax.Array, margin: float, *, anchor_chunk: int = 64
) -> jax.Array:
  """`ranking_hinge`, the sum of each anchor: (A,)."""
  earlier_AB, later_AB = jax.lax.map(
    lambda u_B: _active_pairs(u_B, margin),
    jax.lax.stop_gradient(u_AB),
    batch_size=min(anchor_chunk, u_AB.shape[0]),
  )
  exists_AB = jnp.isfinite(u_AB)
  # The coefficients of a row sum to zero, so a shift changes nothing; it
  # keeps the sum from cancelling.
  value_AB = jnp.where(exists_AB, u_AB, 0)
  shift_A1 = value_AB.sum(-1, keepdims=True) / jnp.maximum(
    exists_AB.sum(-1, keepdims=True), 1
  )
  centred_AB = jnp.where(exists_AB, u_AB - jax.lax.stop_gradient(shift_A1), 0)
  coefficient_AB = (earlier_AB - later_AB).astype(u_AB.dtype)
  active_A = earlier_AB.astype(u_AB.dtype).sum(-1)
  return jnp.sum(coefficient_AB * centred_AB, axis=-1) + margin * active_A


def all_pairs_hinges(
  student_AB: jax.Array,
  teacher_AB: jax.Array,
  mask_AB: jax.Array,
  margin: float,
) -> jax.Array:
  """Eq. 12 before the mean: each anchor's sum over all pairs of its columns.

  Args:
    student_AB: (A, B) the student's distances, which carry the gradient.
    teacher_AB: (A, B) the teacher's distances.
    mask_AB: (A, B) pairs of the relation.
    margin: m.

  Returns:
    (A,) sums of max(0, m - (d_ik - d_ij)), k after j in the teacher's order
    (equal distances by index).
  """
  order_AB = relations.rank_order(teacher_AB, mask_AB)
  existing_AB = jnp.where(mask_AB, student_AB, jnp.inf)
  return anchor_hinges(jnp.take_along_axis(existing_AB, order_AB, 1), margin)


def sampled_hinges(
  student_AB: jax.Array,
  teacher_AB: jax.Array,
  mask_AB: jax.Array,
  margin: float,
  columns_A2S: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """`all_pairs_hinges` over the given pairs of columns only.

  A pair outside the mask or of a column with itself counts for nothing.

  Args:
    student_AB: (A, B) the student's distances, which carry the gradient.
    teacher_AB: (A, B) the teacher's distances.
    mask_AB: (A, B) pairs of the relation.
    margin: m.
    columns_A2S: (A, 2, S) int, both columns of S pairs of each anchor.

  Returns:
    (A,) each anchor's sum, and (A,) over how many pairs.
  """
  rank_AB = jnp.argsort(relations.rank_order(teacher_AB, mask_AB), axis=1)

  def pick(x_AB: jax.Array) -> tuple[jax.Array, jax.Array]:
    j, k = (
      jnp.take_along_axis(x_AB, columns_A2S[:, side], axis=1) for side in (0, 1)
    )
    return j, k

  (student_j, student_k), (rank_j, rank_k) = pick(student_AB), pick(rank_AB)
  valid_j, valid_k = pick(mask_AB)
  sign = jnp.sign(rank_k - rank_j).astype(student_AB.dtype)
  counts_AS = valid_j & valid_k & (sign != 0)
  hinge_AS = jax.nn.relu(margin - sign * (student_k - student_j))
  return (
    jnp.where(counts_AS, hinge_AS, 0).sum(axis=1),
    counts_AS.sum(axis=1).astype(student_AB.dtype),
  )
