"""Converts OpenShape's training data, once, into records.

Layout and keys: https://huggingface.co/datasets/OpenShape/openshape-training-data
Which texts a shape keeps follows OpenShape's training code.
"""

import collections
import dataclasses
import fnmatch
import functools
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mrd_jax.data.records import encode
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json
from mrd_jax.prepare.job.dataset_writer import Made
from mrd_jax.prepare.job.engine import Engine, ListedUnit, Outcome, Unit
from mrd_jax.prepare.job.job import Report, make_dataset, make_records
from mrd_jax.prepare.job.shards import Reject
from mrd_jax.prepare.openshape import find_samples, lists
from mrd_jax.prepare.openshape.lists import Entry, Split
from mrd_jax.prepare.openshape.sample import BadField, reject, to_shape
from mrd_jax.prepare.test_sets import common, modelnet40, scanobjectnn

# What odd content makes numpy and Python raise; BadInput is a ValueError.
_ODD = ValueError, TypeError, AttributeError, LookupError, ArithmeticError
_SETS = (lists.MODELNET, lists.SCANOBJECTNN)
Listed = Mapping[str, Sequence[tuple[str, Entry]]]  # path -> (split, entry)


def convert(
  input_dir: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  *,
  splits: Sequence[str] | None = None,
  parts: Sequence[str] | None = None,
  root_remap: tuple[str, str] | None = None,
  limit: int | None = None,
  teacher: str | None = None,
  engine: Engine | None = None,
) -> Report:
  """Converts a bundle in OpenShape's layout.

  A shape that cannot be used is left out, counted and listed in
  `rejects.jsonl`; it never ends the job.  A job that was killed goes on where
  it was when it is called again, and one that is complete is left as it is.

  Args:
    input_dir: Folder with `meta_data/` and the shapes, as archives or
      unpacked.
    output_dir: Folder to create.
    splits: Which to convert: train, val, lvis, modelnet40, scanobjectnn, or
      the name of any other list in `meta_data/split`; by default those of the
      first five that exist.
    parts: Only shapes of these folders, "ABO" or "Objaverse/000-00*"; the
      evaluation sets of `meta_data` are no part and always there.
    root_remap: (old, new) beginning of the `data_path` entries; found by
      itself where None.
    limit: At most so many entries of each list.
    teacher: Which model made the features; a guess by their width where None.
    engine: Where to run.

  Returns:
    The counts, also written to `output_dir`.

  Raises:
    BadInput: when the bundle, a list or the class features cannot be read, or
      not one shape could be converted.
  """
  root = Path(input_dir)
  chosen = lists.read_splits(root, splits)
  if parts is not None:
    chosen = _in_parts(chosen, parts)
  if limit is not None:
    chosen = [dataclasses.replace(s, entries=s.entries[:limit]) for s in chosen]
  units = _plan(root, chosen, root_remap)
  # By their sizes a later run knows its job.
  files = [*find_samples.archives(root), *(root / "meta_data").rglob("*")]
  job = {
    "input": str(root),
    "files": {
      str(file.relative_to(root)): file.stat().st_size
      for file in sorted(files)
      if file.is_file()
    },
    "unpacked": _fingerprint(units),
    "splits": [split.name for split in chosen],
    "parts": parts,
    "root_remap": list(root_remap) if root_remap else None,
    "limit": limit,
    "teacher": teacher or _teacher(root),
  }

  def make(folder: Path) -> Made:
    widths = {s.class_features.shape[1] for s in chosen if s.class_names}
    if len(widths) > 1:
      raise BadInput(
        f"{root}: class features have widths {sorted(widths)}; convert splits "
        "of different teachers separately, with --splits"
      )
    width = widths.pop() if widths else _first_width(units)
    named = [split for split in chosen if split.class_names]
    return make_records(
      folder,
      [_with_width(unit, width) for unit in units],
      engine,
      width,
      teacher=teacher or _teacher(root),
      class_names={split.name: split.class_names for split in named},
      class_features={split.name: split.class_features for split in named},
    )

  listed = {split.name: len(split.entries) for split in chosen}
  sets = [unit for unit in units if isinstance(unit, common.EvaluationSet)]
  problems = [p for source in (*chosen, *sets) for p in source.problems]
  return make_dataset(output_dir, job, "openshape", listed, make, problems)


def _teacher(root: Path) -> str:
  if (root / "meta_data" / "teacher.json").is_file():
    return "the bundle's own, see its meta_data/teacher.json (not CLIP)"
  return "OpenCLIP ViT-bigG-14 (laion2b_s39b_b160k), as OpenShape publishes it"


def _fingerprint(units: Iterable[Unit]) -> str:
  """Hashes what is unpacked, and which unit looks for what."""
  digest = hashlib.sha256()
  for unit in units:
    digest.update(unit.name.encode())
    if isinstance(unit, find_samples.FilesUnit):
      for path, file in unit.files:
        found = file and (file.stat().st_size, file.stat().st_mtime_ns)
        digest.update(repr((path, found)).encode())
    elif isinstance(unit, find_samples.ArchivesUnit):
      digest.update(repr(unit.paths).encode())
  return digest.hexdigest()


def _in_parts(splits: Sequence[Split], parts: Sequence[str]) -> list[Split]:
  """Keeps the entries that lie in one of the folders `parts`.

  Raises:
    BadInput: naming the part in which nothing lies.
  """
  useless = set(parts)

  @functools.cache
  def wanted(folder: PurePosixPath) -> bool:
    names = folder.parts
    ends = ["/".join(names[i:]) for i in range(len(names))]
    hits = {p for p in parts if any(fnmatch.fnmatch(e, p) for e in ends)}
    useless.difference_update(hits)
    return bool(hits)

  def chosen(split: Split) -> Split:
    if split.name in _SETS:
      return split
    folders = ((e, PurePosixPath(e.path).parents) for e in split.entries)
    entries = [e for e, parents in folders if any(map(wanted, parents))]
    return dataclasses.replace(split, entries=entries)

  found = [chosen(split) for split in splits]
  if useless:
    names = {PurePosixPath(e.path).parent for s in splits for e in s.entries}
    examples = ", ".join(sorted({name.name for name in names if name.name})[:5])
    raise BadInput(
      f"parts: nothing lies in {min(useless)!r}; the lists name folders such as "
      f"{examples}"
    )
  return found


@dataclasses.dataclass(frozen=True)
class _Converter:
  """Makes the outcomes of one sample file: one for every list that has it."""

  listed: Listed
  width: int  # of all features; 0 accepts any

  def __call__(self, path: str, loaded: Any) -> Iterator[Outcome]:
    for split, entry in self.listed[path]:
      yield self._outcome(split, entry, loaded)

  def _outcome(self, split: str, entry: Entry, loaded: Any) -> Outcome:
    try:
      if isinstance(loaded, FileNotFoundError):
        raise BadField("data_path", "missing file", str(loaded))
      if isinstance(loaded, BadInput):
        return reject(split, entry, loaded, "unreadable or unsafe file")
      with np.errstate(over="raise", invalid="raise", divide="raise"):
        shape = to_shape(loaded, entry)
        record = encode(shape)
      if shape.image_feat.shape[1] != (self.width or shape.image_feat.shape[1]):
        raise BadInput(
          f"shape {shape.id!r}, field 'image_feat': width "
          f"{shape.image_feat.shape[1]} where the bundle has {self.width}"
        )
    except (BadField, *_ODD) as error:
      return reject(split, entry, error)
    return split, record


def _plan(
  root: Path, splits: Sequence[Split], root_remap: tuple[str, str] | None
) -> list[Unit]:
  """Divides all entries into units; names are made unique, or refused."""
  rejects: list[Reject] = []
  listed: dict[str, list[tuple[str, Entry]]] = collections.defaultdict(list)
  units: list[Unit] = []
  nameless = _nameless(root / "meta_data" / "gpt4_filtering.json")
  for split in splits:
    if split.name in _SETS:
      units.append(_evaluation_set(root, split))
      continue
    taken: set[str] = set()
    for entry in split.entries:
      key = "id" if entry.path else "data_path"
      if not (entry.path and entry.id):
        error = BadField(key, "missing key", "absent from the split's list")
        rejects.append(reject(split.name, entry, error))
        continue
      entry = dataclasses.replace(entry, named=entry.id not in nameless)
      if entry.id in taken:  # ShapeNet has ids in several groups
        entry = dataclasses.replace(entry, id=f"{entry.group}/{entry.id}")
      if entry.id in taken:
        error = BadField("id", "duplicate id", "this id came before")
        rejects.append(reject(split.name, entry, error))
        continue
      taken.add(entry.id)
      listed[entry.path].append((split.name, entry))

  def make_convert(paths: Sequence[str]) -> _Converter:
    return _Converter({path: listed[path] for path in paths}, width=0)

  units += find_samples.plan(root, listed, root_remap, make_convert)
  if rejects:
    items = [functools.partial(list, [refused]) for refused in rejects]
    units.append(ListedUnit("lists", items))
  return units


def _nameless(file: Path) -> frozenset[str]:
  """Reads the ids of Objaverse's shapes whose name says nothing."""
  flags = read_json(file) if file.is_file() else {}
  try:
    return frozenset(uid for uid, row in flags.items() if row["flag"] == "N")
  except (AttributeError, KeyError, TypeError) as error:
    raise BadInput(f"{file}: expected id -> {{'flag': ...}}") from error


def _evaluation_set(root: Path, split: Split) -> common.EvaluationSet:
  """Opens ModelNet40 or ScanObjectNN, whose clouds all lie in one file."""
  width = split.class_features.shape[1]
  count = len(split.entries)
  if split.name == lists.SCANOBJECTNN:
    file = root / lists.SCANOBJECTNN_CLOUDS
    clouds = scanobjectnn.read_openshape(file, width)
    return dataclasses.replace(clouds, name=split.name, count=count)
  file = root / lists.MODELNET_CLOUDS
  read = functools.partial(modelnet40.read_clouds, file, split.entries, width)
  return common.EvaluationSet(split.name, tuple(split.class_names), count, read)


def _first_width(units: Iterable[Unit]) -> int:
  """Reads the width of the first shape's features."""
  items = (item for unit in units for item in unit.items())
  for outcome in itertools.chain.from_iterable(item() for item in items):
    if isinstance(outcome, tuple):
      return np.shape(outcome[1]["image_feat"])[1]
  return 0


def _with_width(unit: Unit, width: int) -> Unit:
  if isinstance(unit, find_samples.FilesUnit | find_samples.ArchivesUnit):
    assert isinstance(unit.convert, _Converter)
    convert = dataclasses.replace(unit.convert, width=width)
    return dataclasses.replace(unit, convert=convert)
  return unit
