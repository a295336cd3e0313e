"""One pass over a split: what is counted of all, what is measured of some."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mrd_jax.data.dataset import RecordSource
from mrd_jax.data.records import XYZ_LEVELS
from mrd_jax.inspect.up_axis import posture

CLOUD_POINTS = 1024  # of a cloud, drawn to measure its posture
_CHUNK = 256  # clouds measured at a time
GREY = 102  # 0.4 of 255, OpenShape's colour for a cloud that has none


@dataclasses.dataclass(frozen=True)
class Census:
  """What is counted, of R records.

  Attributes:
    row: (R,) number of the record in its split, ascending.
    id: (R,) uint64 hash of the id.
    cloud: (R,) uint64 hash of the points, see `hash_cloud`.
    label: (R,) int32.
    collection: (R,) str, the record's `dataset`.
    points: (R,) int32, likewise `images` and `texts`: how many there are.
    images: See above.
    texts: See above.
  """

  row: np.ndarray
  id: np.ndarray
  cloud: np.ndarray
  label: np.ndarray
  collection: np.ndarray
  points: np.ndarray
  images: np.ndarray
  texts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Features:
  """All image features, or all text features, of the sample; F of them.

  Attributes:
    owner: (F,) index of the shape in the sample.
    kind: (F,) uint8 `ImageKind` or `TextKind`.
    norm: (F,) float32 length; NaN or infinite as the feature is.
    content: (F,) uint64 hash of the stored feature.
    words: (F,) uint64 hash of the text, without case and punctuation; zero
      for images.
  """

  owner: np.ndarray
  kind: np.ndarray
  norm: np.ndarray
  content: np.ndarray
  words: np.ndarray


@dataclasses.dataclass(frozen=True)
class Sample:
  """What is measured, of S records.

  Attributes:
    at: (S,) where in the census.
    num_bytes: (S,) bytes of the record in memory.
    distinct: (S,) how many different points.
    offset: (S,) float32, the centre's largest coordinate over the scale.
    core: (S,) float32 in [0, 1]: the largest extent of 99 % of the points
      over that of all.
    color: (S, 3) float32 mean colour in [0, 1].
    grey: (S,) bool, whether every point is 0.4 grey.
    constant: (S,) bool, whether all points have one colour.
    black: (S,) bool, whether no colour exceeds 1 of 255.
    asymmetry: (S, 3) of `up_axis.posture`, likewise `footprint`.
    footprint: See above.
    image: (S, D) float32 mean of the unit image features, unit length; zero
      where there is none.
    text: (S, D) float32 feature of the first text, likewise.
    image_features: Each image feature.
    text_features: Each text feature.
  """

  at: np.ndarray
  num_bytes: np.ndarray
  distinct: np.ndarray
  offset: np.ndarray
  core: np.ndarray
  color: np.ndarray
  grey: np.ndarray
  constant: np.ndarray
  black: np.ndarray
  asymmetry: np.ndarray
  footprint: np.ndarray
  image: np.ndarray
  text: np.ndarray
  image_features: Features
  text_features: Features


@dataclasses.dataclass(frozen=True)
class Scan:
  """A split as it was read: `size` records, and what is known of them."""

  source: RecordSource
  size: int
  census: Census
  sample: Sample

  def ids(self, at: np.ndarray, most: int = 5) -> list[str]:
    """The ids of the first few of the census entries `at`."""
    return [self.source[row]["id"] for row in self.census.row[at[:most]]]


def scan(
  source: RecordSource,
  counted: np.ndarray,
  measured: np.ndarray,
  rng: np.random.Generator,
  progress: Callable[[], Any],
) -> Scan:
  """Reads a split once.

  Args:
    source: The split.
    counted: Rows to count, ascending.
    measured: Rows to measure, ascending, all of them in `counted`.
    rng: Draws the points by which a cloud is measured.
    progress: Called after every record.

  Raises:
    BadInput: naming the record that cannot be read.
  """
  census: list[tuple] = []
  columns: list[dict[str, Any]] = []
  waiting: list[np.ndarray] = []
  postures: list[tuple] = []
  images: list[tuple] = []
  texts: list[tuple] = []
  wanted = set(measured.tolist())

  def measure_waiting() -> None:
    if waiting:
      postures.append(posture(np.stack(waiting)))
      waiting.clear()

  for row in counted.tolist():
    record = source[row]
    census.append(
      (
        row,
        _hash(record["id"].encode()),
        hash_cloud(record["xyz"]),
        record["label"],
        record["dataset"],
        *(len(record[f]) for f in ("xyz", "image_feat", "texts")),
      )
    )
    if row in wanted:
      owner = len(columns)
      columns.append(_measure(record))
      words = [_words(text) for text in record["texts"]]
      images += _features(
        owner, record, "image", [0] * len(record["image_kind"])
      )
      texts += _features(owner, record, "text", words)
      drawn = rng.integers(len(record["xyz"]), size=CLOUD_POINTS)
      waiting.append(record["xyz"][drawn].astype(np.float32) / XYZ_LEVELS)
      if len(waiting) == _CHUNK:
        measure_waiting()
    progress()
  measure_waiting()

  extent, asymmetry, footprint = map(
    np.concatenate, zip(*postures, strict=True)
  )
  stacked = {
    name: np.stack([column[name] for column in columns]) for name in columns[0]
  }
  stacked["core"] = extent.max(axis=1) / stacked.pop("extent")
  rows, ids, clouds, labels, collections, *counts = zip(*census, strict=True)
  return Scan(
    source=source,
    size=len(source),
    census=Census(
      np.array(rows),
      np.array(ids, np.uint64),
      np.array(clouds, np.uint64),
      np.array(labels, np.int32),
      np.array(collections),
      *(np.array(count, np.int32) for count in counts),
    ),
    sample=Sample(
      at=np.searchsorted(counted, measured),
      asymmetry=asymmetry,
      footprint=footprint,
      image_features=_stack(images),
      text_features=_stack(texts),
      **stacked,
    ),
  )


def hash_cloud(xyz_N3: np.ndarray) -> int:
  """A 64-bit hash of the stored points, whatever their order.

  Colours do not count: every second step of training goes without them.
  Neither do place and size, which the stored points do not have (but a cloud
  that was moved before it was stored may have been rounded otherwise).

  Args:
    xyz_N3: (N, 3) int16.
  """
  # The sum of a mixed value a point (the finaliser of SplitMix64).
  mixed_N = point_keys(xyz_N3) + np.uint64(0x9E3779B97F4A7C15)
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
    mixed_N ^= mixed_N >> np.uint64(shift)
    mixed_N *= np.uint64(factor)
  mixed_N ^= mixed_N >> np.uint64(31)
  return int(mixed_N.sum())


def point_keys(xyz_N3: np.ndarray) -> np.ndarray:
  """(N,) uint64, equal exactly where the int16 points are."""
  x, y, z = xyz_N3.astype(np.uint16).astype(np.uint64).T
  return x | y << np.uint64(16) | z << np.uint64(32)


def unit(x_ND: np.ndarray) -> np.ndarray:
  """Rows of unit length; zero and not finite rows become zero."""
  x_ND = np.where(np.isfinite(x_ND).all(axis=-1, keepdims=True), x_ND, 0)
  norm_N1 = np.linalg.norm(x_ND, axis=-1, keepdims=True)
  return x_ND / np.where(norm_N1 > 0, norm_N1, 1)


def _measure(record: dict[str, Any]) -> dict[str, Any]:
  """The columns of `Sample` that take one record alone, and its extent."""
  xyz, rgb = record["xyz"], record["rgb"]
  text = record["text_feat"][:1].astype(np.float32)
  return {
    "num_bytes": sum(
      np.asarray(value).nbytes
      for name, value in record.items()
      if name not in ("id", "dataset", "texts")
    )
    + sum(
      len(text.encode())
      for text in (record["id"], record["dataset"], *record["texts"])
    ),
    "distinct": len(np.unique(point_keys(xyz))),
    "offset": np.abs(record["center"]).max() / record["scale"],
    "extent": np.ptp(xyz.astype(np.float32), axis=0).max() / XYZ_LEVELS,
    "color": rgb.mean(axis=0, dtype=np.float32) / 255,
    "grey": bool((rgb == GREY).all()),
    "constant": bool((rgb == rgb[0]).all()),
    "black": bool(rgb.max() <= 1),
    "image": unit(unit(record["image_feat"].astype(np.float32)).sum(axis=0)),
    "text": unit(text.sum(axis=0)),
  }


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


def _stack(features: list[tuple]) -> Features:
  columns = zip(*features, strict=True) if features else [()] * 5
  types = (np.int64, np.uint8, np.float32, np.uint64, np.uint64)
  return Features(
    *(np.array(c, t) for c, t in zip(columns, types, strict=True))
  )


def _words(text: str) -> int:
  return _hash("".join(filter(str.isalnum, text.casefold())).encode())


def _hash(content: bytes) -> int:
  return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())
