"""Converts OpenShape's training data, once, into records.

Layout and keys: https://huggingface.co/datasets/OpenShape/openshape-training-data
Which texts a shape keeps follows OpenShape's training code.
"""

import collections
import dataclasses
import functools
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data.records import encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare import builder
from mrd_jax.prepare.bundle import read_samples
from mrd_jax.prepare.safe_pickle import load_npy
from mrd_jax.prepare.sample import BadField, evaluation_shape, to_shape
from mrd_jax.prepare.splits import (
  MODELNET,
  MODELNET_CLOUDS,
  Entry,
  Split,
  read_json,
  read_splits,
)

# What odd content makes numpy and Python raise; BadInput is a ValueError.
_WRONG_CONTENT = (
  ValueError,
  TypeError,
  AttributeError,
  LookupError,
  ArithmeticError,
)


@dataclasses.dataclass
class SplitCount:
  """What became of one split; listed = converted + all of refused."""

  listed: int = 0
  converted: int = 0
  without_text: int = 0  # of the converted
  refused: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )


@dataclasses.dataclass
class Report:
  """What a conversion did, also written as `report.json`.

  Attributes:
    splits: Counts per split.
    problems: Sentences about archives or lists, not about single shapes.
    rejects: A row per refused shape, also written as `rejects.jsonl`: split,
      file, id, field (or None), reason (as counted), detail.
    seconds: Wall time.
  """

  splits: dict[str, SplitCount]
  problems: list[str] = dataclasses.field(default_factory=list)
  rejects: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  seconds: float = 0.0

  def refuse(
    self, split: str, entry: Entry, reason: str, error: object
  ) -> None:
    """Counts one refused shape and remembers why."""
    detail = str(error)
    field = getattr(error, "field", None)
    if field is None and (found := re.search(r"field '(\w+)'", detail)):
      field = found[1]  # the way `records.check_shape` names it
    self.splits[split].refused[reason] += 1
    self.rejects.append(
      {
        "split": split,
        "file": entry.path,
        "id": entry.id,
        "field": field,
        "reason": reason,
        "detail": detail,
      }
    )

  def write(self, folder: Path) -> None:
    """Writes `report.json` and `rejects.jsonl` into `folder`."""
    summary = {
      "splits": {name: vars(count) for name, count in self.splits.items()},
      "problems": self.problems,
      "seconds": round(self.seconds, 1),
    }
    (folder / "report.json").write_text(json.dumps(summary, indent=2) + "\n")
    with open(folder / "rejects.jsonl", "w") as file:
      file.writelines(json.dumps(row) + "\n" for row in self.rejects)

  def __str__(self) -> str:
    row = "{:<14}{:>9}{:>11}{:>9}{:>14}".format
    lines = [row("split", "listed", "converted", "refused", "without text")]
    for name, count in self.splits.items():
      refused = count.refused.total()
      lines.append(
        row(name, count.listed, count.converted, refused, count.without_text)
      )
      lines += [f"  {n} refused: {why}" for why, n in count.refused.items()]
    lines += [f"problem: {problem}" for problem in self.problems]
    return "\n".join([*lines, f"{self.seconds:.1f} s"])


def convert(
  input_dir: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  *,
  splits: Sequence[str] | None = None,
  root_remap: tuple[str, str] | None = None,
  limit: int | None = None,
  teacher: str | None = None,
) -> Report:
  """Converts a bundle in OpenShape's layout.

  A shape that cannot be used is left out, counted and listed in
  `rejects.jsonl`; it never ends the job.

  Args:
    input_dir: Folder with `meta_data/` and the shapes, as archives or
      unpacked.
    output_dir: Folder to create.
    splits: Which to convert: train, val, lvis, modelnet40, or the name of any
      other list in `meta_data/split`; by default those of the first four that
      exist.
    root_remap: (old, new) beginning of the `data_path` entries; found by
      itself where None.
    limit: At most so many entries of each list.
    teacher: Which model made the features; a guess by their width where None.

  Returns:
    The counts, also written to `output_dir`.

  Raises:
    BadInput: when the bundle, a list or the class features cannot be read, or
      not one shape could be converted.
  """
  start = time.monotonic()
  root = Path(input_dir)
  builder.check_output(output_dir)
  chosen = read_splits(root, splits, limit)
  report = Report({split.name: SplitCount() for split in chosen})
  for split in chosen:
    report.splits[split.name].listed = len(split.entries)
    report.problems += split.problems
  widths = {s.class_features.shape[1] for s in chosen if s.class_names}
  if len(widths) > 1:
    raise BadInput(
      f"{root}: class features have widths {sorted(widths)}; convert splits "
      "of different teachers separately, with --splits"
    )

  def finish(folder: Path) -> None:
    report.seconds = time.monotonic() - start
    report.write(folder)

  builder.write_records(
    output_dir,
    "openshape",
    _records(root, chosen, root_remap, widths.pop() if widths else 0, report),
    teacher or _teacher(root),
    {s.name: s.class_names for s in chosen if s.class_names},
    {s.name: s.class_features for s in chosen if s.class_names},
    finish,
  )
  return report


def _teacher(root: Path) -> str:
  if (root / "meta_data" / "teacher.json").is_file():
    return "the bundle's own, see its meta_data/teacher.json (not CLIP)"
  return "OpenCLIP ViT-bigG-14 (laion2b_s39b_b160k), as OpenShape publishes it"


def _records(
  root: Path,
  splits: Sequence[Split],
  root_remap: tuple[str, str] | None,
  width: int,
  report: Report,
) -> Iterator[tuple[str, builder.Record]]:
  """Yields (split, record) for all that can be used; reports the others.

  `width` is that of the class features, or 0: that of the first record.
  """
  taken: set[tuple[str, str]] = set()
  for split, entry, loaded in _samples(root, splits, root_remap, report):
    try:
      if isinstance(loaded, FileNotFoundError):
        raise BadField("data_path", "missing file", str(loaded))
      if isinstance(loaded, BadInput):
        report.refuse(split, entry, "unreadable or unsafe file", loaded)
        continue
      with np.errstate(over="raise", invalid="raise", divide="raise"):
        shape = loaded(entry)
        record = encode(shape)
      if (split, shape.id) in taken:  # ShapeNet has ids in several groups
        shape = dataclasses.replace(shape, id=f"{entry.group}/{shape.id}")
        record["id"] = shape.id
      if (split, shape.id) in taken:
        raise BadField("id", "duplicate id", "this id came before")
      width = width or shape.image_feat.shape[1]
      if shape.image_feat.shape[1] != width:
        raise BadInput(
          f"shape {shape.id!r}, field 'image_feat': width "
          f"{shape.image_feat.shape[1]} where the bundle has {width}"
        )
    except BadField as error:
      report.refuse(split, entry, error.reason, error)
    except _WRONG_CONTENT as error:
      report.refuse(split, entry, "bad value", error)
    else:
      taken.add((split, shape.id))
      report.splits[split].converted += 1
      report.splits[split].without_text += not shape.texts
      yield split, record
  if not taken:
    first = report.rejects[0] if report.rejects else {"detail": "empty lists"}
    raise BadInput(
      f"{root}: none of {len(report.rejects)} shapes could be converted; the "
      f"first: {first['detail']}"
    )


def _samples(
  root: Path,
  splits: Sequence[Split],
  root_remap: tuple[str, str] | None,
  report: Report,
) -> Iterator[tuple[str, Entry, Any]]:
  """Yields (split, entry, a function entry -> Shape, or an exception)."""
  listed: dict[str, list[tuple[str, Entry]]] = collections.defaultdict(list)
  for split in splits:
    if split.name == MODELNET:
      yield from _modelnet_samples(root, split)
      continue
    for entry in split.entries:
      if entry.path and entry.id:
        listed[entry.path].append((split.name, entry))
      else:
        key = "id" if entry.path else "data_path"
        error = BadField(key, "missing key", "absent from the split's list")
        report.refuse(split.name, entry, error.reason, error)
  flags_file = root / "meta_data" / "gpt4_filtering.json"
  flags = read_json(flags_file) if flags_file.is_file() else {}
  try:
    nameless = {uid for uid, row in flags.items() if row["flag"] == "N"}
  except (AttributeError, KeyError, TypeError) as error:
    raise BadInput(f"{flags_file}: expected id -> {{'flag': ...}}") from error
  for path, loaded in read_samples(root, listed, root_remap, report.problems):
    for split_name, entry in listed[path]:
      if isinstance(loaded, Exception):
        yield split_name, entry, loaded
      else:
        yield split_name, entry, functools.partial(to_shape, loaded, nameless)


def _modelnet_samples(
  root: Path, split: Split
) -> Iterator[tuple[str, Entry, Any]]:
  """The same for ModelNet40, whose clouds all lie in one file."""
  clouds: Any
  try:
    clouds = load_npy(root / MODELNET_CLOUDS)
    if not isinstance(clouds, np.ndarray) or clouds.ndim != 1:
      raise BadInput(f"{root / MODELNET_CLOUDS}: expected an array of dicts")
  except BadInput as error:
    clouds = [error] * len(split.entries)
  width = split.class_features.shape[1]
  for i, entry in enumerate(split.entries):
    loaded = (
      clouds[i]
      if i < len(clouds)
      else FileNotFoundError(
        f"{MODELNET_CLOUDS} holds only {len(clouds)} clouds"
      )
    )
    if not isinstance(loaded, Exception):
      loaded = functools.partial(evaluation_shape, loaded, width)
    yield split.name, entry, loaded
