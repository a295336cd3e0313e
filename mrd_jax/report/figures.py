"""The figures of a run: losses, dynamic weights, accuracy, retrieval.

Every figure is a function of the run's folder and a path; it raises BadInput
when what it shows is not there.
"""

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mrd_jax.draw.style import (
  BLUE,
  GREEN,
  GREY,
  HEADER,
  INK,
  MARGIN,
  VERMILION,
  WIDTH,
  end_labels,
  figure,
  step_axis,
  ticks,
)
from mrd_jax.errors import BadInput
from mrd_jax.report import curves, retrieval_sheet
from mrd_jax.report.run_folder import RunFolder, read_run

COLORS = {
  "total": INK,
  "contrast": BLUE,
  "scale": GREY,
  "intra": VERMILION,
  "cross": GREEN,
}
TOP_K_COLORS: dict[int, str] = dict(
  zip(curves.TOP_K, (BLUE, VERMILION, GREEN), strict=True)
)


def draw(
  workdir: str | os.PathLike[str],
  data_dir: str | os.PathLike[str] | None = None,
) -> tuple[list[Path], list[str]]:
  """Draws all figures of a run into its folder `figures`.

  Args:
    workdir: The run's folder.
    data_dir: The prepared dataset, if it has moved since training.

  Returns:
    The files drawn, and a sentence for every figure that was left out.

  Raises:
    BadInput: if there is no run, or nothing of it can be drawn.
  """
  run = read_run(workdir, data_dir)
  drawings = {"losses.png": draw_losses}
  if run.finetuned:
    drawings["accuracy.png"] = draw_accuracy
  else:
    drawings |= {
      "dynamic_weights.png": draw_dynamic_weights,
      "zero_shot.png": draw_accuracy,
      "retrieval_text_to_shape.png": retrieval_sheet.draw_retrieval,
    }
  drawn, left_out = [], []
  for name, function in drawings.items():
    try:
      path = run.workdir / "figures" / name
      function(run, path)
      drawn.append(path)
    except (BadInput, OSError) as error:  # a folder that only others write to
      left_out.append(f"{name} left out: {error}")
  if not drawn:
    raise BadInput(f"{workdir}: nothing to draw; {'; '.join(left_out)}")
  return drawn, left_out


def draw_losses(run: RunFolder, path: Path) -> None:
  """The total loss and every part of it over steps, a panel each."""
  series = run.series("train")
  panels = curves.loss_panels(series)
  if not panels:
    raise BadInput(_no_lines(run, "train"))
  columns = 4
  rows = -(-len(panels) // columns)
  height = HEADER + 0.45 + rows * 2.0
  notes = run.describe()
  if any("-" in panel.name for panel in panels):
    notes.append("PI-TI: relation point–image against text–image, and so on")
  if len(series[panels[0].name][0]) >= curves.SMOOTH_FROM:
    notes.append("thin: as logged, bold: smoothed")
  with figure(path, "The loss and its parts, by step", notes, height) as drawn:
    grid = drawn.subplots(
      rows,
      columns,
      squeeze=False,
      gridspec_kw={
        "left": 0.55 / WIDTH,
        "right": 1 - MARGIN / WIDTH,
        "top": 1 - (HEADER + 0.25) / height,
        "bottom": 0.5 / height,
        "wspace": 0.3,
        "hspace": 0.48,
      },
    )
    for i, axes in enumerate(grid.flat):
      if i >= len(panels):
        axes.set_axis_off()
        continue
      name, title, kind = panels[i]
      color = COLORS[kind]
      # The scale moves slowly: there is no noise to smooth.
      _curve(axes, *series[name], color, smooth=name != "logit_scale")
      axes.set_title(title, color=color, weight="bold")
      axes.yaxis.set_major_locator(ticks())
      below = i + columns >= len(panels)
      step_axis(axes, series[name][0][-1], label=below)
      if i % columns == 0:
        axes.set_ylabel("loss (nats)" if curves.in_nats(run) else "loss")


def draw_dynamic_weights(run: RunFolder, path: Path) -> None:
  """The learned weights of Eq. 9 over steps (Fig. 5 of the paper)."""
  series = run.series("train")
  if not series:
    raise BadInput(_no_lines(run, "train"))
  pairs = curves.weight_pairs(series)
  if not pairs:
    raise BadInput(
      f"{run.workdir / 'metrics.jsonl'} has no weight/* values: the run is "
      "without relation terms (loss.intra and loss.cross are false)"
    )
  title = "Dynamic weights: which teacher relation each pair follows"
  if run.config.get("loss", {}).get("weighting") == "fixed":
    title = "Weights of the relation terms, fixed at 1/2 (loss.weighting)"
  height = 4.4
  with figure(path, title, run.describe(), height) as drawn:
    grid = drawn.subplots(
      1,
      len(pairs),
      squeeze=False,
      gridspec_kw={
        "left": 0.75 / WIDTH,
        "right": 1 - 0.65 / WIDTH,
        "top": 1 - (HEADER + 0.75) / height,
        "bottom": 0.55 / height,
        "wspace": 0.32,
      },
    )
    for i, (axes, (heading, pair)) in enumerate(
      zip(grid.flat, pairs.items(), strict=True)
    ):
      axes.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (1, 2)))
      colors = [BLUE, VERMILION]
      for j, (term, color) in enumerate(zip(pair, colors, strict=True)):
        _curve(axes, *series[f"weight/{term}"], color, smooth=False)
        axes.annotate(
          curves.describe_term(term, full=heading in curves.MATCHED_PAIR),
          (0, 1),
          (0, 22 - 14 * j),
          xycoords="axes fraction",
          textcoords="offset points",
          color=color,
        )
      axes.set_title(heading, weight="bold", pad=38)
      axes.set_ylim(0, 1)
      axes.set_yticks(np.linspace(0, 1, 5))
      step_axis(axes, series[f"weight/{pair[0]}"][0][-1], label=True)
      final = [series[f"weight/{term}"][1][-1] for term in pair]
      end_labels(axes, final, [f"{x:.2f}" for x in final], colors)
      if i == 0:
        axes.set_ylabel("weight (a pair sums to 1)")


def draw_accuracy(run: RunFolder, path: Path) -> None:
  """Accuracy over steps, zero-shot or fine-tuned: a panel a split, chance."""
  series = run.series("eval")
  splits = curves.classified_splits(series)
  if not splits:
    kind = "" if run.finetuned else "zero-shot "
    named = "" if run.finetuned else "name a split in eval.zero_shot and "
    raise BadInput(
      f"{run.workdir / 'metrics.jsonl'} has no {kind}evaluation yet; {named}"
      "train on to an evaluation"
    )
  columns = min(len(splits), 2)
  rows = -(-len(splits) // columns)
  height = HEADER + 0.3 + rows * 3.4
  title = "Zero-shot classification accuracy of held-out shapes, by step"
  if run.finetuned:
    title = "Classification accuracy of the test split, by step"
  with figure(path, title, run.describe(), height) as drawn:
    grid = drawn.subplots(
      rows,
      columns,
      squeeze=False,
      gridspec_kw={
        "left": 0.75 / WIDTH,
        "right": 1 - 1.2 / WIDTH,
        "top": 1 - (HEADER + 0.35) / height,
        "bottom": 0.55 / height,
        "wspace": 0.56,
        "hspace": 0.45,
      },
    )
    for i, axes in enumerate(grid.flat):
      if i >= len(splits):
        axes.set_axis_off()
        continue
      _accuracy_panel(run, axes, splits[i])
      if i % columns == 0:
        axes.set_ylabel("accuracy")


def _accuracy_panel(run: RunFolder, axes: Axes, split: str) -> None:
  series = run.series("eval")
  found = {
    k: series[f"{split}/top{k}"]
    for k in curves.TOP_K
    if f"{split}/top{k}" in series
  }
  chance = run.chance.get(split)
  title = f"split “{split}”"
  if chance:
    title += f", {round(1 / chance)} classes"
  axes.set_title(title, weight="bold", pad=20 if chance else None)
  last = max(steps[-1] for steps, _ in found.values())
  for k, (steps, values) in found.items():
    axes.plot(
      steps,
      values,
      color=TOP_K_COLORS[k],
      linewidth=2,
      marker="o",
      markersize=5 if len(steps) < 30 else 2.5,
      markeredgecolor="white",
      markeredgewidth=0.6,
      clip_on=False,
      zorder=3,
    )
    if chance:
      axes.axhline(
        min(k * chance, 1),
        color=TOP_K_COLORS[k],
        linewidth=1,
        linestyle=(0, (1, 2)),
      )
  axes.set_ylim(0, 1)
  axes.yaxis.set_major_formatter(PercentFormatter(1))
  step_axis(axes, last, label=True)
  end_labels(
    axes,
    [values[-1] for _, values in found.values()],
    [f"top-{k}  {values[-1]:.1%}" for k, (_, values) in found.items()],
    [TOP_K_COLORS[k] for k in found],
  )
  if chance:
    shares = " / ".join(f"{min(k * chance, 1):.1%}" for k in found)
    tops = "/".join(str(k) for k in found)
    axes.annotate(
      f"dotted: chance, top-{tops}: {shares}",
      (0, 1),
      (0, 7),
      xycoords="axes fraction",
      textcoords="offset points",
      color=GREY,
      fontsize=8.5,
    )


def _curve(
  axes: Axes,
  steps_N: np.ndarray,
  values_N: np.ndarray,
  color: str,
  *,
  smooth: bool = True,
) -> None:
  """A line; of many points a thin one under its smoothed self."""
  if smooth and len(steps_N) >= curves.SMOOTH_FROM:
    axes.plot(steps_N, values_N, color=color, linewidth=0.7, alpha=0.35)
    values_N = curves.smoothed(values_N)
  marker = "o" if len(steps_N) == 1 else None
  axes.plot(steps_N, values_N, color=color, linewidth=1.8, marker=marker)


def _no_lines(run: RunFolder, kind: str) -> str:
  path = run.workdir / "metrics.jsonl"
  state = f"has no line of kind {kind!r}" if run.lines else "is empty or absent"
  return f"{path} {state}; train the run for log.every_steps steps at least"
