"""Tensors of a PyTorch file, whose numbers are read when they are asked for."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.files import check_shortage
from mrd_jax.io.unpickler import Sealed, size_of

# PyTorch's classes -> types as NumPy writes them, which has no bfloat16.
STORAGES = {
  "DoubleStorage": "f8",
  "FloatStorage": "f4",
  "HalfStorage": "f2",
  "BFloat16Storage": "bfloat16",
  "LongStorage": "i8",
  "IntStorage": "i4",
  "ShortStorage": "i2",
  "CharStorage": "i1",
  "ByteStorage": "u1",
  "BoolStorage": "?",
}
# What is no array of ours: bytes of a number.
OTHER_STORAGES = {
  **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage"), 1),
  **dict.fromkeys(("QUInt2x4Storage", "UntypedStorage"), 1),
  "QInt32Storage": 4,
  "ComplexFloatStorage": 8,
  "ComplexDoubleStorage": 16,
}


def span(
  stored: int, offset: int, shape: Sequence[int], stride: Sequence[int]
) -> int:
  """Checks where a tensor lies in its storage, all in numbers, not bytes.

  Args:
    stored: How many the storage has.
    offset: Of the tensor's first.
    shape: Of the tensor.
    stride: From one to the next along each axis.

  Returns:
    How many there are from its first to its last.

  Raises:
    ValueError: if it reaches beyond the storage, or is none.
  """
  if size_of(shape) == 0:
    np.empty(shape, bool)  # has a limit of its own
    return 0
  if len(shape) != len(stride) or size_of(stride) < 0:
    raise ValueError("impossible tensor strides")
  if not isinstance(offset, int) or offset < 0:
    raise ValueError("impossible tensor offset")
  reach = sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
  if offset + reach >= stored:
    raise ValueError("a tensor reaches beyond its storage")
  return reach + 1


def view(
  flat: np.ndarray, shape: Sequence[int], stride: Sequence[int]
) -> np.ndarray:
  """Returns a view of numbers, from the first on; `span` has passed it."""
  # Of an axis of one, torch may say any stride.
  strides = [
    s * flat.itemsize if n > 1 else 0
    for n, s in zip(shape, stride, strict=True)
  ]
  return np.lib.stride_tricks.as_strided(flat, shape, strides)


class File(Sealed):
  """A file as it was when its pickle was read.

  Attributes:
    path: Where it is.
    size: In bytes.
  """

  __slots__ = ("_stamp", "path", "size")

  def __init__(self, path: Path, stream: BinaryIO):
    self.path = path
    self._stamp = _stamp(stream)
    self.size = os.fstat(stream.fileno()).st_size

  def read(self, start: int, count: int, dtype: np.dtype) -> np.ndarray:
    """Reads `count` numbers from the byte `start` on."""
    array = np.empty(count, dtype)
    try:
      with self.path.open("rb") as stream:
        if _stamp(stream) != self._stamp:
          raise BadInput(f"{self.path} has changed since it was opened")
        stream.seek(start)
        found = stream.readinto(array.view(np.uint8).data)
    except OSError as error:
      check_shortage(error)
      raise BadInput(f"{self.path} cannot be read: {error.strerror}") from error
    if found != array.nbytes:
      raise BadInput(f"{self.path} is cut off; fetch it again")
    return array


def _stamp(stream: BinaryIO) -> tuple[int, ...]:
  found = os.fstat(stream.fileno())
  return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Storage(Sealed):
  """Where the numbers of one or more tensors lie.

  Attributes:
    name: Of its class in PyTorch.
    count: How many numbers it has.
    dtype: Of a number in the file; None if it is no array of ours.
    is_bfloat16: Whether what is an uint16 there is the upper half of a float32.
    itemsize: Bytes of a number.
    start: In the file, in bytes.
    checksum: CRC-32 of all of it; 0 if the file does not say.
  """

  __slots__ = (
    *("checksum", "count", "dtype", "file", "is_bfloat16", "itemsize"),
    *("name", "start"),
  )

  def __init__(self, file: File, name: str, count: int, order: str = "<"):
    kind = name.rpartition(".")[2]
    code = STORAGES.get(kind)
    self.file, self.name, self.count = file, name, count
    self.is_bfloat16 = code == "bfloat16"
    self.dtype: np.dtype | None = None
    if code is None:
      self.itemsize = OTHER_STORAGES[kind]
    else:
      self.dtype = np.dtype(order + ("u2" if self.is_bfloat16 else code))
      self.itemsize = self.dtype.itemsize
    self.start = self.checksum = 0

  def read(self, offset: int, count: int) -> np.ndarray:
    """Reads some of its numbers, in this machine's order of bytes."""
    assert self.dtype is not None
    start = self.start + offset * self.itemsize
    flat = self.file.read(start, count, self.dtype)
    is_whole = bool(self.checksum) and count == self.count
    if is_whole and zlib.crc32(flat.view(np.uint8).data) != self.checksum:
      raise BadInput(
        f"{self.file.path}: the numbers of a tensor are not those that were "
        "written (their checksum differs); fetch it again"
      )
    flat = flat.astype(self.dtype.newbyteorder("="), copy=False)
    if self.is_bfloat16:
      return (flat.astype(np.uint32) << 16).view(np.float32)
    return flat


class Tensor(Sealed):
  """A dense tensor of real numbers in a file; holds none of them.

  `np.asarray` of it reads it, each time.

  Attributes:
    name: Its key in the file, for messages.
    shape: As PyTorch has it.
    dtype: Of the array that it becomes: float32 for a bfloat16.
    cost: Bytes of a float32 or wider array of it, or those that have to be
      read for it if they are more; 0 if it cannot be read.
  """

  __slots__ = ("_offset", "_span", "_storage", "_stride", "name", "shape")

  def __init__(
    self,
    storage: Storage,
    offset: int,
    shape: Sequence[int],
    stride: Sequence[int],
  ):
    self._span = span(storage.count, offset, shape, stride)
    self._storage, self._offset = storage, offset
    self._stride = tuple(stride)
    self.name, self.shape = "a tensor", tuple(shape)

  @property
  def dtype(self) -> np.dtype:
    storage = self._storage
    assert storage.dtype is not None
    if storage.is_bfloat16:
      return np.dtype(np.float32)
    return storage.dtype.newbyteorder("=")

  @property
  def cost(self) -> int:
    if size_of(self.shape) > self._storage.count:
      return 0
    each = self.dtype.itemsize
    each = max(each, 4) if self.dtype.kind == "f" else each
    return each * max(size_of(self.shape), self._span)

  def read(self) -> np.ndarray:
    """Reads it into a new array.

    Raises:
      BadInput: naming the file, if that is gone, changed or damaged, or the
        tensor repeats its numbers: one may say that it has any size.
    """
    if size_of(self.shape) > self._storage.count:
      raise BadInput(
        f"{self._storage.file.path}: {self.name} has more numbers than are "
        "stored; write it anew"
      )
    if not self._span:
      return np.zeros(self.shape, self.dtype)
    flat = self._storage.read(self._offset, self._span)
    return np.asarray(view(flat, self.shape, self._stride), order="C")

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    if copy is False:
      raise ValueError("a tensor in a file is no array yet")
    array = self.read()
    return array if dtype is None else array.astype(dtype, copy=False)

  def __repr__(self) -> str:
    return f"Tensor({self.name!r}, shape={self.shape}, dtype={self.dtype})"


class OtherTensor(Sealed):
  """A tensor that is no array: sparse, quantised, nested, complex, meta."""

  __slots__ = ()


def to_array(value: Any, name: str) -> np.ndarray:
  """Returns a tensor or array of numbers as an array, floats as float32.

  Args:
    value: A `Tensor`, or an array or number of NumPy.
    name: Of the file and the tensor, for messages.

  Raises:
    BadInput: if it is something else, or cannot be read.
  """
  if isinstance(value, Tensor):
    value = value.read()
  is_array = isinstance(value, np.ndarray | np.generic)
  # A type that is not NumPy's own is bfloat16 or narrower, of ml_dtypes.
  if not is_array or not (
    value.dtype.kind in "biuf" or value.dtype.isbuiltin == 2
  ):
    raise BadInput(f"{name} must be a dense tensor of real numbers")
  array = np.asarray(value)
  if array.dtype.kind in "biu":
    return array
  with np.errstate(over="ignore"):  # infinite, as PyTorch makes it
    return array.astype(np.float32, copy=False)
