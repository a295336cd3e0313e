"""The losses' terms from sums over tiles (`losses/kernels.py`, `losses/blocks.py`).

The formulas are those of `losses/mrd.py`, rewritten over sums that one pass over
the columns can make:

* Jeffrey (Eq. 11): KL(p || q) + KL(q || p) = U_a / Z_a - U_b / Z_b.
* Mean-normalised distances (Eq. 4, 10): the exact means follow from the sums,
  and alpha s - beta t = alpha u + (alpha - beta) t, so that there is no
  difference of large sums where student and teacher agree.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses.blocks import pair_sums
from mrd_jax.losses.kernels import (
  CONTRASTS,
  Softmax,
  Stripes,
  WholeRows,
  contrast_softmax,
  relation_softmax,
)
from mrd_jax.losses.terms import Term, relation_terms
from mrd_jax.losses.tiles import Blocks, Sums


def block_terms(
  config: LossConfig,
  features: dict[str, jax.Array],
  has_text_B: jax.Array,
  scales: dict[str, jax.Array],
  draws: dict[str, jax.Array],
  blocks: Blocks,
) -> dict[str, jax.Array]:
  """Every term of the losses, tile by tile.

  Args:
    config: The variant.
    features: {"P", "I", "T"}: (B, D) unit vectors; I and T are constants.
    has_text_B: (B,) bool.
    scales: {"contrast", "relation"}: () factors of the cosines.
    draws: {term: (B, 2, S) int}: pairs of columns, for `sampled_pairs`.
    blocks: How the tiles are walked.

  Returns:
    As `losses.dense_terms`.
  """
  everyone_B = jnp.ones_like(has_text_B)
  stripes = Stripes(config)
  terms = stripes.terms
  constants: dict[str, Any] = dict(scales)
  if config.representation == "euclidean":
    distance = {
      term.name: _typical_distances(config, features, has_text_B, term)
      for term in terms
    }
    constants["distance"] = distance
  row_shift, row, column_shift, column = pair_sums(
    stripes, blocks, features, has_text_B, {}, constants
  )
  row_shift, column_shift = jax.lax.stop_gradient((row_shift, column_shift))

  found = {}
  for name in CONTRASTS:
    s = contrast_softmax(name)
    valid_B = has_text_B if s.needs_text else everyone_B
    count = jnp.maximum(valid_B.sum(), 1).astype(scales["contrast"].dtype)

    def log_sum(shift_B, sum_B, valid_B=valid_B):
      return shift_B + jnp.log(jnp.where(valid_B, sum_B, 1))

    normaliser_B = log_sum(row_shift[s], row["Z"][s])
    normaliser_B += log_sum(column_shift[s], column["Z"][s])
    log_likelihood_B = row["own"][name] - normaliser_B / 2
    loss = -jnp.sum(jnp.where(valid_B, log_likelihood_B, 0)) / count
    hit_B = valid_B & (row["own"][name] >= row_shift[s])
    found[f"contrast/{name}"] = loss
    found[f"accuracy/{name}"] = hit_B.sum().astype(loss.dtype) / count

  if config.representation == "partial_order" and relation_terms(config):
    _, hinges, _, _ = pair_sums(
      WholeRows(config), blocks, features, has_text_B, draws, scales
    )
    for name, (sum_B, pairs_B) in hinges.items():
      found[f"relation/{name}"] = sum_B.sum() / jnp.maximum(pairs_B.sum(), 1)
  for term in terms:
    valid_B = has_text_B if term.needs_text else everyone_B
    valid = valid_B.sum().astype(scales["contrast"].dtype)
    columns = valid if term.diagonal else valid - 1
    if config.representation == "similarity":
      a, b = (
        relation_softmax(term, term.student),
        relation_softmax(term, term.teacher),
      )
      value = _jeffrey(row, a, b) / jnp.maximum(
        jnp.where(columns > 0, valid, 0), 1
      )
    else:
      sums = {k: x.sum() for k, x in row["distance"][term.name].items()}
      value = _mean_squared_error(
        sums,
        jnp.maximum(valid * columns, 1),
        normalized=config.normalize_intra or not term.intra,
      )
    found[f"relation/{term.name}"] = value
  return found


def _jeffrey(row: Sums, a: Softmax, b: Softmax) -> jax.Array:
  """Eq. 11, the sum over rows; a row without a pair has none."""
  means = []
  for s, u_B in zip((a, b), row["U"][a, b], strict=True):
    z_B = row["Z"][s]
    means.append(u_B / jnp.where(z_B > 0, z_B, 1))
  return jnp.sum(means[0] - means[1])


def _mean_squared_error(
  sums: dict[str, jax.Array], pairs: jax.Array, *, normalized: bool
) -> jax.Array:
  """Eq. 10 of distances that are divided by their exact means, if at all."""
  alpha = beta = jnp.ones_like(pairs)
  gap = jnp.zeros_like(pairs)  # alpha - beta
  if normalized:
    s, t = sums["u"] + sums["t"], sums["t"]
    all_zero = (s <= 0) | (t <= 0)  # a relation of zeros stays so
    alpha = pairs / jnp.where(s > 0, s, pairs)
    beta = pairs / jnp.where(t > 0, t, pairs)
    gap = jnp.where(all_zero, alpha - beta, -alpha * beta * sums["u"] / pairs)
  return (
    alpha**2 * sums["uu"] + 2 * alpha * gap * sums["ut"] + gap**2 * sums["tt"]
  ) / pairs


def _typical_distances(
  config: LossConfig,
  features: dict[str, jax.Array],
  has_text_B: jax.Array,
  term: Term,
) -> tuple[jax.Array, jax.Array]:
  """About the mean distances of student and teacher, in O(B D).

  Root mean squares: their exact value does not matter, only their size.
  """
  valid_B = has_text_B if term.needs_text else jnp.ones_like(has_text_B)
  estimates = []
  for pair in (term.student, term.teacher):
    a_BD, b_BD = (
      jnp.where(valid_B[:, None], jax.lax.stop_gradient(features[name]), 0)
      for name in pair
    )
    one = jnp.ones((), a_BD.dtype)
    if term.intra and not config.normalize_intra:
      estimates.append(one)
      continue
    count = jnp.maximum(valid_B.sum(), 1).astype(a_BD.dtype)
    mean_product = jnp.dot(a_BD.sum(axis=0) / count, b_BD.sum(axis=0) / count)
    square = 2 * (one - mean_product)
    floor = 8 * jnp.finfo(a_BD.dtype).eps
    estimates.append(jnp.sqrt(jnp.maximum(square, floor)))
  return estimates[0], estimates[1]
