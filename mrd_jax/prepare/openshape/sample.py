"""Makes a `Shape` of one OpenShape sample: keys, texts, colours."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mrd_jax.data.records import ImageKind, Shape, TextKind
from mrd_jax.io.colors import SLACK
from mrd_jax.prepare.job.shards import Reject, field_of
from mrd_jax.prepare.openshape.lists import Entry

GREY = np.float32(0.4)  # OpenShape's colour for a cloud that has none
_CAPTIONS = (("blip_caption", TextKind.BLIP), ("msft_caption", TextKind.MSFT))


class BadField(Exception):
  """A sample lacks a key, or the key holds something else than expected."""

  def __init__(self, field: str, reason: str, detail: str):
    super().__init__(f"field {field!r}: {detail}")
    self.field, self.reason = field, reason


def reject(
  split: str, entry: Entry, error: Exception, reason: str = "bad value"
) -> Reject:
  """Makes the reject of an entry; a `BadField` has its own reason."""
  reason = error.reason if isinstance(error, BadField) else reason
  why = field_of(error), reason, str(error)
  return Reject(split, entry.path, entry.id, *why)


def to_shape(sample: Any, entry: Entry) -> Shape:
  """Makes a Shape of one sample file's content.

  Args:
    sample: The unpickled dict; keys as in OpenShape's README.
    entry: Its line in the list.

  Raises:
    BadField: for a missing key or a value of the wrong kind.
  """
  dataset = str(_key(sample, "dataset", entry.dataset))
  xyz = _matrix(_key(sample, "xyz"), "xyz", width=3)
  views = _matrix(_key(sample, "image_feat"), "image_feat")
  kinds = [ImageKind.VIEW] * len(views)
  thumbnail = _key(sample, "thumbnail_feat", None)
  if thumbnail is not None:
    row = _matrix(thumbnail, "thumbnail_feat", width=views.shape[1], rows=1)
    views = np.concatenate([views, row])
    kinds.append(ImageKind.THUMBNAIL)
  texts = list(_texts(sample, dataset, entry.named, views.shape[1]))
  return Shape(
    id=entry.id,
    xyz=xyz,
    rgb=_colour(_key(sample, "rgb", None), xyz),
    image_feat=views,
    image_kind=kinds,
    texts=[text for text, _, _ in texts],
    text_feat=np.concatenate(
      [np.zeros((0, views.shape[1]), np.float32), *(f for _, f, _ in texts)]
    ),
    text_kind=[kind for _, _, kind in texts],
    dataset=dataset,
    label=entry.label,
  )


def evaluation_shape(cloud: Any, width: int, entry: Entry) -> Shape:
  """Makes a Shape of a ModelNet40 cloud, whose colours are 0..255."""
  if entry.label < 0:
    raise BadField("category", "bad value", "not a class of this split")
  xyz = _matrix(_key(cloud, "xyz"), "xyz", width=3)
  rgb = _key(cloud, "rgb", None)
  if rgb is not None:
    rgb = _matrix(rgb, "rgb", width=3) / 255
  return Shape(
    id=entry.id,
    xyz=xyz,
    rgb=_colour(rgb, xyz),
    image_feat=np.zeros((0, width), np.float32),
    image_kind=(),
    texts=(),
    text_feat=np.zeros((0, width), np.float32),
    text_kind=(),
    dataset=entry.dataset,
    label=entry.label,
  )


def _texts(
  sample: Any, dataset: str, keep_name: bool, width: int
) -> Iterator[tuple[str, np.ndarray, TextKind]]:
  """Yields (text, (1, D) feature, kind) by the rules of OpenShape's loader."""

  def feature(value: Any, key: str, form: str) -> np.ndarray:
    if isinstance(value, np.ndarray):  # a 0-d one around the dict
      value = value.item()
    found = _key(value, form, where=f"{key}[{form!r}]")
    return _matrix(found, key, width=width, rows=1)

  names = _strings(_key(sample, "text"), "text")
  if dataset == "Objaverse":  # further elements are tags, not descriptions
    names = names[:1] if keep_name else []
  found = _strings(_key(sample, "retrieval_text", ()), "retrieval_text")
  for key, form, texts, kind in (
    ("text_feat", "prompt_avg", names, TextKind.RAW),
    ("retrieval_text_feat", "original", found, TextKind.RETRIEVAL),
  ):
    features = _key(sample, key) if texts else ()
    counted = isinstance(features, list | tuple | np.ndarray)
    if not counted or len(features) < len(texts):
      raise BadField(key, "bad value", "fewer features than texts")
    for text, value in zip(texts, features, strict=False):
      if text.strip():
        yield text, feature(value, key, form), kind
  for key, kind in _CAPTIONS:
    text = str(_key(sample, key, "") or "")
    if text.strip():
      value = _key(sample, f"{key}_feat")
      yield text, feature(value, f"{key}_feat", "prompt_avg"), kind


_REQUIRED = object()


def _key(
  sample: Any, key: str, default: Any = _REQUIRED, where: str | None = None
) -> Any:
  """Returns `sample[key]`, the default, or raises naming the key."""
  if not isinstance(sample, Mapping):
    raise BadField(
      where or key, "bad value", f"expected a dict, found {type(sample)}"
    )
  if key not in sample and default is _REQUIRED:
    raise BadField(where or key, "missing key", "absent from the file")
  return sample.get(key, default)


def _strings(value: Any, key: str) -> list[str]:
  values = [value] if isinstance(value, str) else list(value)
  if not all(isinstance(text, str) for text in values):
    raise BadField(key, "bad value", "expected strings")
  return [str(text) for text in values]


def _matrix(
  value: Any, key: str, width: int | None = None, rows: int | None = None
) -> np.ndarray:
  """Returns `value` as (rows, width) float32; a single row may be a vector."""
  try:
    array = np.asarray(value, np.float32)
  except (TypeError, ValueError, FloatingPointError) as error:
    raise BadField(key, "bad value", f"not float32 numbers ({error})") from None
  array = array[None] if array.ndim == 1 else array
  good = array.ndim == 2 and width in (None, array.shape[1])
  if not good or rows not in (None, len(array)):
    raise BadField(
      key,
      "bad value",
      f"shape {np.shape(value)}, expected ({rows or 'n'}, {width or 'd'})",
    )
  return array


def _colour(rgb: Any, xyz: np.ndarray) -> np.ndarray:
  if rgb is None:
    return np.full_like(xyz, GREY)
  rgb = _matrix(rgb, "rgb", width=3)
  # Beyond rounding this is 0..255, which clipping would turn white.
  if rgb.size and (rgb.min() < -SLACK or rgb.max() > 1 + SLACK):
    raise BadField("rgb", "bad value", "not between 0 and 1")
  return rgb
