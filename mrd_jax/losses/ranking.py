"""Ranks all pairs of every anchor (Eq. 12) without forming them.

For an anchor, sort its B candidates by the teacher and let u_1 .. u_B be the
student's distances in that order.  A pair that the teacher ties has sign 0 and
is left out.  Texts that are equal have distances that are equal but for
rounding, so a tie is what rounding cannot tell apart (`_limit`).  With "r < q"
short for "r before q to the teacher, and not tied with it", the sum is

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

_AT_A_TIME = 2**18  # columns, of as many anchors as that makes


def _prefix_counts(
  rank_B: jax.Array, prefix_Q: jax.Array, threshold_Q: jax.Array
) -> jax.Array:
  """Counts, for every query, #{i < prefix: rank_i < threshold}: (Q,) int32.

  Compares ranks and thresholds bit by bit, the highest first.  Before each bit
  the ranks are sorted by the higher bits they have (and, where these are
  equal, stand in their first order), because each bit ends with a stable
  partition by it: zeros to the front, ones behind.  So the ranks that began
  within a query's prefix and that share the threshold's higher bits are one
  interval [low, high) of the sequence.  If the threshold's bit is 1, those of
  them with a 0 are below it: they are counted, and the interval goes on with
  the ones.  If it is 0, those with a 1 are above it, and the interval goes on
  with the zeros.  Where an interval's ends move to, the number of zeros before
  them tells.  (The structure is known as a wavelet matrix.)

  Args:
    rank_B: (B,) int32, a permutation of 0 .. B - 1.
    prefix_Q: (Q,) int32, up to B.
    threshold_Q: (Q,) int32, up to B.
  """
  n = len(rank_B)
  bits = n.bit_length()  # hold every threshold, n included
  index_B = jnp.arange(n, dtype=jnp.int32)

  def level(i, state):
    sequence_B, low_Q, high_Q, count_Q = state
    bit_B, threshold_bit_Q = (
      (x >> (bits - 1 - i)) & 1 for x in (sequence_B, threshold_Q)
    )
    zeros_before = jnp.cumulative_sum(
      1 - bit_B, dtype=jnp.int32, include_initial=True
    )
    zeros = zeros_before[n]
    position_B = jnp.where(
      bit_B == 1, zeros + index_B - zeros_before[:n], zeros_before[:n]
    )
    next_B = jnp.zeros_like(sequence_B).at[position_B]
    low_zeros_Q, high_zeros_Q = zeros_before[low_Q], zeros_before[high_Q]
    is_one_Q = threshold_bit_Q == 1
    return (
      next_B.set(sequence_B, unique_indices=True),
      jnp.where(is_one_Q, zeros + low_Q - low_zeros_Q, low_zeros_Q),
      jnp.where(is_one_Q, zeros + high_Q - high_zeros_Q, high_zeros_Q),
      count_Q + jnp.where(is_one_Q, high_zeros_Q - low_zeros_Q, 0),
    )

  zero_Q = jnp.zeros_like(prefix_Q)
  return jax.lax.fori_loop(0, bits, level, (rank_B, zero_Q, prefix_Q, zero_Q))[
    3
  ]


def _limit(d2: jax.Array) -> jax.Array:
  """The largest squared distance that rounding cannot tell from this one.

  Both are of unit vectors, from inner products: as in `relations.distances`, 8
  eps (1 + 1) is rounding.
  """
  return d2 + 16 * jnp.finfo(d2.dtype).eps


def _active_pairs(
  u_B: jax.Array, teacher2_B: jax.Array, margin: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Counts the active pairs of one anchor.

  A pair r < q is active when u_q < u_r + margin.  Both counts use this one
  floating-point predicate; two differently rounded ones would disagree on
  equal ones.  Infinite elements are in no active pair.

  Args:
    u_B: (B,) the student's distances in the teacher's order, then +inf.
    teacher2_B: (B,) the teacher's squared distances, likewise.
    margin: m.

  Returns:
    How often each element is in an active pair as the earlier one and as the
    later one, (B,) int; the number of pairs, active or not, () int.
  """
  index_B = jnp.arange(u_B.shape[0], dtype=jnp.int32)
  # How many are nearer to the teacher, and how many not farther: one predicate.
  limit_B = _limit(teacher2_B)
  start_B, end_B = (
    jnp.searchsorted(limit_B, teacher2_B, side="left").astype(jnp.int32),
    jnp.searchsorted(teacher2_B, limit_B, side="right").astype(jnp.int32),
  )
  order_B = jnp.argsort(u_B, stable=True)
  sorted_B = u_B[order_B]
  rank_B = jnp.zeros_like(index_B).at[order_B].set(index_B)
  below = jnp.searchsorted(sorted_B, u_B + margin, side="left")
  not_above = jnp.searchsorted(sorted_B + margin, u_B, side="right")
  counts = _prefix_counts(
    rank_B,
    jnp.concatenate([end_B, start_B]),
    jnp.concatenate([below, not_above]).astype(jnp.int32),
  )
  below_up_to_r, before_q = jnp.split(counts, 2)
  pairs = jnp.where(jnp.isfinite(u_B), start_B, 0).sum()
  return below - below_up_to_r, start_B - before_q, pairs


def all_pairs_hinges(
  student_AB: jax.Array,
  teacher_AB: jax.Array,
  mask_AB: jax.Array,
  margin: float,
) -> tuple[jax.Array, jax.Array]:
  """Sums Eq. 12 over all pairs of each anchor's columns.

  Args:
    student_AB: (A, B) the student's distances, which carry the gradient.
    teacher_AB: (A, B) the teacher's distances.
    mask_AB: (A, B) pairs of the relation.
    margin: m, not negative.

  Returns:
    (A,) sums of max(0, m - (d_ik - d_ij)), k farther than j to the teacher, and
    (A,) over how many pairs.  The gradient is exact.
  """
  order_AB = relations.rank_order(teacher_AB, mask_AB)

  def ordered(x_AB: jax.Array) -> jax.Array:
    return jnp.take_along_axis(
      jnp.where(mask_AB, x_AB, jnp.inf), order_AB, axis=1
    )

  u_AB = ordered(student_AB)
  earlier_AB, later_AB, pairs_A = jax.lax.map(
    lambda pair: _active_pairs(pair[0], pair[1], margin),
    jax.lax.stop_gradient((u_AB, ordered(teacher_AB**2))),
    batch_size=max(_AT_A_TIME // u_AB.shape[1], 1),
  )
  exists_AB = jnp.isfinite(u_AB)
  columns_A = exists_AB.sum(axis=1)
  # The coefficients of a row sum to zero, so a shift changes nothing; it
  # keeps the sum from cancelling.
  mean_A = jnp.where(exists_AB, u_AB, 0).sum(axis=1) / jnp.maximum(columns_A, 1)
  shift_A1 = jax.lax.stop_gradient(mean_A)[:, None]
  centred_AB = jnp.where(exists_AB, u_AB - shift_A1, 0)
  coefficient_AB = (earlier_AB - later_AB).astype(u_AB.dtype)
  active_A = earlier_AB.astype(u_AB.dtype).sum(axis=1)
  sum_A = jnp.sum(coefficient_AB * centred_AB, axis=1) + margin * active_A
  return sum_A, pairs_A.astype(u_AB.dtype)


def sampled_hinges(
  student_AB: jax.Array,
  teacher_AB: jax.Array,
  mask_AB: jax.Array,
  margin: float,
  columns_A2S: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Sums Eq. 12 over the given pairs of columns only.

  A pair outside the mask counts for nothing, nor does one that the teacher
  ties, such as a column and itself.

  Args:
    student_AB: (A, B) the student's distances, which carry the gradient.
    teacher_AB: (A, B) the teacher's distances.
    mask_AB: (A, B) pairs of the relation.
    margin: m.
    columns_A2S: (A, 2, S) int, both columns of S pairs of each anchor.

  Returns:
    (A,) each anchor's sum, and (A,) over how many pairs.
  """

  def pick(x_AB: jax.Array) -> tuple[jax.Array, jax.Array]:
    j, k = (
      jnp.take_along_axis(x_AB, columns_A2S[:, side], axis=1) for side in (0, 1)
    )
    return j, k

  student_j, student_k = pick(student_AB)
  teacher_j, teacher_k = pick(teacher_AB)
  valid_j, valid_k = pick(mask_AB)
  is_farther, is_nearer = (
    _limit(near**2) < far**2
    for near, far in ((teacher_j, teacher_k), (teacher_k, teacher_j))
  )
  counts_AS = valid_j & valid_k & (is_farther | is_nearer)
  further = student_k - student_j
  hinge_AS = jax.nn.relu(margin - jnp.where(is_farther, further, -further))
  return (
    jnp.where(counts_AS, hinge_AS, 0).sum(axis=1),
    counts_AS.sum(axis=1).astype(student_AB.dtype),
  )
