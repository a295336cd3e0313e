"""Turns labelled sets that serve evaluation alone into records."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mrd_jax.errors import BadInput
from mrd_jax.prepare.job.dataset_writer import Made
from mrd_jax.prepare.job.engine import Engine
from mrd_jax.prepare.job.job import Report, make_dataset, make_records
from mrd_jax.prepare.job.teacher import TeacherConfig
from mrd_jax.prepare.openshape.lists import load_class_features
from mrd_jax.prepare.test_sets.common import EvaluationSet


def convert(
  input_dir: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  read: Callable[[int], Sequence[EvaluationSet]],
  teacher: TeacherConfig | None,
  class_features: str | None,
  *,
  engine: Engine | None = None,
) -> Report:
  """Makes a dataset of labelled sets; each becomes a split of its name.

  Args:
    input_dir: Where the sets are, for the job's description.
    output_dir: Folder to create.
    read: Opens the sets, given the width D of the class features.
    teacher: Makes features of the class names, by prompts; or None, and then
    class_features: OpenShape's `cat_name_pt_feat.npy` with them.
    engine: Where to run.

  Returns:
    The counts, also written to `output_dir`.

  Raises:
    BadInput: naming the set, file or class that is missing or unusable.
  """
  sets = read(1)
  names = [clouds.name for clouds in sets]
  listed = {clouds.name: clouds.count for clouds in sets}
  if len(set(names)) < len(names):
    raise BadInput(f"{input_dir}: {', '.join(names)}: name each set once")
  if teacher is not None:
    source = teacher.description()
  else:
    file = Path(class_features or "")
    size = file.stat().st_size if file.is_file() else None
    source = {"file": class_features, "bytes": size}
  job = {
    "input": os.fspath(input_dir),
    "sets": listed,
    "classes": source,
  }

  def make(folder: Path) -> Made:
    classes = sets[0].class_names
    if teacher is not None:
      loaded = teacher.load()
      name, features = loaded.clip.name, loaded.class_features(classes)
    else:
      _, features = load_class_features(class_features or "", classes)
      name = f"class features of {class_features}"
    width = features.shape[1]
    return make_records(
      folder,
      read(width),
      engine,
      width,
      teacher=name,
      class_names=dict.fromkeys(names, classes),
      class_features=dict.fromkeys(names, features),
    )

  problems = [problem for clouds in sets for problem in clouds.problems]
  return make_dataset(output_dir, job, "evaluation", listed, make, problems)
