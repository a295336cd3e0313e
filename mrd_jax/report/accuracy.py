"""Draws accuracy over steps, zero-shot or after fine-tuning."""

from collections.abc import Mapping
from pathlib import Path

from mrd_jax.draw.chart import GREY, Chart, Curve, png, svg
from mrd_jax.draw.markup import Markup, tag
from mrd_jax.errors import BadInput
from mrd_jax.report.run_folder import Folders, RunFolder

TOP_K = (1, 3, 5)


def charts(runs: Mapping[str, RunFolder], *, finetuned: bool) -> list[Chart]:
  """Makes a chart of every split, or with several runs of every k, too.

  Args:
    runs: By name; their order is that of the colours.
    finetuned: Which of them are drawn.
  """
  series = {
    name: run.series("eval") if run.finetuned == finetuned else {}
    for name, run in runs.items()
  }
  splits = dict.fromkeys(
    name.removesuffix("/top1")
    for own in series.values()
    for name in sorted(own)
    if name.endswith("/top1")
  )
  alone = len(runs) == 1
  made = []
  for split in splits:
    guess = next(
      (run.chance[split] for run in runs.values() if split in run.chance), None
    )
    for ks in [TOP_K] if alone else [(k,) for k in TOP_K]:
      # The colours are those of the ks of one run, or of the runs.
      drawn = [
        (k, Curve(f"top-{k}" if alone else name, *own[metric], i + j))
        for i, k in enumerate(ks)
        for j, (name, own) in enumerate(series.items())
        if (metric := f"{split}/top{k}") in own
      ]
      if not drawn:
        continue
      note, rules = "", set()
      if guess:
        ks = sorted({k for k, _ in drawn})
        shares = " / ".join(f"{min(k * guess, 1):.1%}" for k in ks)
        note = f"{round(1 / guess)} classes; dotted: chance, {shares}"
        rules = {
          (min(k * guess, 1), curve.color if alone else GREY)
          for k, curve in drawn
        }
      made.append(
        Chart(
          f"split “{split}”" + ("" if alone else f", top-{ks[0]}"),
          [curve for _, curve in drawn],
          limits=(0, 1),
          percent=True,
          rules=sorted(rules),
          note=note,
          unit="accuracy",
        )
      )
  return made


def section(folders: Folders, *, finetuned: bool) -> list[Markup]:
  """Makes the page's blocks of the runs of one kind."""
  kind = "" if finetuned else "zero-shot "
  folders.missing.extend(
    f"{name} has no {kind}evaluation in metrics.jsonl yet."
    for name, run in folders.runs.items()
    if run.finetuned == finetuned
    and not charts({name: run}, finetuned=finetuned)
  )
  made = charts(folders.runs, finetuned=finetuned)
  return [tag("div", *map(svg, made), class_="charts")] if made else []


def draw(run: RunFolder, path: Path) -> None:
  """Draws the PNG of a run.

  Raises:
    BadInput: if nothing was evaluated.
  """
  made = charts({"": run}, finetuned=run.finetuned)
  if not made:
    kind = "" if run.finetuned else "zero-shot "
    named = "" if run.finetuned else "name a split in eval.zero_shot and "
    raise BadInput(
      f"{run.workdir / 'metrics.jsonl'} has no {kind}evaluation yet; {named}"
      "train on to an evaluation"
    )
  title = "Zero-shot classification accuracy of held-out shapes, by step"
  if run.finetuned:
    title = "Classification accuracy of the test split, by step"
  columns = min(len(made), 2)
  png(path, title, run.describe(), made, columns=columns, tall=2.6)
