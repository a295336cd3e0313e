"""Puts datasets together: TFDS's layout, ArrayRecord files, one atomic rename.

A dataset is made of committed shards (`shards.py`), which keep the order in
which their records came; training shuffles by index.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.splits import SplitDict

from mrd_jax.data.dataset import CLASS_FEATURES_FILE
from mrd_jax.data.records import SCHEMA, DatasetMeta, Shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.io.files import naming, replacing
from mrd_jax.prepare.job import shards
from mrd_jax.prepare.job.shards import MEASURED, Commit, Record, Shard

VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
  """What becomes a dataset: committed shards, and what is true of all of them.

  Attributes:
    folder: Where the shards are.
    commits: In the order in which records are to come.
    teacher: Which model made the features, in words.
    embed_dim: Width D of the features.
    class_names: For every split with labels, its class names in label order.
    class_features: For the same splits, the (C, D) features of these names.
    add_files: Called with the finished folder just before it is renamed; may
      put more files there.
  """

  folder: Path
  commits: Sequence[Commit]
  teacher: str
  embed_dim: int
  class_names: Mapping[str, Sequence[str]]
  class_features: Mapping[str, np.ndarray]
  add_files: Callable[[Path], None] = lambda folder: None


def write_dataset(
  output: str | os.PathLike[str],
  name: str,
  splits: Mapping[str, Iterable[Shape]],
  teacher: str,
  class_names: Mapping[str, Sequence[str]],
  class_features: Mapping[str, np.ndarray],
) -> DatasetMeta:
  """Writes shapes as a dataset; `output` appears only when all is written.

  Args:
    output: Folder to create; it may exist only if empty.
    name: Dataset name, letters, digits and underscores.
    splits: For every split its shapes.
    teacher: As in `Made`; likewise the next two.
    class_names: See there.
    class_features: See there.

  Returns:
    The metadata as stored.  A split without shapes is left out.

  Raises:
    BadInput: when a shape cannot be a record, widths differ, nothing was
      yielded, or `output` exists; when the class features cannot be used,
      before the first shape is written.
  """
  check_output(output)
  output = Path(output)
  try:
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = tempfile.TemporaryDirectory(
      prefix=f"{output.name}.incomplete-", dir=output.parent
    )
  except OSError as error:
    raise BadInput(f"{output}: cannot be created ({error.strerror})") from None
  with beside as temporary:
    folder = Path(temporary)
    commits: list[Commit] = []
    embed_dim = 0

    def serialize(record: Record) -> bytes:
      nonlocal embed_dim  # that of the first one
      if not embed_dim:
        embed_dim = np.shape(record["image_feat"])[1]
        check_classes(class_names, class_features, embed_dim)
      return shards.serialize_record(record, embed_dim)

    for split, shapes in splits.items():
      for chunk in shards.chunks(shapes):
        stem = f"{len(commits):05d}"
        with shards.ShardWriter(folder, stem, serialize) as writer:
          for shape in chunk:
            writer.add(split, encode(shape))
        commits.append(shards.read_commit(folder, stem))
    if not commits:
      raise BadInput(f"dataset {name!r}: there is not one shape to write")
    made = Made(
      folder=folder,
      commits=commits,
      teacher=teacher,
      embed_dim=embed_dim,
      class_names=class_names,
      class_features=class_features,
    )
    return assemble(made, output, name)


def assemble(made: Made, output: Path, name: str) -> DatasetMeta:
  """Makes a dataset of committed shards: their files get TFDS's names.

  Args:
    made: The shards, on the file system of `output`.
    output: Folder to create.
    name: Dataset name.

  Returns:
    The metadata as stored.
  """
  check_classes(made.class_names, made.class_features, made.embed_dim)
  parts = [shard for commit in made.commits for shard in commit.shards]
  splits = list(dict.fromkeys(part.split for part in parts))
  most = {f: max(commit.most[f] for commit in made.commits) for f in MEASURED}
  named = [split for split in made.class_names if split in splits]
  meta = DatasetMeta(
    name=name,
    teacher=made.teacher,
    embed_dim=made.embed_dim,
    max_points=most["xyz"],
    max_images=most["image_feat"],
    max_texts=most["text_feat"],
    class_names={split: list(made.class_names[split]) for split in named},
    schema=SCHEMA,
  )
  target = made.folder / "dataset"
  shutil.rmtree(target, ignore_errors=True)  # of a killed run
  target.mkdir()
  features = shards.record_features(made.embed_dim)
  metadata = tfds.core.MetadataDict(dataclasses.asdict(meta))
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name=name,
      version=tfds.core.Version(VERSION),
      data_dir=os.fspath(target),
      module_name=__name__,
    ),
    features=features,
    metadata=metadata,
  )
  info.set_file_format("array_record")
  info.set_splits(
    SplitDict([_link_split(made, target, name, split) for split in splits])
  )
  # As `info.write_to_directory`, which does not say what it was writing.
  for file, write in (
    ("features.json", features.save_config),
    ("metadata.json", metadata.save_metadata),
    ("dataset_info.json", info.write_dataset_info_json),
  ):
    with naming(target / file):
      write(os.fspath(target))
  arrays: dict[str, Any] = {
    split: np.float32(made.class_features[split]) for split in named
  }
  with (
    replacing(target / CLASS_FEATURES_FILE) as temporary,
    temporary.open("wb") as file,
  ):
    np.savez(file, **arrays)
  made.add_files(target)
  try:
    os.rename(target, output)  # replaces an empty folder, never a full one
  except OSError as error:
    raise BadInput(f"{output}: cannot be created ({error.strerror})") from None
  return meta


def _link_split(
  made: Made, target: Path, name: str, split: str
) -> tfds.core.SplitInfo:
  """Gives the shards of one split their final names; only small ones are copied.

  A unit of work may have few records of a split.  Those that follow each other
  are joined up to `shards.SHARD_ITEMS`, so that a split has few files.
  """
  parts = [s for c in made.commits for s in c.shards if s.split == split]
  files = list(_runs(parts))
  template = tfds.core.ShardedFileTemplate(
    dataset_name=name,
    data_dir=target,  # type: ignore  # any path will do
    split=split,
    filetype_suffix="array_record",
  )
  for index, run in enumerate(files):
    file = template.sharded_filepath(shard_index=index, num_shards=len(files))
    if len(run) > 1:
      shards.join(made.folder, run, Path(file))
      continue
    source = made.folder / run[0].file
    try:
      os.link(source, file)
    except OSError:  # a file system without hard links
      shutil.copyfile(source, file)
  return tfds.core.SplitInfo(
    name=split,
    shard_lengths=[sum(shard.records for shard in run) for run in files],
    num_bytes=sum(shard.bytes for shard in parts),
    filename_template=template,
  )


def _runs(parts: Sequence[Shard]) -> Iterator[list[Shard]]:
  """Yields shards that follow each other and are one file together."""
  run: list[Shard] = []
  for shard in parts:
    records = sum(part.records for part in run) + shard.records
    if run and records > shards.SHARD_ITEMS:
      yield run
      run = []
    run.append(shard)
  yield run


def check_output(output: str | os.PathLike[str]) -> None:
  """Raises BadInput unless `output` is absent or an empty folder."""
  output = Path(output)
  if not output.exists() or (output.is_dir() and not any(output.iterdir())):
    return
  what = "exists and is no dataset of ours"
  if (output / "dataset_info.json").is_file():
    what = "already holds a complete dataset"
  raise BadInput(f"{output}: {what}; name another folder, or remove it first")


def check_classes(
  class_names: Mapping[str, Sequence[str]],
  class_features: Mapping[str, np.ndarray],
  embed_dim: int,
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
    elif features.shape[1] != embed_dim:
      problem = (
        f"width {features.shape[1]} differs from the shapes' {embed_dim}; use "
        "one teacher for both"
      )
    if problem:
      raise BadInput(f"class features of split {split!r}: {problem}")
