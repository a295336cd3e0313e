"""Retrieval between shapes and their texts."""

import numpy as np

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
  """
  point, text = point_ND[has_text_N], text_ND[has_text_N]
  result = {}
  for name, query, gallery in (
    ("text_to_shape", text, point),
    ("shape_to_text", point, text),
  ):
    ahead_N = np.concatenate(
      [
        _ahead(query[i : i + CHUNK], gallery, first=i)
        for i in range(0, len(query), CHUNK)
      ]
    )
    for k in (1, 3, 5):
      result[f"{name}_r{k}"] = float((ahead_N < k).mean())
  return result


def _ahead(query_QD: np.ndarray, gallery_ND: np.ndarray, first: int):
  """How many gallery items score above each query's own; ties count half.

  Texts repeat ("chair"): items with an equal score come in random order, so
  half of them are ahead on average.
  """
  scores_QN = query_QD @ gallery_ND.T
  rows = np.arange(len(query_QD))
  own_Q1 = scores_QN[rows, first + rows][:, None]
  above = (scores_QN > own_Q1).sum(axis=1)
  equal = (scores_QN == own_Q1).sum(axis=1) - 1
  return above + equal / 2
