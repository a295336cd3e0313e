"""Reads labelled sets that serve evaluation: their common form, .h5 files.

`scanobjectnn.py` and `modelnet40.py` make `EvaluationSet`s of what those two
publish.  Nothing is rotated: all of their files have y up, as records do.
Objaverse-LVIS needs no reader here; it is the split "lvis" of `openshape`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrd_jax.data.records import Shape, check_shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.job.engine import Item, Outcome
from mrd_jax.prepare.job.shards import Reject
from mrd_jax.prepare.openshape.lists import Entry
from mrd_jax.prepare.openshape.sample import BadField, evaluation_shape, reject

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")
_CHUNK_CACHE = 64 * 2**20  # one chunk of a compressed file holds many clouds


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
  """A labelled split, read by one worker; no file is open until then.

  Attributes:
    name: A name for the split: letters, digits and underscores.
    class_names: In label order.
    count: So many of the first shapes, refused ones included.
    shapes: Yields them in the order of the files.  Each has a label, colours
      (0.4 where the files have none, as in OpenShape) and (0, D) image and text
      features.  One that no record could hold comes as a `Reject` whose split
      is "", and the others go on.
    problems: What the user should know about the files, in sentences.
  """

  name: str
  class_names: tuple[str, ...]
  count: int
  shapes: Callable[[], Iterator[Shape | Reject]]
  problems: tuple[str, ...] = ()

  def items(self) -> Iterator[Item]:
    done = 0
    try:
      for shape in itertools.islice(self.shapes(), self.count):
        yield functools.partial(self._outcomes, shape)
        done += 1
    except BadInput as error:  # none of the rest can be read
      why = None, "unreadable or unsafe file", str(error)
      for index in range(done, self.count):
        refused = Reject(self.name, self.name, f"{self.name}-{index}", *why)
        yield functools.partial(list, [refused])

  def _outcomes(self, shape: Shape | Reject) -> list[Outcome]:
    if isinstance(shape, Reject):
      return [dataclasses.replace(shape, split=self.name)]
    return [(self.name, encode(shape))]


def to_shape(
  cloud: Mapping[str, Any] | BadField, embed_dim: int, entry: Entry
) -> Shape | Reject:
  """Makes a Shape of one cloud, or says why that cannot be.

  Args:
    cloud: `xyz` (N, 3) and, where there are colours, `rgb` (N, 3) in 0..255;
      or why it could not be read.
    embed_dim: Width D of the absent features.
    entry: Id, label, and where the cloud comes from.
  """
  try:
    if isinstance(cloud, BadField):
      raise cloud
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
      shape = evaluation_shape(cloud, embed_dim, entry)
    check_shape(shape)
  except (BadField, BadInput) as error:
    refused = reject("", entry, error)
    detail = refused.detail.removeprefix(f"shape {entry.id!r}, ")
    return dataclasses.replace(refused, detail=detail)
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
  """Tells if a file has another number of shapes than was published."""
  if count == published:
    return ()
  return (
    f"{where}: {count:,} shapes where the published set has {published:,}; "
    "figures will not be comparable with published ones",
  )


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
      clouds = len(shape) == 3 and 0 not in shape and shape[2] == 3
      if not clouds or dtype.kind not in "iuf":
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
  entries: Sequence[Entry], embed_dim: int
) -> Iterator[Shape | Reject]:
  """Yields the clouds of .h5 files; `entries` goes with their rows."""
  for path, rows in itertools.groupby(entries, key=lambda entry: entry.path):
    with _open(Path(path)) as file:
      data = file["data"]  # once: the chunk cache lives as long as this does
      for row, entry in enumerate(rows):
        try:
          cloud = {"xyz": data[row]}
        except Exception as error:  # a damaged chunk; others may be whole
          cloud = BadField("data", "unreadable file", str(error))
        yield to_shape(cloud, embed_dim, entry)


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
