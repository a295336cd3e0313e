"""Turns labelled sets that serve evaluation alone into records."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data.records import SCHEMA, Shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.job import engine
from mrd_jax.prepare.job.engine import BeamConfig, Item, Outcome
from mrd_jax.prepare.job.job import Made, make_dataset
from mrd_jax.prepare.job.outcome import Report
from mrd_jax.prepare.job.shards import Reject, serialize_record
from mrd_jax.prepare.job.teacher import TeacherConfig
from mrd_jax.prepare.openshape.lists import load_class_features
from mrd_jax.prepare.test_sets.common import EvaluationSet, RefusedShape


@dataclasses.dataclass(frozen=True)
class EvaluationUnit:
  """One set, read by one worker.

  Attributes:
    name: Of the unit, and of the split that it becomes.
    clouds: The set.
    count: So many of its first shapes.
  """

  name: str
  clouds: EvaluationSet
  count: int

  def items(self) -> Iterator[Item]:
    done = 0
    try:
      for shape in self.clouds.shapes(range(self.count)):
        yield functools.partial(self._convert, shape)
        done += 1
    except BadInput as error:  # none of the rest can be read
      for index in range(done, self.count):
        yield functools.partial(list, [self._unreadable(index, str(error))])

  def _convert(self, shape: Shape | RefusedShape) -> list[Outcome]:
    if isinstance(shape, RefusedShape):
      row = shape.file, shape.id, shape.field or None, shape.reason
      return [Reject(self.name, *row, shape.detail)]
    return [(self.name, encode(shape))]

  def _unreadable(self, index: int, detail: str) -> Reject:
    name, reason = f"{self.clouds.name}-{index}", "unreadable or unsafe file"
    return Reject(self.name, self.clouds.name, name, None, reason, detail)


@dataclasses.dataclass(frozen=True)
class ClassFeatures:
  """Where the features of class names come from: exactly one of the two.

  Attributes:
    teacher: A CLIP model, by prompts.
    file: OpenShape's `cat_name_pt_feat.npy`.
  """

  teacher: TeacherConfig | None = None
  file: str | None = None

  def description(self) -> dict[str, Any]:
    """What decides the features."""
    if self.teacher is not None:
      return self.teacher.description()
    path = Path(self.file or "")
    return {
      "file": self.file,
      "bytes": path.stat().st_size if path.is_file() else None,
    }

  def of(self, names: Sequence[str]) -> tuple[str, np.ndarray]:
    """Returns the teacher in words, and the (C, D) features of the names.

    Raises:
      BadInput: if the file lacks a class, or the model cannot be had.
    """
    if self.teacher is not None:
      loaded = self.teacher.load()
      return loaded.clip.name, loaded.class_features(names)
    file = self.file or ""
    found, features = load_class_features(file)
    row = {_plain(name): index for index, name in enumerate(found)}
    for name in names:
      if _plain(name) not in row:
        raise BadInput(
          f"{file}: lacks the class {name!r}; it has {', '.join(found)}"
        )
    rows = [row[_plain(name)] for name in names]
    return f"class features of {file}", features[rows]


def _plain(name: str) -> str:
  return name.replace("_", " ").lower()


def convert(
  input_dir: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  read: Callable[[int], Sequence[EvaluationSet]],
  classes: ClassFeatures,
  *,
  beam_config: BeamConfig | None = None,
) -> Report:
  """Makes a dataset of labelled sets; each becomes a split of its name.

  Args:
    input_dir: Where the sets are, for the job's description.
    output_dir: Folder to create.
    read: Opens the sets, given the width D of the class features.
    classes: Where the class features come from.
    beam_config: Where to run.

  Returns:
    The counts, also written to `output_dir`.

  Raises:
    BadInput: naming the set, file or class that is missing or unusable.
  """
  sets = read(1)
  names = [clouds.name for clouds in sets]
  if len(set(names)) < len(names):
    raise BadInput(f"{input_dir}: {', '.join(names)}: name each set once")
  job = {
    "job": "evaluation",
    "input": os.fspath(input_dir),
    "sets": {clouds.name: clouds.count for clouds in sets},
    "classes": classes.description(),
    "schema": SCHEMA,
  }

  def make(folder: Path) -> Made:
    teacher, features = classes.of(sets[0].class_names)
    width = features.shape[1]
    opened = read(width)
    units = [EvaluationUnit(s.name, s, s.count) for s in opened]
    shards = folder / "shards"
    serialize = functools.partial(serialize_record, embed_dim=width)
    engine.run(units, shards, serialize, beam_config or BeamConfig())
    return Made(
      folder=shards,
      commits=engine.commits(units, shards),
      listed={clouds.name: clouds.count for clouds in opened},
      problems=[problem for clouds in opened for problem in clouds.problems],
      teacher=teacher,
      embed_dim=width,
      class_names=dict.fromkeys(names, sets[0].class_names),
      class_features=dict.fromkeys(names, features),
    )

  return make_dataset(output_dir, job, "evaluation", make)
