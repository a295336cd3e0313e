"""Computes the losses: contrast (Eq. 1-2), relation distillation (Eq. 9-13).

Pure functions of the global batch's embeddings: P of the student, I and T of
the frozen image and text teachers.  Everything is at least float32.
"""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.keys import named
from mrd_jax.losses import ranking, relations, terms
from mrd_jax.losses.tiled import tiled_terms
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
  """Makes the free pairs behind the weights: zeros, so that each is 1/2."""
  if config.weighting == "fixed":
    return {}
  return {
    group: jnp.zeros(2)
    for group, names in terms.term_groups(config).items()
    if len(names) == 2
  }


def contrastive(
  logits_AB: jax.Array, mask_AB: jax.Array, own_AB: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes symmetric InfoNCE, Eq. 1: own pairs are the positive ones.

  Args:
    logits_AB: (A, B) cosines times the contrast's scale (1 / temperature).
    mask_AB: (A, B) bool pairs of valid samples.
    own_AB: (A, B) bool pairs of a sample with itself.

  Returns:
    The loss, () mean over the valid samples' own pairs of both directions'
    cross-entropies halved, and the share of them that score above all others
    of their row.
  """
  own_AB = own_AB & mask_AB
  count = jnp.maximum(own_AB.sum(), 1).astype(logits_AB.dtype)
  by_row_AB, by_column_AB = (
    jax.nn.log_softmax(logits_AB, axis=axis) for axis in (1, 0)
  )
  loss = -jnp.sum(jnp.where(own_AB, by_row_AB + by_column_AB, 0)) / 2 / count
  others_AB = jnp.where(own_AB, -jnp.inf, logits_AB)
  hits_AB = own_AB & (logits_AB > others_AB.max(axis=1, keepdims=True))
  return loss, hits_AB.sum().astype(loss.dtype) / count


def jeffrey(
  log_p_BB: jax.Array, log_q_BB: jax.Array, mask_BB: jax.Array
) -> jax.Array:
  """Computes Eq. 11: KL(p || q) + KL(q || p), mean over non-empty rows.

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
  draws_B2S: jax.Array | None = None,
) -> jax.Array:
  """Computes Eq. 12: mean hinge of distances in the teacher's order.

  For every anchor i and every pair (j, k) of its columns that the teacher
  puts in this order: max(0, m - (d_ik - d_ij)).  A pair of equal distances has
  sign 0 and is left out.

  Args:
    student_BB: (B, B) the student's distances, which carry the gradient.
    teacher_BB: (B, B) the teacher's distances.
    mask_BB: (B, B) pairs of the relation.
    margin: m.
    draws_B2S: (B, 2, S) int, as `draw_columns` makes them: only these pairs
      instead of all.  A pair outside the mask counts for nothing.
  """
  matrices = student_BB, teacher_BB, mask_BB
  if draws_B2S is None:
    hinges_B, pairs_B = ranking.all_pairs_hinges(*matrices, margin)
  else:
    hinges_B, pairs_B = ranking.sampled_hinges(*matrices, margin, draws_B2S)
  return hinges_B.sum() / jnp.maximum(pairs_B.sum(), 1)


def draw_columns(key: jax.Array, size: int, pairs: int) -> jax.Array:
  """Draws random pairs of columns for every anchor: (size, 2, pairs) int."""
  return jnp.moveaxis(jax.random.randint(key, (2, size, pairs), 0, size), 0, 1)


def discrepancy(
  config: LossConfig,
  term: terms.Term,
  student: tuple[jax.Array, jax.Array],
  teacher: tuple[jax.Array, jax.Array],
  mask_BB: jax.Array,
  scale: jax.Array,
  draws_B2S: jax.Array | None,
) -> jax.Array:
  """Computes a term D of Eq. 9: how far a student's relation is off.

  Args:
    config: Representation and its options.
    term: Which relations.
    student: Query and key embeddings, (B, D) unit vectors.
    teacher: The same of the teacher; constants.
    mask_BB: (B, B) pairs of the relation.
    scale: () scale of Eq. 5-6.
    draws_B2S: Random pairs of columns of Eq. 12, instead of all.

  Returns:
    () the discrepancy.
  """
  if config.representation == "similarity":
    return jeffrey(
      relations.log_similarities(*student, mask_BB, scale),
      relations.log_similarities(*teacher, mask_BB, scale),
      mask_BB,
    )
  student_BB = relations.distances(*student)
  teacher_BB = relations.distances(*teacher)
  if config.representation == "partial_order":
    return margin_ranking(
      student_BB, teacher_BB, mask_BB, config.margin, draws_B2S
    )
  if config.normalize_intra or not term.intra:
    student_BB = relations.divide_by_mean(student_BB, mask_BB)
    teacher_BB = relations.divide_by_mean(teacher_BB, mask_BB)
  # Eq. 10, over the pairs of the relation.
  return relations.masked_mean((student_BB - teacher_BB) ** 2, mask_BB)


def dense_terms(
  config: LossConfig,
  features: dict[str, jax.Array],
  has_text_B: jax.Array,
  scales: dict[str, jax.Array],
  draws: dict[str, jax.Array],
  mesh: Mesh | None,
) -> dict[str, jax.Array]:
  """Computes every term of the losses, from (B, B) matrices.

  Args:
    config: The variant.
    features: {"P", "I", "T"}: (B, D) unit vectors; I and T are constants.
    has_text_B: (B,) bool.
    scales: () factors of the cosines, of "contrast" and of each relation term.
    draws: Of each relation term, for `sampled_pairs`: as `draw_columns`.
    mesh: The devices that share the rows; None is one device.

  Returns:
    "contrast/image", "accuracy/image", the same of "text", and each relation
    term before its weight, as "relation/PI-TI".
  """
  columns = sharding.gathered(features, mesh)
  own_BB = jnp.eye(len(has_text_B), dtype=bool)

  def mask(needs_text: bool, keep_diagonal: bool = True) -> jax.Array:
    valid_B = has_text_B if needs_text else jnp.ones_like(has_text_B)
    return relations.make_pair_mask(
      valid_B, valid_B, own_BB, keep_diagonal=keep_diagonal
    )

  found = {}
  for name, pair in terms.CONTRASTS.items():
    mask_BB = mask(name == "text")
    cosines_BB = relations.dot(features[pair[0]], columns[pair[1]])
    found[f"contrast/{name}"], found[f"accuracy/{name}"] = contrastive(
      relations.masked_logits(cosines_BB, mask_BB, scales["contrast"]),
      mask_BB,
      own_BB,
    )
  for term in terms.relation_terms(config):
    student, teacher = (
      (features[pair[0]], columns[pair[1]])
      for pair in (term.student, term.teacher)
    )
    found[f"relation/{term.name}"] = discrepancy(
      config,
      term,
      student,
      teacher,
      mask(term.needs_text, term.diagonal),
      scales[term.name],
      draws.get(term.name),
    )
  return found


@jax.named_scope("losses")
def mrd_loss(
  config: LossConfig,
  embeddings: Embeddings,
  logit_scale: jax.Array,
  dynamic_weights: Mapping[str, jax.Array],
  key: jax.Array | None = None,
  *,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the total loss, Eq. 13, and every part of it.

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
  scales = {"contrast": scale}
  draws = {}
  for term in terms.relation_terms(config):
    scales[term.name] = (
      jnp.asarray(term.scale, dtype)
      if term.scale
      else jax.lax.stop_gradient(scale)
    )
    if config.sampled_pairs:
      assert key is not None, "sampled_pairs needs a key"
      draws[term.name] = draw_columns(
        named(key, term.name), len(point), config.sampled_pairs
      )

  form = terms.choose_form(config, len(point), mesh.size if mesh else 1)
  make_terms = dense_terms if form == "dense" else tiled_terms
  found = make_terms(config, features, has_text, scales, draws, mesh)

  metrics = {"logit_scale": scale, **found}
  sums = {"intra": jnp.zeros((), dtype), "cross": jnp.zeros((), dtype)}
  for group, names in terms.term_groups(config).items():
    pair = dynamic_weights.get(group, jnp.zeros(len(names)))
    weights = jax.nn.softmax(pair.astype(dtype))
    side = "intra" if group == "intra" else "cross"
    for name, weight in zip(names, weights, strict=True):
      sums[side] = sums[side] + weight * found[f"relation/{name}"]
      metrics[f"weight/{name}"] = weight
  metrics |= sums
  loss = (
    found["contrast/image"]
    + found["contrast/text"]
    + config.relation_weight * (sums["intra"] + sums["cross"])
  )
  metrics["loss"] = loss
  return loss, metrics
