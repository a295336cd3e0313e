"""Classifies shapes by the class whose text is nearest, without training."""

from typing import NamedTuple

import chex
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.metrics.embeddings import check_finite, distinct_rows

CHUNK = 1024  # shapes scored at a time: 9 MB against 1,156 classes
KS = (1, 3, 5)


class ClassScores(NamedTuple):
  """How the shapes of one class fared.

  Attributes:
    label: Index of the class.
    count: Its shapes.
    top1: Share of them whose class came first, in [0, 1].
    top3: Or among the first three.
    top5: Or among the first five.
    confused_with: The wrong class that was predicted most often (the lowest
      index of several); None if every shape was right.
  """

  label: int
  count: int
  top1: float
  top3: float
  top5: float
  confused_with: int | None


def zero_shot(
  point_ND: np.ndarray, label_N: np.ndarray, class_CD: np.ndarray
) -> dict[str, float]:
  """Computes accuracy over instances and over classes, at top 1, 3 and 5.

  A class that ties with the right one is ahead of it: a constant embedding
  must score at chance, not at one.  With k classes or fewer, top k is 1.

  Args:
    point_ND: (N, D) unit embeddings of the shapes.
    label_N: (N,) class indices; shapes with -1 are left out.
    class_CD: (C, D) unit features of the classes' texts.

  Returns:
    Shares in [0, 1]: "top1", "top3", "top5" of all shapes; "class_mean"
    (top 1), "class_mean_top3", "class_mean_top5", the means over the classes
    that occur in `label_N`.

  Raises:
    BadInput: if no shape has a label, one has that of no class, or an
      embedding or a class feature is not finite.
  """
  label_N, ahead_N, _ = _classify(point_ND, label_N, class_CD)
  result = {f"top{k}": float((ahead_N < k).mean()) for k in KS}
  for k in KS:
    name = "class_mean" if k == 1 else f"class_mean_top{k}"
    result[name] = class_mean(label_N, ahead_N < k)
  return result


def class_mean(label_N: np.ndarray, hit_N: np.ndarray) -> float:
  """Computes the mean over the classes that occur of their shares of hits."""
  _, class_N, count_L = np.unique(
    label_N, return_inverse=True, return_counts=True
  )
  return float((np.bincount(class_N, hit_N) / count_L).mean())


def confusion(
  point_ND: np.ndarray, label_N: np.ndarray, class_CD: np.ndarray
) -> tuple[np.ndarray, list[ClassScores]]:
  """Counts which class is taken for which.

  Predicted is the class that scores highest; of several, one that is wrong
  (the lowest index).  So the diagonal counts the hits of `zero_shot`'s top 1.

  Args:
    point_ND: (N, D) unit embeddings of the shapes.
    label_N: (N,) class indices; shapes with -1 are left out.
    class_CD: (C, D) unit features of the classes' texts.

  Returns:
    The confusion matrix, (C, C) int64 counts, rows true and columns
    predicted; and the scores of each class that occurs, by index.

  Raises:
    BadInput: as `zero_shot`.
  """
  label_N, ahead_N, predicted_N = _classify(point_ND, label_N, class_CD)
  classes = len(class_CD)
  matrix_CC = np.bincount(
    label_N * classes + predicted_N, minlength=classes**2
  ).reshape(classes, classes)
  rows = []
  for label in np.unique(label_N).tolist():
    ahead = ahead_N[label_N == label]
    wrong_C = matrix_CC[label].copy()
    wrong_C[label] = 0
    rows.append(
      ClassScores(
        label,
        len(ahead),
        *(float((ahead < k).mean()) for k in KS),
        confused_with=int(wrong_C.argmax()) if wrong_C.any() else None,
      )
    )
  return matrix_CC, rows


def _classify(
  point_ND: np.ndarray, label_N: np.ndarray, class_CD: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Finds labels, how many classes are ahead of them, and predicted classes."""
  chex.assert_shape(label_N, (len(point_ND),))
  chex.assert_shape(class_CD, (None, point_ND.shape[1]))
  labelled_N = label_N >= 0
  if not labelled_N.any():
    raise BadInput("no shape has a label to be classified by")
  if label_N.max() >= len(class_CD):
    raise BadInput(
      f"a shape has label {label_N.max()}, but there are features of "
      f"{len(class_CD)} classes; give one for every label, or mark the shape -1"
    )
  check_finite("the embedding of shape", point_ND, labelled_N)
  check_finite(
    "the text feature of class", class_CD, np.ones(len(class_CD), bool)
  )
  # In float64, where the size of a chunk does not decide who is ahead.
  class_UD, index_C = distinct_rows(class_CD.astype(np.float64))
  kept = np.flatnonzero(labelled_N)
  label_N = label_N[kept].astype(np.int64)
  ahead_N, predicted_N = np.empty_like(label_N), np.empty_like(label_N)
  for start in range(0, len(kept), CHUNK):
    chunk = slice(start, start + CHUNK)
    own_Q1 = label_N[chunk, None]
    scores_QU = point_ND[kept[chunk]].astype(np.float64) @ class_UD.T
    scores_QC = scores_QU[:, index_C]
    own_score_Q1 = np.take_along_axis(scores_QC, own_Q1, axis=1)
    ahead_N[chunk] = (scores_QC >= own_score_Q1).sum(axis=1) - 1
    np.put_along_axis(scores_QC, own_Q1, -np.inf, axis=1)
    predicted_N[chunk] = scores_QC.argmax(axis=1)
  return label_N, ahead_N, np.where(ahead_N == 0, label_N, predicted_N)
