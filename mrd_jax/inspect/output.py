"""The files of an inspection: report.json, and a sheet of drawn shapes."""

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mrd_jax.draw.sheet import cloud_image, drawable
from mrd_jax.draw.style import GREY, HEADER, MARGIN, WIDTH, sheet
from mrd_jax.errors import BadInput
from mrd_jax.inspect.run import MADE_BY, Inspection

REPORT, SHEET = "report.json", "shapes.png"
COLUMNS = 4
GAP = 0.16  # inches between tiles
TILE = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS  # inches
CAPTION = 1.3  # inches below a tile
TEXTS = 3  # of a shape, two lines each at most


def checked_output(directory: str | os.PathLike[str]) -> Path:
  """Makes the folder to write to, before the work.

  Raises:
    BadInput: if it cannot be written to, or holds files of these names that
      another command made (as the folder of a converted dataset does).
  """
  output = Path(directory)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise BadInput(f"--output {output}: {error.strerror}") from None
  if not os.access(output, os.W_OK):
    raise BadInput(f"--output {output}: cannot be written to")
  there = [name for name in (REPORT, SHEET) if (output / name).exists()]
  if there and not _is_ours(output / REPORT):
    raise BadInput(
      f"--output {output}: {there[0]} is there and no inspection made it; "
      "name another folder"
    )
  return output


def _is_ours(path: Path) -> bool:
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError):
    return False
  return isinstance(found, dict) and found.get("made_by") == MADE_BY


def write(inspection: Inspection, output: Path, shapes: int) -> list[Path]:
  """Writes the report, and the sheet of so many shapes; returns the files."""
  text = json.dumps(inspection.report, indent=2, allow_nan=False)
  temporary = output / f"{REPORT}.tmp"
  temporary.write_text(text + "\n")
  os.replace(temporary, output / REPORT)
  draw_shapes(inspection, output / SHEET, shapes)
  return [output / REPORT, output / SHEET]


def choose_shapes(
  inspection: Inspection, shapes: int
) -> list[tuple[str, dict[str, Any]]]:
  """Draws records at random, as many of each split as of the others.

  Returns:
    (split, record) pairs, by split; fewer than `shapes` if there are no more.
  """
  rng = np.random.default_rng(inspection.report["seed"])
  queues = {
    split: list(rng.permutation(scan.census.row[scan.sample.at]))
    for split, scan in inspection.scans.items()
  }
  chosen: list[tuple[str, int]] = []
  while len(chosen) < shapes and any(queues.values()):
    for split, queue in queues.items():
      if queue and len(chosen) < shapes:
        chosen.append((split, int(queue.pop())))
  order = list(queues)
  chosen.sort(key=lambda pair: order.index(pair[0]))
  return [(split, inspection.scans[split].source[row]) for split, row in chosen]


def draw_shapes(inspection: Inspection, path: Path, shapes: int) -> None:
  """Draws random shapes with their texts, y up."""
  chosen = choose_shapes(inspection, shapes)
  rows = -(-len(chosen) // COLUMNS)
  height = HEADER + rows * (TILE + CAPTION) + MARGIN
  report, meta = inspection.report, inspection.meta
  notes = [
    f"teacher: {meta.teacher}",
    f"drawn at random from {len(report['splits'])} splits, seed "
    f"{report['seed']}",
    "drawn with y up",
  ]
  title = f"{meta.name}: {len(chosen)} shapes and their texts"
  with sheet(
    path, drawable(title), [drawable(note) for note in notes], height
  ) as figure:
    for number, (split, record) in enumerate(chosen):
      row, column = divmod(number, COLUMNS)
      left = MARGIN + column * (TILE + GAP)
      top = height - HEADER - row * (TILE + CAPTION)
      names = meta.class_names.get(split, ())
      label = int(record["label"])
      of_class = names[label] if 0 <= label < len(names) else ""
      _tile(figure, left, top, record, split, of_class)


def _tile(
  figure: Figure,
  left: float,
  top: float,
  record: dict[str, Any],
  split: str,
  of_class: str,
) -> None:
  """A picture with split, source, class and texts below."""
  height = figure.get_figheight()
  axes = figure.add_axes(
    (left / WIDTH, (top - TILE) / height, TILE / WIDTH, TILE / height)
  )
  axes.imshow(cloud_image(record), interpolation="antialiased")
  axes.set(xticks=[], yticks=[])
  axes.grid(False)
  for spine in axes.spines.values():
    spine.set(visible=True, color=GREY, linewidth=0.6)
  origin = " · ".join(filter(None, (split, record["dataset"], of_class)))
  lines = []
  for text in record["texts"][:TEXTS]:
    lines += textwrap.wrap(
      drawable(f"“{text}”"), 42, max_lines=2, placeholder=" …”"
    )
  more = len(record["texts"]) - TEXTS
  if more > 0:
    lines.append(f"and {more} more")
  for offset, color, block in (
    (0.05, GREY, [_short(origin), _short(record["id"])]),
    (0.33, "black", lines or ["(no text)"]),
  ):
    figure.text(
      left / WIDTH,
      (top - TILE - offset) / height,
      "\n".join(block),
      va="top",
      fontsize=7.2,
      color=color,
      linespacing=1.2,
    )


def _short(text: str) -> str:
  return textwrap.shorten(drawable(text), 42, placeholder=" …")
