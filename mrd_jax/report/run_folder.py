"""What a training run, or an evaluation, has left in its folder."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data import dataset
from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput
from mrd_jax.metrics import read_metrics

AT_THE_END = (
  "it is written at the end of a run: repeat the training command with this "
  "folder to finish the run"
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """A run, finished or not.

  Attributes:
    workdir: Its folder.
    config: config.json.
    lines: The lines of metrics.jsonl, in order of steps.
    results: results.json; None before the end of the run.
    data_dir: The prepared dataset.
    meta: What the dataset says about itself; None if it cannot be read.
    data: data.json, what training knew about its dataset; may be empty.
  """

  workdir: Path
  config: dict[str, Any]
  lines: list[dict[str, Any]]
  results: dict[str, Any] | None
  data_dir: Path
  meta: DatasetMeta | None
  data: dict[str, Any]

  def series(self, kind: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The metrics of one kind, "train" or "eval".

    Returns:
      For every name the (N,) steps at which it was recorded, and its (N,)
      values.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for line in self.lines:
      if line["kind"] == kind:
        for name in line.keys() - {"step", "kind", "time"}:
          points.setdefault(name, []).append((line["step"], line[name]))
    return {
      name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1])
      for name, pairs in points.items()
    }

  def describe(self) -> list[str]:
    """The dataset, the teacher and the run, a phrase each for the reader."""
    data = [f"data: {self.data_dir} (not readable here)"]
    if self.meta:
      data = [f"data: {self.meta.name}", f"teacher: {self.meta.teacher}"]
    step = max((line["step"] for line in self.lines), default=0)
    state = ", unfinished" if self.results is None else ""
    return [*data, f"run: {self.workdir.resolve().name}, step {step:,}{state}"]


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


def read_folder(
  directory: str | os.PathLike[str],
  data_dir: str | os.PathLike[str] | None = None,
) -> RunFolder | EvaluationFolder:
  """Reads the folder of a run or of an evaluation; see `read_run`."""
  path = Path(directory) / "results.json"
  results = _read_json(path)
  if not isinstance(results, dict) or results.get("kind") != "evaluation":
    return read_run(directory, data_dir)
  try:
    whole = all(
      isinstance(row["name"], str) and isinstance(suite["metrics"], dict)
      for row in results["rows"]
      for suite in row["suites"].values()
    )
  except (KeyError, TypeError, AttributeError):
    whole = False
  if not whole:
    raise BadInput(
      f"{path} is not what mrd_jax.evaluate writes: a row lacks its name, or "
      "a suite its metrics; repeat the evaluation"
    )
  return EvaluationFolder(
    Path(directory), results["rows"], results.get("published") or {}
  )


def read_run(
  workdir: str | os.PathLike[str],
  data_dir: str | os.PathLike[str] | None = None,
) -> RunFolder:
  """Reads a run's folder.

  Args:
    workdir: The folder that training was given.
    data_dir: The prepared dataset, if it has moved since; by default
      `data.dir` of config.json.

  Raises:
    BadInput: if the folder holds no run, or `data_dir` no dataset.
  """
  workdir = Path(workdir)
  config = _read_json(workdir / "config.json")
  if config is None:
    raise BadInput(
      f"{workdir / 'config.json'} does not exist; name the folder that "
      "training was given as --workdir"
    )
  try:
    where = Path(
      data_dir
      or (config.get("eval") or {}).get("data_dir")
      or config["data"]["dir"]
    )
  except (KeyError, TypeError):
    raise BadInput(
      f"{workdir / 'config.json'} has no data.dir; it is not the config.json "
      "that training writes"
    ) from None
  try:
    meta = dataset.read_meta(where)
  except BadInput:
    if data_dir:
      raise
    meta = None  # the curves need no data; the retrieval sheet complains
  metrics = workdir / "metrics.jsonl"
  results = _read_json(workdir / "results.json")
  if results is not None and (
    not isinstance(results, dict)
    or not isinstance(results.get("metrics"), dict)
  ):
    raise BadInput(
      f"{workdir / 'results.json'} has no metrics; remove it and repeat the "
      "training command"
    )
  return RunFolder(
    workdir=workdir,
    config=config,
    lines=read_metrics(metrics) if metrics.exists() else [],
    results=results,
    data_dir=where,
    meta=meta,
    data=_read_json(workdir / "data.json") or {},
  )


def _read_json(path: Path) -> Any:
  """The value in a JSON file, or None when there is no file."""
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise BadInput(
      f"{path} is not JSON ({error}); restore it, or repeat the training "
      "command in another folder"
    ) from None
