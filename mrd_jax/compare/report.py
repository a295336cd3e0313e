"""Writes the comparison as a table, as JSON and as a figure."""

import itertools
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mrd_jax.compare.errors import Row
from mrd_jax.compare.stages import STATISTICS
from mrd_jax.draw import style
from mrd_jax.io.files import write_json
from mrd_jax.metrics.table import render

_STYLES: dict[str, Any] = {"eval": "-", "train": "--", "tolerance": ":"}
_COLOURS = {
  "float64": style.GREEN,
  "float32": style.BLUE,
  "bfloat16": style.VERMILION,
}


def table(rows: Sequence[Row]) -> str:
  """Writes the rows as Markdown, a table for each part.

  bfloat16 is held against PyTorch's float32; the column "PyTorch's" is the
  relative error of PyTorch's own bfloat16.
  """
  tables = []
  for part, block in itertools.groupby(rows, lambda row: row.part):
    header = [part, "max abs", "relative", "1 - cosine", "tolerance"]
    if part.endswith("bfloat16"):
      header.append("PyTorch's")
    lines = []
    for row in block:
      values = [row.max_abs, row.relative, max(1 - row.cosine, 0)]
      cells = [row.stage, *(f"{value:.1e}" for value in values)]
      cells.append("-" if row.tolerance is None else f"{row.tolerance:.0e}")
      if len(header) == 6:
        own = row.torch_relative
        cells.append("" if own is None else f"{own:.1e}")
      lines.append([*cells, "" if row.passed else "ABOVE"])
    tables.append(render([*header, ""], lines))
  return "\n\n".join(tables)


def verdict(rows: Sequence[Row]) -> str:
  """Says in one sentence whether all agree."""
  judged = [row for row in rows if row.tolerance is not None]
  failed = [row for row in judged if not row.passed]
  if not failed:
    return f"All {len(judged)} judged stages are within their tolerances."
  worst = ", ".join(f"{row.stage} ({row.part})" for row in failed[:3])
  more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
  return f"Above its tolerance: {worst}{more}."


def write(
  output: Path, rows: Sequence[Row], inputs: dict[str, Any], title: str
) -> list[Path]:
  """Writes compare.json and compare.png.

  Args:
    output: The folder.
    rows: The comparison.
    inputs: What was compared, for the JSON.
    title: The same in words, for the figure.

  Returns:
    The files.
  """
  output.mkdir(parents=True, exist_ok=True)
  versions = {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "torch": torch.__version__,
    "machine": platform.machine(),
    "jax_device": jax.devices()[0].device_kind,
  }
  write_json(
    output / "compare.json",
    inputs
    | versions
    | {
      "passed": all(row.passed for row in rows),
      "rows": [
        {  # JSON has no infinity and no NaN.
          name: None if isinstance(x, float) and not math.isfinite(x) else x
          for name, x in [*row._asdict().items(), ("passed", row.passed)]
        }
        for row in rows
      ],
    },
  )
  draw(output / "compare.png", rows, title)
  return [output / "compare.json", output / "compare.png"]


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
  """Draws the relative error of stages and of gradients against depth."""
  height = 5.2
  notes = [title, "what is equal is not drawn"]
  with style.figure(
    path, "JAX against PyTorch, by depth", notes, height
  ) as drawn:
    panels = drawn.subplots(
      1,
      2,
      sharey=True,
      gridspec_kw={
        "left": 0.65 / style.WIDTH,
        "right": 1 - style.MARGIN / style.WIDTH,
        "top": 1 - (style.HEADER + 0.25) / height,
        "bottom": 1.35 / height,
        "wspace": 0.06,
      },
    )
    _draw_parts(panels[0], rows, ("eval", "train"))
    panels[0].set_title("stages of the forward pass")
    panels[0].set_ylabel("largest difference / largest value")
    _draw_parts(panels[1], rows, ("gradients",))
    panels[1].set_title("gradients of a training step")
    dtypes = {row.part.split()[-1] for row in rows} & _COLOURS.keys()
    lines = [Line2D([], [], color=_COLOURS[d], label=d) for d in sorted(dtypes)]
    # A column of types beside a column of styles.
    lines += [Line2D([], [], alpha=0, label=" ")] * (len(_STYLES) - len(lines))
    lines += [
      Line2D([], [], color=style.GREY, linestyle=line, label=label)
      for label, line in _STYLES.items()
    ]
    drawn.legend(
      handles=lines,
      loc="upper right",
      bbox_to_anchor=(1 - style.MARGIN / style.WIDTH, 1 - 0.15 / height),
      ncols=2,
      fontsize=8.5,
    )


def _draw_parts(
  axes: Axes, rows: Sequence[Row], kinds: tuple[str, ...]
) -> None:
  rows = [
    row
    for row in rows
    if row.part.split()[0] in kinds and row.stage != STATISTICS
  ]
  stages = list(dict.fromkeys(row.stage for row in rows))
  for part, block in itertools.groupby(rows, lambda row: row.part):
    kind, dtype = part.split()
    errors = dict.fromkeys(stages, 0.0)
    limits = dict.fromkeys(stages)
    for row in block:
      errors[row.stage], limits[row.stage] = row.relative, row.tolerance
    color = _COLOURS[dtype]
    for values, line in ((errors, _STYLES.get(kind, "-")), (limits, ":")):
      # NaN leaves a gap: zero has no place on a logarithmic axis.
      y = [values[stage] or np.nan for stage in stages]
      marker = "o" if values is errors else ""
      axes.plot(y, color=color, linestyle=line, marker=marker, markersize=3)
  axes.set_yscale("log")
  axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0e}")
  step = -(-len(stages) // 18)  # as many names as can be read
  axes.set_xticks(
    range(0, len(stages), step), stages[::step], rotation=50, ha="right"
  )
  axes.tick_params(axis="x", labelsize=7.5)
