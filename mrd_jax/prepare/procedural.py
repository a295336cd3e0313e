"""Prepares the embedded synthetic dataset: no download, no network."""

import functools
import os
from pathlib import Path

from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput
from mrd_jax.io.files import held, lock_beside
from mrd_jax.prepare.job.dataset_writer import write_dataset

TEACHER = "synthetic (procedural concepts; not CLIP)"


def generate(
  output_dir: str | os.PathLike[str],
  *,
  seed: int = 0,
  train: int = 3240,
  val: int = 540,
  num_points: int = 1024,
  num_views: int = 6,
  embed_dim: int = 128,
) -> DatasetMeta:
  """Writes synthetic splits "train" and "val", both with labels.

  Args:
    output_dir: Folder to create.
    seed: Which dataset; shapes are a function of seed and index, so a larger
      `train` does not change the shapes already there, only val.
    train: Shapes in "train" (indices from 0).
    val: Shapes in "val" (the indices that follow).
    num_points: Points per shape.
    num_views: Image features per shape.
    embed_dim: Width D of the synthetic features.

  Returns:
    The metadata as stored.

  Raises:
    BadInput: for an argument out of range, or when `output_dir` exists or
      another command is making it.
  """
  # Not above: it imports every object family.
  from mrd_jax.procedural import shapes

  if train < 1 or val < 0:
    raise BadInput(f"train={train}, val={val}: needs train >= 1 and val >= 0")
  try:
    with held("procedural dataset", lock_beside(Path(output_dir))):
      teacher = shapes.SyntheticTeacher(embed_dim=embed_dim, seed=seed)
      features = teacher.class_features(shapes.CLASS_NAMES)
      make = functools.partial(
        shapes.make_shape,
        seed=seed,
        num_points=num_points,
        num_views=num_views,
        teacher=teacher,
      )
      return write_dataset(
        output_dir,
        "procedural",
        {
          "train": map(make, range(train)),
          "val": map(make, range(train, train + val)),
        },
        TEACHER,
        dict.fromkeys(("train", "val"), shapes.CLASS_NAMES),
        dict.fromkeys(("train", "val"), features),
      )
  except BadInput:
    raise
  except ValueError as error:  # an argument out of range, in its own words
    raise BadInput(f"procedural dataset: {error}") from error
