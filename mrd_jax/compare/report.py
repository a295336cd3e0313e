"""The comparison as a table, as JSON and as a figure."""

import itertools
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from matplotlib.axes import Axes

from mrd_jax.compare.errors import Row
from mrd_jax.metrics import write_json
from mrd_jax.report.style import (
  BLUE,
  GREEN,
  GREY,
  HEADER,
  MARGIN,
  VERMILION,
  WIDTH,
  sheet,
)

_COLOURS = {"float64": GREEN, "float32": BLUE, "bfloat16": VERMILION}


def table(rows: Sequence[Row]) -> str:
  """The rows as text, a block for each part."""
  lines = []
  for part, block in itertools.groupby(rows, lambda row: row.part):
    lines.append(
      f"\n{part:30} {'max abs':>9} {'relative':>9} {'1 - cosine':>10} "
      f"{'tolerance':>9}"
    )
    for row in block:
      limit = "-" if row.tolerance is None else f"{row.tolerance:.0e}"
      lines.append(
        f"  {row.stage:28} {row.max_abs:9.1e} {row.relative:9.1e} "
        f"{max(1 - row.cosine, 0):10.1e} {limit:>9}"
        + ("" if row.passed else "  ABOVE")
      )
  return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> str:
  """One sentence."""
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
      "rows": [row._asdict() | {"passed": row.passed} for row in rows],
    },
  )
  draw(output / "compare.png", rows, title)
  return [output / "compare.json", output / "compare.png"]


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
  """Relative error against depth: of the stages, and of the gradients."""
  height = 5.0
  notes = [
    title,
    "relative error: largest difference over largest value",
    "dotted: tolerance",
  ]
  with sheet(path, "JAX against PyTorch, by depth", notes, height) as figure:
    panels = figure.subplots(
      1,
      2,
      sharey=True,
      gridspec_kw={
        "left": 0.75 / WIDTH,
        "right": 1 - MARGIN / WIDTH,
        "top": 1 - (HEADER + 0.3) / height,
        "bottom": 1.35 / height,
        "wspace": 0.06,
      },
    )
    _draw_parts(panels[0], rows, ("eval", "train"))
    panels[0].set_title("stages of the forward pass")
    panels[0].set_ylabel("relative error")
    _draw_parts(panels[1], rows, ("gradients",))
    panels[1].set_title("gradients of a training step, by module")


def _draw_parts(
  axes: Axes, rows: Sequence[Row], kinds: tuple[str, ...]
) -> None:
  stages = list(
    dict.fromkeys(
      row.stage
      for row in rows
      if row.part.split()[0] in kinds and row.stage != "running statistics"
    )
  )
  for part, block in itertools.groupby(rows, lambda row: row.part):
    kind, dtype = part.split()[0], part.split()[-1]
    if kind not in kinds:
      continue
    block = [row for row in block if row.stage in stages]
    x = np.array([stages.index(row.stage) for row in block])
    y = np.array([row.relative for row in block])
    colour = _COLOURS[dtype]
    axes.plot(
      x[y > 0],  # what is equal has no place on a logarithmic axis
      y[y > 0],
      color=colour,
      linestyle="--" if kind == "train" else "-",
      marker="o",
      markersize=3,
      label=part.removeprefix("gradients "),
    )
    limits = np.array(
      [np.nan if r.tolerance is None else r.tolerance for r in block]
    )
    axes.plot(x, limits, color=colour, linestyle=":", linewidth=1)
  axes.set_yscale("log")
  step = -(-len(stages) // 18)  # as many names as can be read
  axes.set_xticks(
    range(0, len(stages), step), stages[::step], rotation=60, ha="right"
  )
  axes.tick_params(axis="x", labelsize=7.5, labelcolor=GREY)
  axes.legend(loc="upper left", ncols=2, fontsize=8)
