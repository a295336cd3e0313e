"""What the losses sum over pairs of samples: kernels of `losses/blocks.py`.

For a row i of a relation, a the student's logits and b the teacher's, m their
largest:

* softmax: Z_a = sum_j exp(a_j - m_a).
* Jeffrey (Eq. 11), with g_j = (a_j - m_a) - (b_j - m_b):
  U_a = sum_j exp(a_j - m_a) g_j, and U_b likewise.
* Distances (Eq. 4, 10), s and t after division by an estimate of their means,
  u = s - t: the sums of u, t, u^2, u t, t^2.
* Partial order (Eq. 12) needs whole rows, so its tiles have all columns and
  few rows.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import ranking, relations
from mrd_jax.losses.terms import Term, relation_terms
from mrd_jax.losses.tiles import Products, Samples, Sums

CONTRASTS = {"image": "PI", "text": "PT"}


class Softmax(NamedTuple):
  """A softmax over the columns of one matrix.

  Attributes:
    pair: Query and key modality.
    needs_text: Whether only samples with a text take part.
    diagonal: Whether a sample is paired with itself.
    scale: Which scale multiplies the cosines: "contrast" or "relation".
  """

  pair: str
  needs_text: bool
  diagonal: bool
  scale: str


def contrast_softmax(name: str) -> Softmax:
  """Of the points to a teacher's embeddings, "image" or "text"."""
  return Softmax(CONTRASTS[name], name == "text", True, "contrast")


def relation_softmax(term: Term, pair: str) -> Softmax:
  """Of the student's or the teacher's side of a term."""
  return Softmax(pair, term.needs_text, term.diagonal, "relation")


def _mask(
  row: Samples, column: Samples, needs_text: bool, diagonal: bool
) -> jax.Array:
  """`relations.make_pair_mask` of a tile."""
  mine, theirs = (
    (row.has_text, column.has_text) if needs_text else (row.valid, column.valid)
  )
  mask_AB = mine[:, None] & theirs[None, :]
  return mask_AB if diagonal else mask_AB & ~_own_pair(row, column)


def _own_pair(row: Samples, column: Samples) -> jax.Array:
  return row.index[:, None] == column.index[None, :]


def _distances(
  products: Products, pair: str, row: Samples, column: Samples
) -> jax.Array:
  # The norms of unit vectors are constants.
  return relations.distances_of_products(
    products[pair], row.norm2[pair[0]], column.norm2[pair[1]]
  )


@dataclasses.dataclass(frozen=True)
class Stripes:
  """Contrast, and relations whose sums need no whole rows."""

  config: LossConfig
  whole_rows = False

  @property
  def terms(self) -> tuple[Term, ...]:
    """Relation terms that are summed here."""
    if self.config.representation == "partial_order":
      return ()
    return relation_terms(self.config)

  @property
  def pairs(self) -> tuple[str, ...]:
    used = [p for term in self.terms for p in (term.student, term.teacher)]
    return tuple(dict.fromkeys([*CONTRASTS.values(), *used]))

  def _logits(
    self, products: Products, row: Samples, column: Samples, scales
  ) -> dict[Softmax, jax.Array]:
    """Every softmax's logits, the lowest number outside its mask."""
    softmaxes = [contrast_softmax(name) for name in CONTRASTS]
    if self.config.representation == "similarity":
      softmaxes += [
        relation_softmax(term, pair)
        for term in self.terms
        for pair in (term.student, term.teacher)
      ]
    return {
      softmax: jnp.where(
        _mask(row, column, softmax.needs_text, softmax.diagonal),
        scales[softmax.scale] * products[softmax.pair],
        jnp.finfo(products[softmax.pair].dtype).min / 2,
      )
      for softmax in dict.fromkeys(softmaxes)
    }

  def maxima(
    self, products: Products, row: Samples, column: Samples, scales
  ) -> tuple[Sums, Sums]:
    logits = self._logits(products, row, column, scales)
    by_column = [contrast_softmax(name) for name in CONTRASTS]
    return (
      {softmax: x_AB.max(axis=1) for softmax, x_AB in logits.items()},
      {softmax: logits[softmax].max(axis=0) for softmax in by_column},
    )

  def sums(
    self, products: Products, row: Samples, column: Samples, scales, shifts
  ) -> tuple[Sums, Sums]:
    logits = self._logits(products, row, column, scales)
    row_shift, column_shift = shifts
    masks = {s: _mask(row, column, s.needs_text, s.diagonal) for s in logits}
    centred = {s: x_AB - row_shift[s][:, None] for s, x_AB in logits.items()}
    weights = {
      s: jnp.where(masks[s], jnp.exp(x_AB), 0) for s, x_AB in centred.items()
    }
    by_row: Sums = {
      "Z": {s: x_AB.sum(axis=1) for s, x_AB in weights.items()},
      "own": {},
      "U": {},
      "distance": {},
    }
    by_column: Sums = {"Z": {}, "U": {}}
    for name in CONTRASTS:
      s = contrast_softmax(name)
      own_AB = _own_pair(row, column) & masks[s]
      by_row["own"][name] = jnp.where(own_AB, logits[s], 0).sum(axis=1)
      exp_AB = jnp.exp(logits[s] - column_shift[s][None, :])
      by_column["Z"][s] = jnp.where(masks[s], exp_AB, 0).sum(axis=0)
    for term in self.terms:
      if self.config.representation == "similarity":
        a, b = (
          relation_softmax(term, term.student),
          relation_softmax(term, term.teacher),
        )
        g_AB = centred[a] - centred[b]
        by_row["U"][a, b] = tuple(
          (weights[s] * g_AB).sum(axis=1) for s in (a, b)
        )
      else:
        mask_AB = _mask(row, column, term.needs_text, term.diagonal)
        s_AB, t_AB = (
          _distances(products, pair, row, column)
          / scales["distance"][term.name][side]
          for side, pair in enumerate((term.student, term.teacher))
        )
        u_AB = jnp.where(mask_AB, s_AB - t_AB, 0)
        t_AB = jnp.where(mask_AB, t_AB, 0)
        by_row["distance"][term.name] = {
          "u": u_AB.sum(axis=1),
          "t": t_AB.sum(axis=1),
          "uu": (u_AB**2).sum(axis=1),
          "ut": (u_AB * t_AB).sum(axis=1),
          "tt": (t_AB**2).sum(axis=1),
        }
    return by_row, by_column

  def rescale(self, sums: Sums, old: Sums, new: Sums) -> Sums:
    grown = {s: old[s] - new[s] for s in old}  # at most 0
    shrink = {s: jnp.exp(x) for s, x in grown.items()}
    moved = {
      (a, b): tuple(
        (x + sums["Z"][s] * (grown[a] - grown[b])) * shrink[s]
        for s, x in zip((a, b), pair, strict=True)
      )
      for (a, b), pair in sums["U"].items()
    }
    return sums | {
      "Z": {s: x * shrink[s] for s, x in sums["Z"].items()},
      "U": moved,
    }


@dataclasses.dataclass(frozen=True)
class WholeRows:
  """Partial order: hinges of anchors against all columns."""

  config: LossConfig
  whole_rows = True

  @property
  def pairs(self) -> tuple[str, ...]:
    used = [
      pair
      for term in relation_terms(self.config)
      for pair in (term.student, term.teacher)
    ]
    return tuple(dict.fromkeys(used))

  def maxima(
    self, products: Products, row: Samples, column: Samples, scales
  ) -> tuple[Sums, Sums]:
    return {}, {}

  def sums(
    self, products: Products, row: Samples, column: Samples, scales, shifts
  ) -> tuple[Sums, Sums]:
    config = self.config
    hinges = {}
    for term in relation_terms(config):
      mask_AB = _mask(row, column, term.needs_text, term.diagonal)
      matrices = (
        _distances(products, term.student, row, column),
        _distances(products, term.teacher, row, column),
        mask_AB,
      )
      if config.sampled_pairs:
        hinges[term.name] = ranking.sampled_hinges(
          *matrices, config.margin, row.draws[term.name]
        )
      else:
        columns_A = mask_AB.sum(axis=1).astype(matrices[0].dtype)
        hinges[term.name] = (
          ranking.all_pairs_hinges(*matrices, config.margin),
          columns_A * (columns_A - 1) / 2,
        )
    return hinges, {}

  def rescale(self, sums: Sums, old: Sums, new: Sums) -> Sums:
    return sums
