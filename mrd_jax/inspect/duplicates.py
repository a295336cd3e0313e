"""Shapes that are there twice: within a split, and on both sides of a test.

Two records are the same shape if they have the same id, or the same stored
points in any order (`scan.hash_cloud`).  Another sample of the same mesh, or
a turned cloud, is not found.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mrd_jax.inspect.scan import Scan


class Repeats(NamedTuple):
  """Records of one split that another record repeats.

  Attributes:
    at: Where in the split's census.
    ids: How many of them share an id.
    clouds: How many of them share their points.
    total: How many there are in the whole split, estimated where not all
      records were counted.
  """

  at: np.ndarray
  ids: int
  clouds: int
  total: int


def is_training(split: str) -> bool:
  """Whether a split is trained on: those whose names begin with "train"."""
  return split.startswith("train")


def within(scan: Scan) -> Repeats:
  """Records that repeat an earlier one of their split."""
  again_id = _seen_before(scan.census.id)
  again_cloud = _seen_before(scan.census.cloud)
  # Both of a pair have to be counted to be found.
  return _repeats(again_id, again_cloud, _share(scan) ** 2, scan.size)


def across(scans: Mapping[str, Scan]) -> dict[tuple[str, str], Repeats]:
  """Records of evaluation splits that a training split has too.

  Returns:
    For every (training split, evaluation split), also where there are none.
  """
  found = {}
  for train, train_scan in scans.items():
    for held_out, scan in scans.items():
      if not is_training(train) or is_training(held_out):
        continue
      census, other = scan.census, train_scan.census
      found[train, held_out] = _repeats(
        np.isin(census.id, other.id),
        np.isin(census.cloud, other.cloud),
        _share(scan) * _share(train_scan),
        scan.size,
      )
  return found


def _seen_before(hash_N: np.ndarray) -> np.ndarray:
  again_N = np.ones(len(hash_N), bool)
  again_N[np.unique(hash_N, return_index=True)[1]] = False
  return again_N


def _repeats(
  same_id: np.ndarray, same_cloud: np.ndarray, share: float, size: int
) -> Repeats:
  at = np.flatnonzero(same_id | same_cloud)
  return Repeats(
    at,
    int(same_id.sum()),
    int(same_cloud.sum()),
    min(round(len(at) / share), size),
  )


def detectable(one: Scan, other: Scan) -> int:
  """How many shared shapes would show with a chance of 95 %.

  A shared shape shows if both its records were counted; where all were, one
  is enough.
  """
  share = _share(one) * _share(other)
  if share == 1:
    return 1
  return math.ceil(math.log(0.05) / math.log1p(-share))


def _share(scan: Scan) -> float:
  return len(scan.census.row) / scan.size
