"""The figures of a run: losses, dynamic weights, zero-shot, retrieval.

Every figure is a function of the run's folder and a path; it raises BadInput
when what it shows is not there.
"""

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mrd_jax.errors import BadInput
from mrd_jax.report import retrieval_sheet
from mrd_jax.report.run_folder import RunFolder, read_run
from mrd_jax.report.style import (
  BLUE,
  GREEN,
  GREY,
  HEADER,
  INK,
  MARGIN,
  VERMILION,
  WIDTH,
  end_labels,
  sheet,
  step_axis,
  ticks,
)

SMOOTH_FROM = 60  # points; below, a smoothed line would only hide them
TOP_K = {1: BLUE, 3: VERMILION, 5: GREEN}

# The pairs that share their weights in Eq. 9, and what each is about.  The
# last is the "matched" form, in which PI-IT and PT-TI do not exist.
WEIGHT_PAIRS = {
  "Point–point relations learn from": ("PP-II", "PP-TT"),
  "Point–image relations learn from": ("PI-TI", "PI-IT"),
  "Point–text relations learn from": ("PT-IT", "PT-TI"),
}
MATCHED_PAIR = {"Cross-modal relations: the share of": ("PI-TI", "PT-IT")}
MODALITY = {"P": "point", "I": "image", "T": "text"}


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
  drawings = {
    "losses.png": draw_losses,
    "dynamic_weights.png": draw_dynamic_weights,
    "zero_shot.png": draw_zero_shot,
    "retrieval_text_to_shape.png": retrieval_sheet.draw_retrieval,
  }
  drawn, left_out = [], []
  for name, function in drawings.items():
    try:
      path = run.workdir / "figures" / name
      function(run, path)
      drawn.append(path)
    except BadInput as error:
      left_out.append(f"{name} left out: {error}")
  if not drawn:
    raise BadInput(f"{workdir}: nothing to draw; {'; '.join(left_out)}")
  return drawn, left_out


def draw_losses(run: RunFolder, path: Path) -> None:
  """The total loss and every part of it over steps, a panel each."""
  series = run.series("train")
  panels = [
    ("loss", "total loss", INK),
    ("contrast/image", "contrast, image", BLUE),
    ("contrast/text", "contrast, text", BLUE),
    ("logit_scale", "logit scale", GREY),
    ("intra", "intra, weighted sum", VERMILION),
    *((f"relation/{t}", t, VERMILION) for t in ("PP-II", "PP-TT")),
    ("cross", "cross, weighted sum", GREEN),
    *((f"relation/{t}", t, GREEN) for t in ("PI-TI", "PI-IT")),
    *((f"relation/{t}", t, GREEN) for t in ("PT-IT", "PT-TI")),
  ]
  # A variant without intra or cross terms records their sum as zero.
  panels = [p for p in panels if p[0] in series and series[p[0]][1].any()]
  if not panels:
    raise BadInput(_no_lines(run, "train"))
  columns = 4
  rows = -(-len(panels) // columns)
  height = HEADER + 0.45 + rows * 2.0
  notes = run.describe()
  if any("-" in name for name, _, _ in panels):
    notes.append("PI-TI: relation point–image against text–image, and so on")
  if len(series[panels[0][0]][0]) >= SMOOTH_FROM:
    notes.append("thin: as logged, bold: smoothed")
  with sheet(path, "The loss and its parts, by step", notes, height) as figure:
    grid = figure.subplots(
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
      name, title, color = panels[i]
      # The scale moves slowly: there is no noise to smooth.
      _curve(axes, *series[name], color, smooth=name != "logit_scale")
      axes.set_title(title, color=color, weight="bold")
      axes.yaxis.set_major_locator(ticks())
      below = i + columns >= len(panels)
      step_axis(axes, series[name][0][-1], label=below)
      if i % columns == 0:
        axes.set_ylabel("loss (nats)" if _in_nats(run) else "loss")


def draw_dynamic_weights(run: RunFolder, path: Path) -> None:
  """The learned weights of Eq. 9 over steps (Fig. 5 of the paper)."""
  series = run.series("train")
  weights = {
    name.removeprefix("weight/"): values
    for name, values in series.items()
    if name.startswith("weight/")
  }
  if not series:
    raise BadInput(_no_lines(run, "train"))
  pairs = WEIGHT_PAIRS if "PI-IT" in weights else WEIGHT_PAIRS | MATCHED_PAIR
  pairs = {
    title: pair
    for title, pair in pairs.items()
    if all(term in weights for term in pair)
  }
  if not pairs:
    raise BadInput(
      f"{run.workdir / 'metrics.jsonl'} has no weight/* values: the run is "
      "without relation terms (loss.intra and loss.cross are false)"
    )
  title = "Dynamic weights: which teacher relation each pair follows"
  if run.config.get("loss", {}).get("weighting") == "fixed":
    title = "Weights of the relation terms, fixed at 1/2 (loss.weighting)"
  height = 4.4
  with sheet(path, title, run.describe(), height) as figure:
    grid = figure.subplots(
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
        _curve(axes, *weights[term], color, smooth=False)
        axes.annotate(
          _describe_term(term, full=heading in MATCHED_PAIR),
          (0, 1),
          (0, 22 - 14 * j),
          xycoords="axes fraction",
          textcoords="offset points",
          color=color,
        )
      axes.set_title(heading, weight="bold", pad=38)
      axes.set_ylim(0, 1)
      axes.set_yticks(np.linspace(0, 1, 5))
      step_axis(axes, weights[pair[0]][0][-1], label=True)
      final = [weights[term][1][-1] for term in pair]
      end_labels(axes, final, [f"{x:.2f}" for x in final], colors)
      if i == 0:
        axes.set_ylabel("weight (a pair sums to 1)")


def draw_zero_shot(run: RunFolder, path: Path) -> None:
  """Zero-shot accuracy over steps, a panel a split, with chance."""
  series = run.series("eval")
  splits = [
    name.removesuffix("/top1")
    for name in sorted(series)
    if name.endswith("/top1")
  ]
  if not splits:
    raise BadInput(
      f"{run.workdir / 'metrics.jsonl'} has no zero-shot evaluation yet; name "
      "a split with classes in eval.zero_shot and train on to an evaluation"
    )
  columns = min(len(splits), 2)
  rows = -(-len(splits) // columns)
  height = HEADER + 0.3 + rows * 3.4
  title = "Zero-shot classification accuracy of held-out shapes, by step"
  with sheet(path, title, run.describe(), height) as figure:
    grid = figure.subplots(
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
      _zero_shot_panel(run, axes, splits[i])
      if i % columns == 0:
        axes.set_ylabel("accuracy")


def _zero_shot_panel(run: RunFolder, axes: Axes, split: str) -> None:
  series = run.series("eval")
  found = {
    k: series[f"{split}/top{k}"] for k in TOP_K if f"{split}/top{k}" in series
  }
  chance = _chance(run, split)
  title = f"split “{split}”"
  if chance:
    title += f", {round(1 / chance)} classes"
  axes.set_title(title, weight="bold", pad=20 if chance else None)
  last = max(steps[-1] for steps, _ in found.values())
  for k, (steps, values) in found.items():
    axes.plot(
      steps,
      values,
      color=TOP_K[k],
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
        color=TOP_K[k],
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
    [TOP_K[k] for k in found],
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


def _chance(run: RunFolder, split: str) -> float | None:
  """Top-1 accuracy of guessing; of an unfinished run, from its classes."""
  if run.results and split in run.results.get("chance_top1", {}):
    return run.results["chance_top1"][split]
  if run.meta and split in run.meta.class_names:
    return 1 / len(run.meta.class_names[split])
  return None


def _curve(
  axes: Axes,
  steps_N: np.ndarray,
  values_N: np.ndarray,
  color: str,
  *,
  smooth: bool = True,
) -> None:
  """A line; of many points a thin one under its smoothed self."""
  if smooth and len(steps_N) >= SMOOTH_FROM:
    axes.plot(steps_N, values_N, color=color, linewidth=0.7, alpha=0.35)
    values_N = _smoothed(values_N, len(values_N) / 100)
  marker = "o" if len(steps_N) == 1 else None
  axes.plot(steps_N, values_N, color=color, linewidth=1.8, marker=marker)


def _smoothed(values_N: np.ndarray, sigma: float) -> np.ndarray:
  """Gaussian mean of the neighbours, of those that exist near the ends."""
  reach = int(4 * sigma) + 1
  kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
  total = np.convolve(np.ones(len(values_N)), kernel, mode="same")
  return np.convolve(values_N, kernel, mode="same") / total


def _describe_term(term: str, *, full: bool) -> str:
  """ "PI-TI" as "text–image (PI-TI)", or in full with the student's side."""
  student, teacher = (
    "–".join(MODALITY[letter] for letter in side) for side in term.split("-")
  )
  return f"{f'{student} from ' if full else ''}{teacher} ({term})"


def _in_nats(run: RunFolder) -> bool:
  """Whether all losses are cross-entropies or divergences."""
  return run.config.get("loss", {}).get("representation") == "similarity"


def _no_lines(run: RunFolder, kind: str) -> str:
  path = run.workdir / "metrics.jsonl"
  state = f"has no line of kind {kind!r}" if run.lines else "is empty or absent"
  return f"{path} {state}; train the run for log.every_steps steps at least"
