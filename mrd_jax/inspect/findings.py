"""What in a dataset would hurt training or falsify an evaluation, in words."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mrd_jax.inspect.duplicates import Repeats, is_training
from mrd_jax.inspect.scan import Scan
from mrd_jax.inspect.up_axis import UpAxis

# Single odd shapes are in every collection; more than these are a defect.
ODD_SHAPES = 0.005  # share of the shapes

# Beyond it a float32 coordinate is coarser than the int16 that stores it:
# 2**-23 * offset > 1 / 32767.
OFFSET = 256.0
CORE = 0.5  # the bounding box is twice that of 99 % of the points
DISTINCT = 384  # points: the encoder of sizes S to L starts groups at so many
WITHOUT_TEXT = 0.5  # share of a training split
WITHOUT_EVALUATION_TEXT = 0.05  # share of an evaluation split

# For every axis but y, the rotation that makes it y.
_TURNS = {
  "x": "(-y, x, z)",
  "-x": "(y, -x, z)",
  "-y": "(x, -y, -z)",
  "z": "(x, z, -y)",
  "-z": "(x, -z, y)",
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing to know.

  Attributes:
    code: What it is, for programs; the keys of the table in docs/data.md.
    split: Where.
    affected: How many shapes, features or classes.
    looked_at: Of how many.
    text: A sentence with the remedy.
  """

  code: str
  split: str
  affected: int
  looked_at: int
  text: str


def split_findings(
  split: str,
  scan: Scan,
  summary: Mapping[str, Any],
  up: Mapping[str, UpAxis],
) -> Iterator[Finding]:
  """Yields what is wrong with the clouds of one split, or missing.

  Args:
    split: Its name.
    scan: What was read.
    summary: What `summary.summarize` made of it.
    up: What `summary.up_axes` found.
  """
  yield from _clouds(split, scan)
  yield from _posture(split, up)
  yield from _modalities(split, scan, summary)


def split_notes(
  split: str, scan: Scan, summary: Mapping[str, Any]
) -> Iterator[Finding]:
  """Yields what is unusual in one split, and may be meant so."""
  if is_training(split) or not summary["classes"]:
    return
  if WITHOUT_EVALUATION_TEXT < summary["without_text"] < 1:
    yield _missing_texts(split, scan)


def _clouds(split: str, scan: Scan) -> Iterator[Finding]:
  sample = scan.sample
  for code, odd, what, remedy in (
    (
      "far from the origin",
      sample.offset > OFFSET,
      f"a centre more than {OFFSET:.0f} times their size from the origin, "
      "where float32 has lost their detail",
      "centre the clouds before they are stored as float32, then prepare them "
      "again",
    ),
    (
      "outlying points",
      sample.core < CORE,
      "stray points: 99 % of the points fill less than half of the extent, so "
      "that normalising makes the shape itself small",
      "remove the outliers (or the far parts of the mesh) and prepare them "
      "again",
    ),
    (
      "few distinct points",
      sample.distinct < DISTINCT,
      f"fewer than {DISTINCT} different points, the encoder's groups (sizes S "
      "to L)",
      "sample more points of the surface, at full precision, and prepare them "
      "again",
    ),
    (
      "black",
      sample.black,
      "black points only",
      "colours from 0 to 1 have probably been divided by 255; store them on "
      "the scale 0 to 1, or leave them out where there are none (0.4 grey)",
    ),
  ):
    if odd.mean() > ODD_SHAPES:
      yield shapes_finding(
        code, split, scan, sample.at[odd], len(odd), what, remedy
      )


def _posture(split: str, up: Mapping[str, UpAxis]) -> Iterator[Finding]:
  for collection, found in up.items():
    if not found.confident or str(found) == "y":
      continue
    yield Finding(
      "up axis",
      split,
      found.shapes,
      found.shapes,
      f"{split}: {collection or 'a collection without a name'} seems to "
      f"have {found} up (by the posture of {found.shapes:,} shapes, "
      f"{found.confidence:.0%} sure if it is a mixture of everyday things), "
      "records are y up; draw it (--output), and if it is so, prepare it again "
      f"with (x, y, z) turned to {_TURNS[str(found)]}",
    )


def _modalities(
  split: str, scan: Scan, summary: Mapping[str, Any]
) -> Iterator[Finding]:
  census = scan.census
  textless = np.flatnonzero(census.texts == 0)
  imageless = np.flatnonzero(census.images == 0)
  share = summary["without_text"]
  if is_training(split):
    if len(imageless):
      yield shapes_finding(
        "no image",
        split,
        scan,
        imageless,
        len(census.row),
        "no image feature, and would be trained towards zero",
        "make image features for them, or leave them out of training",
      )
    if share > WITHOUT_TEXT:
      yield shapes_finding(
        "mostly no text",
        split,
        scan,
        textless,
        len(census.row),
        "no text, and are left out of every text term",
        "add names or captions",
      )
  elif share == 1 and not summary["classes"]:
    yield shapes_finding(
      "missing evaluation texts",
      split,
      scan,
      textless,
      len(census.row),
      "no text, and the split has no class names, so it cannot be scored",
      "add texts, or labels and class names",
    )
  elif share > WITHOUT_EVALUATION_TEXT and not summary["classes"]:
    yield _missing_texts(split, scan)


def _missing_texts(split: str, scan: Scan) -> Finding:
  return shapes_finding(
    "missing evaluation texts",
    split,
    scan,
    np.flatnonzero(scan.census.texts == 0),
    len(scan.census.row),
    "no text, and are left out of retrieval",
    "add texts if the split is to be scored by it",
  )


def duplicate_findings(
  scans: Mapping[str, Scan],
  within: Mapping[str, Repeats],
  across: Mapping[tuple[str, str], Repeats],
) -> Iterator[Finding]:
  """Yields the shapes that are there twice; see `duplicates.py`."""
  for split, found in within.items():
    if len(found.at):
      yield _repeated(
        "duplicates",
        split,
        scans[split],
        found,
        "repeat an earlier shape of the split",
        "count more in training and stand in their own way in retrieval, so "
        "remove them",
      )
  for (train, split), found in across.items():
    if len(found.at):
      yield _repeated(
        "in training and evaluation",
        split,
        scans[split],
        found,
        f"are in {train} too",
        "their scores say nothing about unseen shapes, so remove them from "
        "one of the two",
      )


def _repeated(
  code: str, split: str, scan: Scan, found: Repeats, what: str, remedy: str
) -> Finding:
  counted = len(scan.census.row)
  estimate = ""
  if found.total != len(found.at):
    estimate = f" (about {found.total:,} of all {scan.size:,})"
  return Finding(
    code,
    split,
    len(found.at),
    counted,
    f"{split}: {len(found.at):,} of {counted:,} shapes {what}{estimate}, "
    f"{found.ids:,} by id and {found.clouds:,} by points "
    f"({examples(scan, found.at)}); {remedy}",
  )


def shapes_finding(
  code: str,
  split: str,
  scan: Scan,
  at: np.ndarray,
  looked_at: int,
  what: str,
  remedy: str,
) -> Finding:
  """A finding of the form "N of M shapes have WHAT (IDS); REMEDY".

  Args:
    code: As in `Finding`.
    split: As in `Finding`.
    scan: Of the split.
    at: The shapes, as entries of the census.
    looked_at: Out of how many.
    what: What they have.
    remedy: What to do.
  """
  return Finding(
    code,
    split,
    len(at),
    looked_at,
    f"{split}: {len(at):,} of {looked_at:,} shapes have {what} "
    f"({examples(scan, at)}); {remedy}",
  )


def examples(scan: Scan, at: np.ndarray) -> str:
  """The first few ids of the census entries `at`."""
  ids = scan.ids(at)
  return ", ".join(ids) + (", ..." if len(at) > len(ids) else "")
