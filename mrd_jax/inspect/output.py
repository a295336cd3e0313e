"""Writes the files of an inspection: report.json, a sheet of drawn shapes."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data.records import record_cloud
from mrd_jax.draw import cloud
from mrd_jax.draw.sheet import Line, Tile, draw_sheet, in_rows
from mrd_jax.draw.style import GREY
from mrd_jax.errors import BadInput
from mrd_jax.inspect.run import MADE_BY, Inspection
from mrd_jax.io.files import read_json, write_json

REPORT, SHEET = "report.json", "shapes.png"
COLUMNS = 4
TEXTS = 3  # of a shape, two lines each at most


def check_output(output: Path) -> None:
  """Makes the folder to write to, before the work.

  Raises:
    BadInput: if it cannot be written to, or holds files of these names that
      another command made (as the folder of a converted dataset does).
  """
  there = [name for name in (REPORT, SHEET) if (output / name).exists()]
  try:
    ours = read_json(output / REPORT)["made_by"] == MADE_BY
  except (BadInput, KeyError, TypeError):
    ours = False
  if there and not ours:
    raise BadInput(
      f"--output {output}: {there[0]} is there and no inspection made it; "
      "name another folder"
    )


def write(inspection: Inspection, output: Path, shapes: int) -> list[Path]:
  """Writes the report, and the sheet of so many shapes; returns the files."""
  report, meta = inspection.report, inspection.meta
  write_json(output / REPORT, report)
  tiles = []
  for split, record in choose_shapes(inspection, shapes):
    names = meta.class_names.get(split, ())
    label = int(record["label"])
    of_class = names[label] if 0 <= label < len(names) else ""
    origin = " · ".join(filter(None, (split, record["dataset"], of_class)))
    texts = [f"“{text}”" for text in record["texts"]] or ["(no text)"]
    more = [f"and {len(texts) - TEXTS} more"] if len(texts) > TEXTS else []
    lines = [
      Line(origin, GREY, 7.2),
      Line(record["id"], GREY, 7.2, middle=True),
      *(Line(text, "black", 7.2, most=2) for text in texts[:TEXTS] + more),
    ]
    tiles.append(Tile(cloud.picture(record_cloud(record)), lines))
  notes = [
    f"teacher: {meta.teacher}",
    f"drawn at random from {len(report['splits'])} splits, seed "
    f"{report['seed']}",
    "drawn with y up",
  ]
  title = f"{meta.name}: {len(tiles)} shapes and their texts"
  rows = in_rows(tiles, COLUMNS)
  draw_sheet(output / SHEET, title, notes, rows, columns=COLUMNS)
  return [output / REPORT, output / SHEET]


def choose_shapes(
  inspection: Inspection, shapes: int
) -> list[tuple[str, dict[str, Any]]]:
  """Draws records at random, as many of each split as of the others.

  Returns:
    (split, record) pairs, by split; fewer than `shapes` if there are no more.
  """
  rng = np.random.default_rng(inspection.report["seed"])
  queues = [
    [(split, row) for row in rng.permutation(scan.census.row[scan.sample.at])]
    for split, scan in inspection.scans.items()
  ]
  turns = itertools.zip_longest(*queues)  # a shape of each split at a time
  drawn = [pair for turn in turns for pair in turn if pair][:shapes]
  splits = list(inspection.scans)
  drawn.sort(key=lambda pair: splits.index(pair[0]))
  return [
    (split, inspection.scans[split].source[int(row)]) for split, row in drawn
  ]
