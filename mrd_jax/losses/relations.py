"""Relations between the samples of a batch, Eq. 3-8: pure functions.

A relation compares queries `a` (rows) with keys `b` (columns), both (B, D).
It is *intra* when both come from one modality and *cross* otherwise.  Which
pairs belong to it is a boolean (B, B) `pair_mask`; entries outside the mask
are never read by a discrepancy (`losses/mrd.py`).  (A, B) is any piece of a
relation: `losses/tiled.py` makes one after the other.

Matrix products run at the highest precision of the array's type: on
accelerators the default would round float32 to bfloat16 or TF32.
"""

import chex
import jax
import jax.numpy as jnp


def _by_norm(x_BD: jax.Array) -> jax.Array:
  norm2_B1 = jnp.sum(x_BD**2, axis=-1, keepdims=True)
  tiny = jnp.finfo(x_BD.dtype).tiny
  return x_BD * jax.lax.rsqrt(jnp.maximum(norm2_B1, tiny))


def _by_norm_backward(x_BD: jax.Array, gradient_BD: jax.Array):
  (gradient_BD,) = jax.vjp(_by_norm, x_BD)[1](gradient_BD)
  # The gradient of a short row is long, and norm^-3, which is on its way there,
  # overflows below 2e-13.  (A choice in the forward pass instead would have XLA
  # keep the unit rows beside their tiles.)
  is_short_B1 = jnp.sum(x_BD**2, axis=-1, keepdims=True) < 1e-24
  return (jnp.where(is_short_B1, 0, gradient_BD),)


@jax.custom_vjp
def l2_normalize(x_BD: jax.Array) -> jax.Array:
  """Divides rows by their norms; a zero row stays zero.

  A row shorter than 1e-12 has no gradient.
  """
  return _by_norm(x_BD)


l2_normalize.defvjp(lambda x_BD: (_by_norm(x_BD), x_BD), _by_norm_backward)


def dot(a_AD: jax.Array, b_BD: jax.Array) -> jax.Array:
  """Computes all inner products: (A, B), entry ij is a_i . b_j."""
  chex.assert_equal_shape_suffix([a_AD, b_BD], 1)
  return jnp.einsum("ad,bd->ab", a_AD, b_BD, precision="highest")


def make_pair_mask(
  row_valid_A: jax.Array,
  column_valid_B: jax.Array,
  own_AB: jax.Array,
  *,
  keep_diagonal: bool,
) -> jax.Array:
  """Finds the pairs of valid samples: (A, B) bool.

  Args:
    row_valid_A: (A,) bool, samples that have every modality of the term.
    column_valid_B: (B,) bool, the same.
    own_AB: (A, B) bool, where row and column are one sample: the diagonal.
    keep_diagonal: Whether a sample is paired with itself.  In a cross relation
      that pair is the positive; in an intra relation its similarity is 1.
  """
  pairs_AB = row_valid_A[:, None] & column_valid_B[None, :]
  return pairs_AB if keep_diagonal else pairs_AB & ~own_AB


def masked_mean(x_BB: jax.Array, mask_BB: jax.Array) -> jax.Array:
  """Averages the entries inside the mask; 0 when there are none."""
  return jnp.sum(jnp.where(mask_BB, x_BB, 0)) / jnp.maximum(mask_BB.sum(), 1)


def distances(a_AD: jax.Array, b_BD: jax.Array) -> jax.Array:
  """Computes Eq. 3, the bare distance: (A, B), entry ij is ||a_i - b_j||.

  Computed from inner products, so a distance below about 4 sqrt(eps) |a|
  (1.4e-3 in float32 for unit vectors) cannot be told from zero: it is zero,
  with zero gradient, which is also the right answer for duplicates.
  """
  return distances_of_products(
    dot(a_AD, b_BD), jnp.sum(a_AD**2, axis=-1), jnp.sum(b_BD**2, axis=-1)
  )


def distances_of_products(
  product_AB: jax.Array, a2_A: jax.Array, b2_B: jax.Array
) -> jax.Array:
  """Computes `distances` of inner products and squared norms: (A, B)."""
  size2_AB = a2_A[:, None] + b2_B[None, :]
  d2_AB = size2_AB - 2 * product_AB
  resolved_AB = d2_AB > 8 * jnp.finfo(d2_AB.dtype).eps * size2_AB
  return jnp.where(resolved_AB, jnp.sqrt(jnp.where(resolved_AB, d2_AB, 1)), 0)


def divide_by_mean(d_BB: jax.Array, mask_BB: jax.Array) -> jax.Array:
  """Divides distances by their mean over the pairs, Eq. 4."""
  mean = masked_mean(d_BB, mask_BB)
  return d_BB / jnp.where(mean > 0, mean, 1)


def masked_logits(
  product_AB: jax.Array, mask_AB: jax.Array, scale: jax.Array
) -> jax.Array:
  """Scales inner products; outside the mask (A, B) has the lowest number."""
  lowest = jnp.finfo(product_AB.dtype).min / 2
  return jnp.where(mask_AB, scale * product_AB, lowest)


def log_similarities(
  a_AD: jax.Array, b_BD: jax.Array, mask_AB: jax.Array, scale: jax.Array
) -> jax.Array:
  """Computes Eq. 5 and 6 in logarithm: log softmax of scale * a_i . b_j.

  The softmax runs over the pairs of row i inside the mask.
  """
  logits_AB = masked_logits(dot(a_AD, b_BD), mask_AB, scale)
  return jax.nn.log_softmax(logits_AB, axis=1)


def rank_order(d_AB: jax.Array, mask_AB: jax.Array) -> jax.Array:
  """Sorts columns as Eq. 7 and 8 rank them.

  Returns:
    (A, B) int: row i lists the columns by ascending distance from i, columns
    outside the mask last.
  """
  return jnp.argsort(jnp.where(mask_AB, d_AB, jnp.inf), axis=-1)
