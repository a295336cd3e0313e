"""Retrieves between shapes, their texts and their images."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.metrics.embeddings import check_finite, distinct_rows, map_rows

KS = (1, 3, 5)


def retrieval(
  point_ND: np.ndarray,
  text_ND: np.ndarray,
  has_text_N: np.ndarray,
  *,
  image_ND: np.ndarray | None = None,
  has_image_N: np.ndarray | None = None,
  label_N: np.ndarray | None = None,
) -> dict[str, float]:
  """Computes recall at 1, 3, 5: text to shape, shape to text, image to shape.

  An instance is found if the query's own item is among the first k, a
  category if any item with the query's label is.  Only shapes with a text (an
  image) take part, as query and as gallery.  Items of equal score stand in
  random order (texts repeat: "chair"), and the recall is the expected one; a
  gallery of k items or fewer is found whole.

  The scores are computed in float32 on the local devices, 256 queries each at
  a time, so that 50,000 shapes need no more than 0.3 GB a device for them.

  Args:
    point_ND: (N, D) unit embeddings of the shapes.
    text_ND: (N, D) unit features of their texts.
    has_text_N: (N,) bool.
    image_ND: (N, D) unit features of their images, for "image_to_shape".
    has_image_N: (N,) bool, given with `image_ND`.
    label_N: (N,) category indices, for the category figures.  Without a label
      (-1) a shape is no query of theirs, and in their gallery a wrong item.

  Returns:
    "text_to_shape_r1" ... (instances) and "text_to_shape_category_r1" ...,
    the same for "shape_to_text" and "image_to_shape"; shares in [0, 1].
    Directions and categories without a query are absent.

  Raises:
    BadInput: if there is no query at all, or an embedding that takes part is
      not finite.
  """
  count = len(point_ND)
  chex.assert_equal_shape([point_ND, text_ND])
  chex.assert_shape(has_text_N, (count,))
  directions = [
    ("text_to_shape", text_ND, point_ND, has_text_N),
    ("shape_to_text", point_ND, text_ND, has_text_N),
  ]
  if (image_ND is None) != (has_image_N is None):
    raise ValueError("image_ND and has_image_N are given together")
  if image_ND is not None and has_image_N is not None:
    chex.assert_equal_shape([point_ND, image_ND])
    chex.assert_shape(has_image_N, (count,))
    directions += [("image_to_shape", image_ND, point_ND, has_image_N)]
  # An instance is a category of its own.
  labels = {"": np.arange(count)}
  if label_N is not None:
    chex.assert_shape(label_N, (count,))
    labels["_category"] = label_N
  label_NL = np.stack(list(labels.values()), axis=1).astype(np.int32)
  result = {}
  for name, query_ND, gallery_ND, has_N in directions:
    if not has_N.any():
      continue
    source, target = name.split("_to_")
    check_finite(f"the embedding of {source}", query_ND, has_N)
    check_finite(f"the embedding of {target}", gallery_ND, has_N)
    kept_NL = label_NL[has_N]
    gallery_UD, row_N = distinct_rows(gallery_ND[has_N].astype(np.float32))
    standing_QL3 = map_rows(
      _standings,
      (query_ND[has_N].astype(np.float32), kept_NL),
      (gallery_UD, row_N, kept_NL),
    )
    for i, kind in enumerate(labels):
      is_query_Q = label_NL[has_N, i] >= 0
      if is_query_Q.any():
        for k in KS:
          recall_Q = _expected_recall(standing_QL3[is_query_Q, i], k)
          result[f"{name}{kind}_r{k}"] = float(recall_Q.mean())
  if not result:
    raise BadInput("no shape has a text or an image to retrieve by")
  return result


def _standings(rows, whole) -> jax.Array:
  """Finds where the best item of a query's own label stands, of L labellings.

  Args:
    rows: (Q, D) queries, a tile of them, and their (Q, L) labels.
    whole: The gallery: (U, D) distinct embeddings, the (N,) rows of them that
      its items have, and their (N, L) labels.

  Returns:
    (Q, L, 3) int32: items that score above it, items that score the same
    (itself included), and those of the latter that have the query's label.
  """
  query_QD, query_label_QL = rows
  gallery_UD, row_N, label_NL = whole
  scores_UQ = jnp.matmul(
    gallery_UD, query_QD.T, precision=jax.lax.Precision.HIGHEST
  )
  scores_NQ = scores_UQ[row_N]
  standings = []
  for i in range(label_NL.shape[1]):
    relevant_NQ = label_NL[:, i, None] == query_label_QL[None, :, i]
    best_Q = jnp.where(relevant_NQ, scores_NQ, -jnp.inf).max(axis=0)
    equal_NQ = scores_NQ == best_Q
    counted = (scores_NQ > best_Q, equal_NQ, equal_NQ & relevant_NQ)
    standings.append(
      jnp.stack([x.sum(axis=0, dtype=jnp.int32) for x in counted], axis=-1)
    )
  return jnp.stack(standings, axis=1)


def _expected_recall(standing_Q3: np.ndarray, k: int) -> np.ndarray:
  """Computes the chance that a relevant item is among the first k: (Q,).

  Of e items of equal score, r of them relevant, the first k hold d, drawn one
  after the other: 1 - C(e - r, d) / C(e, d), as the sum over draws of the
  chance that this one is the first that is relevant.
  """
  above_Q, equal_Q, relevant_Q = standing_Q3.astype(np.float64).T
  found_Q, missed_Q = np.zeros_like(above_Q), np.ones_like(above_Q)
  for i in range(k):
    left_Q = np.maximum(equal_Q - i, 1)
    drawn_Q = above_Q + i < k
    found_Q += np.where(drawn_Q, missed_Q * relevant_Q / left_Q, 0)
    # Zero once the irrelevant ones are used up, before the equal ones are.
    missed_Q *= np.maximum(left_Q - relevant_Q, 0) / left_Q
  return found_Q
