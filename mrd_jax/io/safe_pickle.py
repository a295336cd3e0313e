"""Reads `.npy` files that hold Python objects, without trusting them.

OpenShape's files are pickles, and a pickle is a program: `np.load` would run
whatever it says; `unpickler` does not.
"""

import io
import os
import pickle
from typing import Any, BinaryIO

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.archives import TooCostly
from mrd_jax.io.arrays import read_header
from mrd_jax.io.pickle_cost import check_cost
from mrd_jax.io.torch_tensor import STORAGES, span, view
from mrd_jax.io.unpickler import (
  TABLE,
  Array,
  DType,
  Refused,
  Unpickler,
  refusal,
  resolve,
  size_of,
  to_numbers,
)


def load_npy(
  file: str | os.PathLike[str] | BinaryIO,
  name: str | None = None,
) -> Any:
  """Loads a `.npy` file; executes nothing that the file says.

  Args:
    file: Path, or a binary file object (need not be seekable).
    name: What messages call the file; the path by default.

  Returns:
    The array; a 0-d object array is returned as the object inside it.  Torch
    tensors in it come back as arrays, bfloat16 as float32.

  Raises:
    BadInput: naming the file, when it is missing, truncated, no `.npy` file,
      or names a global that data never needs.
  """
  if isinstance(file, str | os.PathLike):
    name = name or os.fspath(file)
    try:
      with open(file, "rb") as opened:
        return load_npy(opened, name)
    except OSError as error:
      raise BadInput(f"{name}: cannot be read ({error.strerror})") from error
  stream = file if file.seekable() else io.BytesIO(file.read())
  start = stream.tell()
  try:
    if not read_header(stream)[2].hasobject:
      stream.seek(start)
      return np.lib.format.read_array(stream, allow_pickle=False)
    content = stream.read()
    check_cost(io.BytesIO(content), len(content))
    loaded = Unpickler(io.BytesIO(content), len(content), _OF_NPY).load()
    if not isinstance(loaded, Array):
      raise pickle.UnpicklingError("the pickle holds no array")
    array = resolve(loaded, {})
    return array.item() if array.ndim == 0 else array
  except (Refused, TooCostly) as refused:
    raise BadInput(f"{name or 'npy file'}: {refused}") from None
  except Exception as error:  # a hostile file can raise anything at all
    reason = str(error).partition("\n")[0]
    raise BadInput(
      f"{name or 'npy file'}: not a readable .npy file "
      f"({type(error).__name__}: {reason}); it is truncated or damaged, fetch it "
      "again"
    ) from error


class _StorageUnpickler(pickle.Unpickler):
  """Reads the pickles of a torch file that is one storage."""

  def find_class(self, module: str, name: str) -> str:
    if module != "torch" or name not in STORAGES:
      raise refusal(module, name)
    return STORAGES[name]  # a plain text, which nothing can alter

  def persistent_load(self, pid: Any) -> tuple[str, int]:
    _, code, _, _, size, *_ = pid
    return code, size


def _load_from_bytes(raw: bytes) -> np.ndarray:
  """Reads a torch storage, flat, as torch writes one into another pickle.

  That is a file in torch's old format (`torch.serialization._legacy_save`):
  pickles of a magic number, a version, facts about the machine, what was
  saved, and the names of storages; then, of each storage, its length (8 bytes)
  and its numbers.  What was saved is here a storage itself, which the pickle
  replaces by a tuple: "storage", class, name, device, length.
  """
  stream = io.BytesIO(raw)
  loaded = []
  for _ in range(5):
    start = stream.tell()
    check_cost(stream, len(raw))
    stream.seek(start)
    loaded.append(_StorageUnpickler(stream).load())
  _, _, machine, (code, size), names = loaded
  if machine["little_endian"] is not True or len(names) != 1:
    raise ValueError("a torch storage of another kind")
  content = memoryview(raw)[stream.tell() :]
  if int.from_bytes(content[:8], "little") != size:
    raise ValueError("a torch storage whose size differs from its header")
  if code == "bfloat16":  # the upper half of a float32
    halves = to_numbers(content[8:], DType("u2"), (size,), "C")
    return (halves.astype(np.uint32) << 16).view(np.float32)
  return to_numbers(content[8:], DType(code), (size,), "C")


def _rebuild_tensor(
  flat: np.ndarray, offset: int, shape: Any, stride: Any, *_: object
) -> np.ndarray:
  """Does what torch's function of this name does, with bounds checked."""
  if span(len(flat), offset, shape, stride) == 0:
    return np.zeros(shape, flat.dtype)
  if size_of(shape) > len(flat):
    raise TooCostly("refused: a tensor has more numbers than its storage")
  return view(flat[offset:], shape, stride)


# Of tensors in a .npy file, whose storages are in its own pickle.
_OF_NPY = TABLE | {
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
  ("torch.storage", "_load_from_bytes"): _load_from_bytes,
}
