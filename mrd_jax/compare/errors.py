"""Measures how far two results are apart, and judges it by a tolerance."""

import math
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
  """One line of the comparison: ours against PyTorch's.

  Attributes:
    part: What was run, as "eval float32".
    stage: What is compared.
    max_abs: Largest absolute difference; of indices, how many differ.
    relative: `max_abs` over the largest absolute value on PyTorch's side,
      infinite where that is 0; of loss terms, over the total loss; of
      indices, the share that differs.
    cosine: Of both sides as vectors; of embeddings, the lowest of any cloud.
    tolerance: Largest `relative` that passes; None where nothing is demanded.
    torch_relative: Of bfloat16, which is held against PyTorch's float32:
      `relative` of PyTorch's own bfloat16.
  """

  part: str
  stage: str
  max_abs: float
  relative: float
  cosine: float
  tolerance: float | None
  torch_relative: float | None = None

  @property
  def passed(self) -> bool:
    return self.tolerance is None or self.relative <= self.tolerance


def of_values(
  part: str,
  stage: str,
  ours: Any,
  theirs: Any,
  tolerance: float | None,
  *,
  scale: float | None = None,
) -> Row:
  """Compares arrays, or trees of arrays with the same structure.

  Args:
    part: See `Row`.
    stage: See `Row`.
    ours: Array or tree.
    theirs: Array or tree.
    tolerance: See `Row`.
    scale: What the difference is relative to, if not to `theirs`.
  """
  a, b = _flat(ours), _flat(theirs)
  max_abs = float(np.abs(a - b).max(initial=0))
  scale = float(np.abs(b).max(initial=0)) if scale is None else scale
  relative = 0.0
  if max_abs:
    relative = max_abs / scale if scale else math.inf
  return Row(part, stage, max_abs, relative, _cosine(a, b), tolerance)


def of_embeddings(
  part: str, stage: str, ours: Any, theirs: Any, tolerance: float | None
) -> Row:
  """Measures (B, D) likewise, with the lowest cosine of the B pairs."""
  row = of_values(part, stage, ours, theirs, tolerance)
  pairs = zip(ours, theirs, strict=True)
  return row._replace(cosine=min(_cosine(_flat(a), _flat(b)) for a, b in pairs))


def of_indices(
  part: str, stage: str, ours: Any, theirs: Any, tolerance: float | None
) -> Row:
  """Compares integers: they are equal or they are not."""
  different = np.asarray(ours) != np.asarray(theirs)
  share = float(different.mean())
  return Row(part, stage, float(different.sum()), share, 1 - share, tolerance)


def _flat(tree: Any) -> np.ndarray:
  """Every number of a tree in one float64 vector, leaves in sorted order."""
  if isinstance(tree, dict):
    return np.concatenate(
      [np.zeros(0), *(_flat(tree[k]) for k in sorted(tree))]
    )
  return np.asarray(tree, np.float64).ravel()


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
  norms = float(np.linalg.norm(a) * np.linalg.norm(b))
  return float(a @ b) / norms if norms else float((a == b).all())
