"""Writes datasets: TFDS layout, ArrayRecord files, one atomic rename.

TFDS's sequential writer is used rather than its `GeneratorBasedBuilder`,
whose shuffler imports TensorFlow as soon as a split exceeds 1 GB (7,800
shapes), and because an archive that feeds several splits is read only once.
Records keep the order in which they come; training shuffles by index.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mrd_jax.data.dataset import CLASS_FEATURES_FILE
from mrd_jax.data.records import DatasetMeta, Shape, encode
from mrd_jax.errors import BadInput

VERSION = "1.0.0"
_SHARD_RECORDS = 2048  # 270 MB at 10,000 points and 16 features of 1,280
_BATCH = 64  # the writer rewrites its metadata once per batch

Record = dict[str, Any]  # what `records.encode` returns


def write_dataset(
  output: str | os.PathLike[str],
  name: str,
  splits: Mapping[str, Iterable[Shape] | Callable[[], Iterable[Shape]]],
  teacher: str,
  class_names: Mapping[str, Sequence[str]],
  class_features: Mapping[str, np.ndarray],
) -> DatasetMeta:
  """Writes shapes as a dataset; `output` appears only when all is written.

  Args:
    output: Folder to create; it may exist only if empty.
    name: Dataset name, letters, digits and underscores.
    splits: For every split its shapes, or a function that yields them.
    teacher: Which model made the features, in words.
    class_names: For every split with labels, its class names in label order.
    class_features: For the same splits, the (C, D) features of these names.

  Returns:
    The metadata as stored.  A split without shapes is left out.

  Raises:
    BadInput: when a shape cannot be a record, widths differ, nothing was
      yielded, or `output` exists.
  """

  def records() -> Iterator[tuple[str, Record]]:
    for split, shapes in splits.items():
      for shape in shapes() if callable(shapes) else shapes:
        yield split, encode(shape)

  return write_records(
    output, name, records(), teacher, class_names, class_features
  )


def write_records(
  output: str | os.PathLike[str],
  name: str,
  records: Iterable[tuple[str, Record]],
  teacher: str,
  class_names: Mapping[str, Sequence[str]],
  class_features: Mapping[str, np.ndarray],
  finish: Callable[[Path], None] | None = None,
) -> DatasetMeta:
  """Like `write_dataset`, for (split, encoded record) pairs in any order.

  Args:
    output: As for `write_dataset`; likewise all others but these two.
    records: Pairs of a split and what `records.encode` returned.
    finish: Called with the finished folder just before it is renamed; the
      place to add files.
  """
  output = Path(output)
  check_output(output)
  _check_classes(class_names, class_features)
  with _incomplete_folder(output) as folder:
    meta = _write(
      folder, name, records, teacher, dict(class_names), class_features
    )
    if finish is not None:
      finish(folder)
    try:
      os.rename(folder, output)  # replaces an empty folder, never a full one
    except OSError as error:
      raise BadInput(
        f"{output}: cannot be created ({error.strerror})"
      ) from None
  return meta


def check_output(output: str | os.PathLike[str]) -> None:
  """Raises BadInput unless `output` is absent or an empty folder."""
  output = Path(output)
  if not output.exists() or (output.is_dir() and not any(output.iterdir())):
    return
  what = "exists and is no dataset of ours"
  if (output / "dataset_info.json").is_file():
    what = "already holds a complete dataset"
  raise BadInput(f"{output}: {what}; name another folder, or remove it first")


@contextlib.contextmanager
def _incomplete_folder(output: Path) -> Iterator[Path]:
  """A sibling of `output` to write into; removed again on any exception."""
  folder = output.with_name(f"{output.name}.incomplete-{os.getpid()}")
  shutil.rmtree(folder, ignore_errors=True)  # of a killed run with this pid
  try:
    folder.mkdir(parents=True)
  except OSError as error:
    raise BadInput(f"{output}: cannot be created ({error.strerror})") from None
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)  # nothing there if renamed


def _write(
  folder: Path,
  name: str,
  records: Iterable[tuple[str, Record]],
  teacher: str,
  class_names: dict[str, Sequence[str]],
  class_features: Mapping[str, np.ndarray],
) -> DatasetMeta:
  """Writes shards, metadata and class features into `folder`."""
  writer = None
  metadata = tfds.core.MetadataDict()
  embed_dim = 0
  most = {"xyz": 0, "image_feat": 0, "text_feat": 0}
  waiting: dict[str, list[Record]] = {}
  try:
    for split, record in records:
      if writer is None:
        embed_dim = np.shape(record["image_feat"])[1]
        _check_width(class_features, embed_dim)
        writer = _open_writer(folder, name, embed_dim, metadata)
      if split not in waiting:
        writer.initialize_splits([split])
        waiting[split] = []
      waiting[split].append(_checked(record, embed_dim))
      for field in most:
        most[field] = max(most[field], len(np.asarray(record[field])))
      if len(waiting[split]) == _BATCH:
        writer.add_examples({split: waiting[split]})
        waiting[split] = []
    if writer is None:
      raise BadInput(f"dataset {name!r}: there is not one shape to write")
    writer.add_examples(waiting)
    meta = DatasetMeta(
      name=name,
      teacher=teacher,
      embed_dim=embed_dim,
      max_points=most["xyz"],
      max_images=most["image_feat"],
      max_texts=most["text_feat"],
      class_names={
        split: list(names)
        for split, names in class_names.items()
        if split in waiting
      },
    )
    metadata.update(dataclasses.asdict(meta))
  finally:
    if writer is not None:
      writer.close_all()
  arrays: dict[str, Any] = {
    split: np.float32(class_features[split]) for split in meta.class_names
  }
  np.savez(folder / CLASS_FEATURES_FILE, **arrays)
  return meta


def _open_writer(
  folder: Path, name: str, embed_dim: int, metadata: tfds.core.MetadataDict
) -> tfds.core.SequentialWriter:
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name=name,
      version=tfds.core.Version(VERSION),
      data_dir=os.fspath(folder),
      module_name=__name__,
    ),
    features=_features(embed_dim),
    metadata=metadata,
  )
  return tfds.core.SequentialWriter(
    info, max_examples_per_shard=_SHARD_RECORDS, file_format="array_record"
  )


def _features(embed_dim: int) -> tfds.features.FeaturesDict:
  """The fields of `records.encode`; arrays are stored as their plain bytes."""

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


def _checked(record: Record, embed_dim: int) -> Record:
  """Gives absent texts their (0, D) features; refuses another width."""
  width = np.shape(record["image_feat"])[1]
  if width != embed_dim:
    raise BadInput(
      f"shape {record['id']!r}, field 'image_feat': width {width} differs "
      f"from {embed_dim} of the shapes before it; use one teacher for all"
    )
  if not record["texts"]:
    return record | {"text_feat": np.zeros((0, embed_dim), np.float16)}
  return record


def _check_classes(
  class_names: Mapping[str, Sequence[str]],
  class_features: Mapping[str, np.ndarray],
) -> None:
  if class_names.keys() != class_features.keys():
    raise BadInput("class_names and class_features name different splits")
  for split, names in class_names.items():
    features = class_features[split]
    if features.ndim != 2 or len(features) != len(names):
      raise BadInput(
        f"class features of split {split!r}: shape {features.shape} does not "
        f"fit {len(names)} class names"
      )
    if not np.isfinite(features).all() or not features.any(axis=1).all():
      raise BadInput(
        f"class features of split {split!r}: a row is zero, NaN or infinite"
      )


def _check_width(
  class_features: Mapping[str, np.ndarray], embed_dim: int
) -> None:
  for split, features in class_features.items():
    if features.shape[1] != embed_dim:
      raise BadInput(
        f"class features of split {split!r}: width {features.shape[1]} "
        f"differs from the shapes' {embed_dim}; use one teacher for both"
      )
