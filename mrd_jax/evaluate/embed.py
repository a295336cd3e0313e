"""Embeddings of a whole split, on all devices."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mrd_jax import sharding
from mrd_jax.data import pipeline
from mrd_jax.data.records import DatasetMeta, ImageKind
from mrd_jax.data.transforms import AugmentConfig, Batch, eval_examples
from mrd_jax.evaluate.over_split import over_split
from mrd_jax.models.pointbert import PointBERT


class SplitEmbeddings(NamedTuple):
  """A split in the joint space, in the order of its records.

  Attributes:
    point: (N, D) float32 embeddings of the shapes, unit length.
    image: (N, D) float32 feature of each shape's first image, unit length.
    has_image: (N,) bool.
    text: (N, D) float32 feature of each shape's first text, unit length.
    has_text: (N,) bool.
    label: (N,) int32.
  """

  point: np.ndarray
  image: np.ndarray
  has_image: np.ndarray
  text: np.ndarray
  has_text: np.ndarray
  label: np.ndarray


class Embedder:
  """Runs the encoder over splits; compiled once for all of them.

  Args:
    encoder: The encoder.
    augment: How clouds are drawn (nothing is augmented).
    meta: The dataset's padded sizes.
    batch_size: Global batch, a multiple of the devices.
    threads: Reading threads.
    seed: Of the fixed shuffle.
    mesh: The devices.
  """

  def __init__(
    self,
    encoder: PointBERT,
    augment: AugmentConfig,
    meta: DatasetMeta,
    *,
    batch_size: int,
    threads: int,
    seed: int,
    mesh: Mesh,
  ):
    sharding.check_batch_size("eval.batch_size", batch_size, mesh)
    self._meta = meta
    self._batch_size = batch_size
    self._threads = threads
    self._mesh = mesh

    def forward(variables, batch: Batch):
      examples = eval_examples(batch, augment, seed=seed)
      point = encoder.apply(
        sharding.gathered(variables, mesh),
        examples.points,
        examples.num_points,
        train=False,
      )
      return (  # as in SplitEmbeddings
        point,
        examples.image,
        batch.image_kind[:, 0] != ImageKind.NONE,
        examples.text,
        examples.has_text,
        batch.label,
      )

    self._forward: Callable[..., Any] = jax.jit(
      forward, out_shardings=sharding.batch_sharding(mesh)
    )

  def __call__(
    self, variables, source: pipeline.Source, keep_going: Callable[[], None]
  ) -> SplitEmbeddings:
    """Embeds every record of `source`.

    Args:
      variables: The encoder's.
      source: The split.
      keep_going: Called before every batch; may raise to stop.
    """
    found = SplitEmbeddings(
      *over_split(
        functools.partial(self._forward, variables),
        source,
        self._meta,
        batch_size=self._batch_size,
        threads=self._threads,
        mesh=self._mesh,
        keep_going=keep_going,
      )
    )
    return found._replace(
      point=unit(found.point), image=unit(found.image), text=unit(found.text)
    )


def unit(x_ND: np.ndarray) -> np.ndarray:
  """Rows of unit length; zero rows stay zero."""
  norm = np.linalg.norm(x_ND, axis=-1, keepdims=True)
  return x_ND / np.where(norm > 0, norm, 1)
