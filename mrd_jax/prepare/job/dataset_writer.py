"""Puts datasets together: TFDS's layout, ArrayRecord files, one atomic rename.

A dataset is made of committed shards (`shards.py`), which keep the order in
which their records came; training shuffles by index.
"""

import contextlib
import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.splits import SplitDict

from mrd_jax.data.dataset import CLASS_FEATURES_FILE
from mrd_jax.data.records import SCHEMA, DatasetMeta, Shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.job.shards import (
  MEASURED,
  Commit,
  Record,
  ShardWriter,
  chunks,
  read_commit,
  record_features,
  serialize_record,
)

VERSION = "1.0.0"


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
  check_output(output)
  check_classes(class_names, class_features)
  with _fresh_folder(Path(output)) as folder:
    stems: list[str] = []
    embed_dim = 0
    for split, shapes in splits.items():
      records: Iterator[Record] = map(
        encode, shapes() if callable(shapes) else shapes
      )
      for chunk in chunks(records):
        first = next(chunk)
        embed_dim = embed_dim or np.shape(first["image_feat"])[1]
        stems.append(f"{len(stems):05d}")
        serialize = partial(serialize_record, embed_dim=embed_dim)
        with ShardWriter(folder, stems[-1], serialize) as writer:
          for record in itertools.chain([first], chunk):
            writer.add(split, record)
          writer.commit()
    if not stems:
      raise BadInput(f"dataset {name!r}: there is not one shape to write")
    return assemble(
      folder,
      [read_commit(folder, stem) for stem in stems],
      Path(output),
      name=name,
      teacher=teacher,
      embed_dim=embed_dim,
      class_names=class_names,
      class_features=class_features,
    )


def assemble(
  folder: Path,
  commits: Sequence[Commit],
  output: Path,
  *,
  name: str,
  teacher: str,
  embed_dim: int,
  class_names: Mapping[str, Sequence[str]],
  class_features: Mapping[str, np.ndarray],
  finish: Callable[[Path], None] | None = None,
) -> DatasetMeta:
  """Makes a dataset of committed shards: their files get TFDS's names.

  Args:
    folder: Where the shards are, on the file system of `output`.
    commits: In the order in which records are to come.
    output: Folder to create.
    name: As for `write_dataset`; likewise the next four.
    teacher: See there.
    embed_dim: Width D of the features.
    class_names: See there.
    class_features: See there.
    finish: Called with the finished folder just before it is renamed; the
      place to add files.

  Returns:
    The metadata as stored.
  """
  check_classes(class_names, class_features, embed_dim)
  splits = list(dict.fromkeys(s.split for c in commits for s in c.shards))
  most = {f: max(commit.most[f] for commit in commits) for f in MEASURED}
  named = [split for split in class_names if split in splits]
  meta = DatasetMeta(
    name=name,
    teacher=teacher,
    embed_dim=embed_dim,
    max_points=most["xyz"],
    max_images=most["image_feat"],
    max_texts=most["text_feat"],
    class_names={split: list(class_names[split]) for split in named},
    schema=SCHEMA,
  )
  target = folder / "dataset"
  shutil.rmtree(target, ignore_errors=True)  # of a killed run
  target.mkdir()
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name=name,
      version=tfds.core.Version(VERSION),
      data_dir=os.fspath(target),
      module_name=__name__,
    ),
    features=record_features(embed_dim),
    metadata=tfds.core.MetadataDict(dataclasses.asdict(meta)),
  )
  info.set_file_format("array_record")
  infos = [
    _link_split(folder, target, commits, name, split) for split in splits
  ]
  info.set_splits(SplitDict(infos))
  info.write_to_directory(target)
  arrays: dict[str, Any] = {
    split: np.float32(class_features[split]) for split in named
  }
  np.savez(target / CLASS_FEATURES_FILE, **arrays)
  if finish is not None:
    finish(target)
  try:
    os.rename(target, output)  # replaces an empty folder, never a full one
  except OSError as error:
    raise BadInput(f"{output}: cannot be created ({error.strerror})") from None
  return meta


def _link_split(
  folder: Path,
  target: Path,
  commits: Sequence[Commit],
  name: str,
  split: str,
) -> tfds.core.SplitInfo:
  """Gives the shards of one split their final names, without copying them."""
  shards = [s for c in commits for s in c.shards if s.split == split]
  template = tfds.core.ShardedFileTemplate(
    dataset_name=name,
    data_dir=target,  # type: ignore  # any path will do
    split=split,
    filetype_suffix="array_record",
  )
  for index, shard in enumerate(shards):
    file = template.sharded_filepath(shard_index=index, num_shards=len(shards))
    source = folder / shard.file
    try:
      os.link(source, file)
    except OSError:  # a file system without hard links
      shutil.copyfile(source, file)
  return tfds.core.SplitInfo(
    name=split,
    shard_lengths=[shard.records for shard in shards],
    num_bytes=sum(shard.bytes for shard in shards),
    filename_template=template,
  )


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
def _fresh_folder(output: Path) -> Iterator[Path]:
  """A sibling of `output` to write into; removed again in the end."""
  folder = output.with_name(f"{output.name}.incomplete-{os.getpid()}")
  shutil.rmtree(folder, ignore_errors=True)  # of a killed run with this pid
  try:
    folder.mkdir(parents=True)
  except OSError as error:
    raise BadInput(f"{output}: cannot be created ({error.strerror})") from None
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def check_classes(
  class_names: Mapping[str, Sequence[str]],
  class_features: Mapping[str, np.ndarray],
  embed_dim: int | None = None,
) -> None:
  """Raises BadInput unless there is one sound feature for every class name."""
  if class_names.keys() != class_features.keys():
    raise BadInput("class_names and class_features name different splits")
  for split, names in class_names.items():
    features = class_features[split]
    problem = None
    if features.ndim != 2 or len(features) != len(names):
      problem = f"shape {features.shape} does not fit {len(names)} class names"
    elif not np.isfinite(features).all() or not features.any(axis=1).all():
      problem = "a row is zero, NaN or infinite"
    elif embed_dim not in (None, features.shape[1]):
      problem = (
        f"width {features.shape[1]} differs from the shapes' {embed_dim}; use "
        "one teacher for both"
      )
    if problem:
      raise BadInput(f"class features of split {split!r}: {problem}")
