"""Says what a scan found in numbers, all of it plain JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrd_jax.inspect.scan import Scan, finite_unit
from mrd_jax.inspect.up_axis import FEWEST, up_axis
from mrd_jax.metrics.retrieval import retrieval
from mrd_jax.metrics.zero_shot import zero_shot

PAIRS = 2000  # of image and text, at most: R@1 depends on their number


def summarize(
  scan: Scan,
  names: Sequence[str],
  class_CD: np.ndarray | None,
  disk_bytes: int,
  rng: np.random.Generator,
) -> dict[str, Any]:
  """Computes the numbers of one split.

  Args:
    scan: The split.
    names: Its class names, may be empty.
    class_CD: (C, D) features of these names, or None where there are none.
    disk_bytes: Size of the split's files.
    rng: Draws the bootstrap of the up axis, and the pairs where there are more
      than `PAIRS`.

  Returns:
    "records", "counted", "measured" (numbers of records; the first seven
    entries below are of those counted, the others of those measured),
    "collections", "points", "images", "texts", "without_image",
    "without_text", "classes", "bytes", "features", "colors", "alignment",
    "zero_shot", "up_axis" (of collections with at least `up_axis.FEWEST`
    measured shapes).  Shares are in [0, 1]; what does not apply is None.
  """
  census, sample, size = scan.census, scan.sample, len(scan.source)
  collections = dict(sorted(Counter(census.collection).items()))
  collection, label = census.collection[sample.at], census.label[sample.at]
  up = {}
  for name in collections:
    own = sample[collection == name]
    if len(own) >= FEWEST:
      up[name] = up_axis(own.asymmetry, own.footprint, rng)
  return {
    "records": size,
    "counted": len(census),
    "measured": len(sample),
    "collections": collections,
    "points": _spread(census.points, "median"),
    "images": _spread(census.images, "median"),
    "texts": _spread(census.texts, "median"),
    "without_image": float((census.images == 0).mean()),
    "without_text": float((census.texts == 0).mean()),
    "classes": class_counts(census.label, len(names)) if names else None,
    "bytes": {
      "disk": disk_bytes,
      "disk_per_record": disk_bytes / size,
      "memory_per_record": float(sample.num_bytes.mean()),
    },
    "features": {
      kind: {"count": len(found), "norm": _spread(found.norm, "mean")}
      for kind, found in scan.kinds()
    },
    "colors": {
      "mean": sample.color.mean(axis=0).tolist(),
      "grey": float(sample.grey.mean()),
      "constant": float(sample.constant.mean()),
    },
    "alignment": alignment(sample.image, sample.text, rng),
    "zero_shot": image_zero_shot(sample.image, label, class_CD),
    "up_axis": up,
  }


def class_counts(label_N: np.ndarray, classes: int) -> dict[str, int]:
  """Counts the shapes of the classes.

  Labels outside 0 .. classes - 1 are "out_of_range", except for -1, which is
  "unlabelled".  "fewest" and "most" are of classes that have any.
  """
  valid_N = (label_N >= 0) & (label_N < classes)
  count_C = np.bincount(label_N[valid_N], minlength=classes)
  present_P = count_C[count_C > 0]
  return {
    "named": classes,
    "empty": int((count_C == 0).sum()),
    "fewest": int(present_P.min()) if len(present_P) else 0,
    "most": int(present_P.max()) if len(present_P) else 0,
    "unlabelled": int((label_N == -1).sum()),
    "out_of_range": int((~valid_N & (label_N != -1)).sum()),
  }


def alignment(
  image_ND: np.ndarray, text_ND: np.ndarray, rng: np.random.Generator
) -> dict[str, float] | None:
  """Measures how well a teacher's images and texts of the same shapes agree.

  Args:
    image_ND: (N, D) unit vectors; zero where a shape has no image.
    text_ND: (N, D) unit vectors; zero where a shape has no text.
    rng: Draws the pairs where there are more than `PAIRS`.

  Returns:
    "pairs" (how many shapes have both), recall at 1 both ways (ties count as
    in `evaluate.retrieval`) and its chance, the mean cosine of matched and of
    all pairs, and "gap", how many standard errors the former is above the
    latter; None below two pairs.
  """
  both = np.flatnonzero(image_ND.any(axis=1) & text_ND.any(axis=1))
  if len(both) < 2:
    return None
  if len(both) > PAIRS:
    both = np.sort(rng.choice(both, PAIRS, replace=False))
  image, text = image_ND[both], text_ND[both]
  recall = retrieval(image, text, np.ones(len(both), bool))
  matched_N = (image * text).sum(axis=1)
  gap_N = matched_N - image @ text.mean(axis=0)
  error = float(gap_N.std(ddof=1)) / np.sqrt(len(both))
  return {
    "pairs": len(both),
    "image_to_text_r1": recall["shape_to_text_r1"],
    "text_to_image_r1": recall["text_to_shape_r1"],
    "chance": 1 / len(both),
    "cosine_matched": float(matched_N.mean()),
    "cosine_all": float(image.mean(axis=0) @ text.mean(axis=0)),
    # Rounding apart, equal pairs have no gap.
    "gap": float(gap_N.mean() / max(error, 1e-6)),
  }


def image_zero_shot(
  image_ND: np.ndarray, label_N: np.ndarray, class_CD: np.ndarray | None
) -> dict[str, float] | None:
  """Scores each shape's mean image feature against the class names.

  Returns:
    "shapes", "top1" and "chance"; None without classes, or without a labelled
    shape that has an image.
  """
  if class_CD is None:
    return None
  usable = (label_N >= 0) & (label_N < len(class_CD)) & image_ND.any(axis=1)
  if not usable.any():
    return None
  scores = zero_shot(image_ND[usable], label_N[usable], finite_unit(class_CD))
  return {
    "shapes": int(usable.sum()),
    "top1": scores["top1"],
    "chance": 1 / len(class_CD),
  }


def _spread(values: np.ndarray, middle: str) -> dict[str, float | None]:
  """Computes min, median or mean, and max; None for what is not finite."""
  names = ("min", middle, "max")
  found = {name: getattr(np, name)(values) for name in names}
  return {k: float(v) if np.isfinite(v) else None for k, v in found.items()}
