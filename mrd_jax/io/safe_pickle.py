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
    loaded = Unpickler(io.BytesIO(content), len(content), _OF_NPY).load()
    if not isinstance(loaded, _Array):
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


class Refused(Exception):
  """The file asks for something that is not allowed."""


class Sealed:
  """What a pickle can hold but not alter: its BUILD would set any slot."""

  __slots__ = ()

  def __setstate__(self, state: object) -> None:
    raise Refused("refused: it tries to change the reader itself")


class Allowed:
  """A callable that a pickle can call but not look into or alter."""

  __slots__ = ("_function",)

  def __init__(self, function: Callable[..., Any]):
    object.__setattr__(self, "_function", function)

  def __setattr__(self, name: str, value: object) -> None:
    raise Refused("refused: it tries to change the reader itself")

  def __call__(self, *args: Any) -> Any:
    return self._function(*args)


def _refusal(module: str, name: str) -> Refused:
  asked = f"{module}.{name}"
  return Refused(
    f"refused: it asks for {asked!r}, which data never needs; nothing "
    "was executed, but do not trust where this file came from"
  )


Table = dict[tuple[str, str], Callable[..., Any]]


class Unpickler(pickle.Unpickler):
  """Answers global names from a table, and only from the table.

  Args:
    stream: The pickle begins where it stands; `check_cost` has passed it.
    size: Bytes of the file.
    table: A function for each global, by module and name of today.
  """

  def __init__(self, stream: BinaryIO, size: int, table: Table):
    super().__init__(stream)
    self._left = size + _SPARE
    self._table = table

  def refusal(self, module: str, name: str) -> Refused:
    return _refusal(module, name)

  def find_class(self, module: str, name: str) -> Any:
    key = _RENAMED.get(module, module), name
    if key not in self._table:
      raise self.refusal(module, name)

    function = self._table[key]
    is_type = isinstance(function, type)
    each = _ITEM if is_type else 1

    def call(*args: Any) -> Any:
      # What is called copies its arguments, and a pickle can name the same one
      # a thousand times.
      for argument in args:
        if isinstance(argument, Sized) and not isinstance(argument, np.ndarray):
          self._left -= each * len(argument)
          if is_type and self._left >= 0 and isinstance(argument, list | tuple):
            self._left -= sum(_hashed(item, {}) for item in argument)
      if self._left < 0:
        raise TooCostly("refused: it copies what it holds again and again")
      return function(*args)

    return Allowed(call)


def _hashed(key: Any, known: dict[int, int]) -> int:
  """Counts what a hash walks through: a tuple twice in a tuple counts twice."""
  if not isinstance(key, tuple):
    return 1
  if id(key) not in known:
    known[id(key)] = 1 + sum(_hashed(item, known) for item in key)
  return known[id(key)]


class _StorageUnpickler(pickle.Unpickler):
  """Reads the pickles of a torch file that is one storage."""

  def find_class(self, module: str, name: str) -> str:
    if module != "torch" or name not in STORAGES:
      raise _refusal(module, name)
    return STORAGES[name]  # a plain text, which nothing can alter

  def persistent_load(self, pid: Any) -> tuple[str, int]:
    _, code, _, _, size, *_ = pid
    return code, size


class _DType:
  """Stands in for `np.dtype`: plain numbers, strings and objects only."""

  __slots__ = ("dtype",)

  def __init__(self, code: str, *_: object):
    if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
      raise Refused(f"refused: array type {code!r} is not supported")
    self.dtype = np.dtype(object if code[0] == "O" else code)

  def __setstate__(self, state: Sequence[Any]) -> None:
    _, byte_order, subdtype, names, *_ = state
    if subdtype is not None or names is not None:
      raise Refused("refused: structured array types are not supported")
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
      if not isinstance(content, list) or len(content) != size_of(shape):
        raise ValueError("object array whose size differs from its shape")
      self.items: list[Any] | np.ndarray = content[:]
      content.clear()  # no second array has them, too
    else:
      self.items = _numbers(content, dtype, shape, self.order)


def size_of(shape: Sequence[int]) -> int:
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
    raise Refused("refused: it builds object pointers from bytes")
  if size_of(shape) * dtype.dtype.itemsize != len(raw):
    raise ValueError("array whose size differs from its shape")
  if not len(raw):
    return np.zeros(shape, dtype.dtype)
  if not isinstance(raw, bytes | bytearray | memoryview):
    raise ValueError("array whose content is not bytes")
  return np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)


class PlainDict(dict):
  """Stands in for `collections.OrderedDict`, without attributes of its own."""

  __slots__ = ()

  def __setstate__(self, state: object) -> None:
    pass  # such as the `_metadata` of a module's state dict


class Namespace:
  """Stands in for an object that is no more than a dict of its attributes.

  Unlike the functions of a table it is a class, which NEWOBJ asks for; nothing
  can be set on the class itself, as its `__setstate__` lacks an instance.
  """

  __slots__ = ("state",)

  def __init__(self):
    self.state: dict = {}

  def __setstate__(self, state: dict) -> None:
    if type(state) is not dict:
      raise ValueError("a namespace that is no dict")
    self.state = state  # not copied: a pickle can do it a thousand times


def resolve(value: Any, done: dict[int, Any]) -> Any:
  """Replaces the stand-ins inside `value`; `done` keeps sharing.

  They become arrays and plain dicts.
  """
  if isinstance(value, Namespace):
    value = getattr(value, "state", {})
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
      flat[i] = resolve(item, done)
  elif isinstance(value, dict):
    whole = dict(value) if isinstance(value, PlainDict) else value
    done[id(value)] = whole
    for key in whole:
      whole[key] = resolve(whole[key], done)
  elif isinstance(value, list):
    done[id(value)] = value
    value[:] = [resolve(item, done) for item in value]
  else:
    done[id(value)] = tuple(resolve(item, done) for item in value)
  return done[id(value)]


def _scalar(dtype: _DType, raw: bytes) -> Any:
  return _numbers(raw, dtype, (), "C")[()]


def _frombuffer(raw: Any, dtype: _DType, shape: Any, order: str) -> _Array:
  array = _Array()
  array.__setstate__((1, shape, dtype, order == "F", raw))
  return array


def _encode(text: str, encoding: str) -> bytes:
  if encoding not in ("latin1", "latin-1"):
    raise Refused(f"refused: text encoding {encoding!r}")
  return text.encode("latin1")


def _ndarray(*_: object) -> None:
  raise Refused("refused: it builds an array without its contents")


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
  if len(shape) != len(stride) or size_of(stride) < 0 or offset < 0:
    raise ValueError("impossible tensor strides")
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


def _rebuild_tensor(
  flat: np.ndarray, offset: int, shape: Any, stride: Any, *_: object
) -> np.ndarray:
  """Does what torch's function of this name does, with bounds checked."""
  if span(len(flat), offset, shape, stride) == 0:
    return np.zeros(shape, flat.dtype)
  if size_of(shape) > len(flat):
    raise TooCostly("refused: a tensor has more numbers than its storage")
  return view(flat[offset:], shape, stride)


TABLE: Table = {
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
}
# Of tensors in a .npy file, whose storages are in its own pickle.
_OF_NPY = TABLE | {
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
  ("torch.storage", "_load_from_bytes"): _load_from_bytes,
}
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
