"""The losses: symmetric InfoNCE (Eq. 1-2) and relation distillation (Eq. 9-13).

Pure functions of the global batch's embeddings: P of the student, I and T of
the frozen image and text teachers.  Everything is at least float32.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import ranking, relations
from mrd_jax.losses.block_terms import block_terms
from mrd_jax.losses.terms import choose_form, relation_terms, term_groups
from mrd_jax.losses.tiles import Blocks
from mrd_jax.parallel import sharding


class Embeddings(NamedTuple):
  """Embeddings of a global batch, not necessarily of unit length.

  Attributes:
    point: (B, D) the student's.
    image: (B, D) the image teacher's.
    text: (B, D) the text teacher's; any finite value where there is none.
    has_text: (B,) bool.
  """

  point: jax.Array
  image: jax.Array
  text: jax.Array
  has_text: jax.Array


def init_dynamic_weights(config: LossConfig) -> dict[str, jax.Array]:
  """The free pairs behind the weights: zeros, so that each weight is 1/2."""
  if config.weighting == "fixed":
    return {}
  return {group: jnp.zeros(2) for group in term_groups(config)}


def contrastive(
  a_BD: jax.Array,
  b_BD: jax.Array,
  scale: jax.Array,
  valid_B: jax.Array,
  columns: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Symmetric InfoNCE, Eq. 1: the pair of row i is column i.

  Args:
    a_BD: (B, D) unit vectors.
    b_BD: (B, D) unit vectors.
    scale: () factor of the cosines (1 / temperature).
    valid_B: (B,) bool; the others leave rows and columns.
    columns: The same two vectors as columns, where several devices hold them
      otherwise than as rows.

  Returns:
    The loss, () mean over valid rows of both directions' cross-entropies
    halved, and the share of valid rows whose pair scores highest.
  """
  mask_BB = relations.make_pair_mask(valid_B, keep_diagonal=True)
  a_columns_BD, b_columns_BD = columns or (a_BD, b_BD)
  rows_BB = relations.log_similarities(a_BD, b_columns_BD, mask_BB, scale)
  columns_BB = relations.log_similarities(b_BD, a_columns_BD, mask_BB, scale)
  count = jnp.maximum(valid_B.sum(), 1).astype(a_BD.dtype)
  log_likelihood_B = (jnp.diagonal(rows_BB) + jnp.diagonal(columns_BB)) / 2
  loss = -jnp.sum(jnp.where(valid_B, log_likelihood_B, 0)) / count
  hit_B = valid_B & (jnp.diagonal(rows_BB) >= rows_BB.max(axis=1))
  return loss, hit_B.sum().astype(loss.dtype) / count


def mean_squared_error(
  student_BB: jax.Array, teacher_BB: jax.Array, mask_BB: jax.Array
) -> jax.Array:
  """Eq. 10 over the pairs of the relation."""
  return relations.masked_mean((student_BB - teacher_BB) ** 2, mask_BB)


def jeffrey(
  log_p_BB: jax.Array, log_q_BB: jax.Array, mask_BB: jax.Array
) -> jax.Array:
  """Eq. 11: KL(p || q) + KL(q || p) of the rows, mean over non-empty rows.

  Both divergences are one sum, sum_j (p_j - q_j) (log p_j - log q_j).
  """
  difference_BB = jnp.where(mask_BB, log_p_BB - log_q_BB, 0)
  terms_BB = (jnp.exp(log_p_BB) - jnp.exp(log_q_BB)) * difference_BB
  rows = jnp.maximum(mask_BB.any(axis=1).sum(), 1)
  return jnp.sum(jnp.where(mask_BB, terms_BB, 0)) / rows


def margin_ranking(
  student_BB: jax.Array,
  teacher_BB: jax.Array,
  mask_BB: jax.Array,
  margin: float,
) -> jax.Array:
  """Eq. 12 over all pairs: mean hinge of the student's distances.

  For every anchor i and every pair (j, k) of its columns, k after j in the
  teacher's order (equal distances by index): max(0, m - (d_ik - d_ij)).

  Args:
    student_BB: (B, B) the student's distances, which carry the gradient.
    teacher_BB: (B, B) the teacher's distances.
    mask_BB: (B, B) pairs of the relation.
    margin: m.
  """
  hinges_B = ranking.all_pairs_hinges(student_BB, teacher_BB, mask_BB, margin)
  columns_B = mask_BB.sum(axis=1).astype(hinges_B.dtype)
  pairs = jnp.sum(columns_B * (columns_B - 1) / 2)
  return hinges_B.sum() / jnp.maximum(pairs, 1)


def sampled_margin_ranking(
  student_BB: jax.Array,
  teacher_BB: jax.Array,
  mask_BB: jax.Array,
  margin: float,
  *,
  pairs: int,
  key: jax.Array,
) -> jax.Array:
  """Eq. 12 over `pairs` random pairs of columns per anchor.

  A pair outside the mask or of a column with itself counts for nothing.
  """
  draws_B2S = draw_columns(key, student_BB.shape[0], pairs)
  hinges_B, counts_B = ranking.sampled_hinges(
    student_BB, teacher_BB, mask_BB, margin, draws_B2S
  )
  return hinges_B.sum() / jnp.maximum(counts_B.sum(), 1)


def draw_columns(key: jax.Array, size: int, pairs: int) -> jax.Array:
  """(size, 2, pairs) int: both columns of random pairs for every anchor."""
  return jnp.moveaxis(jax.random.randint(key, (2, size, pairs), 0, size), 0, 1)


def discrepancy(
  config: LossConfig,
  student: tuple[jax.Array, jax.Array],
  teacher: tuple[jax.Array, jax.Array],
  valid_B: jax.Array,
  *,
  intra: bool,
  scale: jax.Array,
  key: jax.Array | None = None,
) -> jax.Array:
  """One term D of Eq. 9: how far the student's relation is from a teacher's.

  Args:
    config: Representation and its options.
    student: Query and key embeddings, (B, D) unit vectors.
    teacher: The same of the teacher; constant.
    valid_B: (B,) bool samples that take part.
    intra: Whether the relation is within one modality.
    scale: () scale of Eq. 5-6.
    key: Randomness for `sampled_pairs`.

  Returns:
    () the discrepancy.
  """
  mask_BB = relations.make_pair_mask(
    valid_B, keep_diagonal=config.keep_diagonal or not intra
  )
  teacher = jax.lax.stop_gradient(teacher)
  if config.representation == "similarity":
    return jeffrey(
      relations.log_similarities(*student, mask_BB, scale),
      relations.log_similarities(*teacher, mask_BB, scale),
      mask_BB,
    )
  if config.representation == "euclidean":
    relation = (
      relations.distances
      if intra and not config.normalize_intra
      else functools.partial(
        relations.mean_normalized_distances, mask_BB=mask_BB
      )
    )
    return mean_squared_error(relation(*student), relation(*teacher), mask_BB)
  matrices = (
    relations.distances(*student),
    relations.distances(*teacher),
    mask_BB,
  )
  if config.sampled_pairs:
    assert key is not None, "sampled_pairs needs a key"
    return sampled_margin_ranking(
      *matrices, config.margin, pairs=config.sampled_pairs, key=key
    )
  return margin_ranking(*matrices, config.margin)


def dense_terms(
  config: LossConfig,
  features: Mapping[str, jax.Array],
  has_text_B: jax.Array,
  scales: Mapping[str, jax.Array],
  keys: Mapping[str, jax.Array],
  mesh: Mesh | None,
) -> dict[str, jax.Array]:
  """Every term of the losses, from (B, B) matrices.

  Args:
    config: The variant.
    features: {"P", "I", "T"}: (B, D) unit vectors.
    has_text_B: (B,) bool.
    scales: {"contrast", "relation"}: () factors of the cosines.
    keys: Randomness of each relation term, for `sampled_pairs`.
    mesh: The devices that share the rows; None is one device.

  Returns:
    "contrast/image", "accuracy/image", the same of "text", and each relation
    term before its weight, as "relation/PI-TI".
  """
  everyone_B = jnp.ones_like(has_text_B)
  columns = sharding.gathered(features, mesh)
  found = {}
  for name, teacher, valid_B in (
    ("image", "I", everyone_B),
    ("text", "T", has_text_B),
  ):
    found[f"contrast/{name}"], found[f"accuracy/{name}"] = contrastive(
      features["P"],
      features[teacher],
      scales["contrast"],
      valid_B,
      (columns["P"], columns[teacher]),
    )
  for term in relation_terms(config):
    student, teacher = (
      (features[pair[0]], columns[pair[1]])
      for pair in (term.student, term.teacher)
    )
    found[f"relation/{term.name}"] = discrepancy(
      config,
      student,
      teacher,
      has_text_B if term.needs_text else everyone_B,
      intra=term.intra,
      scale=scales["relation"],
      key=keys.get(term.name),
    )
  return found


def mrd_loss(
  config: LossConfig,
  embeddings: Embeddings,
  logit_scale: jax.Array,
  dynamic_weights: Mapping[str, jax.Array],
  key: jax.Array | None = None,
  *,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The total loss, Eq. 13, and every part of it.

  Args:
    config: The variant.
    embeddings: Of the global batch; the teachers' are constants.
    logit_scale: () logarithm of the contrastive scale.
    dynamic_weights: Free pairs as made by `init_dynamic_weights`.
    key: Randomness, only read when `config.sampled_pairs` is set.
    mesh: The devices that share the batch's rows, for `config.form`; None is
      one device.

  Returns:
    The loss and its metrics: "loss"; "contrast/image", "contrast/text" and
    the batch accuracies of their rows; "intra" and "cross" (weighted sums,
    before lambda); each relation term, as "relation/PI-TI", and its weight,
    as "weight/PI-TI"; "logit_scale" (the factor, not its logarithm).
  """
  point, image, text, has_text = embeddings
  dtype = jnp.promote_types(point.dtype, jnp.float32)
  chex.assert_equal_shape([point, image, text])
  chex.assert_shape(has_text, point.shape[:1])
  features = {
    "P": relations.l2_normalize(point.astype(dtype)),
    "I": jax.lax.stop_gradient(relations.l2_normalize(image.astype(dtype))),
    "T": jax.lax.stop_gradient(relations.l2_normalize(text.astype(dtype))),
  }
  scale = jnp.exp(logit_scale.astype(dtype))
  scales = {
    "contrast": scale,
    "relation": jnp.asarray(config.relation_scale, dtype)
    if config.relation_scale
    else jax.lax.stop_gradient(scale),
  }
  keys = {}
  if config.sampled_pairs:
    for i, term in enumerate(relation_terms(config)):
      assert key is not None, "sampled_pairs needs a key"
      key = jax.random.fold_in(key, i % 2)
      keys[term.name] = key

  form = choose_form(config, len(point), mesh.size if mesh else 1)
  if form == "dense":
    terms = dense_terms(config, features, has_text, scales, keys, mesh)
  else:
    draws = {
      name: draw_columns(key, len(point), config.sampled_pairs)
      for name, key in keys.items()
    }
    terms = block_terms(
      config,
      features,
      has_text,
      scales,
      draws,
      Blocks(form, config.stripe, mesh),
    )

  metrics = {"logit_scale": scale, **terms}
  sums = {"intra": jnp.zeros((), dtype), "cross": jnp.zeros((), dtype)}
  for group, names in term_groups(config).items():
    pair = dynamic_weights.get(group, jnp.zeros(2))
    weights = jax.nn.softmax(pair.astype(dtype))
    side = "intra" if group == "intra" else "cross"
    for name, weight in zip(names, weights, strict=True):
      sums[side] = sums[side] + weight * terms[f"relation/{name}"]
      metrics[f"weight/{name}"] = weight
  metrics |= sums
  loss = (
    terms["contrast/image"]
    + terms["contrast/text"]
    + config.relation_weight * (sums["intra"] + sums["cross"])
  )
  metrics["loss"] = loss
  return loss, metrics
