"""What is wrong with the features of a teacher, in words."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from mrd_jax.data.records import ImageKind, TextKind
from mrd_jax.inspect.findings import (
  ODD_SHAPES,
  Finding,
  examples,
  shapes_finding,
)
from mrd_jax.inspect.scan import Features, Scan

ODD_FEATURES = 0.01  # share of the features; fewer are no defect
NORM_FACTOR = 3.0  # from the median of a kind
UNIT_NORM = 0.02  # off 1, of the median of a kind
MEAN_COSINE = 0.98  # of the features of different shapes
VARIANTS = 3  # shapes, at most, that share a feature by right
GAP = 3.0  # standard errors
FEWEST = 50  # shapes, to judge a distribution by


def feature_findings(
  split: str, scan: Scan, summary: Mapping[str, Any]
) -> Iterator[Finding]:
  """Yields what is wrong with the features of one split.

  Args:
    split: Its name.
    scan: What was read.
    summary: What `summary.summarize` made of it.
  """
  for title, features in _kinds(scan):
    yield from _norms(split, scan, title, features)
  yield from _constant_images(split, scan)
  yield from _constant_texts(split, scan)
  yield from _collapsed(split, scan)
  yield from _alignment(split, summary)


def feature_notes(split: str, scan: Scan) -> Iterator[Finding]:
  """Yields what is unusual in features, and harmless to this program."""
  for title, features in _kinds(scan):
    median = np.median(features.norm)
    if np.isfinite(median) and abs(median - 1) > UNIT_NORM:
      yield Finding(
        "not unit norm",
        split,
        int((np.abs(features.norm - 1) > UNIT_NORM).sum()),
        len(features.norm),
        f"{split}: {title} are not of unit norm (median {median:.3g}); "
        "training and evaluation normalise them, so do it yourself only where "
        "another program reads them",
      )


def _kinds(scan: Scan) -> Iterator[tuple[str, Features]]:
  """Yields for each kind a title and its features."""
  for name, kinds, features in (
    ("image", ImageKind, scan.sample.image_features),
    ("text", TextKind, scan.sample.text_features),
  ):
    for kind in np.unique(features.kind).tolist():
      of_kind = features.kind == kind
      columns = (getattr(features, f.name) for f in fields(features))
      yield (
        f"{name} features {kinds(kind).name}",
        Features(*(column[of_kind] for column in columns)),
      )


def _norms(
  split: str, scan: Scan, title: str, features: Features
) -> Iterator[Finding]:
  norm = features.norm
  finite = np.isfinite(norm)
  if not finite.all():
    yield _features_finding(
      "not finite",
      split,
      scan,
      features,
      ~finite,
      f"{title} hold NaN or infinity",
      "make them again",
    )
  if not finite.any():
    return
  median = np.median(norm[finite])
  odd = finite & ((norm > NORM_FACTOR * median) | (norm < median / NORM_FACTOR))
  if odd.mean() > ODD_FEATURES:
    yield _features_finding(
      "varying norms",
      split,
      scan,
      features,
      odd,
      f"{title} are {NORM_FACTOR:.0f} times longer or shorter than their "
      f"median of {median:.3g}",
      "different teachers or steps seem to have made them, so make all of "
      "them by one",
    )


def _constant_images(split: str, scan: Scan) -> Iterator[Finding]:
  sample, features = scan.sample, scan.sample.image_features
  # The copies of one shape are duplicates, which have their own finding.
  cloud = scan.census.cloud[sample.at][features.owner]
  looked_at = len(np.unique(features.owner))
  # Variants of a model may look the same from one side, but they are few;
  # empty renders are all the same.
  most = max(ODD_SHAPES * looked_at, VARIANTS)
  shared = _num_sources(features.content, cloud) > most
  shapes = np.unique(features.owner[shared])
  if len(shapes):
    yield shapes_finding(
      "constant image features",
      split,
      scan,
      sample.at[shapes],
      looked_at,
      f"an image feature that more than {most:.0f} shapes share, to the bit",
      "look at their renders, which are probably empty, and make the features "
      "again",
    )


def _constant_texts(split: str, scan: Scan) -> Iterator[Finding]:
  features = scan.sample.text_features
  shared = _num_sources(features.content, features.words) > 1
  if shared.sum() > ODD_FEATURES * len(shared):
    yield _features_finding(
      "constant text features",
      split,
      scan,
      features,
      shared,
      "text features are equal to that of a different text, to the bit",
      "check what the text tower was given, and make the features again",
    )


def _num_sources(content_F: np.ndarray, source_F: np.ndarray) -> np.ndarray:
  """(F,) from how many different sources an equal content comes."""
  _, content_F = np.unique(content_F, return_inverse=True)
  sources, source_F = np.unique(source_F, return_inverse=True)
  # Numbers of the different pairs (content, source), by content.
  pairs = np.unique(content_F * len(sources) + source_F)
  return np.bincount(pairs // max(len(sources), 1))[content_F]


def _collapsed(split: str, scan: Scan) -> Iterator[Finding]:
  for name, unit_SD in (
    ("image", scan.sample.image),
    ("text", scan.sample.text),
  ):
    present_PD = unit_SD[unit_SD.any(axis=1)]
    count = len(present_PD)
    if count < FEWEST:
      continue
    # The mean over pairs i != j follows from the length of the sum.
    length2 = float((present_PD.sum(axis=0, dtype=np.float64) ** 2).sum())
    cosine = (length2 - count) / (count * (count - 1))
    if cosine > MEAN_COSINE:
      yield Finding(
        f"collapsed {name} features",
        split,
        count,
        count,
        f"{split}: the {name} features of {count:,} shapes have a mean cosine "
        f"of {cosine:.4f}, so there is nothing to tell shapes apart by; check "
        "what the teacher was given, and make the features again",
      )


def _alignment(split: str, summary: Mapping[str, Any]) -> Iterator[Finding]:
  found = summary["alignment"]
  if found and found["pairs"] >= FEWEST and found["gap"] < GAP:
    yield Finding(
      "images and texts disagree",
      split,
      found["pairs"],
      found["pairs"],
      f"{split}: images and texts of the same shape are no more alike (cosine "
      f"{found['cosine_matched']:.3f}) than of different ones "
      f"({found['cosine_all']:.3f}, {found['pairs']:,} shapes); rows were "
      "probably shuffled or two teachers used, so make both by one teacher "
      "again",
    )


def _features_finding(
  code: str,
  split: str,
  scan: Scan,
  features: Features,
  odd_F: np.ndarray,
  what: str,
  remedy: str,
) -> Finding:
  """A finding of the form "N of M WHAT (IDS); REMEDY"."""
  at = scan.sample.at[np.unique(features.owner[odd_F])]
  return Finding(
    code,
    split,
    int(odd_F.sum()),
    len(odd_F),
    f"{split}: {odd_F.sum():,} of {len(odd_F):,} {what} "
    f"({examples(scan, at)}); {remedy}",
  )
