"""The report of one run, or of several side by side, as an HTML page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mrd_jax.encoder.embed_split import AT_THE_END
from mrd_jax.errors import BadInput
from mrd_jax.report import charts, classes, curves, tables
from mrd_jax.report.document import document
from mrd_jax.report.gallery import Clouds, gallery, open_run
from mrd_jax.report.markup import Markup, tag
from mrd_jax.report.run_folder import EvaluationFolder, RunFolder

Runs = Mapping[str, RunFolder]


def write_page(
  folders: Sequence[RunFolder | EvaluationFolder], path: Path
) -> list[str]:
  """Writes the page of one folder, or of several side by side.

  Args:
    folders: Runs, finished or not, and evaluations.
    path: The .html file.

  Returns:
    A sentence for everything that is missing; the page has them too.

  Raises:
    BadInput: if the file cannot be written.
  """
  labels = short_names([folder.workdir for folder in folders])
  pairs = list(zip(labels, folders, strict=True))
  runs = {name: f for name, f in pairs if isinstance(f, RunFolder)}
  evaluations = [f for f in folders if isinstance(f, EvaluationFolder)]
  missing: list[str] = []
  clouds = Clouds()
  parts = {
    "Runs": [tables.run_cards(runs)] if runs else [],
    "Results": _results(runs, evaluations, missing),
    "Losses": _losses(runs, missing),
    "Weights": _weights(runs, missing),
    "Zero-shot": _accuracy(runs, missing, finetuned=False),
    "Fine-tuning": _accuracy(runs, missing, finetuned=True),
    "Confusion": _each_split(
      runs, "Confusion", classes.confusion_block, missing
    ),
    "Map": _each_split(runs, "Map", classes.map_block, missing, first=True),
    "Retrieval": _gallery(runs, clouds, missing),
    "Configuration": [
      tables.config_section({name: run.config for name, run in runs.items()})
    ]
    if runs
    else [],
  }
  if missing:
    items = [tag("li", sentence) for sentence in missing]
    parts["Left out"] = [tag("ul", *items, class_="missing")]
  title = f"{labels[0]} · report"
  if len(labels) > 1:
    title = f"{len(labels)} side by side · report"
  page = document(title, parts, clouds)
  try:
    # A lone surrogate, which JSON allows and UTF-8 does not, becomes "?".
    path.write_bytes(page.encode("utf-8", "replace"))
  except OSError as error:
    raise BadInput(
      f"{path} cannot be written ({error.strerror}); name another file with "
      "--output"
    ) from None
  return missing


def short_names(folders: Sequence[Path]) -> list[str]:
  """The folders' names, with as many parents as tell them apart."""
  parts = [folder.resolve().parts for folder in folders]
  for depth in range(1, max(map(len, parts)) + 1):
    names = ["/".join(p[-depth:]) for p in parts]
    if len(set(names)) == len(names):
      return names
  raise BadInput("the same folder is named twice; name every folder once")


def _results(
  runs: Runs, evaluations: Sequence[EvaluationFolder], missing: list[str]
) -> list[Markup]:
  for name, run in runs.items():
    if run.results is None:
      missing.append(
        f"{name} has no results.json; {AT_THE_END}. Its row shows the last "
        "evaluation so far, if there was one."
      )
    if run.meta is None:
      missing.append(
        f"{name}: its dataset {run.data_dir} cannot be read here, so that "
        "names of classes, texts and shapes are missing; name it with --data."
      )
  blocks = tables.run_results(runs) + tables.evaluation_results(evaluations)
  return [tag("div", *blocks, class_="blocks")] if blocks else []


def _losses(runs: Runs, missing: list[str]) -> list[Markup]:
  series = {name: run.series("train") for name, run in runs.items()}
  missing += [
    f"{name} has no training line in metrics.jsonl yet: no losses."
    for name, own in series.items()
    if not own
  ]
  present = {p for own in series.values() for p in curves.loss_panels(own)}
  figures = []
  for panel in curves.PANELS:
    if panel in present:
      drawn = [
        charts.Curve(name, *own[panel.name], i)
        for i, (name, own) in enumerate(series.items())
        if panel.name in own
      ]
      # The scale moves slowly: there is no noise to smooth.
      smooth = panel.kind != "scale"
      figures.append(charts.line_chart(panel.title, drawn, smooth=smooth))
  blocks = [tag("div", *figures, class_="charts")] if figures else []
  if any("-" in panel.name for panel in present):
    text = "PI-TI: relation point–image against text–image, and so on. "
    blocks.insert(0, tag("p", text, class_="note"))
  if any(
    len(own["loss"][0]) >= curves.SMOOTH_FROM
    for own in series.values()
    if "loss" in own
  ):
    text = "Thin: as logged, bold: smoothed; numbers are as logged."
    blocks.insert(0, tag("p", text, class_="note"))
  return blocks


def _weights(runs: Runs, missing: list[str]) -> list[Markup]:
  series = {name: run.series("train") for name, run in runs.items()}
  pairs = {name: curves.weight_pairs(own) for name, own in series.items()}
  missing += [
    f"{name} has no dynamic weights: it is without relation terms."
    for name, own in pairs.items()
    if not own and series[name] and not runs[name].finetuned
  ]
  headings = dict.fromkeys(
    (heading, pair) for own in pairs.values() for heading, pair in own.items()
  )
  figures = []
  for heading, pair in headings:
    full = heading in curves.MATCHED_PAIR
    if len(runs) == 1:
      own = next(iter(series.values()))
      drawn = [
        charts.Curve(
          curves.describe_term(term, full=full), *own[f"weight/{term}"], i
        )
        for i, term in enumerate(pair)
      ]
      title = heading
    else:  # the other weight of a pair is 1 - this
      drawn = [
        charts.Curve(name, *own[f"weight/{pair[0]}"], i)
        for i, (name, own) in enumerate(series.items())
        if heading in pairs[name]
      ]
      title = f"{heading} {curves.describe_term(pair[0], full=full)}"
    figures.append(
      charts.line_chart(title, drawn, limits=(0, 1), rules=[(0.5, 7)])
    )
  fixed = [
    name
    for name, run in runs.items()
    if run.config.get("loss", {}).get("weighting") == "fixed"
  ]
  notes = [
    tag("p", f"{name} keeps them at 1/2 (loss.weighting).", class_="note")
    for name in fixed
    if pairs[name]
  ]
  return [*notes, tag("div", *figures, class_="charts")] if figures else []


def _accuracy(
  runs: Runs, missing: list[str], *, finetuned: bool
) -> list[Markup]:
  """Curves of the splits that runs of one kind have classified."""
  series = {name: run.series("eval") for name, run in runs.items()}
  found = {
    name: curves.classified_splits(series[name])
    for name, run in runs.items()
    if run.finetuned == finetuned
  }
  kind = "" if finetuned else "zero-shot "
  missing += [
    f"{name} has no {kind}evaluation in metrics.jsonl yet."
    for name, own in found.items()
    if not own
  ]
  splits = dict.fromkeys(split for own in found.values() for split in own)
  figures = []
  for split in splits:
    guess = next(
      (run.chance[split] for run in runs.values() if split in run.chance), None
    )
    if len(runs) == 1:
      own = next(iter(series.values()))
      drawn = [
        (k, charts.Curve(f"top-{k}", *own[f"{split}/top{k}"], i))
        for i, k in enumerate(curves.TOP_K)
        if f"{split}/top{k}" in own
      ]
      panels = {f"split “{split}”": drawn}
    else:
      panels = {
        f"split “{split}”, top-{k}": [
          (k, charts.Curve(name, *own[f"{split}/top{k}"], i))
          for i, (name, own) in enumerate(series.items())
          if f"{split}/top{k}" in own
        ]
        for k in curves.TOP_K
      }
    for title, drawn in panels.items():
      rules = {
        (min(k * guess, 1), curve.color if len(runs) == 1 else 7)
        for k, curve in drawn
        if guess
      }
      if drawn:
        figures.append(
          charts.line_chart(
            title,
            [curve for _, curve in drawn],
            percent=True,
            limits=(0, 1),
            rules=sorted(rules),
          )
        )
  return [tag("div", *figures, class_="charts")] if figures else []


def _each_split(
  runs: Runs,
  what: str,
  block: Callable[[str, RunFolder, str], Markup],
  missing: list[str],
  *,
  first: bool = False,
) -> list[Markup]:
  """A block for every run and zero-shot split, or for its first one."""
  blocks = []
  for name, run in runs.items():
    splits = run.config.get("eval", {}).get("zero_shot", ())
    for split in splits[:1] if first else splits:
      try:
        blocks.append(block(name, run, split))
      except BadInput as error:
        missing.append(f"{what} of {name}, split “{split}”: {error}.")
  return [tag("div", *blocks, class_="blocks")] if blocks else []


def _gallery(runs: Runs, clouds: Clouds, missing: list[str]) -> list[Markup]:
  ready = {}
  for name, run in runs.items():
    if run.finetuned:
      continue
    try:
      ready[name] = open_run(run)
      if not ready[name].found.has_image.any():
        missing.append(
          f"Image to shape of {name}: its embeddings hold no image features; "
          "an older mrd_jax, or data without images, left them."
        )
    except BadInput as error:
      missing.append(f"Retrieval of {name}: {error}.")
  return gallery(ready, clouds)
