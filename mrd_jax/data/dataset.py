"""Reads prepared datasets: random access to the records of `records.encode`.

The folder is a TFDS dataset in ArrayRecord files, written by
`mrd_jax.prepare`; TensorFlow is not needed to read it.
"""

import bisect
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from mrd_jax.data.description import Split, describe
from mrd_jax.data.open_files import OpenFiles
from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.io.arrays import read_npz

CLASS_FEATURES_FILE = "class_features.npz"


def read_meta(directory: str | os.PathLike[str]) -> DatasetMeta:
  """Returns what the dataset in `directory` says about itself.

  Raises:
    BadInput: naming `data.dir`, when there is no complete dataset there.
  """
  return describe(directory).meta


def class_features(directory: str | os.PathLike[str], split: str) -> np.ndarray:
  """Returns the text features of a split's class names.

  Returns:
    (C, D) float32, rows in label order (`DatasetMeta.class_names[split]`).

  Raises:
    BadInput: when the dataset or the split is missing, or has no classes.
  """
  describe(directory)
  path = Path(directory) / CLASS_FEATURES_FILE
  stored = read_npz(path, "prepare the data again") if path.exists() else {}
  if split not in stored:
    raise BadInput(
      f"split {split!r} of {directory} has no class names to evaluate "
      f"against; splits that have: {', '.join(sorted(stored)) or 'none'}"
    )
  features = stored[split]
  if features.ndim != 2 or features.dtype.kind != "f":
    raise BadInput(
      f"{path}: {split} holds {features.dtype} {features.shape}, must hold a "
      "feature for each class name; prepare the data again"
    )
  return features.astype(np.float32)


def split_names(directory: str | os.PathLike[str]) -> list[str]:
  """Lists the splits of a dataset.

  Raises:
    BadInput: naming `data.dir`, when there is no dataset.
  """
  return sorted(describe(directory).splits)


def open_split(directory: str | os.PathLike[str], split: str) -> "RecordSource":
  """Opens one split for random access.

  Raises:
    BadInput: naming `data.dir` or the split, when it is missing.
  """
  meta, splits = describe(directory)
  if split not in splits:
    raise BadInput(
      f"split {split!r} is not in {directory}; it has: "
      f"{', '.join(sorted(splits))}"
    )
  return RecordSource(Path(directory), split, splits[split], meta.embed_dim)


class RecordSource:
  """The records of one split; index it with 0 .. len - 1.

  Cheap to pickle for worker processes: files are opened when they are read, in
  the process that reads them, and few of them at a time (`open_files.py`).

  Attributes:
    files: Where the records are.
  """

  def __init__(self, directory: Path, name: str, split: Split, embed_dim: int):
    self.files = split.files
    self._ends = list(itertools.accumulate(split.lengths))
    self._length = sum(split.lengths)
    self._directory = directory
    self._name = name
    self._embed_dim = embed_dim
    self._open: OpenFiles | None = None

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    """Returns one record: the fields and dtypes of `records.encode`.

    Raises:
      IndexError: unless 0 <= index < len.
    """
    index = index.__index__()
    if not 0 <= index < self._length:
      raise IndexError(f"record {index} of {self._length}")
    file = bisect.bisect_right(self._ends, index)
    row = index - (self._ends[file - 1] if file else 0)
    self._open = self._open or OpenFiles()
    try:
      content = self._open.read(self.files[file], row)
      return decode(content, self._embed_dim)
    except RunFailed:  # for want of open files: nothing is damaged
      raise
    except Exception as error:  # whatever the readers raise on damaged files
      raise BadInput(
        f"data.dir: record {index} of split {self._name!r} in "
        f"{self._directory} cannot be read ({error}); the file is damaged, "
        "prepare the dataset again"
      ) from error

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return (self[index] for index in range(self._length))

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {"_open": None}


# The bytes of a stored record, read with numpy alone.
#
# A record is a protobuf message of type tf.train.Example (as TFDS writes it):
# a map from field name to a list of byte strings, floats or integers.  Its wire
# format (protobuf.dev/programming-guides/encoding) is simple enough to be
# walked here, in 40 % of the time of TFDS's decoder and copying nothing:
# arrays are views of the bytes.

_ARRAYS: dict[str, tuple[Any, tuple[int, ...]]] = {
  "xyz": (np.int16, (-1, 3)),
  "center": (np.float32, (3,)),
  "rgb": (np.uint8, (-1, 3)),
  "image_kind": (np.uint8, (-1,)),
  "text_kind": (np.uint8, (-1,)),
}
_LENGTH_DELIMITED = 2  # wire type: a length, then so many bytes

Span = tuple[int, int]  # first byte, and the one after the last


def decode(content: bytes, embed_dim: int) -> dict[str, Any]:
  """Reads one record.

  Args:
    content: What `prepare.shards.serialize_record` made.
    embed_dim: Width D of the features.

  Returns:
    The fields and dtypes of `records.encode`; arrays cannot be written to.

  Raises:
    ValueError, LookupError: if the bytes are not a record.
  """
  values = _values(content)

  def array(name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    ((start, end),) = values[name]
    count = (end - start) // np.dtype(dtype).itemsize
    return np.frombuffer(content, dtype, count, start).reshape(shape)

  def texts(name: str) -> list[str]:
    return [content[start:end].decode() for start, end in values[name]]

  features = np.float16, (-1, embed_dim)
  arrays = _ARRAYS | {"image_feat": features, "text_feat": features}
  record: dict[str, Any] = {name: array(name, *arrays[name]) for name in arrays}
  (record["id"],), (record["dataset"],) = texts("id"), texts("dataset")
  record["texts"] = texts("texts")
  (record["scale"],) = array("scale", np.float32, (1,))
  label, _ = _varint(content, values["label"][0][0])
  label -= 2**64 if label >= 2**63 else 0
  if not -(2**31) <= label < 2**31:
    raise ValueError(f"label {label}")
  record["label"] = np.int32(label)
  return record


def _values(content: bytes) -> dict[str, list[Span]]:
  """Where the values of every field are; numbers are packed into one span."""
  values = {}
  (features,) = _parts(content, (0, len(content)))
  for entry in _parts(content, features):
    name, feature = _parts(content, entry)
    kinds = list(_parts(content, feature))  # none for an empty list
    found = list(_parts(content, kinds[0])) if kinds else []
    values[content[slice(*name)].decode()] = found
  return values


def _parts(content: bytes, span: Span) -> Iterator[Span]:
  """Where the parts of a message are, in their order."""
  at, end = span
  while at < end:
    tag, at = _varint(content, at)
    if tag & 7 != _LENGTH_DELIMITED:
      raise ValueError(f"wire type {tag & 7} at byte {at}")
    length, at = _varint(content, at)
    if at + length > end:
      raise ValueError(f"a part reaches beyond its message at byte {at}")
    yield at, at + length
    at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
  """An integer of seven bits a byte, low ones first, and where it ends."""
  value = shift = 0
  while True:
    byte = content[at]
    at += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, at
    shift += 7
