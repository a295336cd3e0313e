"""Embeds whole splits on all devices, and keeps the embeddings."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mrd_jax.data import batches
from mrd_jax.data.map_split import map_split
from mrd_jax.data.records import DatasetMeta
from mrd_jax.encoder.input import Shapes, prepare_records
from mrd_jax.errors import BadInput
from mrd_jax.io.arrays import read_npz
from mrd_jax.io.files import replacing
from mrd_jax.metrics.embeddings import unit
from mrd_jax.parallel import sharding
from mrd_jax.zoo.system import Preparation


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

  Clouds are prepared as by `load_encoder`, on the host, by the threads that
  read them.

  Args:
    encoder: The encoder, a module of `models/` or `zoo/`.
    meta: The dataset's padded sizes.
    preparation: How the encoder takes a cloud.
    batch_size: Global batch, a multiple of the devices.
    threads: Reading threads.
    mesh: The devices.
  """

  def __init__(
    self,
    encoder: Any,
    meta: DatasetMeta,
    *,
    preparation: Preparation,
    batch_size: int,
    threads: int,
    mesh: Mesh,
  ):
    sharding.check_batch_size("eval.batch_size", batch_size, mesh)

    def pad(
      records: Iterable[dict[str, Any]], rows: Sequence[int], meta: DatasetMeta
    ) -> Shapes:
      records = list(records)
      batch = batches.pad_records(records, rows, meta)
      return prepare_records(batch, preparation, records)

    self._map_split = functools.partial(
      map_split,
      meta=meta,
      pad=pad,
      batch_size=batch_size,
      threads=threads,
      mesh=mesh,
    )

    def forward(variables, shapes: Shapes):
      point = encoder.apply(
        sharding.gathered(variables, mesh),
        shapes.points,
        shapes.num_points,
        train=False,
      )
      return point, *shapes[2:]  # as in SplitEmbeddings

    self._forward: Callable[..., Any] = jax.jit(
      forward, out_shardings=sharding.batch_sharding(mesh)
    )

  def __call__(
    self, variables, source: batches.Source, keep_going: Callable[[], None]
  ) -> SplitEmbeddings:
    """Embeds every record of `source`.

    Args:
      variables: The encoder's.
      source: The split.
      keep_going: Called before every batch; may raise to stop.
    """
    forward = functools.partial(self._forward, variables)
    arrays = self._map_split(forward, source, keep_going=keep_going)
    return _at_unit_length(SplitEmbeddings(*arrays))


def save_embeddings(path: Path, embeddings: SplitEmbeddings) -> None:
  """Writes a split's embeddings as .npz as they are, whole or not at all."""
  with replacing(path) as temporary, temporary.open("wb") as file:
    np.savez(file, **embeddings._asdict())


def read_embeddings(path: str | os.PathLike[str]) -> SplitEmbeddings:
  """Reads a split's embeddings as training leaves them, to the last bit.

  Raises:
    BadInput: if they are not there, or not what training writes, naming the
      array that is of another form, or not finite.
  """
  if not os.path.exists(path):  # bears a name of any length
    raise BadInput(f"{path} does not exist; {AT_THE_END}")
  remedy = "remove it and repeat the training command"
  arrays = read_npz(path, remedy)
  if missing := sorted({*SplitEmbeddings._fields} - arrays.keys()):
    raise BadInput(
      f"{path} is not what training writes: it lacks {', '.join(missing)}; "
      f"{remedy}"
    )
  found = SplitEmbeddings(*(arrays[name] for name in SplitEmbeddings._fields))
  for name, (dtype, axes) in _FORMS.items():
    array, shape = arrays[name], found.point.shape[: len(axes)]
    if (array.dtype, array.ndim, array.shape) != (dtype, len(axes), shape):
      raise BadInput(
        f"{path} is not what training writes: {name} is {array.dtype} of shape "
        f"{array.shape}, must be {dtype} of shape ({', '.join(axes)}) like the "
        f"others; {remedy}"
      )
    if not np.isfinite(array).all():
      raise BadInput(
        f"{path} is not what training writes: {name} has a value that is not "
        f"finite; {remedy}"
      )
  return found


def _at_unit_length(found: SplitEmbeddings) -> SplitEmbeddings:
  return found._replace(
    point=unit(found.point.astype(np.float32)),
    image=unit(found.image.astype(np.float32)),
    text=unit(found.text.astype(np.float32)),
  )


_FORMS = {
  **dict.fromkeys(("point", "image", "text"), ("float32", "ND")),
  **dict.fromkeys(("has_image", "has_text"), ("bool", "N")),
  "label": ("int32", "N"),
}
AT_THE_END = (
  "it is written at the end of a run: repeat the training command with this "
  "folder to finish the run"
)
