"""Turns labelled sets that serve evaluation alone into records."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from mrd_jax.errors import BadInput
from mrd_jax.prepare import flags
from mrd_jax.prepare.job.dataset_writer import Made
from mrd_jax.prepare.job.job import Report, make_dataset, make_records
from mrd_jax.prepare.openshape.lists import load_class_features
from mrd_jax.prepare.test_sets.common import EvaluationSet


def convert(
  args: argparse.Namespace, read: Callable[[int], Sequence[EvaluationSet]]
) -> Report:
  """Makes a dataset of labelled sets; each becomes a split of its name.

  Args:
    args: The flags of `add_test_set`, --input and --output.
    read: Opens the sets, given the width D of the class features.

  Returns:
    The counts, also written to --output.

  Raises:
    BadInput: naming the set, file or class that is missing or unusable.
  """
  if bool(args.model) == bool(args.class_features):
    raise BadInput("give either --teacher or --class-features")
  sets = read(1)
  names = [clouds.name for clouds in sets]
  listed = {clouds.name: clouds.count for clouds in sets}
  if len(set(names)) < len(names):
    raise BadInput(f"{args.input}: {', '.join(names)}: name each set once")
  teacher = flags.teacher(args) if args.model else None
  if teacher is not None:
    source = teacher.description()
  else:
    file = Path(args.class_features)
    size = file.stat().st_size if file.is_file() else None
    source = {"file": args.class_features, "bytes": size}
  job = {"input": args.input, "sets": listed, "classes": source}

  def make(folder: Path) -> Made:
    classes = sets[0].class_names
    if teacher is not None:
      loaded = teacher.load()
      name, features = loaded.clip.name, loaded.class_features(classes)
    else:
      _, features = load_class_features(args.class_features, classes)
      name = f"class features of {args.class_features}"
    width = features.shape[1]
    return make_records(
      folder,
      read(width),
      flags.engine(args),
      width,
      teacher=name,
      class_names=dict.fromkeys(names, classes),
      class_features=dict.fromkeys(names, features),
    )

  problems = [problem for clouds in sets for problem in clouds.problems]
  return make_dataset(args.output, job, "evaluation", listed, make, problems)
