"""Retrieval between shapes and their texts."""

import numpy as np

from mrd_jax.errors import BadInput

CHUNK = 1024  # queries scored at a time


def retrieval(
  point_ND: np.ndarray, text_ND: np.ndarray, has_text_N: np.ndarray
) -> dict[str, float]:
  """Instance recall at 1, 3, 5 in both directions.

  Only shapes with a text take part, as query and as gallery.

  Args:
    point_ND: (N, D) unit embeddings of the shapes.
    text_ND: (N, D) unit features of their texts.
    has_text_N: (N,) bool.

  Returns:
    "text_to_shape_r1" ..., "shape_to_text_r1" ..., shares in [0, 1].

  Raises:
    BadInput: if no shape has a text.
  """
  if not has_text_N.any():
    raise BadInput("no shape has a text to retrieve by")
  point, text = point_ND[has_text_N], text_ND[has_text_N]
  result = {}
  for name, query, gallery in (
    ("text_to_shape", text, point),
    ("shape_to_text", point, text),
  ):
    chunks = [
      _ahead(query[i : i + CHUNK], gallery, first=i)
      for i in range(0, len(query), CHUNK)
    ]
    above_N, equal_N = (
      np.concatenate(counts) for counts in zip(*chunks, strict=True)
    )
    for k in (1, 3, 5):
      # Texts repeat ("chair"), so scores tie: the query's own item is
      # anywhere among its equals, and this is the chance that it is within k.
      recall_N = np.clip((k - above_N) / equal_N, 0, 1)
      result[f"{name}_r{k}"] = float(recall_N.mean())
  return result


def _ahead(
  query_QD: np.ndarray, gallery_ND: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray]:
  """How many items score above each query's own, and how many equal it.

  The query's own item, `first` + its row, is among its equals.
  """
  scores_QN = query_QD @ gallery_ND.T
  rows = np.arange(len(query_QD))
  own_Q1 = scores_QN[rows, first + rows][:, None]
  return (scores_QN > own_Q1).sum(axis=1), (scores_QN == own_Q1).sum(axis=1)
