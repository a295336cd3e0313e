"""Reads a split once: what is counted of all records, measured of some."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mrd_jax.data.dataset import RecordSource
from mrd_jax.data.records import XYZ_LEVELS, ImageKind, TextKind
from mrd_jax.inspect.up_axis import posture
from mrd_jax.metrics.embeddings import unit

CLOUD_POINTS = 1024  # of a cloud, drawn to measure its posture
GREY = 102  # 0.4 of 255, OpenShape's colour for a cloud that has none

CENSUS: list[tuple[str, Any]] = [
  ("row", np.int64),  # number of the record in its split, ascending
  ("id", np.uint64),  # hash of the id
  ("cloud", np.uint64),  # hash of the points, see `hash_cloud`
  ("label", np.int32),
  ("collection", object),  # str, the record's `dataset`
  ("points", np.int32),  # how many there are
  ("images", np.int32),
  ("texts", np.int32),
]
SAMPLE: list[tuple[str, Any]] = [
  ("at", np.int64),  # where in the census
  ("num_bytes", np.int64),  # of the record in memory
  ("distinct", np.int64),  # different points
  ("offset", np.float32),  # the centre's largest coordinate over the scale
  # In [0, 1]: the largest extent of 99 % of the points over that of all.
  ("core", np.float32),
  ("color", (np.float32, 3)),  # mean colour in [0, 1]
  ("grey", bool),  # every point is 0.4 grey
  ("constant", bool),  # all points have one colour
  ("black", bool),  # no colour exceeds 1 of 255
  ("asymmetry", (np.float32, 3)),  # of `up_axis.posture`
  ("footprint", (np.float32, 3)),
]
FEATURES: list[tuple[str, Any]] = [
  ("owner", np.int64),  # index of the shape in the sample
  ("kind", np.uint8),  # `ImageKind` or `TextKind`
  ("norm", np.float32),  # length; NaN or infinite as the feature is
  ("content", np.uint64),  # hash of the stored feature
  # Hash of the text, without case and punctuation; zero for images.
  ("words", np.uint64),
]


class Scan(NamedTuple):
  """A split as it was read.

  Attributes:
    name: Of the split.
    source: Its records.
    census: (R,) record array of `CENSUS`: what is counted, of R records.
    sample: (S,) record array of `SAMPLE`: what is measured, of S of them; and
      of width D, "image", the mean of the unit image features, of unit length
      or zero where there is none, and "text", the feature of the first text,
      likewise.
    image_features: (F,) record array of `FEATURES`: every image feature of
      the sample.
    text_features: Likewise.
  """

  name: str
  source: RecordSource
  census: Any
  sample: Any
  image_features: Any
  text_features: Any

  @property
  def training(self) -> bool:
    """Says whether it is trained on: its name begins with "train"."""
    return self.name.startswith("train")

  @property
  def share(self) -> float:
    """Computes which share of the records was counted."""
    return len(self.census) / len(self.source)

  def ids(self, at: np.ndarray) -> str:
    """Returns the ids of the first few of the census entries `at`."""
    ids = [self.source[row]["id"] for row in self.census.row[at[:5]]]
    return ", ".join(ids) + (", ..." if len(at) > len(ids) else "")

  def kinds(self) -> Iterator[tuple[str, Any]]:
    """Yields for each kind of features its name, "image VIEW", and them."""
    for modality, kinds, features in (
      ("image", ImageKind, self.image_features),
      ("text", TextKind, self.text_features),
    ):
      for kind in np.unique(features.kind).tolist():
        yield f"{modality} {kinds(kind).name}", features[features.kind == kind]


def scan(
  name: str,
  source: RecordSource,
  counted: np.ndarray,
  measured: np.ndarray,
  rng: np.random.Generator,
  progress: Callable[[], Any],
) -> Scan:
  """Reads a split once.

  Args:
    name: Of the split.
    source: Its records.
    counted: Rows to count, ascending.
    measured: Rows to measure, ascending, all of them in `counted`.
    rng: Draws the points by which a cloud is measured.
    progress: Called after every record.

  Raises:
    BadInput: naming the record that cannot be read.
  """
  census, sample, images, texts = [], [], [], []
  wanted = set(measured.tolist())
  width = 0
  for row in counted.tolist():
    record = source[row]
    if row in wanted:
      width = record["image_feat"].shape[1]
      words = [
        _hash("".join(filter(str.isalnum, text.casefold())).encode())
        for text in record["texts"]
      ]
      no_words = [0] * len(record["image_kind"])
      images += _features(len(sample), record, "image", no_words)
      texts += _features(len(sample), record, "text", words)
      sample.append((len(census), *_measure(record, rng)))
    census.append(
      (
        row,
        _hash(record["id"].encode()),
        hash_cloud(record["xyz"]),
        record["label"],
        record["dataset"],
        *(len(record[field]) for field in ("xyz", "image_feat", "texts")),
      )
    )
    progress()
  vectors = [(name, (np.float32, width)) for name in ("image", "text")]
  return Scan(
    name,
    source,
    _table(census, CENSUS),
    _table(sample, SAMPLE + vectors),
    _table(images, FEATURES),
    _table(texts, FEATURES),
  )


def _table(rows: list[tuple], columns: list[tuple[str, Any]]) -> np.recarray:
  return np.array(rows, np.dtype(columns)).view(np.recarray)


def hash_cloud(xyz_N3: np.ndarray) -> int:
  """Computes a 64-bit hash of the stored points, whatever their order.

  Colours do not count: every second step of training goes without them.
  Neither do place and size, which the stored points do not have (but a cloud
  that was moved before it was stored may have been rounded otherwise).

  Args:
    xyz_N3: (N, 3) int16.
  """
  # The sum of a mixed value a point (the finaliser of SplitMix64).
  mixed_N = _point_keys(xyz_N3) + np.uint64(0x9E3779B97F4A7C15)
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
    mixed_N ^= mixed_N >> np.uint64(shift)
    mixed_N *= np.uint64(factor)
  mixed_N ^= mixed_N >> np.uint64(31)
  return int(mixed_N.sum())


def _point_keys(xyz_N3: np.ndarray) -> np.ndarray:
  """Makes (N,) uint64 that are equal exactly where the int16 points are."""
  x, y, z = xyz_N3.astype(np.uint16).astype(np.uint64).T
  return x | y << np.uint64(16) | z << np.uint64(32)


def finite_unit(x_ND: np.ndarray) -> np.ndarray:
  """Scales rows to unit length; zero and not finite rows become zero."""
  finite_N1 = np.isfinite(x_ND).all(axis=-1, keepdims=True)
  return unit(np.where(finite_N1, x_ND, 0))


def _measure(record: dict[str, Any], rng: np.random.Generator) -> tuple:
  """Measures a record: the columns of the sample behind "at"."""
  xyz, rgb = record["xyz"], record["rgb"]
  arrays = (
    np.asarray(value)
    for name, value in record.items()
    if name not in ("id", "dataset", "texts")
  )
  words = (record["id"], record["dataset"], *record["texts"])
  drawn = rng.integers(len(xyz), size=CLOUD_POINTS)
  stance = posture(xyz[None, drawn].astype(np.float32) / XYZ_LEVELS)
  extent = np.ptp(xyz.astype(np.float32), axis=0).max() / XYZ_LEVELS
  images = finite_unit(record["image_feat"].astype(np.float32))
  return (
    sum(x.nbytes for x in arrays) + sum(len(x.encode()) for x in words),
    len(np.unique(_point_keys(xyz))),
    np.abs(record["center"]).max() / record["scale"],
    stance.extent.max() / extent,
    rgb.mean(axis=0, dtype=np.float32) / 255,
    (rgb == GREY).all(),
    (rgb == rgb[0]).all(),
    rgb.max() <= 1,
    stance.asymmetry[0],
    stance.footprint[0],
    finite_unit(images.sum(axis=0)),
    finite_unit(record["text_feat"][:1].astype(np.float32).sum(axis=0)),
  )


def _features(
  owner: int, record: dict[str, Any], name: str, words: list[int]
) -> list[tuple]:
  stored = record[f"{name}_feat"]
  # float64: the square of a float16 may be too large for a float32.
  norms = np.linalg.norm(stored.astype(np.float64), axis=1)
  return [
    (owner, kind, norm, _hash(feature.tobytes()), word)
    for kind, norm, feature, word in zip(
      record[f"{name}_kind"], norms, stored, words, strict=True
    )
  ]


def _hash(content: bytes) -> int:
  return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())
