"""Labelled sets that serve evaluation alone: their common form, and .h5 files.

`scanobjectnn.py` and `modelnet40.py` make `EvaluationSet`s of what those two
publish.  Nothing is rotated: all of their files have y up, as records do.
Objaverse-LVIS needs no reader here; it is the split "lvis" of `openshape.py`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrd_jax.data.records import Shape, check_shape
from mrd_jax.errors import BadInput
from mrd_jax.prepare.job.shards import field_of
from mrd_jax.prepare.openshape.lists import Entry
from mrd_jax.prepare.openshape.sample import BadField, evaluation_shape

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")
_CHUNK_CACHE = 64 * 2**20  # one chunk of a compressed file holds many clouds


class RefusedShape(Exception):
  """A shape that cannot be used; it comes in the place of the shape.

  Attributes:
    id: The shape's name.
    file: Where it should have been read from.
    field: Which of its values is at fault.
    reason: A few words to count by.
    detail: A sentence with the field and what is wrong.
  """

  def __init__(self, id: str, file: str, field: str, reason: str, detail: str):
    super().__init__(id, file, field, reason, detail)  # so that it pickles
    self.id, self.file = id, file
    self.field, self.reason, self.detail = field, reason, detail

  def __str__(self) -> str:
    return f"{self.file}: shape {self.id!r}, {self.detail}"


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
  """A labelled split; no file is open until `shapes` is iterated.

  It pickles, so a worker can be sent the set and a range of indices.

  Attributes:
    name: A name for the split: letters, digits and underscores.
    class_names: In label order.
    count: Shapes in the files, refused ones included.
    read: Yields what lies at the given indices, in their order.
    problems: What the user should know about the files, in sentences.
  """

  name: str
  class_names: tuple[str, ...]
  count: int
  read: Callable[[range], Iterator[Shape | RefusedShape]]
  problems: tuple[str, ...] = ()

  def shapes(
    self, indices: range | None = None
  ) -> Iterator[Shape | RefusedShape]:
    """Yields the shapes at `indices`, or all, in the order of the files.

    Each has a label, colours (0.4 where the files have none, as in OpenShape)
    and (0, D) image and text features.  A shape that no record could hold
    comes as a `RefusedShape`, and the others go on.
    """
    return self.read(range(self.count) if indices is None else indices)


def to_shape(
  cloud: Mapping[str, Any], embed_dim: int, entry: Entry
) -> Shape | RefusedShape:
  """Makes a Shape of one cloud, or says why that cannot be.

  Args:
    cloud: `xyz` (N, 3) and, where there are colours, `rgb` (N, 3) in 0..255.
    embed_dim: Width D of the absent features.
    entry: Id, label, and where the cloud comes from.
  """
  try:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
      shape = evaluation_shape(cloud, embed_dim, entry)
    check_shape(shape)
  except (BadField, BadInput) as error:
    detail = str(error).removeprefix(f"shape {entry.id!r}, ")
    return RefusedShape(
      entry.id,
      entry.path,
      field_of(error) or "",
      error.reason if isinstance(error, BadField) else "bad value",
      detail,
    )
  return shape


def check_part(part: str) -> None:
  """Raises BadInput unless `part` is one of `PARTS`."""
  if part not in PARTS:
    raise BadInput(
      f"part {part!r} is unknown, must be one of {', '.join(PARTS)}"
    )


def check_labels(
  labels: Any, clouds: int, classes: int, where: str
) -> np.ndarray:
  """Returns labels as (clouds,) int64.

  One label out of range refuses the whole file: it shows that the file is not
  the one that its classes were taken for, and then no label can be trusted.

  Raises:
    BadInput: beginning with `where`, when there is not one label for each
      cloud, or one is no whole number from 0 to classes - 1.
  """
  try:
    array = np.asarray(labels)
  except ValueError:  # rows of different lengths
    array = np.asarray(None)
  shapes = ((clouds,), (clouds, 1))
  if array.shape not in shapes or array.dtype.kind not in "iuf":
    raise BadInput(
      f"{where}: holds {array.dtype} of shape {array.shape}, must be one "
      f"number for each of the {clouds} clouds; fetch the file again"
    )
  array = array.reshape(clouds)
  whole = np.floor(array) == array
  bad = np.flatnonzero(~(whole & (array >= 0) & (array < classes)))
  if bad.size:
    raise BadInput(
      f"{where}: label {array[bad[0]]} of cloud {bad[0]} is not a class from 0 "
      f"to {classes - 1}; is this the file of another data set?"
    )
  return array.astype(np.int64)


def count_problems(
  where: object, count: int, published: int
) -> tuple[str, ...]:
  """A sentence if a file has another number of shapes than was published."""
  if count == published:
    return ()
  return (
    f"{where}: {count:,} shapes where the published set has {published:,}; "
    "figures will not be comparable with published ones",
  )


@dataclasses.dataclass(frozen=True)
class H5File:
  """One file of clouds; `ids` and `labels` go with its rows."""

  path: Path
  ids: Sequence[str]
  labels: Sequence[int]


def h5_labels(path: Path, classes: int) -> np.ndarray:
  """Checks an .h5 file of clouds and returns its labels.

  Args:
    path: Datasets `data` (M, N, 3) and `label` (M,) or (M, 1); others are not
      looked at.
    classes: How many classes there are.

  Returns:
    (M,) int64 in [0, classes).

  Raises:
    BadInput: naming the file and the dataset that is missing or unusable.
  """
  import h5py

  try:
    with _open(path) as file:
      for name in ("data", "label"):
        if not isinstance(file.get(name), h5py.Dataset):
          raise BadInput(
            f"{path}: has no dataset {name!r}, only {sorted(file)}; it is not "
            "one of the published files"
          )
      shape, dtype = file["data"].shape, file["data"].dtype
      if (
        len(shape) != 3
        or 0 in shape
        or shape[2] != 3
        or dtype.kind not in "iuf"
      ):
        raise BadInput(
          f"{path}: dataset 'data' holds {dtype} of shape {shape}, must be "
          "clouds of coordinates, (M, N, 3)"
        )
      where = f"{path}: dataset 'label'"
      return check_labels(file["label"][()], shape[0], classes, where)
  except BadInput:
    raise
  except Exception as error:  # h5py raises anything at all for damaged files
    raise _damaged(path, error) from None


def read_h5(
  files: Sequence[H5File], dataset: str, embed_dim: int, indices: range
) -> Iterator[Shape | RefusedShape]:
  """Yields the clouds at `indices`, counted through all files."""
  first = 0
  for source in files:
    rows = [i - first for i in indices if 0 <= i - first < len(source.ids)]
    first += len(source.ids)
    if not rows:
      continue
    with _open(source.path) as file:
      data = file["data"]  # once: the chunk cache lives as long as this does
      for row in rows:
        entry = Entry(
          id=source.ids[row],
          path=str(source.path),
          dataset=dataset,
          label=int(source.labels[row]),
        )
        try:
          xyz = data[row]
        except Exception as error:  # a damaged chunk; others may be whole
          yield RefusedShape(
            entry.id,
            entry.path,
            "data",
            "unreadable file",
            f"field 'data': {error}",
          )
        else:
          yield to_shape({"xyz": xyz}, embed_dim, entry)


def _open(path: Path) -> Any:
  """Opens an .h5 file to read."""
  import h5py

  if not path.is_file():
    raise BadInput(f"{path}: no such file")
  try:
    # Locks fail on many cluster file systems, and readers need none.
    return h5py.File(path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE)
  except OSError as error:
    raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> BadInput:
  return BadInput(
    f"{path}: cannot be read as HDF5 ({error}); it is damaged, cut off or in "
    "another format, so fetch it again"
  )
