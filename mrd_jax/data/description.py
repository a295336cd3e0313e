"""Reads what a prepared dataset says about itself: data, of which nothing runs.

TFDS's own reader imports the classes that a `features.json` names, whoever
wrote it.  Here the three files are JSON, held against what `prepare` writes.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mrd_jax.data.records import SCHEMA, DatasetMeta
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_fields

INFO, FEATURES, METADATA = "dataset_info.json", "features.json", "metadata.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_FORMAT = "array_record"
_NAME = re.compile(r"\w[\w.-]*")  # of a dataset or a split: no folder, no sign
_MOST = 2**31  # records of a split: rows are int32
_REMEDY = "prepare one with: python -m mrd_jax.prepare"
_TFDS = "tensorflow_datasets.core.features."
_TEXT = {"pythonClassName": f"{_TFDS}text_feature.Text", "text": {}}


class Split(NamedTuple):
  """Where the records of a split are.

  Attributes:
    files: Its ArrayRecord files, in order.
    lengths: How many records each of them has.
  """

  files: tuple[Path, ...]
  lengths: tuple[int, ...]


class Description(NamedTuple):
  """What a dataset says about itself."""

  meta: DatasetMeta
  splits: Mapping[str, Split]


def describe(directory: str | os.PathLike[str]) -> Description:
  """Reads the description of the dataset in `directory`.

  Raises:
    BadInput: naming `data.dir`, the file and the field, when there is no
      complete dataset there, or one that is not in our layout.
  """
  directory = Path(directory)
  # Unlike Path's, these bear a name that is too long for any file.
  if not os.path.isfile(directory / INFO):
    is_folder = os.path.isdir(directory)
    state = "is not a prepared dataset" if is_folder else "does not exist"
    raise BadInput(f"data.dir: {directory} {state}; {_REMEDY} --output DIR")
  meta = _meta(directory)
  found, info = _read(directory / FEATURES), _read(directory / INFO)
  with _in_file(directory / FEATURES):
    _check_features(found, meta.embed_dim)
  with _in_file(directory / INFO):
    return Description(meta, _splits(directory, info))


def _read(path: Path) -> dict[str, Any]:
  """Reads the fields of a JSON file; there are none if it is missing."""
  if not path.is_file():
    return {}
  return read_fields(path, "prepare the data again")


@contextlib.contextmanager
def _in_file(path: Path) -> Iterator[None]:
  """Says of a field that is not ours in which file it is."""
  try:
    yield
  except BadInput as error:
    raise BadInput(
      f"data.dir: {path}: {error}; another program wrote this dataset, "
      f"{_REMEDY} --output DIR"
    ) from None


def _meta(directory: Path) -> DatasetMeta:
  path = directory / METADATA
  values = _read(path)
  schema = values.get("schema", SCHEMA)
  if type(schema) is int and schema > SCHEMA:
    raise BadInput(
      f"data.dir: {directory} holds records of schema {schema}, this mrd_jax "
      f"reads up to {SCHEMA}; install a newer mrd_jax, or prepare the data "
      "again"
    )
  fields = [field.name for field in dataclasses.fields(DatasetMeta)]
  missing = [field for field in fields if field not in values]
  if missing:
    raise BadInput(
      f"data.dir: the metadata in {directory} lacks {', '.join(missing)}; "
      f"another program wrote this dataset, {_REMEDY} --output DIR"
    )
  with _in_file(path):
    return DatasetMeta(**{field: values[field] for field in fields})


def _check_features(found: dict[str, Any], embed_dim: int) -> None:
  """Raises BadInput, naming the field, unless a features.json is of records."""
  expected = features(embed_dim)
  try:
    inner = found["featuresDict"]["features"]
    fields = {name: inner.get(name) for name in {*expected, *inner}}
  except (KeyError, TypeError, AttributeError):
    raise BadInput("has no featuresDict.features") from None
  for name in sorted(fields):
    if name not in expected:
      raise BadInput(f"the field {name!r} is none of a record")
    if fields[name] != expected[name]:
      raise BadInput(
        f"the field {name!r} is {fields[name]}, must be {expected[name]}"
      )
  kind = {"featuresDict", "pythonClassName"}
  ours = f"{_TFDS}features_dict.FeaturesDict"
  if found.keys() != kind or found["pythonClassName"] != ours:
    raise BadInput(f"pythonClassName must be {ours}, beside featuresDict alone")


def features(embed_dim: int) -> dict[str, Any]:
  """The fields of `records.encode`, as TFDS writes them into features.json."""

  def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    kind = "tensor_feature.Tensor" if shape else "scalar.Scalar"
    sizes = {"dimensions": [str(size) for size in shape]} if shape else {}
    encoding = "bytes" if shape else "none"
    inner = {"dtype": dtype, "encoding": encoding, "shape": sizes}
    return {"pythonClassName": _TFDS + kind, "tensor": inner}

  texts = {
    "pythonClassName": f"{_TFDS}sequence_feature.Sequence",
    "sequence": {"feature": _TEXT, "length": "-1"},
  }
  return {
    "id": _TEXT,
    "dataset": _TEXT,
    "texts": texts,
    "xyz": tensor("int16", -1, 3),
    "center": tensor("float32", 3),
    "scale": tensor("float32"),
    "rgb": tensor("uint8", -1, 3),
    "image_feat": tensor("float16", -1, embed_dim),
    "image_kind": tensor("uint8", -1),
    "text_feat": tensor("float16", -1, embed_dim),
    "text_kind": tensor("uint8", -1),
    "label": tensor("int32"),
  }


def _splits(directory: Path, info: dict[str, Any]) -> dict[str, Split]:
  """Finds the files of every split; none lies outside of the folder."""
  if info.get("fileFormat") != _FORMAT:
    raise BadInput(
      f"fileFormat is {info.get('fileFormat')!r}, must be {_FORMAT}"
    )
  dataset = _name(info.get("name"), "name")
  listed = info.get("splits")
  if not isinstance(listed, list) or not all(
    isinstance(x, dict) for x in listed
  ):
    raise BadInput("splits must be a list of splits")
  splits = {}
  for entry in listed:
    name = _name(entry.get("name"), "splits.name")
    if entry.get("filepathTemplate") != _TEMPLATE:
      raise BadInput(
        f"splits.filepathTemplate is {entry.get('filepathTemplate')!r}, must "
        f"be {_TEMPLATE}"
      )
    written = entry.get("shardLengths")
    if not isinstance(written, list) or not all(
      isinstance(length, str) and re.fullmatch(r"\d{1,10}", length, re.ASCII)
      for length in written
    ):
      raise BadInput(f"splits.shardLengths of {name} must be a list of numbers")
    lengths = tuple(map(int, written))
    records = sum(lengths)
    if records >= _MOST:
      raise BadInput(
        f"splits.shardLengths of {name} make {records:,} records, must be "
        f"fewer than {_MOST:,}"
      )
    stem = f"{dataset}-{name}.{_FORMAT}"
    files = (
      directory / f"{stem}-{i:05d}-of-{len(lengths):05d}"
      for i in range(len(lengths))
    )
    splits[name] = Split(tuple(files), lengths)
  return splits


def _name(found: Any, field: str) -> str:
  if not isinstance(found, str) or not _NAME.fullmatch(found):
    raise BadInput(f"{field} is {found!r}, must be letters, digits, _, - and .")
  return found
