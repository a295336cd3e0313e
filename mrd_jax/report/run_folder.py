"""What a training run has left in its folder, read for its figures."""

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
  """

  workdir: Path
  config: dict[str, Any]
  lines: list[dict[str, Any]]
  results: dict[str, Any] | None
  data_dir: Path
  meta: DatasetMeta | None

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
    where = Path(data_dir or config["data"]["dir"])
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
  return RunFolder(
    workdir=workdir,
    config=config,
    lines=read_metrics(metrics) if metrics.exists() else [],
    results=_read_json(workdir / "results.json"),
    data_dir=where,
    meta=meta,
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
