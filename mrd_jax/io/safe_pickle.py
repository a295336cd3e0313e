"""Reads `.npy` files that hold Python objects, without trusting them.

OpenShape's files are pickles, and a pickle is a program: `np.load` would run
whatever it says.  Here a pickle may only name a short list of globals, and
even those are not handed out: each name is answered with a function of this
module that checks its arguments and makes an array of bytes.  numpy's
own reconstruction is not used, because a crafted `dtype` state makes it read
object pointers from the file.
"""

import collections
import io
import os
import pickle
import re
from collections.abc import Callable, Sequence, Sized
from typing import Any, BinaryIO, Literal

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.archives import TooCostly
from mrd_jax.io.arrays import read_header
from mrd_jax.io.pickle_cost import check_cost

_SPARE = 2**26  # bytes that may be copied beyond what the file has
_ITEM = 64  # bytes that an item of a set takes, at most
_DTYPE_CODE = re.compile(r"(\?|[biufcSU]\d*|O\d?)")
_MOST_AXES = 64  # as in NumPy
_Order = Literal["C", "F"]
# Modules as NumPy 1 and pickle's protocols 0-2 call them -> as they are now.
_RENAMED = {
  "numpy.core.multiarray": "numpy._core.multiarray",
  "numpy.core.numeric": "numpy._core.numeric",
  "__builtin__": "builtins",
}


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
    loaded = _Unpickler(content).load()
    if not isinstance(loaded, _Array):
      raise pickle.UnpicklingError("the pickle holds no array")
    array = _resolve(loaded, {})
    return array.item() if array.ndim == 0 else array
  except (_Refused, TooCostly) as refused:
    raise BadInput(f"{name or 'npy file'}: {refused}") from None
  except Exception as error:  # a hostile file can raise anything at all
    reason = str(error).partition("\n")[0]
    raise BadInput(
      f"{name or 'npy file'}: not a readable .npy file "
      f"({type(error).__name__}: {reason}); it is truncated or damaged, fetch it "
      "again"
    ) from error


class _Refused(Exception):
  """The file asks for something that is not allowed."""


class _Allowed:
  """A callable that a pickle can call but not look into or alter."""

  __slots__ = ("_function",)

  def __init__(self, function: Callable[..., Any]):
    object.__setattr__(self, "_function", function)

  def __setattr__(self, name: str, value: object) -> None:
    raise _Refused("refused: it tries to change the reader itself")

  def __call__(self, *args: Any) -> Any:
    return self._function(*args)


def _refusal(module: str, name: str) -> _Refused:
  asked = f"{module}.{name}"
  return _Refused(
    f"refused: it asks for {asked!r}, which data never needs; nothing "
    "was executed, but do not trust where this file came from"
  )


class _Unpickler(pickle.Unpickler):
  """Answers global names from a table, and only from the table."""

  def __init__(self, content: bytes):
    super().__init__(io.BytesIO(content))
    self._left = len(content) + _SPARE

  def find_class(self, module: str, name: str) -> Any:
    key = _RENAMED.get(module, module), name
    if key not in _TABLE:
      raise _refusal(module, name)

    function = _TABLE[key]
    each = _ITEM if isinstance(function, type) else 1

    def call(*args: Any) -> Any:
      # What is called copies its arguments, and a pickle can name the same one
      # a thousand times.
      for argument in args:
        if isinstance(argument, Sized) and not isinstance(argument, np.ndarray):
          self._left -= each * len(argument)
      if self._left < 0:
        raise TooCostly("refused: it copies what it holds again and again")
      return function(*args)

    return _Allowed(call)


class _StorageUnpickler(pickle.Unpickler):
  """Reads the pickles of a torch file that is one storage."""

  def find_class(self, module: str, name: str) -> str:
    if module != "torch" or name not in _STORAGES:
      raise _refusal(module, name)
    return _STORAGES[name]  # a plain text, which nothing can alter

  def persistent_load(self, pid: Any) -> tuple[str, int]:
    _, code, _, _, size, *_ = pid
    return code, size


class _DType:
  """Stands in for `np.dtype`: plain numbers, strings and objects only."""

  __slots__ = ("dtype",)

  def __init__(self, code: str, *_: object):
    if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
      raise _Refused(f"refused: array type {code!r} is not supported")
    self.dtype = np.dtype(object if code[0] == "O" else code)

  def __setstate__(self, state: Sequence[Any]) -> None:
    _, byte_order, subdtype, names, *_ = state
    if subdtype is not None or names is not None:
      raise _Refused("refused: structured array types are not supported")
    if byte_order in ("<", ">"):
      self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
  """Stands in for an array until all of its elements have been read."""

  __slots__ = ("items", "order", "shape")

  def __setstate__(self, state: Sequence[Any]) -> None:
    _, shape, dtype, fortran, content = state
    self.shape = shape
    self.order: _Order = "F" if fortran else "C"
    if dtype.dtype.hasobject:
      if not isinstance(content, list) or len(content) != _size(shape):
        raise ValueError("object array whose size differs from its shape")
      self.items: list[Any] | np.ndarray = content[:]
      content.clear()  # no second array has them, too
    else:
      self.items = _numbers(content, dtype, shape, self.order)


def _size(shape: Sequence[int]) -> int:
  size = 1
  if len(shape) > _MOST_AXES:
    raise ValueError(f"array of {len(shape)} axes")
  for length in shape:
    if not isinstance(length, int) or length < 0:
      raise ValueError(f"impossible array shape {shape}")
    size *= length
  return size


def _numbers(raw: Any, dtype: _DType, shape: Any, order: _Order) -> np.ndarray:
  """Makes an array of the given type, shape and order of bytes, in place."""
  if dtype.dtype.hasobject:
    raise _Refused("refused: it builds object pointers from bytes")
  if _size(shape) * dtype.dtype.itemsize != len(raw):
    raise ValueError("array whose size differs from its shape")
  if not len(raw):
    return np.zeros(shape, dtype.dtype)
  if not isinstance(raw, bytes | bytearray | memoryview):
    raise ValueError("array whose content is not bytes")
  return np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)


def _resolve(value: Any, done: dict[int, Any]) -> Any:
  """Replaces the stand-ins inside `value` by arrays; `done` keeps sharing."""
  if not isinstance(value, _Array | dict | list | tuple):
    return value
  if id(value) in done:
    return done[id(value)]
  if isinstance(value, _Array) and isinstance(value.items, np.ndarray):
    return value.items
  if isinstance(value, _Array):
    flat = np.empty(len(value.items), object)
    done[id(value)] = flat.reshape(value.shape, order=value.order)  # a view
    for i, item in enumerate(value.items):
      flat[i] = _resolve(item, done)
  elif isinstance(value, dict):
    done[id(value)] = value
    for key in value:
      value[key] = _resolve(value[key], done)
  elif isinstance(value, list):
    done[id(value)] = value
    value[:] = [_resolve(item, done) for item in value]
  else:
    done[id(value)] = tuple(_resolve(item, done) for item in value)
  return done[id(value)]


def _scalar(dtype: _DType, raw: bytes) -> Any:
  return _numbers(raw, dtype, (), "C")[()]


def _frombuffer(raw: Any, dtype: _DType, shape: Any, order: str) -> _Array:
  array = _Array()
  array.__setstate__((1, shape, dtype, order == "F", raw))
  return array


def _encode(text: str, encoding: str) -> bytes:
  if encoding not in ("latin1", "latin-1"):
    raise _Refused(f"refused: text encoding {encoding!r}")
  return text.encode("latin1")


def _ndarray(*_: object) -> None:
  raise _Refused("refused: it builds an array without its contents")


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
    halves = _numbers(content[8:], _DType("u2"), (size,), "C")
    return (halves.astype(np.uint32) << 16).view(np.float32)
  return _numbers(content[8:], _DType(code), (size,), "C")


def _rebuild_tensor(
  flat: np.ndarray, offset: int, shape: Any, stride: Any, *_: object
) -> np.ndarray:
  """Does what torch's function of this name does, with bounds checked."""
  if _size(shape) == 0:
    return np.zeros(shape, flat.dtype)
  if len(shape) != len(stride) or _size(stride) < 0 or offset < 0:
    raise ValueError("impossible tensor strides")
  last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
  if last >= len(flat):
    raise ValueError("a tensor reaches beyond its storage")
  if _size(shape) > len(flat):
    raise TooCostly("refused: a tensor has more numbers than its storage")
  strides = [s * flat.itemsize for s in stride]
  return np.lib.stride_tricks.as_strided(flat[offset:], shape, strides)


_TABLE: dict[tuple[str, str], Callable[..., Any]] = {
  ("numpy", "ndarray"): _ndarray,
  ("numpy", "dtype"): _DType,
  ("_codecs", "encode"): _encode,
  ("collections", "OrderedDict"): collections.OrderedDict,
  # Type and shape come with the state.
  ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
  ("numpy._core.multiarray", "scalar"): _scalar,
  ("numpy._core.numeric", "_frombuffer"): _frombuffer,
  # How protocols 0-2 write b""; any argument is an error.
  ("builtins", "bytes"): lambda: b"",
  **{
    ("builtins", kind.__name__): kind
    for kind in (dict, list, tuple, set, frozenset)
  },
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
  ("torch.storage", "_load_from_bytes"): _load_from_bytes,
}
# For PyTorch's reader with weights_only=True, which takes (function, name):
# NumPy's own would believe whatever state a pickle gives a dtype.
NUMBERS: list[Any] = [
  (_DType, "numpy.dtype"),
  (_scalar, "numpy.core.multiarray.scalar"),
  (_scalar, "numpy._core.multiarray.scalar"),
]
_STORAGES = {
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
