"""results.json of an evaluation, and its tables beside the published rows."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.encoder.encoder import Encoder
from mrd_jax.errors import BadInput
from mrd_jax.evaluate import published
from mrd_jax.evaluate.evaluation import Result
from mrd_jax.evaluate.suites import Found
from mrd_jax.io.files import write_json
from mrd_jax.metrics.table import group_metrics, label, number, render

# The published table that a suite belongs to, and the name of its test set
# there.
_TABLES = {
  "modelnet40": (published.TABLE_1, "modelnet40"),
  "scanobjectnn": (published.TABLE_1, "scanobjectnn"),
  "objaverse_lvis": (published.TABLE_1, "lvis"),
  "retrieval": (published.TABLE_2, "lvis"),
  "relation_gap": (published.TABLE_6, "train_shapenet_only"),
}


def make_row(
  name: str, checkpoint: str, which: str, encoder: Encoder
) -> dict[str, Any]:
  """What results.json says about one encoder, before its suites.

  Args:
    name: A short name, for tables.
    checkpoint: Where it was loaded from.
    which: "latest" or "best", for a run's folder.
    encoder: The encoder.
  """
  config = encoder.config
  if (Path(checkpoint) / "checkpoints").is_dir():
    rule, selected_by = "last", None
    if which == "best" and config.training_config:
      rule = "best"
      selected_by = config.training_config["checkpoint"]["best_metric"]
  else:  # exported with the results of its run
    exported = config.results or {}
    rule = exported.get("checkpoint", "unknown")
    selected_by = exported.get("selected_by")
  return {
    "name": name,
    "checkpoint": checkpoint,
    "step": config.step,
    "rule": rule,
    "selected_by": selected_by,
    "embedding_space": config.embedding_space,
    "suites": {},
  }


def add_result(
  row: dict[str, Any], suite: str, found: Found, result: Result
) -> None:
  """Adds a suite to a row of results.json."""
  row["suites"][suite] = {
    "data": str(found.data),
    "split": ",".join(found.splits),
    "protocol": result.protocol,
    "metrics": result.metrics,
  }
  if result.per_class:
    row["suites"][suite]["per_class"] = result.per_class


def read_rows(output: Path) -> list[dict[str, Any]]:
  """The rows that an earlier command left in a folder.

  Raises:
    BadInput: if its results.json is of another kind.
  """
  path = output / "results.json"
  if not path.exists():
    return []
  try:
    found = json.loads(path.read_text())
    if found["kind"] == "evaluation":
      return found["rows"]
  except (ValueError, KeyError, TypeError):
    pass
  raise BadInput(
    f"{path} is not of an evaluation, so it is not replaced; name another "
    "--output"
  )


def merge(rows: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
  """Puts a row among those of earlier commands.

  Returns:
    The row to add suites to: the earlier one if it is of the same encoder,
    else `row`, in the place of one of its name.
  """
  for earlier in rows:
    if all(
      earlier[k] == row[k] for k in ("name", "checkpoint", "step", "rule")
    ):
      return earlier
  rows[:] = [earlier for earlier in rows if earlier["name"] != row["name"]]
  rows.append(row)
  return row


def add_finetuning(
  row: dict[str, Any], recipe: str, found: Mapping[str, Any]
) -> None:
  """Adds a finished fine-tuning run: its last epoch and its best, by name.

  Args:
    row: Of results.json.
    recipe: The name of the config.
    found: What `finetune` returns.
  """
  best = found["best_test_epoch"]["metrics"]
  row["suites"][f"finetune {recipe}"] = {
    "data": found["data"],
    "split": found["splits"]["test"],
    "protocol": {
      "from_step": found["start"]["step"],
      "trained_on": found["splits"]["train"],
      "epochs": found["epoch"],
      "seed": found["seed"],
      "shapes": found["shapes"],
    },
    "metrics": {
      **{k.replace("test/", ""): v for k, v in found["metrics"].items()},
      # Point-BERT's published figure: selected on the test split.
      "best_test_epoch_top1": best["test/top1"],
    },
  }


def write(output: Path, rows: Sequence[dict[str, Any]]) -> None:
  """Writes results.json and results.md."""
  suites = dict.fromkeys(suite for row in rows for suite in row["suites"])
  rows_published = {suite: _published(suite, rows) for suite in suites}
  write_json(
    output / "results.json",
    {"kind": "evaluation", "rows": rows, "published": rows_published},
  )
  (output / "results.md").write_text(tabulate(rows))


def write_confusion(
  path: Path, names: Sequence[str], matrix_CC: np.ndarray
) -> None:
  """Writes a confusion matrix as CSV, rows true and columns predicted."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["true \\ predicted", *names])
    for name, counts in zip(names, matrix_CC, strict=True):
      writer.writerow([name, *map(int, counts)])


def tabulate(rows: Sequence[dict[str, Any]]) -> str:
  """A table a suite, in Markdown, with the paper's rows where they apply."""
  text = []
  for suite in dict.fromkeys(suite for row in rows for suite in row["suites"]):
    measured = {
      row["name"]: row["suites"][suite]["metrics"]
      for row in rows
      if suite in row["suites"]
    }
    paper = _published(suite, rows)
    text += [f"## {suite}", ""]
    names = dict.fromkeys(name for m in measured.values() for name in m)
    for title, columns, percent in group_metrics(names):
      lines = [
        [name, *(_cell(metrics, column, percent) for column in columns)]
        for name, metrics in measured.items()
      ]
      lines += [
        [entry["name"], *(_paper(entry, column, percent) for column in columns)]
        for entry in paper
      ]
      text += [render([title, *map(label, columns)], lines), ""]
    notes = dict.fromkeys(
      note
      for row in rows
      if suite in row["suites"]
      for note in _notes(suite, row)
    )
    text += [*(f"* {note}" for note in notes), ""]
  return "\n".join(text)


def _published(
  suite: str, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """The paper's rows, if a row was measured on the test set of the paper."""
  if suite.startswith("finetune "):
    return _published_finetuning(suite, rows)
  if suite not in _TABLES or not any(
    _is_published_set(row["suites"][suite], suite)
    for row in rows
    if suite in row["suites"]
  ):
    return []
  table, split = _TABLES[suite]
  return [
    {
      "name": f"{name}, {data} (published)",
      "metrics": {
        metric.removeprefix(f"{split}/"): value
        for metric, value in figures.items()
        if metric.startswith(f"{split}/")
      },
    }
    for (name, data), figures in table.items()
  ]


def _published_finetuning(
  suite: str, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  hardest = "scanobjectnn_pb_t50_rs_test"
  if not any(
    row["suites"][suite]["split"] == hardest
    and row["suites"][suite]["protocol"]["shapes"] == published.SHAPES[hardest]
    for row in rows
    if suite in row["suites"]
  ):
    return []
  return [
    {
      "name": f"{name}, {model} (published)",
      "metrics": {"best_test_epoch_top1": value},
    }
    for (name, model), value in published.TABLE_8.items()
  ]


def _is_published_set(found: Mapping[str, Any], suite: str) -> bool:
  _, split = _TABLES[suite]
  if suite == "retrieval" and not found["protocol"].get("captions"):
    return False  # the paper's texts are Cap3D's captions
  return found["protocol"]["shapes"] == published.SHAPES[split]


def _notes(suite: str, row: Mapping[str, Any]) -> list[str]:
  found = row["suites"][suite]
  protocol = ", ".join(
    f"{name.replace('_', ' ')} {value}"
    for name, value in found["protocol"].items()
    if value is not None
  )
  notes = [f"{row['name']}: {found['split']} of {found['data']}, {protocol}"]
  chosen = (row["selected_by"] or "").partition("/")[0]
  if chosen and chosen in found["split"].split(","):
    notes.append(
      f"{row['name']} is the checkpoint with the best {row['selected_by']}: "
      "these figures were selected on, they are not held out"
    )
  if suite in _TABLES and not _is_published_set(found, suite):
    shapes = published.SHAPES[_TABLES[suite][1]]
    captions = " and Cap3D's captions" if suite == "retrieval" else ""
    notes.append(
      f"the paper's figures are of {shapes:,} shapes{captions}: another test "
      "set, not comparable"
    )
  return notes


def _cell(metrics: Mapping[str, float], column: str, percent: bool) -> str:
  if column not in metrics:
    return ""
  return number(metrics[column], percent, metrics.get(f"{column}_std"))


def _paper(entry: Mapping[str, Any], column: str, percent: bool) -> str:
  if column not in entry["metrics"]:
    return ""
  return f"{entry['metrics'][column]:.{1 if percent else 2}f}"


def short_names(
  checkpoints: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
  """A name for each checkpoint that no other has, fit for a file.

  Args:
    checkpoints: Paths; one that earlier rows have keeps its name.
    rows: Those rows.
  """
  taken = {row["checkpoint"]: row["name"] for row in rows}
  names: list[str] = []
  for checkpoint in checkpoints:
    if checkpoint in taken and taken[checkpoint] not in names:
      names.append(taken[checkpoint])
      continue
    path = Path(checkpoint)
    stem = path.stem if path.suffix == ".safetensors" else path.name
    base = re.sub(r"[^\w.-]+", "_", stem or path.resolve().name)
    name, count = base, 1
    while name in (*names, *taken.values()):
      count += 1
      name = f"{base}-{count}"
    names.append(name)
  return names
