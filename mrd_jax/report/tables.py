"""Tables of the page: what each run is, its results, its configuration."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mrd_jax.metrics.table import group_metrics, label, number
from mrd_jax.report.markup import Markup, join, tag
from mrd_jax.report.run_folder import EvaluationFolder, RunFolder

NOT_SET = "—"


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


def scroll(label: str, content: Markup) -> Markup:
  """A box that scrolls by itself where the page is narrow."""
  return tag(
    "div", content, class_="scroll", role="region", aria_label=label, tabindex=0
  )


def origin(run: RunFolder) -> str:
  """Which checkpoint the results of a run are of, and who chose it."""
  if run.results is None:
    line = run.last_evaluation()
    if not line:
      return "unfinished, not evaluated yet"
    return f"unfinished: the evaluation of step {line['step']:,}"
  step = f"step {run.results['step']:,}" if "step" in run.results else ""
  metric = run.results.get("selected_by")
  if metric:
    return f"{step}, the best checkpoint by {metric}"
  return f"{step}, the last checkpoint"


def run_cards(runs: Mapping[str, RunFolder]) -> Markup:
  """What each run is, a card each."""
  cards = []
  for i, (name, run) in enumerate(runs.items()):
    known = run.meta
    shapes = run.data.get("train" if run.finetuned else "records")
    fields = {"Data": known.name if known else run.data.get("name")}
    if run.finetuned:
      # An empty name is a start from scratch, of which `source` says so.
      fields["Started from"] = run.start.get("checkpoint") or run.start.get(
        "source"
      )
    else:
      fields["Teacher"] = known.teacher if known else run.data.get("teacher")
    fields |= {
      "Trained on": shapes and f"{shapes:,} shapes",
      "Trained to": "step "
      f"{max((line['step'] for line in run.lines), default=0):,}"
      + (", unfinished" if run.results is None else ""),
      "Results of": origin(run),
      "Folder": str(run.workdir),
    }
    items = [
      join([tag("dt", key), tag("dd", str(value or "unknown"))])
      for key, value in fields.items()
    ]
    cards.append(
      tag(
        "article",
        tag("h3", tag("i"), name, class_=f"swatch c{i % 8}"),
        tag("dl", *items),
        class_="card",
      )
    )
  return tag("div", *cards, class_="cards")


def run_results(runs: Mapping[str, RunFolder]) -> list[Markup]:
  """Tables of the runs' results, one for each split and kind of metric."""
  rows, selected = [], {}
  for name, run in runs.items():
    if run.results is None:
      metrics = {
        key: value
        for key, value in run.last_evaluation().items()
        if key not in ("step", "kind", "time")
      }
      # Of another step than the others, and not what the run is to leave.
      rows.append(Row(name, origin(run), metrics, ranked=False))
      continue
    rows.append(Row(name, origin(run), run.results["metrics"]))
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
  """Tables of evaluations, one for each suite and kind of metric."""
  suites: dict[str, list[Row]] = {}
  for folder in folders:
    for row in folder.rows:
      parts = [f"step {row['step']:,}"] if row.get("step") is not None else []
      if row.get("rule") not in (None, "unknown"):
        by = f" by {row['selected_by']}" if row.get("selected_by") else ""
        parts.append(f"the {row['rule']} checkpoint{by}")
      for name, suite in row["suites"].items():
        origins = (
          [*parts, f"split {suite['split']}"] if "split" in suite else parts
        )
        entry = Row(row["name"], ", ".join(origins), suite["metrics"])
        suites.setdefault(name, []).append(entry)
  tables = []
  for suite, rows in suites.items():
    seen = []
    for folder in folders:
      for row in folder.published.get(suite, ()):
        if row not in seen:  # several folders may quote the same rows
          seen.append(row)
          entry = Row(
            row["name"], "", row["metrics"], published=True, ranked=False
          )
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
  """A table of metrics with the best value of every column marked.

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
  head = [
    tag("th", label(name.rpartition("/")[2]), scope="col") for name in columns
  ]
  best = {}
  for name in columns:
    own = [
      row.metrics[name] for row in rows if name in row.metrics and row.ranked
    ]
    if len(own) > 1:
      best[name] = max(own) if percent else min(own)
  body = []
  for row in rows:
    origin = tag("small", row.origin) if row.origin else None
    cells = [tag("th", row.name, origin, scope="row")]
    for name in columns:
      value = row.metrics.get(name)
      if value is None:
        cells.append(tag("td", NOT_SET))
        continue
      wins = row.ranked and value == best.get(name)
      if row.published:
        text = f"{value:.{1 if percent else 2}f}"
      else:
        text = number(value, percent, row.metrics.get(f"{name}_std"))
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
  table = tag(
    "table",
    tag("thead", tag("tr", tag("th", "Model", scope="col"), *head)),
    tag("tbody", *body),
    class_="numbers",
  )
  return tag(
    "div",
    tag("h3", title),
    scroll(title, table),
    *(tag("p", note, class_="note") for note in notes),
  )


def config_section(configs: Mapping[str, Mapping[str, Any]]) -> Markup:
  """What differs between the runs' configurations, and each of them whole."""
  flat = {name: dict(flatten(config)) for name, config in configs.items()}
  parts = []
  if len(flat) > 1:
    fields = dict.fromkeys(
      field for values in flat.values() for field in values
    )
    differ = [
      field
      for field in fields
      if len({_value(values, field) for values in flat.values()}) > 1
    ]
    if differ:
      parts.append(_config_table("Fields that differ", differ, flat, "diff"))
    else:
      parts.append(tag("p", "The configurations are the same."))
  for name, values in flat.items():
    table = _config_table(
      f"Configuration of {name}", values, {name: values}, None
    )
    summary = tag("summary", f"The whole configuration of {name}")
    parts.append(tag("details", summary, table))
  return join(parts)


def flatten(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
  """The leaves of nested sections, as ("loss.intra", False)."""
  if isinstance(value, Mapping) and value:
    for key, inner in value.items():
      yield from flatten(inner, f"{name}.{key}" if name else str(key))
  else:
    yield name, value


def _value(values: Mapping[str, Any], field: str) -> str:
  if field not in values:
    return NOT_SET
  value = values[field]
  if isinstance(value, str) and value:
    return value
  return json.dumps(value, ensure_ascii=False)


def _config_table(
  title: str,
  fields: Iterable[str],
  flat: Mapping[str, Mapping[str, Any]],
  identifier: str | None,
) -> Markup:
  head = [tag("th", name, scope="col") for name in ("Field", *flat)]
  body = [
    tag(
      "tr",
      tag("th", field, scope="row"),
      *(tag("td", _value(values, field)) for values in flat.values()),
    )
    for field in fields
  ]
  table = tag(
    "table",
    tag("thead", tag("tr", *head)),
    tag("tbody", *body),
    class_="config",
    id=identifier,
  )
  return scroll(title, table)
