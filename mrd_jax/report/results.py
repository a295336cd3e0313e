"""Shows the results of runs and of evaluations, a table a kind of metric."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mrd_jax.draw.markup import Markup, table, tag
from mrd_jax.encoder.embed_split import AT_THE_END
from mrd_jax.metrics.table import cell, group_metrics, label, published_cell
from mrd_jax.report.run_folder import EvaluationFolder, Folders, RunFolder


class Row(NamedTuple):
  """A row of a table of results.

  Attributes:
    name: Whose they are.
    origin: From which step; may be empty.
    metrics: By name.
    published: Whether they are a publication's, in percent as printed.
    ranked: Whether they may be the best of their column.
  """

  name: str
  origin: str
  metrics: Mapping[str, float]
  published: bool = False
  ranked: bool = True


def section(folders: Folders) -> list[Markup]:
  """Makes the blocks of the page."""
  for name, run in folders.runs.items():
    if run.results is None:
      folders.missing.append(
        f"{name} has no results.json; {AT_THE_END}. Its row shows the last "
        "evaluation so far, if there was one."
      )
    if run.meta is None:
      folders.missing.append(
        f"{name}: its dataset {run.data_dir} cannot be read here, so that "
        "names of classes, texts and shapes are missing; name it with --data."
      )
  tables = run_results(folders.runs) + evaluation_results(folders.evaluations)
  return [tag("div", *tables, class_="blocks")] if tables else []


def run_results(runs: Mapping[str, RunFolder]) -> list[Markup]:
  """Makes tables of the runs' results, one a split and kind of metric."""
  rows, selected = [], {}
  for name, run in runs.items():
    if run.results is None:
      metrics = {
        key: value
        for key, value in run.last_evaluation().items()
        if key not in ("step", "kind", "time")
      }
      # Of another step than the others, and not what the run is to leave.
      rows.append(Row(name, run.origin(), metrics, ranked=False))
      continue
    rows.append(Row(name, run.origin(), run.results["metrics"]))
    if best := run.results.get("best_test_epoch"):
      at = f"step {best['step']:,}, the best epoch, selected on the test split"
      rows.append(Row(name, at, best["metrics"], ranked=False))
      selected[name] = best["metrics"]
  names = dict.fromkeys(name for row in rows for name in row.metrics)
  splits = dict.fromkeys(name.rpartition("/")[0] for name in names)
  tables = []
  for split in splits:
    own = [name for name in names if name.rpartition("/")[0] == split]
    for kind, columns, percent in group_metrics(own):
      notes = []
      guesses = {
        run.chance[split] for run in runs.values() if split in run.chance
      }
      if kind == "accuracy" and guesses:  # several, of other classes
        shares = " or ".join(f"{100 * x:.1f}%" for x in sorted(guesses))
        notes.append(f"Guessing has a top-1 of {shares}.")
      notes += [
        f"The best epoch of {name} was selected on the test split: compare it "
        "only with figures chosen that way. It is never marked as best."
        for name, metrics in selected.items()
        if metrics.keys() & set(columns)
      ]
      notes += [
        f"{name} is the checkpoint with the best {run.results['selected_by']}: "
        "these figures were selected on, they are not held out."
        for name, run in runs.items()
        if run.results
        and (run.results.get("selected_by") or "").startswith(f"{split}/")
      ]
      title = f"Split “{split}”: {kind}"
      tables.append(results_table(title, columns, rows, percent, notes))
  return tables


def evaluation_results(folders: Sequence[EvaluationFolder]) -> list[Markup]:
  """Makes tables of evaluations, one for each suite and kind of metric."""
  suites: dict[str, list[Row]] = {}
  for folder in folders:
    for row in folder.rows:
      parts = [f"step {row['step']:,}"] if row.get("step") is not None else []
      if row.get("rule") not in (None, "unknown"):
        by = f" by {row['selected_by']}" if row.get("selected_by") else ""
        parts.append(f"the {row['rule']} checkpoint{by}")
      for name, suite in row["suites"].items():
        split = [f"split {suite['split']}"] if "split" in suite else []
        origin = ", ".join(parts + split)
        entry = Row(row["name"], origin, suite["metrics"])
        suites.setdefault(name, []).append(entry)
  tables = []
  for suite, rows in suites.items():
    for folder in folders:
      for row in folder.published.get(suite, ()):
        quoted = {"published": True, "ranked": False}
        entry = Row(row["name"], "", row["metrics"], **quoted)
        if entry not in rows:  # several folders may quote the same rows
          rows.append(entry)
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    for kind, columns, percent in group_metrics(names):
      title = f"Evaluation “{suite}”: {kind}"
      tables.append(results_table(title, columns, rows, percent, []))
  return tables


def results_table(
  title: str,
  columns: Sequence[str],
  rows: Sequence[Row],
  percent: bool,
  notes: Sequence[str],
) -> Markup:
  """Makes a table of metrics with the best value of every column marked.

  A published row is never "best": its data and teacher are others.  Nor is
  one of an unfinished run, or one that was selected on the test split.

  Args:
    title: Of the table.
    columns: Names of metrics.
    rows: Those that have none of the metrics are left out.
    percent: Whether the metrics are shares; otherwise they are gaps, of which
      the smallest is the best.
    notes: Sentences below the table.
  """
  rows = [row for row in rows if any(name in row.metrics for name in columns)]
  title += " (%)" if percent else ""
  best = {}
  for name in columns:
    own = [
      row.metrics[name] for row in rows if name in row.metrics and row.ranked
    ]
    if len(own) > 1:
      best[name] = max(own) if percent else min(own)
  body: list[Markup] = []
  for row in rows:
    origin = tag("small", row.origin) if row.origin else None
    cells = [tag("th", row.name, origin, scope="row")]
    for name in columns:
      value = row.metrics.get(name)
      if value is None:
        cells.append(tag("td", "—"))
        continue
      wins = row.ranked and value == best.get(name)
      printed = published_cell if row.published else cell
      text = printed(row.metrics, name, percent)
      cells.append(
        tag(
          "td",
          tag("strong", text) if wins else text,
          tag("span", " best", class_="sr") if wins else None,
          class_="best" if wins else None,
          data_metric=name,
          title=repr(value),
        )
      )
    kind = "published" if row.published else None
    body.append(tag("tr", *cells, class_=kind))
  head = ["Model", *(label(name.rpartition("/")[2]) for name in columns)]
  return tag(
    "div",
    tag("h3", title),
    table(title, head, body, class_="numbers"),
    *(tag("p", note, class_="note") for note in notes),
  )
