"""Writes results.json of an evaluation, and its tables beside the paper's."""

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.encoder import named
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.errors import BadInput
from mrd_jax.evaluate import published, table_1
from mrd_jax.evaluate.evaluator import Result
from mrd_jax.evaluate.suites import Found
from mrd_jax.io.files import read_json, write_json, write_text
from mrd_jax.io.terminal import printable
from mrd_jax.metrics import table

# An encoder's row of results.json, or that with what one suite found.
Row = dict[str, Any]

# The published table that a suite belongs to (the first word of its name), and
# the name of its test set there.
_TABLES = {
  **{
    suite: (published.TABLE_1, split) for suite, split in table_1.SUITES.items()
  },
  "retrieval": (published.TABLE_2, "lvis"),
  "relation_gap": (published.TABLE_6, "train_shapenet_only"),
  "finetune": (published.TABLE_8, published.PB_T50_RS),
}
# What of the protocol says how large the gallery of a table is.
_GALLERIES = {
  table.WAYS["text_to_shape"]: "with_text",
  table.WAYS["shape_to_text"]: "with_text",
  table.WAYS["image_to_shape"]: "with_image",
}


def read_rows(output: Path) -> list[Row]:
  """Reads the rows that an earlier command left in a folder.

  Raises:
    BadInput: if its results.json is of another kind.
  """
  path = output / "results.json"
  if not path.exists():
    return []
  with contextlib.suppress(BadInput, KeyError, TypeError):
    found = read_json(path)
    if found["kind"] == "evaluation" and all(
      isinstance(row[key], kind)
      for row in found["rows"]
      for key, kind in (("checkpoint", str), ("name", str), ("suites", dict))
    ):
      return [*found["rows"]]
  raise BadInput(
    f"{path} is not of an evaluation, so it is not replaced; name another "
    "--output"
  )


def short_names(checkpoints: Sequence[str], rows: Sequence[Row]) -> list[str]:
  """Finds a name for each checkpoint that no other has, fit for a file.

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
    reference = named.parse(checkpoint)
    path = Path(reference.name if reference else checkpoint)
    stem = path.stem if path.suffix == ".safetensors" else path.name
    base = re.sub(r"[^\w.-]+", "_", stem or path.resolve().name)
    name, count = base, 1
    while name in (*names, *taken.values()):
      count += 1
      name = f"{base}-{count}"
    names.append(name)
  return names


def row_of(
  rows: list[Row], name: str, checkpoint: str, which: str, encoder: Encoder
) -> Row:
  """Finds or adds the row of an encoder, to add suites to.

  Args:
    rows: Those of results.json: an earlier one of the same encoder is taken,
      one of another encoder by this name replaced.
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
  row = {
    "name": name,
    "model": config.name,
    "checkpoint": checkpoint,
    "step": config.step,
    "rule": rule,
    "selected_by": selected_by,
    "embedding_space": config.embedding_space,
    "suites": {},
  }
  same = ("name", "checkpoint", "step", "rule")
  for earlier in rows:
    if all(earlier[key] == row[key] for key in same):
      return earlier
  rows[:] = [earlier for earlier in rows if earlier["name"] != name]
  rows.append(row)
  return row


def add_result(row: Row, suite: str, found: Found, result: Result) -> None:
  """Adds a suite to a row of results.json."""
  row["suites"][suite] = {
    "data": str(found.data),
    "split": ",".join(found.splits),
    "protocol": result.protocol,
    "metrics": result.metrics,
  }
  if result.per_class:
    row["suites"][suite]["per_class"] = result.per_class


def add_finetuning(row: Row, recipe: str, found: Mapping[str, Any]) -> None:
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


def write(output: Path, rows: Sequence[Row]) -> None:
  """Writes results.json and results.md."""
  suites = {
    suite: _published(suite, measured)
    for suite, measured in _by_suite(rows).items()
  }
  whole = {"kind": "evaluation", "rows": rows, "published": suites}
  write_json(output / "results.json", whole)
  write_text(output / "results.md", tabulate(rows))


def write_confusion(
  path: Path, names: Sequence[str], matrix_CC: np.ndarray
) -> None:
  """Writes a confusion matrix as CSV, rows true and columns predicted."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = io.StringIO()
  writer = csv.writer(text)
  writer.writerow(["true \\ predicted", *names])
  for name, counts in zip(names, matrix_CC, strict=True):
    writer.writerow([name, *map(int, counts)])
  write_text(path, text.getvalue())


def tabulate(rows: Sequence[Row]) -> str:
  """Makes Markdown tables, a suite each and kind of metric.

  Published rows stand below ours where the test set is theirs.
  """
  text = [table_1.tabulate(rows)]
  for suite, measured in _by_suite(rows).items():
    groups = (
      (table.cell, measured),
      (table.published_cell, _published(suite, measured)),
    )
    text += [f"## {suite}", ""]
    names = dict.fromkeys(name for row in measured for name in row["metrics"])
    for title, columns, percent in table.group_metrics(names):
      header = [title, *map(table.label, columns)]
      lines = []
      for cell, members in groups:
        for row in members:
          if not row["metrics"].keys() & set(columns):
            continue
          cells = [cell(row["metrics"], name, percent) for name in columns]
          if title in _GALLERIES:
            size = row["protocol"].get(_GALLERIES[title])
            cells = ["" if size is None else f"{size:,}", *cells]
          lines.append([row["name"], *cells])
      if title in _GALLERIES:
        header.insert(1, "gallery")
      text += [table.render(header, lines), ""]
    notes = dict.fromkeys(n for row in measured for n in _notes(suite, row))
    text += [*(f"* {printable(note)}" for note in notes), ""]
  return "\n".join(text).lstrip()


def _by_suite(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Sorts what was found by suite, each with its encoder's fields.

  Those of standard protocols have a table of their own.
  """
  suites: dict[str, list[Row]] = {}
  for row in rows:
    for suite, found in row["suites"].items():
      if not table_1.is_of(suite):
        suites.setdefault(suite, []).append(row | found)
  return suites


def _published(suite: str, measured: Sequence[Row]) -> list[Row]:
  """Finds published rows, if a row was measured on the paper's test set."""
  if not any(_is_published_set(suite, row) for row in measured):
    return []
  paper, split = _TABLES[suite.split()[0]]
  tables = {"published": paper}
  protocol = {"shapes": published.SHAPES[split]}
  if paper is published.TABLE_1:
    tables |= table_1.own_figures()
  if paper is published.TABLE_2:
    protocol["with_text"] = protocol["shapes"]
  rows = []
  for source, figures_of in tables.items():
    for (name, data), figures in figures_of.items():
      metrics = {
        metric.removeprefix(f"{split}/"): value
        for metric, value in figures.items()
        if metric.startswith(f"{split}/")
      }
      if metrics:
        row = {"name": f"{name}, {data} ({source})", "protocol": protocol}
        rows.append(row | {"metrics": metrics})
  return rows


def _is_published_set(suite: str, found: Row) -> bool:
  kind = suite.split()[0]
  if kind not in _TABLES:
    return False
  _, split = _TABLES[kind]
  if kind == "finetune" and found["split"] != split:
    return False
  size = "shapes"
  if kind == "retrieval":  # the paper's texts are Cap3D's captions
    if "captions" not in found["protocol"]:
      return False
    size = "with_text"
  return found["protocol"].get(size) == published.SHAPES[split]


def _notes(suite: str, found: Row) -> Iterable[str]:
  name, selected_by = found["name"], found["selected_by"]
  protocol = ", ".join(
    f"{key.replace('_', ' ')} {value}"
    for key, value in found["protocol"].items()
    if value is not None
  )
  yield f"{name}: {found['split']} of {found['data']}, {protocol}"
  if selected_by and selected_by.partition("/")[0] in found["split"].split(","):
    yield (
      f"{name} is the checkpoint with the best {selected_by}: these figures "
      "were selected on, they are not held out"
    )
  if suite in _TABLES and not _is_published_set(suite, found):
    shapes = published.SHAPES[_TABLES[suite][1]]
    captions = ", all with Cap3D's captions" if suite == "retrieval" else ""
    yield (
      f"the paper's figures are of {shapes:,} shapes{captions}: another test "
      "set, not comparable"
    )
