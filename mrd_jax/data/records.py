"""Defines the record: one training shape, in memory and on disk.

A `Shape` is exact (float32).  `encode` turns it into the lean form that is
stored in ArrayRecord files and carried to the device: int16 coordinates,
uint8 colours, float16 features (134 KB for 10,000 points and 16 features of
width 1,280, where OpenShape's pickles take 349 KB).  Decoding happens on the
device, in `data/examples.py`.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from typing import Any

import numpy as np

from mrd_jax.config.fields import check, field
from mrd_jax.errors import BadInput

SCHEMA = 1  # of stored records; raised whenever an older reader would misread
_LARGEST = 1e37  # so that sums and differences stay in float32's range
XYZ_LEVELS = 32767  # int16 range: |error| <= scale / 65534


class ImageKind(enum.IntEnum):
  """What an image feature was made from; 0 pads a fixed-shape batch."""

  NONE = 0
  VIEW = 1
  THUMBNAIL = 2


class TextKind(enum.IntEnum):
  """Where a text comes from; OpenShape draws its text by source."""

  NONE = 0
  RAW = 1  # the shape's own name or description
  BLIP = 2
  MSFT = 3
  RETRIEVAL = 4


@dataclasses.dataclass(frozen=True)
class Shape:
  """One shape with its frozen teacher features, before quantisation.

  Attributes:
    id: Unique name within the dataset.
    xyz: (N, 3) float32 coordinates, y up, any unit.
    rgb: (N, 3) float32 colours in [0, 1].
    image_feat: (V, D) float32 image features; V is 0 only for a labelled shape
      that serves evaluation alone, and D counts even then.
    image_kind: V values of `ImageKind`.
    texts: T strings, none empty; T may be 0.
    text_feat: (T, D) float32 text features.
    text_kind: T values of `TextKind`.
    dataset: Name of the source collection.
    label: Class index into the split's class names, or -1.
  """

  id: str
  xyz: np.ndarray
  rgb: np.ndarray
  image_feat: np.ndarray
  image_kind: Sequence[ImageKind]
  texts: Sequence[str]
  text_feat: np.ndarray
  text_kind: Sequence[TextKind]
  dataset: str = ""
  label: int = -1


def encode(shape: Shape) -> dict[str, object]:
  """Checks and quantises a shape.

  Returns:
    The record's fields: `id`, `dataset`, `texts` (str, str, list of str),
    `xyz` (N, 3) int16, `center` (3,) and `scale` () float32, `rgb` (N, 3)
    uint8, `image_feat` (V, D) and `text_feat` (T, D) float16, `image_kind`
    (V,) and `text_kind` (T,) uint8, `label` () int32.
    Coordinates are `center + xyz / XYZ_LEVELS * scale`.

  Raises:
    BadInput: naming the shape's id and the field, when a field has the wrong
      shape, a value is not finite, or all points coincide.
  """
  check_shape(shape)
  low, high = shape.xyz.min(axis=0), shape.xyz.max(axis=0)
  center = ((low + high) / 2).astype(np.float32)
  scale = np.float32(np.abs(shape.xyz - center).max())
  xyz = np.rint((shape.xyz - center) / scale * XYZ_LEVELS).astype(np.int16)
  return {
    "id": shape.id,
    "dataset": shape.dataset,
    "texts": list(shape.texts),
    "xyz": xyz,
    "center": center,
    "scale": scale,
    "rgb": np.rint(np.clip(shape.rgb, 0, 1) * 255).astype(np.uint8),
    "image_feat": shape.image_feat.astype(np.float16),
    "image_kind": np.asarray(shape.image_kind, np.uint8),
    "text_feat": shape.text_feat.astype(np.float16),
    "text_kind": np.asarray(shape.text_kind, np.uint8),
    "label": np.int32(shape.label),
  }


def check_shape(shape: Shape) -> None:
  """Raises BadInput, naming id and field, unless `shape` can be a record."""

  def fail(field: str, problem: str) -> None:
    raise BadInput(f"shape {shape.id!r}, field {field!r}: {problem}")

  for name in ("xyz", "rgb", "image_feat", "text_feat"):
    array = getattr(shape, name)
    if array.ndim != 2:
      fail(name, f"expected a matrix, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
      fail(name, "holds NaN or infinite values; re-export or drop the shape")
  if shape.xyz.shape[0] == 0 or shape.xyz.shape[1] != 3:
    fail("xyz", f"expected (N, 3) points, got {shape.xyz.shape}")
  if shape.rgb.shape != shape.xyz.shape:
    fail("rgb", f"shape {shape.rgb.shape} differs from xyz {shape.xyz.shape}")
  if np.abs(shape.xyz).max() > _LARGEST:
    fail("xyz", f"coordinates beyond {_LARGEST:.0e}; scale the shape down")
  if (shape.xyz == shape.xyz[0]).all():
    fail("xyz", "all points coincide, there is no surface to learn from")
  if len(shape.image_kind) != len(shape.image_feat):
    fail("image_feat", "needs one kind per feature")
  if not len(shape.image_feat) and shape.label < 0:
    fail("image_feat", "needs a feature; only a shape with a label may lack it")
  if not len(shape.texts) == len(shape.text_feat) == len(shape.text_kind):
    fail("text_feat", "needs one feature and one kind per text")
  if len(shape.texts) and shape.text_feat.shape[1] != shape.image_feat.shape[1]:
    fail(
      "text_feat",
      f"width {shape.text_feat.shape[1]} differs from the image features' "
      f"{shape.image_feat.shape[1]}; both must come from one teacher",
    )
  for name in ("image_feat", "text_feat"):
    with np.errstate(over="ignore", under="ignore"):
      stored = np.abs(getattr(shape, name).astype(np.float16))
    if (stored.max(axis=1, initial=0) == 0).any() or np.isinf(stored).any():
      fail(
        name,
        "holds a feature that is zero or beyond float16's range (6e-8 to "
        "65504); it has no direction to learn from, or should be normalised",
      )
  for name, kinds in (("image_kind", ImageKind), ("text_kind", TextKind)):
    known = set(kinds) - {kinds.NONE}
    if not known.issuperset(getattr(shape, name)):
      fail(name, f"holds a kind that is not one of {sorted(map(int, known))}")
  for name, texts in (
    ("id", (shape.id,)),
    ("dataset", (shape.dataset,)),
    ("texts", shape.texts),
  ):
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
      fail(name, "cannot be written as UTF-8; it was read in a wrong encoding")
  if any(not text.strip() for text in shape.texts):
    fail("texts", "holds an empty text; leave it out instead")


@dataclasses.dataclass(frozen=True)
class DatasetMeta:
  """What a prepared dataset says about itself (stored as its metadata).

  It is checked when it is made: BadInput names the field that does not fit.
  """

  name: str = field(MISSING, "Dataset name.")
  teacher: str = field(
    MISSING, "Which model made the features, in words for the reader."
  )
  embed_dim: int = field(
    MISSING, "Width D of the features.", between=(0, 2**24 - 1)
  )
  max_points: int = field(
    MISSING,
    "Most points of any shape: N of a padded batch.",
    between=(1, 2**24 - 1),
  )
  max_images: int = field(
    MISSING, "Most image features of any shape.", between=(0, 2**24 - 1)
  )
  max_texts: int = field(
    MISSING, "Most texts of any shape.", between=(0, 2**24 - 1)
  )
  class_names: dict[str, list[str]] = field(
    MISSING,
    "For every split with labels, its class names in label order; their text "
    "features are rows of class_features.npz, key = split.",
  )
  schema: int = field(
    SCHEMA, "Version of the stored records.", between=(1, SCHEMA)
  )

  def __post_init__(self):
    check(self, "")
    for split, names in self.class_names.items():
      if not isinstance(names, list) or not all(
        isinstance(name, str) for name in names
      ):
        raise BadInput(f"class_names of {split!r} must be a list of names")


def record_cloud(record: Mapping[str, Any]) -> np.ndarray:
  """Decodes the cloud of a record: (N, 6) float64, y up, rgb in [0, 1]."""
  # Stored as float32, in which a centre far away would swallow the shape.
  center, scale = (np.float64(record[name]) for name in ("center", "scale"))
  xyz = center + record["xyz"] * (scale / XYZ_LEVELS)
  return np.concatenate([xyz, record["rgb"] / 255], axis=1)
