"""Zero-shot classification: the class whose text is nearest."""

import numpy as np

from mrd_jax.errors import BadInput


def zero_shot(
  point_ND: np.ndarray, label_N: np.ndarray, class_CD: np.ndarray
) -> dict[str, float]:
  """Accuracy over instances (top 1, 3, 5) and averaged over classes.

  Args:
    point_ND: (N, D) unit embeddings of the shapes.
    label_N: (N,) class indices; shapes with -1 are left out.
    class_CD: (C, D) unit features of the classes' texts.

  Returns:
    "top1", "top3", "top5", "class_mean" (top 1), shares in [0, 1].

  Raises:
    BadInput: if no shape has a label.
  """
  labelled_N = label_N >= 0
  if not labelled_N.any():
    raise BadInput("no shape has a label to be classified by")
  point_ND, label_N = point_ND[labelled_N], label_N[labelled_N]
  scores_NC = point_ND @ class_CD.T
  own_N1 = np.take_along_axis(scores_NC, label_N[:, None], axis=1)
  # A class that ties with the right one counts against it: a constant
  # embedding must score at chance, not at one.
  ahead_N = (scores_NC >= own_N1).sum(axis=1) - 1
  result = {f"top{k}": float((ahead_N < k).mean()) for k in (1, 3, 5)}
  per_class = [(ahead_N[label_N == c] < 1).mean() for c in np.unique(label_N)]
  return result | {"class_mean": float(np.mean(per_class))}
