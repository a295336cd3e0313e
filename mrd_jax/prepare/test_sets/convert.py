"""Turns labelled sets that serve evaluation alone into records."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data.records import SCHEMA, Shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.job.dataset_writer import Made
from mrd_jax.prepare.job.engine import Engine, Item, Outcome, read_commits, run
from mrd_jax.prepare.job.job import Report, make_dataset
from mrd_jax.prepare.job.shards import Reject, serialize_record
from mrd_jax.prepare.job.teacher import TeacherConfig
from mrd_jax.prepare.openshape.lists import load_class_features
from mrd_jax.prepare.test_sets.common import EvaluationSet


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
      for shape in itertools.islice(self.clouds.shapes(), self.count):
        yield functools.partial(self._convert, shape)
        done += 1
    except BadInput as error:  # none of the rest can be read
      name, why = self.clouds.name, "unreadable or unsafe file"
      for index in range(done, self.count):
        id = f"{name}-{index}"
        reject = Reject(self.name, name, id, None, why, str(error))
        yield functools.partial(list, [reject])

  def _convert(self, shape: Shape | Reject) -> list[Outcome]:
    if isinstance(shape, Reject):
      return [dataclasses.replace(shape, split=self.name)]
    return [(self.name, encode(shape))]


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
    """Says what decides the features."""
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
    _, features = load_class_features(self.file or "", names)
    return f"class features of {self.file}", features


def convert(
  input_dir: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  read: Callable[[int], Sequence[EvaluationSet]],
  classes: ClassFeatures,
  *,
  engine: Engine | None = None,
) -> Report:
  """Makes a dataset of labelled sets; each becomes a split of its name.

  Args:
    input_dir: Where the sets are, for the job's description.
    output_dir: Folder to create.
    read: Opens the sets, given the width D of the class features.
    classes: Where the class features come from.
    engine: Where to run.

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
    units = [EvaluationUnit(s.name, s, s.count) for s in read(width)]
    shards = folder / "shards"
    serialize = functools.partial(serialize_record, embed_dim=width)
    return Made(
      folder=shards,
      commits=read_commits(shards, run(units, shards, serialize, engine)),
      teacher=teacher,
      embed_dim=width,
      class_names=dict.fromkeys(names, sets[0].class_names),
      class_features=dict.fromkeys(names, features),
    )

  return make_dataset(
    output_dir,
    job,
    "evaluation",
    {clouds.name: clouds.count for clouds in sets},
    make,
    [problem for clouds in sets for problem in clouds.problems],
  )
