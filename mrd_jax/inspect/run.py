"""Inspects a dataset: reads every split once, and puts the report together."""

import dataclasses
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from mrd_jax.data import dataset
from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput
from mrd_jax.inspect import duplicates
from mrd_jax.inspect.feature_findings import feature_findings, feature_notes
from mrd_jax.inspect.findings import (
  Finding,
  duplicate_findings,
  split_findings,
  split_notes,
)
from mrd_jax.inspect.label_findings import check_classes, label_findings
from mrd_jax.inspect.scan import Scan, scan
from mrd_jax.inspect.summary import summarize, up_axes

COUNTED = 50_000  # records of a split that are counted without --full
MADE_BY = "mrd_jax.inspect"  # marks a report.json as ours


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What was found.

  Attributes:
    meta: What the dataset says about itself.
    report: All numbers, warnings and notes; plain JSON.
    scans: The splits as they were read.
  """

  meta: DatasetMeta
  report: dict[str, Any]
  scans: Mapping[str, Scan]


def inspect_dataset(
  directory: str | os.PathLike[str],
  *,
  samples: int,
  counted: int,
  seed: int,
) -> Inspection:
  """Reads a dataset and says what is in it, and what would hurt training.

  Args:
    directory: The prepared dataset.
    samples: Records of a split that are measured, at most.
    counted: A split of at most so many records is counted whole and searched
      for duplicates; of a larger one, only the records that are measured.
    seed: Of what is drawn at random.

  Raises:
    BadInput: if there is no dataset, or a record cannot be read.
  """
  meta = dataset.read_meta(directory)
  splits = tfds.builder_from_directory(directory).info.splits
  present = [name for name in splits if splits[name].num_examples]
  present.sort(key=lambda name: not duplicates.is_training(name))
  sources = {name: dataset.open_split(directory, name) for name in present}
  rows = {}
  for name, source in sources.items():
    size = len(source)
    # Of the split's name, so that another split changes nothing.
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    measured = rng.choice(size, min(samples, size), replace=False)
    measured.sort()
    everything = np.arange(size) if size <= counted else measured
    rows[name] = (everything, measured, rng)
  scans, summaries = {}, {}
  warnings: list[Finding] = []
  notes: list[Finding] = []
  total = sum(len(all_rows) for all_rows, _, _ in rows.values())
  with tqdm(total=total, unit="record", disable=None) as progress:
    for name, (all_rows, measured, rng) in rows.items():
      found = scan(sources[name], all_rows, measured, rng, progress.update)
      scans[name] = found
      names = meta.class_names.get(name, ())
      class_CD, problems = _class_features(directory, name, meta)
      up = up_axes(found, rng)
      summary = summarize(
        found, up, names, class_CD, _disk_bytes(splits[name]), rng
      )
      summaries[name] = summary
      warnings += split_findings(name, found, summary, up)
      warnings += label_findings(name, found, summary, problems)
      warnings += feature_findings(name, found, summary)
      notes += split_notes(name, found, summary)
      notes += feature_notes(name, found)
  within = {name: duplicates.within(found) for name, found in scans.items()}
  across = duplicates.across(scans)
  warnings += duplicate_findings(scans, within, across)
  report = {
    "made_by": MADE_BY,
    "data": os.fspath(directory),
    "name": meta.name,
    "teacher": meta.teacher,
    "embed_dim": meta.embed_dim,
    "schema": meta.schema,
    "seed": seed,
    "splits": summaries,
    "duplicates": {
      "within": {name: _counts(found) for name, found in within.items()},
      "across": [
        {
          "train": train,
          "evaluation": split,
          **_counts(found),
          "detectable": duplicates.detectable(scans[train], scans[split]),
        }
        for (train, split), found in across.items()
      ],
    },
    "warnings": [dataclasses.asdict(finding) for finding in warnings],
    "notes": [dataclasses.asdict(finding) for finding in notes],
  }
  return Inspection(meta, report, scans)


def _class_features(
  directory: str | os.PathLike[str], split: str, meta: DatasetMeta
) -> tuple[np.ndarray | None, list[tuple[int, str]]]:
  """The features of a split's class names, and what is wrong with them."""
  names = meta.class_names.get(split, ())
  if not names:
    return None, []
  try:
    class_CD = dataset.class_features(directory, split)
  except BadInput:
    missing = f"its {len(names)} class names have no features"
    return None, [(len(names), missing)]
  problems = list(check_classes(names, class_CD, meta.embed_dim))
  fits = class_CD.shape == (len(names), meta.embed_dim)
  return (class_CD if fits else None), problems


def _disk_bytes(split: Any) -> int:
  return sum(os.path.getsize(path) for path in split.filepaths)


def _counts(found: duplicates.Repeats) -> dict[str, int]:
  return {
    "shapes": len(found.at),
    "by_id": found.ids,
    "by_points": found.clouds,
    "estimated_total": found.total,
  }
