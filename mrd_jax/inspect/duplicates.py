"""Finds shapes that are there twice: within a split, or in training and test.

Two records are the same shape if they have the same id, or the same stored
points in any order (`scan.hash_cloud`).  Another sample of the same mesh, or
a turned cloud, is not found.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mrd_jax.inspect.findings import Finding
from mrd_jax.inspect.scan import Scan


class Repeats(NamedTuple):
  """Records of one split that another record repeats.

  Attributes:
    scan: The split.
    other: Its name, or that of the training split which they are in too.
    at: Where they are in the split's census.
    counts: For the report: "shapes", "by_id" and "by_points" (how many share
      an id, or their points), and "estimated_total", how many there are in the
      whole split, where not all records were counted.
    detectable: How many would show with a chance of 95 %.
  """

  scan: Scan
  other: str
  at: np.ndarray
  counts: dict[str, int]
  detectable: int


def find_repeats(
  scans: Sequence[Scan],
) -> tuple[list[Repeats], list[Repeats]]:
  """Finds what repeats an earlier record of its split, and what leaked.

  Returns:
    One for every split, and one for every training split and split that is
    not trained on, also where there are none.
  """
  within, across = [], []
  for scan in scans:
    again = []
    for hash_N in (scan.census.id, scan.census.cloud):
      again_N = np.ones(len(hash_N), bool)
      again_N[np.unique(hash_N, return_index=True)[1]] = False
      again.append(again_N)
    within.append(_repeats(scan, scan, *again))
  for train in scans:
    for scan in scans:
      if train.training and not scan.training:
        same_id = np.isin(scan.census.id, train.census.id)
        same_cloud = np.isin(scan.census.cloud, train.census.cloud)
        across.append(_repeats(scan, train, same_id, same_cloud))
  return within, across


def _repeats(
  scan: Scan, other: Scan, same_id: np.ndarray, same_cloud: np.ndarray
) -> Repeats:
  # A shape of which there are two shows if both its records were counted.
  share = scan.share * other.share
  at = np.flatnonzero(same_id | same_cloud)
  counts = {
    "shapes": len(at),
    "by_id": int(same_id.sum()),
    "by_points": int(same_cloud.sum()),
    "estimated_total": min(round(len(at) / share), len(scan.source)),
  }
  detectable = 1
  if share < 1:
    detectable = math.ceil(math.log(0.05) / math.log1p(-share))
  return Repeats(scan, other.name, at, counts, detectable)


def duplicate_findings(repeats: Iterable[Repeats]) -> Iterator[Finding]:
  """Yields the shapes that are there twice."""
  for scan, other, at, counts, _ in repeats:
    if not len(at):
      continue
    code, what = "duplicates", "repeat an earlier shape of the split"
    remedy = (
      "count more in training and stand in their own way in retrieval, so "
      "remove them"
    )
    if other != scan.name:
      code, what = "in training and evaluation", f"are in {other} too"
      remedy = (
        "their scores say nothing about unseen shapes, so remove them from one "
        "of the two"
      )
    of, total = len(scan.census), counts["estimated_total"]
    estimate = ""
    if total != len(at):
      estimate = f" (about {total:,} of all {len(scan.source):,})"
    yield Finding(
      code,
      scan.name,
      len(at),
      of,
      f"{scan.name}: {len(at):,} of {of:,} shapes {what}{estimate}, "
      f"{counts['by_id']:,} by id and {counts['by_points']:,} by points "
      f"({scan.ids(at)}); {remedy}",
    )
