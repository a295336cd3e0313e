"""Reads what a training run, or an evaluation, has left in its folder."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data import dataset
from mrd_jax.data.records import DatasetMeta
from mrd_jax.draw.markup import Markup, tag
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json, read_json_lines


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """A run of training or of fine-tuning, finished or not.

  A fine-tuning calls its split "test", and the votes on it "voted".  Here they
  are "SPLIT, fine-tuned" and "SPLIT, fine-tuned, voted": never the same name
  for figures of other splits, or of zero-shot classification.

  Attributes:
    workdir: Its folder.
    config: config.json.
    lines: The lines of metrics.jsonl, in order of steps.
    results: results.json; None before the end of the run.
    data_dir: The prepared dataset.
    meta: What the dataset says about itself; None if it cannot be read.
    data: data.json, what training knew about its dataset; may be empty.
    chance: Top-1 accuracy of guessing by split, where it is known.
    start: start.json, what a fine-tuning started from; may be empty.
  """

  workdir: Path
  config: dict[str, Any]
  lines: list[dict[str, Any]]
  results: dict[str, Any] | None
  data_dir: Path
  meta: DatasetMeta | None
  data: dict[str, Any]
  chance: dict[str, float]
  start: dict[str, Any]

  def progress(self) -> str:
    """Says how far the run is."""
    step = max((line["step"] for line in self.lines), default=0)
    return f"step {step:,}" + (", unfinished" if self.results is None else "")

  @property
  def finetuned(self) -> bool:
    """Says whether it is a fine-tuning: of a classifier, without relations."""
    return "test" in self.config["data"]

  def series(self, kind: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the metrics of one kind, "train" or "eval".

    Returns:
      For every name the (N,) steps at which it was recorded, and its (N,)
      values.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for line in self.lines:
      if line["kind"] == kind:
        for name, value in line.items():
          if name not in ("step", "kind", "time"):
            points.setdefault(name, []).append((line["step"], value))
    return {
      name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1])
      for name, pairs in points.items()
    }

  def last_evaluation(self) -> dict[str, Any]:
    """Returns the newest line of kind "eval"; empty if there is none."""
    found = [line for line in self.lines if line["kind"] == "eval"]
    return found[-1] if found else {}

  def origin(self) -> str:
    """Says which checkpoint the results are of, and who chose it."""
    if self.results is None:
      line = self.last_evaluation()
      if not line:
        return "unfinished, not evaluated yet"
      return f"unfinished: the evaluation of step {line['step']:,}"
    step = f"step {self.results['step']:,}" if "step" in self.results else ""
    if metric := self.results.get("selected_by"):
      return f"{step}, the best checkpoint by {metric}"
    return f"{step}, the last checkpoint"

  def class_names(self, split: str) -> list[str]:
    """Returns names in label order; empty if the dataset has none."""
    return list(self.meta.class_names.get(split, ())) if self.meta else []

  def untrained(self) -> str:
    """Says that there is no line of training."""
    lacks = (
      "has no line of kind 'train'" if self.lines else "is empty or absent"
    )
    return (
      f"{self.workdir / 'metrics.jsonl'} {lacks}; train the run for "
      "log.every_steps steps at least"
    )

  def describe(self) -> list[str]:
    """Names the dataset, the teacher and the run, a phrase each."""
    data = [f"data: {self.data_dir} (not readable here)"]
    if self.meta:
      data = [f"data: {self.meta.name}"]
      if not self.finetuned:
        data.append(f"teacher: {self.meta.teacher}")
    return [*data, f"run: {self.workdir.resolve().name}, {self.progress()}"]


@dataclasses.dataclass(frozen=True)
class EvaluationFolder:
  """What `mrd_jax.evaluate` has left: results.json of kind "evaluation".

  Attributes:
    workdir: Its folder.
    rows: One for each evaluated model, with "name" and "suites".
    published: Rows of publications by suite; may be empty.
  """

  workdir: Path
  rows: list[dict[str, Any]]
  published: dict[str, list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Folders:
  """What a page is about.

  Attributes:
    runs: By their names on the page.
    evaluations: Those of `mrd_jax.evaluate`.
    missing: Gets a sentence for everything that the page lacks.
  """

  runs: dict[str, RunFolder]
  evaluations: list[EvaluationFolder]
  missing: list[str]

  def each_split(
    self, what: str, block: Callable[[str, RunFolder, str], Markup], most: int
  ) -> list[Markup]:
    """Makes a block for each of a run's first zero-shot splits.

    Args:
      what: What a block shows.
      block: Makes one of a name, a run and a split, or raises `BadInput`.
      most: How many splits of a run, at most.
    """
    blocks = []
    for name, run in self.runs.items():
      splits = run.config.get("eval", {}).get("zero_shot", ())
      for split in splits[:most]:
        try:
          blocks.append(block(name, run, split))
        except BadInput as error:
          self.missing.append(f"{what} of {name}, split “{split}”: {error}.")
    return [tag("div", *blocks, class_="blocks")] if blocks else []


def read_folder(
  directory: Path, data_dir: Path | None = None
) -> RunFolder | EvaluationFolder:
  """Reads the folder of a run or of an evaluation; see `read_run`."""
  path = directory / "results.json"
  results = _read_optional(path)
  if not isinstance(results, dict) or results.get("kind") != "evaluation":
    return read_run(directory, data_dir)
  published = results.get("published") or {}
  if not _holds(
    lambda: (
      isinstance(results["rows"], list)
      and all(
        isinstance(row["name"], str)
        and isinstance(row.get("step"), int | None)
        and all(_numbers(suite["metrics"]) for suite in row["suites"].values())
        for row in results["rows"]
      )
      and all(
        isinstance(row["name"], str) and _numbers(row["metrics"])
        for rows in published.values()
        for row in rows
      )
    )
  ):
    raise BadInput(
      f"{path} is not what mrd_jax.evaluate writes: a row lacks its name, or "
      "a suite its metrics; repeat the evaluation"
    )
  return EvaluationFolder(directory, results["rows"], published)


def read_run(workdir: Path, data_dir: Path | None = None) -> RunFolder:
  """Reads a run's folder.

  Args:
    workdir: The folder that training was given.
    data_dir: The prepared dataset, if it has moved since; by default
      `data.dir` of config.json.

  Raises:
    BadInput: if the folder holds no run, or `data_dir` no dataset.
  """
  config = _read_optional(workdir / "config.json")
  if config is None:
    raise BadInput(
      f"{workdir / 'config.json'} does not exist; name the folder that "
      "training was given as --workdir"
    )
  if not _holds(
    lambda: (
      isinstance(config["data"]["dir"], str)
      and isinstance(config["data"].get("test", ""), str)
      and isinstance(config.get("eval", {}).get("data_dir", ""), str)
      and isinstance(config.get("loss", {}), dict)
      and all(
        isinstance(config.get("eval", {}).get(name, []), list)
        and all(
          isinstance(x, str) for x in config.get("eval", {}).get(name, [])
        )
        for name in ("zero_shot", "retrieval")
      )
    )
  ):
    raise BadInput(
      f"{workdir / 'config.json'} has no data.dir; it is not the config.json "
      "that training writes"
    )
  of_data = config["data"]
  where = Path(
    data_dir or config.get("eval", {}).get("data_dir") or of_data["dir"]
  )
  test = of_data.get("test")  # of a fine-tuning
  try:
    meta = dataset.read_meta(where)
  except BadInput:
    if data_dir:
      raise
    meta = None  # the curves need no data; the retrieval sheet complains
  metrics = workdir / "metrics.jsonl"
  lines = read_json_lines(metrics) if metrics.exists() else []
  for number, line in enumerate(lines, 1):
    values = {key: line[key] for key in line if key != "kind"}
    if not (
      isinstance(line.get("kind"), str) and "step" in line and _numbers(values)
    ):
      raise BadInput(
        f"{metrics}, line {number}: has no step and kind, or a metric that is "
        "no number; remove it and repeat the training command"
      )
  results = _read_results(workdir / "results.json")
  class_names = meta.class_names if meta else {}
  chance = {split: 1 / len(names) for split, names in class_names.items()}
  if test:
    chance = {"test": chance[test]} if test in chance else {}
  if results:
    chance |= results.get("chance_top1", {})
  if test:
    names = {
      "test": f"{test}, fine-tuned",
      "voted": f"{test}, fine-tuned, voted",
    }
    if "test" in chance:
      chance["voted"] = chance["test"]
    chance = _renamed(chance, names)
    lines = [_renamed(line, names) for line in lines]
    for part in (results, (results or {}).get("best_test_epoch")):
      if part:
        part["metrics"] = _renamed(part["metrics"], names)
  return RunFolder(
    workdir=workdir,
    config=config,
    lines=lines,
    results=results,
    data_dir=where,
    meta=meta,
    data=_read_optional(workdir / "data.json") or {},
    chance=chance,
    start=_read_optional(workdir / "start.json") or {},
  )


def _read_results(path: Path) -> dict[str, Any] | None:
  """Reads a run's results.json, or returns None when there is none."""
  results = _read_optional(path)
  if results is None:
    return None
  none = {"step": 0, "metrics": {}}
  if not _holds(
    lambda: (
      _numbers(results["metrics"])
      and _numbers(results.get("chance_top1", {}))
      and isinstance(results.get("selected_by") or "", str)
      and _numbers({"step": results.get("step", 0)})
      and _numbers({"step": results.get("best_test_epoch", none)["step"]})
      and _numbers(results.get("best_test_epoch", none)["metrics"])
    )
  ):
    raise BadInput(
      f"{path} has no metrics, or is in another form than training writes; "
      "remove it and repeat the training command"
    )
  return results


def _holds(condition: Callable[[], bool]) -> bool:
  """Returns whether something is true of values that may lack anything."""
  try:
    return condition()
  except (KeyError, TypeError, AttributeError):
    return False


def _numbers(values: dict[str, Any]) -> bool:
  """Returns whether all values of a dict are numbers, as NumPy has them."""
  return all(
    isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
    for value in values.values()
  )


def _renamed(
  values: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
  """Returns values by "SPLIT" or "SPLIT/METRIC", with other names of splits."""
  renamed = {}
  for key, value in values.items():
    split, slash, metric = key.partition("/")
    renamed[f"{names.get(split, split)}{slash}{metric}"] = value
  return renamed


def _read_optional(path: Path) -> Any:
  """Returns the value in a JSON file, or None when there is no file."""
  if not path.exists():
    return None
  remedy = "restore it, or repeat the training command in another folder"
  return read_json(path, remedy)
