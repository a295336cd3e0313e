"""Computes the terms of `losses/mrd.py` without a (B, B) matrix.

1. Each device keeps its rows of the batch and gets all columns by one
   all-gather.  It walks them in tiles (`_walk`): for every block of rows, every
   stripe of columns.
2. A tile, a dense (A, S) piece of every matrix, is reduced at once to a few
   numbers a row and a column (`_tile`).  `jax.checkpoint` forgets the tile and
   computes it again in the backward pass: only those numbers are kept.
3. The numbers of all tiles of a row (or column) make the terms
   (`tile_sums.py`).

All else, the gradient's way back through the collectives included, is
autodiff's.  Letters: B samples of the batch, N of a device or tile, (A, S) a
tile, R tiles side by side (or, by column, one below the other).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import ranking, relations, tile_sums
from mrd_jax.losses.terms import CONTRASTS, Term, relation_terms
from mrd_jax.parallel.sharding import BATCH

# Rows of a tile for each of its columns.  The gradient of all columns is added
# to once for every block of rows: tall blocks do it less often.
ASPECT = 4


class Samples(NamedTuple):
  """Rows or columns.

  Attributes:
    features: {"P", "I", "T"}: (N, D) unit vectors.
    number: (N,) int32 which sample of the batch, from 1; 0 is padding.
    has_text: (N,) bool.
    draws: {term: (N, 2, pairs) int} columns for each row, for
      `sampled_pairs`; {} of columns.
  """

  features: dict[str, jax.Array]
  number: jax.Array
  has_text: jax.Array
  draws: dict[str, jax.Array]


def tiled_terms(
  config: LossConfig,
  features: dict[str, jax.Array],
  has_text_B: jax.Array,
  scales: dict[str, jax.Array],
  draws: dict[str, jax.Array],
  mesh: Mesh | None,
) -> dict[str, jax.Array]:
  """Computes every term of the losses; as `mrd.dense_terms`, tile by tile."""
  terms = relation_terms(config)
  numbers_B = jnp.arange(1, len(has_text_B) + 1, dtype=jnp.int32)
  constants: dict[str, Any] = dict(scales)
  if config.representation == "euclidean":
    for term in terms:
      constants[term.name] = _typical_distances(
        config, term, features, has_text_B
      )
  walk = functools.partial(_walk, config, mesh is not None)
  if mesh is not None:
    walk = jax.shard_map(
      walk,
      mesh=mesh,
      in_specs=(P(), P(BATCH)),
      out_specs=(P(None, BATCH), P(BATCH)),
      check_vma=False,  # it would have to be told of every loop's first values
    )
  by_row, by_column = walk(
    constants, Samples(features, numbers_B, has_text_B, draws)
  )

  found = {}
  for name in CONTRASTS:
    valid_B = has_text_B if name == "text" else jnp.ones_like(has_text_B)
    count = jnp.maximum(valid_B.sum(), 1).astype(scales["contrast"].dtype)
    *row_softmax, best_other_RB = by_row[name]
    log_likelihood_B = tile_sums.log_likelihood(*row_softmax)
    log_likelihood_B += tile_sums.log_likelihood(*by_column[name])
    found[f"contrast/{name}"] = (
      -jnp.sum(jnp.where(valid_B, log_likelihood_B, 0)) / 2 / count
    )
    own_B = row_softmax[1].sum(axis=0)
    hit_B = valid_B & (own_B > best_other_RB.max(axis=0))
    found[f"accuracy/{name}"] = hit_B.sum().astype(count.dtype) / count
  for term in terms:
    pairs_RB, *sums = by_row[term.name]
    pairs_B = pairs_RB.sum(axis=0)
    pairs = jnp.maximum(pairs_B.sum(), 1)
    if config.representation == "similarity":
      p, q, within_RB, tilt_RB = sums
      value = tile_sums.jeffrey(p, q, within_RB, tilt_RB) / jnp.maximum(
        (pairs_B > 0).sum(), 1
      )
    elif config.representation == "euclidean":
      normalized = config.normalize_intra or not term.intra
      value = tile_sums.mean_squared_error(
        pairs_RB, sums, normalized=normalized
      )
    else:
      value = sums[0].sum() / pairs
    found[f"relation/{term.name}"] = value
  return found


def _walk(
  config: LossConfig, over_devices: bool, constants: dict, rows: Samples
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reduces all tiles of a device's rows and all columns.

  Returns:
    What `_tile` finds by row, trees of (R, N), and by column, of (R, B).
  """
  columns = rows._replace(draws={})
  if over_devices:
    columns = jax.tree.map(
      lambda x: jax.lax.all_gather(x, BATCH, tiled=True), columns
    )

  def over_tiles(whole_rows: bool, width: int) -> tuple[dict, dict]:
    tile = jax.checkpoint(
      functools.partial(_tile, config, whole_rows, constants),
      prevent_cse=False,  # loops keep the first and the second time apart
    )
    height = max(ASPECT * config.stripe**2 // width, 1)
    stripes = _cut(columns, width)
    by_row, by_column = jax.lax.map(
      lambda row: jax.lax.map(lambda column: tile(row, column), stripes),
      _cut(rows, height),
    )  # (blocks, stripes, A) and (blocks, stripes, S)
    by_row = jax.tree.map(lambda x: x.swapaxes(0, 1), by_row)
    return join(by_row, len(rows.number)), join(by_column, len(columns.number))

  def join(tree: dict, size: int) -> dict:
    return jax.tree.map(lambda x: x.reshape(len(x), -1)[:, :size], tree)

  by_row, by_column = over_tiles(False, config.stripe)
  if config.representation == "partial_order" and relation_terms(config):
    by_row |= over_tiles(True, len(columns.number))[0]
  return by_row, by_column


def _cut(samples: Samples, largest: int) -> Samples:
  """Cuts N samples into equal tiles, padded by zeros: (tiles, size, ...)."""
  total = len(samples.number)
  count = -(-total // largest)
  size = -(-total // count)

  def cut(x: jax.Array) -> jax.Array:
    x = jnp.pad(x, [(0, count * size - total)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(count, size, *x.shape[1:])

  return jax.tree.map(cut, samples)


def _tile(
  config: LossConfig,
  whole_rows: bool,
  constants: dict[str, Any],
  row: Samples,
  column: Samples,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reduces one tile.

  Args:
    config: The variant.
    whole_rows: Whether this tile has all columns: then what needs them is
      computed, the hinges of the partial order, else all other terms.
    constants: Scales of the similarities and sizes of the distances.
    row: The tile's rows.
    column: Its columns.

  Returns:
    By row {"image", "text"}: a `Part`, the own pair's logit and the largest of
    the others; {term}: the number of pairs, then what the term's formula takes;
    trees of (A,).  By column the first two again, (S,).
  """
  own_AS = row.number[:, None] == column.number

  @functools.cache
  def product(pair: str) -> jax.Array:
    return relations.dot(row.features[pair[0]], column.features[pair[1]])

  def distances(pair: str) -> jax.Array:
    a2_A, b2_S = (
      jnp.sum(x.features[name] ** 2, axis=1)
      for x, name in zip((row, column), pair, strict=True)
    )
    return relations.distances_of_products(product(pair), a2_A, b2_S)

  def mask(needs_text: bool, keep_diagonal: bool) -> jax.Array:
    valid_A, valid_S = (
      x.has_text if needs_text else x.number > 0 for x in (row, column)
    )
    return relations.make_pair_mask(
      valid_A, valid_S, own_AS, keep_diagonal=keep_diagonal
    )

  @functools.cache
  def row_softmax(pair: str, needs_text: bool, diagonal: bool, scale: str):
    mask_AS = mask(needs_text, diagonal)
    return tile_sums.log_softmax(
      relations.masked_logits(product(pair), mask_AS, constants[scale]), axis=1
    )

  by_row, by_column = {}, {}
  for name, pair in CONTRASTS.items() if not whole_rows else ():
    mask_AS = mask(name == "text", True)
    logits_AS = relations.masked_logits(
      product(pair), mask_AS, constants["contrast"]
    )
    own_logits_AS = jnp.where(own_AS & mask_AS, logits_AS, 0)
    for axis, found in ((1, by_row), (0, by_column)):
      _, part = tile_sums.log_softmax(logits_AS, axis)
      found[name] = part, own_logits_AS.sum(axis)
    others_AS = jnp.where(own_AS, -jnp.inf, jax.lax.stop_gradient(logits_AS))
    by_row[name] += (others_AS.max(axis=1),)
  here = whole_rows == (config.representation == "partial_order")
  for term in relation_terms(config) if here else ():
    mask_AS = mask(term.needs_text, term.diagonal)
    pairs_A = mask_AS.sum(axis=1).astype(row.features["P"].dtype)
    both = term.student, term.teacher
    if config.representation == "similarity":
      (log_p_AS, p_part), (log_q_AS, q_part) = (
        row_softmax(pair, term.needs_text, term.diagonal, term.name)
        for pair in both
      )
      log_ratio_AS = jnp.where(mask_AS, log_p_AS - log_q_AS, 0)
      p_AS, q_AS = jnp.exp(log_p_AS), jnp.exp(log_q_AS)
      sums = (
        p_part,
        q_part,
        ((p_AS - q_AS) * log_ratio_AS).sum(axis=1),
        ((p_AS + q_AS) * log_ratio_AS).sum(axis=1),
      )
    elif config.representation == "euclidean":
      s_AS, t_AS = (
        jnp.where(mask_AS, distances(pair) / size, 0)
        for pair, size in zip(both, constants[term.name], strict=True)
      )
      u_AS = s_AS - t_AS
      sums = tuple(
        x_AS.sum(axis=1) for x_AS in (u_AS, t_AS, u_AS**2, u_AS * t_AS, t_AS**2)
      )
    else:
      matrices = distances(term.student), distances(term.teacher), mask_AS
      sum_A, pairs_A = (
        ranking.sampled_hinges(*matrices, config.margin, row.draws[term.name])
        if config.sampled_pairs
        else ranking.all_pairs_hinges(*matrices, config.margin)
      )
      sums = (sum_A,)
    by_row[term.name] = pairs_A, *sums
  return by_row, by_column


def _typical_distances(
  config: LossConfig,
  term: Term,
  features: dict[str, jax.Array],
  has_text_B: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """About the mean distances of student and teacher, in O(B D).

  Root mean squares: tiles divide by them so that u is small where the two
  relations agree but for their size.  The formula then finds the exact means.
  """
  one = jnp.ones((), features["P"].dtype)
  if term.intra and not config.normalize_intra:
    return one, one
  valid_B = has_text_B if term.needs_text else jnp.ones_like(has_text_B)
  weight_B = valid_B / jnp.maximum(valid_B.sum(), one)
  mean = {
    name: jnp.matmul(weight_B, jax.lax.stop_gradient(x_BD), precision="highest")
    for name, x_BD in features.items()
  }
  square_s, square_t = (
    2 * (one - jnp.sum(mean[a] * mean[b]))
    for a, b in (term.student, term.teacher)
  )
  floor = 8 * jnp.finfo(one.dtype).eps
  return (
    jnp.sqrt(jnp.maximum(square_s, floor)),
    jnp.sqrt(jnp.maximum(square_t, floor)),
  )
