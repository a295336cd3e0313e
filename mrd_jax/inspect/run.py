"""Inspects a dataset: reads every split once, and puts the report together."""

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from mrd_jax.data import dataset
from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput
from mrd_jax.inspect import duplicates, feature_findings, findings
from mrd_jax.inspect.scan import Scan, scan
from mrd_jax.inspect.summary import summarize

COUNTED = 50_000  # records of a split that are counted without --full
MADE_BY = "mrd_jax.inspect"  # marks a report.json as ours
WARNINGS = findings.WARNINGS + feature_findings.WARNINGS
NOTES = findings.NOTES + feature_findings.NOTES


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
  directory: str | os.PathLike[str], *, samples: int, counted: int, seed: int
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
  names = dataset.split_names(directory)
  names.sort(key=lambda name: not name.startswith("train"))
  opened = {name: dataset.open_split(directory, name) for name in names}
  sources = {name: source for name, source in opened.items() if len(source)}
  sizes = [len(source) for source in sources.values()]
  total = sum(n if n <= counted else min(samples, n) for n in sizes)
  scans: dict[str, Scan] = {}
  summaries: dict[str, Any] = {}
  warnings: list[findings.Finding] = []
  notes: list[findings.Finding] = []
  with tqdm(total=total, unit="record", disable=None) as progress:
    for (name, source), size in zip(sources.items(), sizes, strict=True):
      # Of the split's name, so that another split changes nothing.
      rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
      measured = np.sort(rng.choice(size, min(samples, size), replace=False))
      rows = np.arange(size) if size <= counted else measured
      scans[name] = scan(name, source, rows, measured, rng, progress.update)
      classes, class_CD = meta.class_names.get(name, ()), None
      if classes:
        # A finding says it where there are none.
        with contextlib.suppress(BadInput):
          class_CD = dataset.class_features(directory, name)
      shape = (len(classes), meta.embed_dim)
      fits = class_CD is not None and class_CD.shape == shape
      scored_CD = class_CD if fits else None
      disk_bytes = sum(os.path.getsize(file) for file in source.files)
      summaries[name] = summarize(
        scans[name], classes, scored_CD, disk_bytes, rng
      )
      split = findings.Split(scans[name], summaries[name], meta, class_CD)
      warnings += [found for check in WARNINGS for found in check(split)]
      notes += [found for check in NOTES for found in check(split)]
  within, across = duplicates.find_repeats(list(scans.values()))
  warnings += duplicates.duplicate_findings(within + across)
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
      "within": {found.other: found.counts for found in within},
      "across": [
        {
          "train": found.other,
          "evaluation": found.scan.name,
          **found.counts,
          "detectable": found.detectable,
        }
        for found in across
      ],
    },
    "warnings": [dataclasses.asdict(finding) for finding in warnings],
    "notes": [dataclasses.asdict(finding) for finding in notes],
  }
  return Inspection(meta, report, scans)
