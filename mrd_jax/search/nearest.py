"""Finds the shapes nearest to a query, or to several queries at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.search.gallery import Gallery
from mrd_jax.search.index import Index

_ROUNDING = 1e-5  # of a product of unit vectors in float32, generously
_SAMPLE = 4096  # embeddings, for the spread of a query's cosines
_CANDIDATES = 1000  # of the index, at least
_PER_HIT = 20  # likewise, for each shape that is asked for
_CHUNK = 4096  # candidates that are scored at a time


class Query(NamedTuple):
  """One query.

  Attributes:
    kind: "text", "shape" or "image".
    value: The text, or the name of the file.
  """

  kind: str
  value: str


class Hits(NamedTuple):
  """What was found, best first.

  Attributes:
    rows: (K,) int64 rows of the gallery.
    score: (K,) float64 what they are ranked by.
    cosine: (K, Q) float64 similarity to each query.
    compared: How many shapes were compared: all, or the index's candidates.
  """

  rows: np.ndarray
  score: np.ndarray
  cosine: np.ndarray
  compared: int


class Joint(NamedTuple):
  """Joins cosines with Q queries to a score: min_q (s_q - shift_q) / scale_q.

  Attributes:
    shift: (Q,).
    scale: (Q,).
  """

  shift: np.ndarray
  scale: np.ndarray

  def score(self, cosine_NQ: np.ndarray) -> np.ndarray:
    return ((cosine_NQ - self.shift) / self.scale).min(axis=1)


def joint_of(
  gallery: Gallery, query_QD: np.ndarray, kinds: Sequence[str]
) -> Joint:
  """Decides how the cosines with the queries are joined.

  Of one kind of query: the smallest cosine, so that what is found is close to
  all of them (OpenShape, Fig. 1: shapes "simultaneously closest to both
  inputs").  Of several kinds: the smallest standard score.  The cosine of a
  text with a shape is far below that of two shapes, and varies less: the
  smallest cosine would be the text's always, and the shape without effect.
  Mean and deviation are over 4,096 shapes, evenly spaced in the gallery.

  Args:
    gallery: The gallery.
    query_QD: (Q, D) embeddings of unit length.
    kinds: What each is: "text", "shape", "image".
  """
  count = len(query_QD)
  if len(set(kinds)) < 2:
    return Joint(np.zeros(count), np.ones(count))
  cosine_NQ = _cosine(gallery.sample(_SAMPLE), query_QD)
  deviation = cosine_NQ.std(axis=0)
  # If all shapes are one, no query prefers any.
  scale = np.where(deviation > _ROUNDING, deviation, 1)
  return Joint(cosine_NQ.mean(axis=0), scale)


def nearest(
  gallery: Gallery,
  query_QD: np.ndarray,
  kinds: Sequence[str],
  *,
  top: int,
  threshold: float | None = None,
  index: Index | None = None,
) -> Hits:
  """Finds the shapes nearest to all queries.

  Cosines are computed in float64 from the stored embeddings; of equal scores,
  the earlier row comes first.

  Args:
    gallery: What is searched in.
    query_QD: (Q, D) embeddings of unit length, as wide as the gallery's
      (`queries.check_gallery`).
    kinds: What each is: "text", "shape", "image"; see `joint_of`.
    top: K, how many shapes.
    threshold: The cosine with every query that a shape must have, or None.
    index: Finds the candidates of a single query.  For several, and without
      it, every embedding is compared: what is close to all of them may be
      among the closest to none, nor to their mean.

  Returns:
    K hits, fewer if no more reach the threshold.

  Raises:
    BadInput: naming the gallery's file, if it holds fewer than `top`
      embeddings, or others than of unit length.
  """
  if top > len(gallery):
    raise BadInput(
      f"--top is {top}, but {gallery.path} holds {len(gallery)} embeddings; "
      "ask for no more"
    )
  least = -np.inf if threshold is None else threshold
  joint = joint_of(gallery, query_QD, kinds)
  if index is None or len(query_QD) > 1:
    rows, compared = _scan(gallery, query_QD, joint, top, least), len(gallery)
  else:
    rows = index.candidates(query_QD[0], max(_CANDIDATES, _PER_HIT * top))
    compared = len(rows)
  cosine_CQ = np.concatenate(
    [
      _cosine(gallery.rows(rows[i : i + _CHUNK]), query_QD)
      for i in range(0, max(len(rows), 1), _CHUNK)
    ]
  )
  passed = cosine_CQ.min(axis=1) >= least
  rows, cosine_CQ = rows[passed], cosine_CQ[passed]
  score_C = joint.score(cosine_CQ)
  best = np.lexsort((rows, -score_C))[:top]
  return Hits(rows[best], score_C[best], cosine_CQ[best], compared)


def _scan(
  gallery: Gallery, query_QD: np.ndarray, joint: Joint, top: int, least: float
) -> np.ndarray:
  """Finds all rows that may be among the best, by products in float32.

  How a product is rounded depends on the rows beside it, so equal embeddings
  may differ: kept is what comes within the rounding of the `top`-th best.
  """
  slack = _ROUNDING / joint.scale.min()
  rows, scores = np.zeros(0, np.int64), np.zeros(0)
  for first, block_nD in gallery.blocks():
    cosine_nQ = block_nD @ query_QD.T.astype(np.float32)
    may_pass = np.flatnonzero(cosine_nQ.min(axis=1) >= least - _ROUNDING)
    rows = np.concatenate([rows, first + may_pass])
    scores = np.concatenate([scores, joint.score(cosine_nQ[may_pass])])
    if len(scores) > top:
      kept = scores >= np.partition(scores, -top)[-top] - 2 * slack
      rows, scores = rows[kept], scores[kept]
  return rows


def _cosine(x_ND: np.ndarray, query_QD: np.ndarray) -> np.ndarray:
  """Computes (N, Q) float64 cosines, equal for equal rows anywhere."""
  return np.stack(
    [(x_ND * query_D).sum(axis=1) for query_D in query_QD.astype(np.float64)],
    axis=1,
  )
