"""Draws the loss and every part of it over steps."""

from collections.abc import Mapping
from pathlib import Path

from mrd_jax.draw.chart import GREY, SMOOTH_FROM, Chart, Curve, png, svg
from mrd_jax.draw.markup import Markup, tag
from mrd_jax.errors import BadInput
from mrd_jax.report.run_folder import Folders, RunFolder

TERMS = "PI-TI: relation point–image against text–image, and so on"
# Training metrics: name, title, and colour in a single run.
PANELS = (
  ("loss", "total loss", GREY),
  ("contrast/image", "contrast, image", 0),
  ("contrast/text", "contrast, text", 0),
  ("logit_scale", "logit scale", GREY),
  ("intra", "intra, weighted sum", 1),
  *((f"relation/{t}", t, 1) for t in ("PP-II", "PP-TT")),
  ("cross", "cross, weighted sum", 2),
  *((f"relation/{t}", t, 2) for t in ("PI-TI", "PI-IT")),
  *((f"relation/{t}", t, 2) for t in ("PT-IT", "PT-TI")),
)


def charts(runs: Mapping[str, RunFolder]) -> list[Chart]:
  """Makes a chart of every term of which there is something to show."""
  series = {name: run.series("train") for name, run in runs.items()}
  # All losses are then cross-entropies or divergences.
  nats = all(
    run.config.get("loss", {}).get("representation") == "similarity"
    for run in runs.values()
  )
  made = []
  for metric, title, color in PANELS:
    curves = [
      Curve(name, *own[metric], i if len(runs) > 1 else color)
      for i, (name, own) in enumerate(series.items())
      if metric in own
    ]
    # A variant without intra or cross terms records their sum as zero.
    if any(curve.values_N.any() for curve in curves):
      made.append(
        Chart(
          title,
          curves,
          # The scale moves slowly: there is no noise to smooth.
          smooth=metric != "logit_scale",
          unit="loss (nats)" if nats else "loss",
        )
      )
  return made


def _notes(made: list[Chart]) -> list[str]:
  notes = []
  lengths = [len(c.steps_N) for chart in made[:1] for c in chart.curves]
  if max(lengths, default=0) >= SMOOTH_FROM:
    notes.append("thin: as logged, bold: smoothed")
  if any("-" in chart.title for chart in made):
    notes.append(TERMS)
  return notes


def section(folders: Folders) -> list[Markup]:
  """Makes the blocks of the page."""
  folders.missing.extend(
    f"{name} has no training line in metrics.jsonl yet: no losses."
    for name, run in folders.runs.items()
    if not run.series("train")
  )
  made = charts(folders.runs)
  notes = [
    tag("p", f"{note[0].upper()}{note[1:]}.", class_="note")
    for note in _notes(made)
  ]
  return [*notes, tag("div", *map(svg, made), class_="charts")] if made else []


def draw(run: RunFolder, path: Path) -> None:
  """Draws the PNG of a run.

  Raises:
    BadInput: if nothing was logged.
  """
  made = charts({"": run})
  if not made:
    raise BadInput(run.untrained())
  notes = [*run.describe(), *_notes(made)]
  png(path, "The loss and its parts, by step", notes, made, columns=4, tall=1.4)
