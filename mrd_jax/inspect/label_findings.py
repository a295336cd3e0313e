"""What is wrong with labels, class names and their features, in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mrd_jax.inspect.duplicates import is_training
from mrd_jax.inspect.findings import Finding, shapes_finding
from mrd_jax.inspect.scan import Scan


def label_findings(
  split: str,
  scan: Scan,
  summary: Mapping[str, Any],
  class_problems: Sequence[tuple[int, str]],
) -> Iterator[Finding]:
  """Yields what is wrong with the labels and classes of one split.

  Args:
    split: Its name.
    scan: What was read.
    summary: What `summary.summarize` made of it.
    class_problems: What `check_classes` found.
  """
  counts, census = summary["classes"], scan.census
  label = census.label
  if not counts:
    labelled = np.flatnonzero(label != -1)
    if len(labelled) and not is_training(split):
      yield shapes_finding(
        "labels without class names",
        split,
        scan,
        labelled,
        len(census.row),
        "a label, but the split has no class names",
        "prepare it with its class names, or the labels are of no use",
      )
    return
  for affected, problem in class_problems:
    yield Finding(
      "class features",
      split,
      affected,
      counts["named"],
      f"{split}: {problem}; make the features of all class names with "
      "the teacher of the shapes and prepare the dataset again",
    )
  bad = np.flatnonzero((label < -1) | (label >= counts["named"]))
  if len(bad):
    yield shapes_finding(
      "labels out of range",
      split,
      scan,
      bad,
      len(census.row),
      f"a label that is none of the {counts['named']} classes",
      "correct the labels, or give them -1",
    )
  if counts["most"] == 0:
    yield Finding(
      "no labels",
      split,
      len(label),
      len(label),
      f"{split}: it has {counts['named']} class names and not one labelled "
      "shape among those looked at; label them, or prepare the split without "
      "class names",
    )


def check_classes(
  names: Sequence[str], class_CD: np.ndarray, embed_dim: int
) -> Iterator[tuple[int, str]]:
  """Yields what is wrong with class features: how many, and what in words."""
  if class_CD.shape != (len(names), embed_dim):
    yield (
      len(names),
      f"{len(names)} class names have features of shape {class_CD.shape}, must "
      f"be {(len(names), embed_dim)}",
    )
    return
  usable_CD = np.nan_to_num(class_CD, nan=0, posinf=0, neginf=0)
  empty_C = (usable_CD != class_CD).any(axis=1) | ~class_CD.any(axis=1)
  if empty_C.any():
    yield (
      int(empty_C.sum()),
      f"the features of {_names(names, empty_C)} are zero, NaN or infinite",
    )
  _, first_C, count_C = np.unique(
    class_CD, axis=0, return_inverse=True, return_counts=True
  )
  equal_C = (count_C[first_C] > 1) & ~empty_C
  if equal_C.any():
    yield (
      int(equal_C.sum()),
      f"{_names(names, equal_C)} have the feature of another class, and ties "
      "count as wrong",
    )


def _names(names: Sequence[str], chosen_C: np.ndarray) -> str:
  chosen = [repr(names[i]) for i in np.flatnonzero(chosen_C).tolist()]
  more = f" and {len(chosen) - 5} more" if len(chosen) > 5 else ""
  return ", ".join(chosen[:5]) + more
