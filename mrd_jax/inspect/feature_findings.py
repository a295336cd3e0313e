"""Finds what is wrong with the features of a teacher, and says it."""

from collections.abc import Iterator

import numpy as np

from mrd_jax.inspect.findings import ODD_SHAPES, Check, Finding, Split

ODD_FEATURES = 0.01  # share of the features; fewer are no defect
NORM_FACTOR = 3.0  # from the median of a kind
UNIT_NORM = 0.02  # off 1, of the median of a kind
MEAN_COSINE = 0.98  # of the features of different shapes
SHARED_TEXT = 0.5  # share of the shapes with a text
VARIANTS = 3  # shapes, at most, that share a feature by right
GAP = 3.0  # standard errors
FEWEST = 50  # shapes, to judge a distribution by


def norms(split: Split) -> Iterator[Finding]:
  """Finds features that are not finite, or far longer than their kind."""
  for kind, features in split.scan.kinds():
    title, norm = kind.replace(" ", " features "), features.norm
    finite = np.isfinite(norm)
    if not finite.all():
      yield split.features_are(
        "not finite",
        features,
        ~finite,
        f"{title} hold NaN or infinity",
        "make them again",
      )
    if not finite.any():
      continue
    median = np.median(norm[finite])
    far = (norm > NORM_FACTOR * median) | (norm < median / NORM_FACTOR)
    if (finite & far).mean() > ODD_FEATURES:
      yield split.features_are(
        "varying norms",
        features,
        finite & far,
        f"{title} are {NORM_FACTOR:.0f} times longer or shorter than their "
        f"median of {median:.3g}",
        "different teachers or steps seem to have made them, so make all of "
        "them by one",
      )


def constant_images(split: Split) -> Iterator[Finding]:
  """Finds image features that many shapes share, as of empty renders."""
  sample, features = split.scan.sample, split.scan.image_features
  # The copies of one shape are duplicates, which have their own finding.
  cloud = split.scan.census.cloud[sample.at][features.owner]
  looked_at = len(np.unique(features.owner))
  # Variants of a model may look the same from one side, but they are few;
  # empty renders are all the same.
  most = max(ODD_SHAPES * looked_at, VARIANTS)
  shared = _num_sources(features.content, cloud) > most
  if shared.any():
    yield split.shapes_have(
      "constant image features",
      sample.at[np.unique(features.owner[shared])],
      looked_at,
      f"an image feature that more than {most:.0f} shapes share, to the bit",
      "look at their renders, which are probably empty, and make the features "
      "again",
    )


def constant_texts(split: Split) -> Iterator[Finding]:
  """Finds different texts of one feature."""
  features = split.scan.text_features
  shared = _num_sources(features.content, features.words) > 1
  if shared.sum() > ODD_FEATURES * len(shared):
    yield split.features_are(
      "constant text features",
      features,
      shared,
      "text features are equal to that of a different text, to the bit",
      "check what the text tower was given, and make the features again",
    )


def _num_sources(content_F: np.ndarray, source_F: np.ndarray) -> np.ndarray:
  """Counts from how many different sources an equal content comes: (F,)."""
  _, content_F = np.unique(content_F, return_inverse=True)
  sources, source_F = np.unique(source_F, return_inverse=True)
  # Numbers of the different pairs (content, source), by content.
  pairs = np.unique(content_F * len(sources) + source_F)
  return np.bincount(pairs // max(len(sources), 1))[content_F]


def shared_text(split: Split) -> Iterator[Finding]:
  """Finds a text that most shapes share, such as the name of their files."""
  scan, features = split.scan, split.scan.text_features
  looked_at = len(np.unique(features.owner))
  if not looked_at or (split.class_names and not scan.training):
    return
  shared = _num_sources(features.words, features.owner)
  if shared.max() > max(1, SHARED_TEXT * looked_at):
    yield split.shapes_have(
      "shared text",
      scan.sample.at[np.unique(features.owner[shared == shared.max()])],
      looked_at,
      "one and the same text, which tells none of them from the others",
      "if it is the name of their files, give them names of their own "
      "(prepare meshes --texts)",
    )


def collapsed(split: Split) -> Iterator[Finding]:
  """Finds features that do not tell shapes apart."""
  for name in ("image", "text"):
    unit_SD = split.scan.sample[name]
    present_PD = unit_SD[unit_SD.any(axis=1)]
    count = len(present_PD)
    if count < FEWEST:
      continue
    # The mean over pairs i != j follows from the length of the sum.
    length2 = float((present_PD.sum(axis=0, dtype=np.float64) ** 2).sum())
    cosine = (length2 - count) / (count * (count - 1))
    if cosine > MEAN_COSINE:
      yield split.finding(
        f"collapsed {name} features",
        count,
        count,
        f"the {name} features of {count:,} shapes have a mean cosine of "
        f"{cosine:.4f}, so there is nothing to tell shapes apart by",
        "check what the teacher was given, and make the features again",
      )


def disagreement(split: Split) -> Iterator[Finding]:
  """Finds images and texts that seem to be of different shapes."""
  found = split.summary["alignment"]
  if found and found["pairs"] >= FEWEST and found["gap"] < GAP:
    yield split.finding(
      "images and texts disagree",
      found["pairs"],
      found["pairs"],
      "images and texts of the same shape are no more alike (cosine "
      f"{found['cosine_matched']:.3f}) than of different ones "
      f"({found['cosine_all']:.3f}, {found['pairs']:,} shapes)",
      "rows were probably shuffled or two teachers used, so make both by one "
      "teacher again",
    )


def not_unit_norm(split: Split) -> Iterator[Finding]:
  """Notes kinds of features that are not of unit norm."""
  for kind, features in split.scan.kinds():
    median = np.median(features.norm)
    if np.isfinite(median) and abs(median - 1) > UNIT_NORM:
      yield split.finding(
        "not unit norm",
        int((np.abs(features.norm - 1) > UNIT_NORM).sum()),
        len(features),
        f"{kind.replace(' ', ' features ')} are not of unit norm (median "
        f"{median:.3g})",
        "training and evaluation normalise them, so do it yourself only where "
        "another program reads them",
      )


WARNINGS: tuple[Check, ...] = (
  norms,
  constant_images,
  constant_texts,
  shared_text,
  collapsed,
  disagreement,
)
NOTES: tuple[Check, ...] = (not_unit_norm,)
