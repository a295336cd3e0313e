"""Datasets with planted defects, and what an inspection finds in them."""

import dataclasses
import itertools

import numpy as np
from synthetic import synthetic_shape

from mrd_jax.inspect import run
from mrd_jax.prepare.job.dataset_writer import write_dataset
from mrd_jax.procedural import shapes as procedural

NAMES = procedural.CLASS_NAMES
TEACHER = procedural.SyntheticTeacher(embed_dim=32, seed=0)
TRAIN, VAL = 120, 60
NO_IMAGE = {"image_kind": [], "image_feat": np.zeros((0, 32), np.float32)}


def make_shapes(count: int) -> list:
  """Clean shapes, all with a text."""
  drawn = (
    synthetic_shape(index, num_points=400, num_views=2, teacher=TEACHER)
    for index in itertools.count()
  )
  return [*itertools.islice((x for x in drawn if len(x.texts)), count)]


def write(directory, splits, named=None):
  """Writes a dataset; of the splits, those `named` have class names."""
  named = splits if named is None else named
  write_dataset(
    directory,
    "planted",
    splits,
    "synthetic",
    dict.fromkeys(named, NAMES),
    dict.fromkeys(named, TEACHER.class_features(NAMES)),
  )
  return directory


def inspect(directory, *, samples=1000, counted=1000, seed=0):
  return run.inspect_dataset(
    directory, samples=samples, counted=counted, seed=seed
  )


def found(directory, **kwargs):
  """(code, split, affected, looked_at) of the warnings, and of the notes."""
  report = inspect(directory, **kwargs).report
  return tuple(
    {(f["code"], f["split"], f["affected"], f["looked_at"]) for f in report[k]}
    for k in ("warnings", "notes")
  )


def spoil(shapes, count, change):
  """The first `count` shapes changed."""
  return [
    dataclasses.replace(shape, **change(shape)) if i < count else shape
    for i, shape in enumerate(shapes)
  ]


def renamed(shapes, prefix):
  """The same shapes by other names."""
  return spoil(shapes, len(shapes), lambda s: {"id": prefix + s.id})


def shuffled(shape, **change):
  """The same shape with its points in another order."""
  order = np.random.default_rng(0).permutation(len(shape.xyz))
  return dataclasses.replace(
    shape, xyz=shape.xyz[order], rgb=shape.rgb[order] * 0.5, **change
  )
