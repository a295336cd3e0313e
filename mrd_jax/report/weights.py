"""Draws the learned weights of Eq. 9 over steps (Fig. 5 of the paper)."""

from collections.abc import Mapping
from pathlib import Path

from mrd_jax.draw.chart import GREY, Chart, Curve, png, svg
from mrd_jax.draw.markup import Markup, tag
from mrd_jax.errors import BadInput
from mrd_jax.report.run_folder import Folders, RunFolder

# The pairs that share their weights, and what each is about.  The last is the
# "matched" form, in which PI-IT and PT-TI do not exist.
PAIRS = {
  "Point–point relations learn from": ("PP-II", "PP-TT"),
  "Point–image relations learn from": ("PI-TI", "PI-IT"),
  "Point–text relations learn from": ("PT-IT", "PT-TI"),
}
MATCHED_PAIR = {"Cross-modal relations: the share of": ("PI-TI", "PT-IT")}
MODALITY = {"P": "point", "I": "image", "T": "text"}


def charts(runs: Mapping[str, RunFolder]) -> list[Chart]:
  """Makes a chart of every pair: of its weights, or of one of many runs."""
  series = {name: run.series("train") for name, run in runs.items()}
  made = []
  for heading, pair in (PAIRS | MATCHED_PAIR).items():
    matched = heading in MATCHED_PAIR
    names = [
      name
      for name, own in series.items()
      if all(f"weight/{term}" in own for term in pair)
      and not (matched and "weight/PI-IT" in own)
    ]
    if not names:
      continue
    title, known = heading, [describe_term(term, full=matched) for term in pair]
    if len(runs) == 1:
      curves = [
        Curve(text, *series[names[0]][f"weight/{term}"], i)
        for i, (term, text) in enumerate(zip(pair, known, strict=True))
      ]
    else:  # the other weight of a pair is 1 - this
      title = f"{heading} {known[0]}"
      curves = [
        Curve(name, *series[name][f"weight/{pair[0]}"], i)
        for i, name in enumerate(series)
        if name in names
      ]
    unit = "weight (a pair sums to 1)"
    rules = [(0.5, GREY)]
    made.append(Chart(title, curves, limits=(0, 1), rules=rules, unit=unit))
  return made


def describe_term(term: str, *, full: bool) -> str:
  """Writes "PI-TI" as "text–image (PI-TI)", in full with the student's side."""
  student, teacher = (
    "–".join(MODALITY[letter] for letter in side) for side in term.split("-")
  )
  return f"{f'{student} from ' if full else ''}{teacher} ({term})"


def _fixed(run: RunFolder) -> bool:
  return run.config.get("loss", {}).get("weighting") == "fixed"


def section(folders: Folders) -> list[Markup]:
  """Makes the blocks of the page."""
  notes = []
  for name, run in folders.runs.items():
    if not charts({name: run}):
      if run.series("train") and not run.finetuned:
        folders.missing.append(
          f"{name} has no dynamic weights: it is without relation terms."
        )
    elif _fixed(run):
      text = f"{name} keeps them at 1/2 (loss.weighting)."
      notes.append(tag("p", text, class_="note"))
  made = charts(folders.runs)
  return [*notes, tag("div", *map(svg, made), class_="charts")] if made else []


def draw(run: RunFolder, path: Path) -> None:
  """Draws the PNG of a run.

  Raises:
    BadInput: if nothing was logged, or no weights.
  """
  made = charts({"": run})
  if not run.series("train"):
    raise BadInput(run.untrained())
  if not made:
    raise BadInput(
      f"{run.workdir / 'metrics.jsonl'} has no weight/* values: the run is "
      "without relation terms (loss.intra and loss.cross are false)"
    )
  title = "Dynamic weights: which teacher relation each pair follows"
  if _fixed(run):
    title = "Weights of the relation terms, fixed at 1/2 (loss.weighting)"
  png(path, title, run.describe(), made, columns=len(made), tall=2.2)
