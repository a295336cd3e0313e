"""Writes and reads shards: ArrayRecord files, each committed by a JSON file.

A piece of work leaves `STEM-SPLIT.array_record` files, one a split, and then
`STEM.json`, which names them and says what became of every item.  Files are
written under another name and renamed, the JSON last: what has no JSON was
never finished and is never read.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer

from mrd_jax.errors import BadInput
from mrd_jax.io.files import naming, replacing
from mrd_jax.io.notes import Note

_T = TypeVar("_T")
Record = dict[str, Any]  # what `records.encode` returns
Serialize = Callable[[Record], bytes]
SHARD_ITEMS = 1024  # 137 MB at 10,000 points and 16 features of width 1,280
_OPTIONS = "group_size:1"  # a record can be read without its neighbours
MEASURED = ("xyz", "image_feat", "text_feat")  # fields whose lengths are padded


@dataclasses.dataclass(frozen=True)
class Reject:
  """One item that was left out, a row of `rejects.jsonl`.

  Attributes:
    split: Split that lacks it.
    file: Where it was to come from.
    id: Its name.
    field: Field at fault, if it is one.
    reason: A few words, the same for all of a kind: what is counted.
    detail: The whole story.
  """

  split: str
  file: str
  id: str
  field: str | None
  reason: str
  detail: str


def field_of(error: Exception) -> str | None:
  """Returns the field that an error is about, if it says so."""
  # `records.check_shape` and `sample.BadField` name it this way.
  found = re.search(r"field '(\w+)'", str(error))
  return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a commit."""

  split: str
  file: str
  records: int
  bytes: int
  without_text: int


@dataclasses.dataclass(frozen=True)
class Commit:
  """What one piece of work left.

  Attributes:
    shards: A file for every split that got records.
    most: Largest length of each of `MEASURED` in any record.
    rejects: Items that were left out.
    problems: Sentences about files that are not items, such as archives.
    notes: What was lost on reading files that are.
  """

  shards: list[Shard]
  most: dict[str, int]
  rejects: list[Reject]
  problems: list[str]
  notes: list[Note]


def finished(path: Path) -> contextlib.AbstractContextManager[Path]:
  """Writes a file whole or not at all, as `io.files.replacing` does.

  Under a name that nobody else has: a cluster may give one unit to two workers
  (a slow one is taken for dead), who then make the same file at once, and in
  containers they even have the same process id.
  """
  return replacing(path, f".tmp-{uuid.uuid4().hex}")


def remove_temporaries(folder: Path) -> None:
  """Removes what killed runs left half-written."""
  for path in folder.glob("*.tmp-*"):
    path.unlink(missing_ok=True)


class ShardWriter:
  """Writes one commit: a context, at whose end all is visible at once.

  If its block raises, nothing is left.

  Attributes:
    rejects: Those of the commit, to be appended to.
    problems: Likewise.
    notes: Likewise.
  """

  def __init__(self, folder: Path, stem: str, serialize: Serialize):
    self._folder = folder
    self._stem = stem
    self._serialize = serialize
    self._files = contextlib.ExitStack()
    self._writers: dict[str, ArrayRecordWriter] = {}
    self._sizes: dict[str, collections.Counter[str]] = {}
    self._most: dict[str, int] = dict.fromkeys(MEASURED, 0)
    self.rejects: list[Reject] = []
    self.problems: list[str] = []
    self.notes: list[Note] = []

  def add(self, split: str, record: Record) -> None:
    """Appends a record to the file of its split."""
    if split not in self._writers:
      path = self._files.enter_context(finished(self._path(split)))
      writer = ArrayRecordWriter(os.fspath(path), _OPTIONS)
      self._files.callback(writer.close)
      self._writers[split] = writer
      self._sizes[split] = collections.Counter()
    content = self._serialize(record)
    self._writers[split].write(content)
    size = {"records": 1, "bytes": len(content)}
    self._sizes[split].update(size | {"without_text": not record["texts"]})
    for field in MEASURED:
      if field in record:
        self._most[field] = max(self._most[field], len(record[field]))

  def _path(self, split: str) -> Path:
    return self._folder / f"{self._stem}-{split}.array_record"

  def __enter__(self) -> "ShardWriter":
    return self

  def __exit__(self, *error: Any) -> None:
    self._files.__exit__(*error)
    if error[0] is not None:
      return
    shards = [
      Shard(split, self._path(split).name, **sizes)
      for split, sizes in self._sizes.items()
    ]
    commit = Commit(shards, self._most, self.rejects, self.problems, self.notes)
    with finished(self._folder / f"{self._stem}.json") as path:
      path.write_text(json.dumps(dataclasses.asdict(commit)))


def chunks(items: Iterable[_T]) -> Iterator[Iterator[_T]]:
  """Cuts items into runs of `SHARD_ITEMS`, each used up before the next."""
  items = iter(items)
  for first in items:
    yield itertools.chain([first], itertools.islice(items, SHARD_ITEMS - 1))


def is_committed(folder: Path, stem: str) -> bool:
  """Says whether a piece of work is finished."""
  return (folder / f"{stem}.json").is_file()


def read_commit(folder: Path, stem: str) -> Commit:
  """Reads what a `ShardWriter` committed."""
  values = json.loads((folder / f"{stem}.json").read_text())
  values["shards"] = [Shard(**row) for row in values["shards"]]
  values["rejects"] = [Reject(**row) for row in values["rejects"]]
  values["notes"] = [Note(**row) for row in values["notes"]]
  return Commit(**values)


def read_files(folder: Path, commit: Commit) -> Iterator[tuple[str, bytes]]:
  """Yields (split, serialised record) of all files of a commit."""
  for shard in commit.shards:
    for content in _contents(folder, shard):
      yield shard.split, content


def _contents(folder: Path, shard: Shard) -> Iterator[bytes]:
  from array_record.python.array_record_data_source import ArrayRecordDataSource

  with ArrayRecordDataSource(os.fspath(folder / shard.file)) as source:
    for index in range(shard.records):
      yield source[index]


def join(folder: Path, parts: Iterable[Shard], file: Path) -> None:
  """Writes the records of several shards to one file."""
  with naming(file):
    writer = ArrayRecordWriter(os.fspath(file), _OPTIONS)
    for shard in parts:
      for content in _contents(folder, shard):
        writer.write(content)
    writer.close()


def serialize_record(record: Record, embed_dim: int) -> bytes:
  """Turns an encoded record into the bytes that are stored.

  Raises:
    BadInput: if its features are not of width `embed_dim`.
  """
  width = np.shape(record["image_feat"])[1]
  if width != embed_dim:
    raise BadInput(
      f"shape {record['id']!r}, field 'image_feat': width {width} differs "
      f"from {embed_dim} of the dataset; use one teacher for all"
    )
  if not record["texts"]:  # of unknown width without a text
    record = record | {"text_feat": np.zeros((0, embed_dim), np.float16)}
  features, serializer = _serializer(embed_dim)
  example = serializer.get_tf_example(features.encode_example(record))
  # A protobuf map has no order: without this, equal records differ in bytes.
  return example.SerializeToString(deterministic=True)


@functools.cache
def _serializer(embed_dim: int) -> tuple[Any, Any]:
  features = record_features(embed_dim)
  info: Any = features.get_serialized_info()
  return features, example_serializer.ExampleSerializer(info)


def record_features(embed_dim: int) -> tfds.features.FeaturesDict:
  """Declares the fields of `records.encode`; arrays are their plain bytes."""

  def tensor(shape: tuple[int | None, ...], dtype: Any) -> Any:
    encoding = tfds.features.Encoding.BYTES
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "dataset": tfds.features.Text(),
      "texts": tfds.features.Sequence(tfds.features.Text()),
      "xyz": tensor((None, 3), np.int16),
      "center": tensor((3,), np.float32),
      "scale": tfds.features.Scalar(np.float32),
      "rgb": tensor((None, 3), np.uint8),
      "image_feat": tensor((None, embed_dim), np.float16),
      "image_kind": tensor((None,), np.uint8),
      "text_feat": tensor((None, embed_dim), np.float16),
      "text_kind": tensor((None,), np.uint8),
      "label": tfds.features.Scalar(np.int32),
    }
  )
