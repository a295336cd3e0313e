"""The losses: symmetric InfoNCE (Eq. 1-2) and relation distillation (Eq. 9-13).

Pure functions of the global batch's embeddings: P of the student, I and T of
the frozen image and text teachers.  Everything is at least float32.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from mrd_jax import ranking, relations

Representation = Literal["similarity", "euclidean", "partial_order"]
CrossForm = Literal["full", "matched"]
Weighting = Literal["dynamic", "alternating", "fixed"]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Which of the method's variants is computed; the defaults are the paper's.

  Attributes:
    representation: How a relation is represented, with its discrepancy:
      normalised similarity with Jeffrey divergence, Euclidean distance with
      mean squared error, or partial order with margin ranking.
    intra: Whether the intra-modal terms take part.
    cross: Whether the cross-modal terms take part.
    cross_form: "full": four cross terms, two pairs of weights; "matched":
      D(PI, TI) and D(PT, IT) only, one pair over them.
    weighting: "dynamic": pairs of learned weights; "alternating": the same,
      but every second step updates only them (`optimizer.py`); "fixed": 1/2.
    relation_weight: lambda of Eq. 13.
    relation_scale: Scale of the similarities in Eq. 5-6; 0 means the
      contrastive logit scale without its gradient.
    keep_diagonal: Whether intra relations keep the pair of a sample with
      itself.
    normalize_intra: Whether intra Euclidean distances are divided by their
      mean (Eq. 3 as printed does not, Eq. 4 does).
    margin: m of Eq. 12.
    sampled_pairs: How many random pairs per anchor Eq. 12 takes; 0 takes all.
  """

  representation: Representation = "similarity"
  intra: bool = True
  cross: bool = True
  cross_form: CrossForm = "full"
  weighting: Weighting = "dynamic"
  relation_weight: float = 3.0
  relation_scale: float = 0.0
  keep_diagonal: bool = False
  normalize_intra: bool = True
  margin: float = 0.1
  sampled_pairs: int = 0


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


def term_groups(config: LossConfig) -> dict[str, tuple[str, str]]:
  """The relation terms of Eq. 9, two by two as they share a pair of weights.

  A term is named student-teacher, each a query and a key modality: "PI-TI"
  compares the relation of points to images with that of texts to images.
  """
  groups = {}
  if config.intra:
    groups["intra"] = ("PP-II", "PP-TT")
  if config.cross and config.cross_form == "full":
    groups["cross_image"] = ("PI-TI", "PI-IT")
    groups["cross_text"] = ("PT-IT", "PT-TI")
  elif config.cross:
    groups["cross"] = ("PI-TI", "PT-IT")
  return groups


def init_dynamic_weights(config: LossConfig) -> dict[str, jax.Array]:
  """The free pairs behind the weights: zeros, so that each weight is 1/2."""
  if config.weighting == "fixed":
    return {}
  return {group: jnp.zeros(2) for group in term_groups(config)}


def contrastive(
  a_BD: jax.Array, b_BD: jax.Array, scale: jax.Array, valid_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Symmetric InfoNCE, Eq. 1: the pair of row i is column i.

  Args:
    a_BD: (B, D) unit vectors.
    b_BD: (B, D) unit vectors.
    scale: () factor of the cosines (1 / temperature).
    valid_B: (B,) bool; the others leave rows and columns.

  Returns:
    The loss, () mean over valid rows of both directions' cross-entropies
    halved, and the share of valid rows whose pair scores highest.
  """
  mask_BB = relations.make_pair_mask(valid_B, keep_diagonal=True)
  rows_BB = relations.log_similarities(a_BD, b_BD, mask_BB, scale)
  columns_BB = relations.log_similarities(b_BD, a_BD, mask_BB, scale)
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
  order_BB = relations.rank_order(teacher_BB, mask_BB)
  u_BB = jnp.take_along_axis(
    jnp.where(mask_BB, student_BB, jnp.inf), order_BB, axis=1
  )
  columns_B = mask_BB.sum(axis=1).astype(u_BB.dtype)
  pairs = jnp.sum(columns_B * (columns_B - 1) / 2)
  return ranking.ranking_hinge(u_BB, margin) / jnp.maximum(pairs, 1)


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
  rank_BB = jnp.argsort(relations.rank_order(teacher_BB, mask_BB), axis=1)
  size = student_BB.shape[0]
  columns_2BS = jax.random.randint(key, (2, size, pairs), 0, size)

  def pick(x_BB: jax.Array) -> tuple[jax.Array, jax.Array]:
    j, k = (jnp.take_along_axis(x_BB, c, axis=1) for c in columns_2BS)
    return j, k

  (student_j, student_k), (rank_j, rank_k) = pick(student_BB), pick(rank_BB)
  valid_j, valid_k = pick(mask_BB)
  sign = jnp.sign(rank_k - rank_j).astype(student_BB.dtype)
  hinge_BS = jax.nn.relu(margin - sign * (student_k - student_j))
  return relations.masked_mean(hinge_BS, valid_j & valid_k & (sign != 0))


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


def mrd_loss(
  config: LossConfig,
  embeddings: Embeddings,
  logit_scale: jax.Array,
  dynamic_weights: Mapping[str, jax.Array],
  key: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The total loss, Eq. 13, and every part of it.

  Args:
    config: The variant.
    embeddings: Of the global batch.
    logit_scale: () logarithm of the contrastive scale.
    dynamic_weights: Free pairs as made by `init_dynamic_weights`.
    key: Randomness, only read when `config.sampled_pairs` is set.

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
  modality = {
    name: relations.l2_normalize(x.astype(dtype))
    for name, x in (("P", point), ("I", image), ("T", text))
  }
  everyone = jnp.ones_like(has_text)
  scale = jnp.exp(logit_scale.astype(dtype))

  metrics = {"logit_scale": scale}
  contrast_image, metrics["accuracy/image"] = contrastive(
    modality["P"], modality["I"], scale, everyone
  )
  contrast_text, metrics["accuracy/text"] = contrastive(
    modality["P"], modality["T"], scale, has_text
  )
  metrics["contrast/image"] = contrast_image
  metrics["contrast/text"] = contrast_text

  relation_scale = (
    jnp.asarray(config.relation_scale, dtype)
    if config.relation_scale
    else jax.lax.stop_gradient(scale)
  )
  sums = {"intra": jnp.zeros((), dtype), "cross": jnp.zeros((), dtype)}
  for group, terms in term_groups(config).items():
    pair = dynamic_weights.get(group, jnp.zeros(2))
    weights = jax.nn.softmax(pair.astype(dtype))
    for i, term in enumerate(terms):
      student, teacher = term.split("-")
      if key is not None:
        key = jax.random.fold_in(key, i)
      value = discrepancy(
        config,
        (modality[student[0]], modality[student[1]]),
        (modality[teacher[0]], modality[teacher[1]]),
        has_text if "T" in term else everyone,
        intra=group == "intra",
        scale=relation_scale,
        key=key,
      )
      side = "intra" if group == "intra" else "cross"
      sums[side] = sums[side] + weights[i] * value
      metrics[f"relation/{term}"] = value
      metrics[f"weight/{term}"] = weights[i]
  metrics |= sums
  loss = (
    contrast_image
    + contrast_text
    + config.relation_weight * (sums["intra"] + sums["cross"])
  )
  metrics["loss"] = loss
  return loss, metrics
