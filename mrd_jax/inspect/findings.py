"""Finds what would hurt training or falsify an evaluation, and says it.

`WARNINGS` and `NOTES` are the findings about the clouds, texts and labels of a
split, in the order in which they are told: each is a function of the split.
Those about features are in `feature_findings.py`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mrd_jax.data.records import DatasetMeta
from mrd_jax.inspect.scan import Scan
from mrd_jax.inspect.up_axis import CONFIDENT
from mrd_jax.metrics.embeddings import distinct_rows

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


class Split(NamedTuple):
  """What is known of a split.

  Attributes:
    scan: What was read.
    summary: What `summary.summarize` made of it.
    meta: Of the dataset.
    class_CD: Features of its class names; None where there are none.
  """

  scan: Scan
  summary: Mapping[str, Any]
  meta: DatasetMeta
  class_CD: np.ndarray | None

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(self.meta.class_names.get(self.scan.name, ()))

  def finding(
    self, code: str, affected: int, looked_at: int, what: str, remedy: str
  ) -> Finding:
    """Makes a finding that says "SPLIT: WHAT; REMEDY"."""
    text = f"{self.scan.name}: {what}; {remedy}"
    return Finding(code, self.scan.name, affected, looked_at, text)

  def shapes_have(
    self, code: str, at: np.ndarray, looked_at: int, what: str, remedy: str
  ) -> Finding:
    """Makes a finding that says "N of M shapes have WHAT (IDS)".

    Args:
      code: As in `Finding`.
      at: The shapes, as entries of the census.
      looked_at: Out of how many.
      what: What they have.
      remedy: What to do.
    """
    counts = f"{len(at):,} of {looked_at:,}"
    what = f"{counts} shapes have {what} ({self.scan.ids(at)})"
    return self.finding(code, len(at), looked_at, what, remedy)

  def features_are(
    self, code: str, features: Any, odd_F: np.ndarray, what: str, remedy: str
  ) -> Finding:
    """Makes a finding that says "N of M WHAT (IDS)" of features.

    Args:
      code: As in `Finding`.
      features: Those looked at, F of them.
      odd_F: (F,) bool, those affected.
      what: What and how they are.
      remedy: What to do.
    """
    count, of = int(odd_F.sum()), len(odd_F)
    at = self.scan.sample.at[np.unique(features.owner[odd_F])]
    what = f"{count:,} of {of:,} {what} ({self.scan.ids(at)})"
    return self.finding(code, count, of, what, remedy)


Check = Callable[[Split], Iterable[Finding]]


def measured(
  code: str, odd: Callable[[Any], np.ndarray], what: str, remedy: str
) -> Check:
  """Makes the check for odd shapes among those that were measured.

  Args:
    code: As in `Finding`.
    odd: Says of a sample which shapes are odd.
    what: What they have.
    remedy: What to do.
  """

  def check(split: Split) -> Iterator[Finding]:
    sample = split.scan.sample
    odd_S = odd(sample)
    if odd_S.mean() > ODD_SHAPES:
      at = sample.at[odd_S]
      yield split.shapes_have(code, at, len(odd_S), what, remedy)

  return check


def counted(
  code: str,
  odd: Callable[[Any], np.ndarray],
  what: str,
  remedy: str,
  *,
  above: float,
  where: Callable[[Split], bool],
) -> Check:
  """Makes the check for odd shapes among those that were counted.

  Args:
    code: As in `Finding`.
    odd: Says of a census which shapes are odd.
    what: What they have.
    remedy: What to do.
    above: Which share of odd shapes is no defect.
    where: Which splits it is for.
  """

  def check(split: Split) -> Iterator[Finding]:
    odd_R = odd(split.scan.census)
    if odd_R.mean() > above and where(split):
      at = np.flatnonzero(odd_R)
      yield split.shapes_have(code, at, len(odd_R), what, remedy)

  return check


def up_axis(split: Split) -> Iterator[Finding]:
  """Finds collections that do not seem to stand with y up."""
  for collection, up in split.summary["up_axis"].items():
    if up["confidence"] >= CONFIDENT and up["axis"] != "y":
      yield split.finding(
        "up axis",
        up["shapes"],
        up["shapes"],
        f"{collection or 'a collection without a name'} seems to have "
        f"{up['axis']} up (by the posture of {up['shapes']:,} shapes, "
        f"{up['confidence']:.0%} sure if it is a mixture of everyday things), "
        "records are y up",
        "draw it (--output), and if it is so, prepare it again with (x, y, z) "
        f"turned to {_TURNS[up['axis']]}",
      )


def class_features(split: Split) -> Iterator[Finding]:
  """Finds features of class names that cannot be scored against."""
  names, class_CD = split.class_names, split.class_CD
  shape = (len(names), split.meta.embed_dim)
  problems: dict[str, int] = {}  # what is wrong -> of how many classes
  if not names:
    return
  if class_CD is None:
    problems[f"its {len(names)} class names have no features"] = len(names)
  elif class_CD.shape != shape:
    text = f"{len(names)} class names have features of shape {class_CD.shape}, "
    problems[f"{text}must be {shape}"] = len(names)
  else:
    empty_C = ~np.isfinite(class_CD).all(axis=1) | ~class_CD.any(axis=1)
    _, index_C = distinct_rows(class_CD)
    equal_C = (np.bincount(index_C)[index_C] > 1) & ~empty_C
    empty = "the features of {} are zero, NaN or infinite"
    equal = "{} have the feature of another class, and ties count as wrong"
    for odd_C, text in ((empty_C, empty), (equal_C, equal)):
      odd = [repr(names[i]) for i in np.flatnonzero(odd_C)]
      more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
      if odd:
        problems[text.format(", ".join(odd[:5]) + more)] = len(odd)
  for problem, affected in problems.items():
    yield split.finding(
      "class features",
      affected,
      len(names),
      problem,
      "make the features of all class names with the teacher of the shapes and "
      "prepare the dataset again",
    )


def labels_out_of_range(split: Split) -> Iterator[Finding]:
  """Finds labels of no class."""
  label, count = split.scan.census.label, len(split.class_names)
  bad = np.flatnonzero((label < -1) | (label >= count))
  if count and len(bad):
    yield split.shapes_have(
      "labels out of range",
      bad,
      len(label),
      f"a label that is none of the {count} classes",
      "correct the labels, or give them -1",
    )


def no_labels(split: Split) -> Iterator[Finding]:
  """Finds class names without a labelled shape."""
  classes = split.summary["classes"]
  if classes and classes["most"] == 0:
    count = split.summary["counted"]
    yield split.finding(
      "no labels",
      count,
      count,
      f"it has {classes['named']} class names and not one labelled shape among "
      "those looked at",
      "label them, or prepare the split without class names",
    )


def _missing_texts(named: bool) -> Check:
  """Makes the check for texts that an evaluation split lacks."""
  return counted(
    "missing evaluation texts",
    lambda census: census.texts == 0,
    "no text, and are left out of retrieval",
    "add texts if the split is to be scored by it",
    above=WITHOUT_EVALUATION_TEXT,
    where=lambda split: (
      not split.scan.training
      and bool(split.class_names) == named
      and split.summary["without_text"] < 1
    ),
  )


WARNINGS: tuple[Check, ...] = (
  measured(
    "far from the origin",
    lambda sample: sample.offset > OFFSET,
    f"a centre more than {OFFSET:.0f} times their size from the origin, where "
    "float32 has lost their detail",
    "centre the clouds before they are stored as float32, then prepare them "
    "again",
  ),
  measured(
    "outlying points",
    lambda sample: sample.core < CORE,
    "stray points: 99 % of the points fill less than half of the extent, so "
    "that normalising makes the shape itself small",
    "remove the outliers (or the far parts of the mesh) and prepare them again",
  ),
  measured(
    "few distinct points",
    lambda sample: sample.distinct < DISTINCT,
    f"fewer than {DISTINCT} different points, the encoder's groups (sizes S to "
    "L)",
    "sample more points of the surface, at full precision, and prepare them "
    "again",
  ),
  measured(
    "black",
    lambda sample: sample.black,
    "black points only",
    "colours from 0 to 1 have probably been divided by 255; store them on the "
    "scale 0 to 1, or leave them out where there are none (0.4 grey)",
  ),
  up_axis,
  counted(
    "no image",
    lambda census: census.images == 0,
    "no image feature, and would be trained towards zero",
    "make image features for them, or leave them out of training",
    above=0,
    where=lambda split: split.scan.training,
  ),
  counted(
    "mostly no text",
    lambda census: census.texts == 0,
    "no text, and are left out of every text term",
    "add names or captions",
    above=WITHOUT_TEXT,
    where=lambda split: split.scan.training,
  ),
  counted(
    "missing evaluation texts",
    lambda census: census.texts == 0,
    "no text, and the split has no class names, so it cannot be scored",
    "add texts, or labels and class names",
    above=0,
    where=lambda split: (
      not (split.scan.training or split.class_names)
      and split.summary["without_text"] == 1
    ),
  ),
  _missing_texts(named=False),
  counted(
    "labels without class names",
    lambda census: census.label != -1,
    "a label, but the split has no class names",
    "prepare it with its class names, or the labels are of no use",
    above=0,
    where=lambda split: not (split.scan.training or split.class_names),
  ),
  class_features,
  labels_out_of_range,
  no_labels,
)
NOTES: tuple[Check, ...] = (_missing_texts(named=True),)
