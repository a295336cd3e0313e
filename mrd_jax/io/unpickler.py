"""An unpickler for what a stranger wrote: of plain values, and NumPy's.

A pickle is a program: Python's own unpickler would run whatever it says.  Here
it may only name a short list of globals, and even those are not handed out:
each name is answered with a function that checks its arguments and makes plain
values, or an array of bytes.  NumPy's own reconstruction is not used, because a
crafted `dtype` state makes it read object pointers from the file.
"""

import collections
import pickle
import re
from collections.abc import Callable, Sequence, Sized
from typing import Any, BinaryIO, Literal

import numpy as np

from mrd_jax.io.archives import TooCostly

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


def refusal(module: str, name: str) -> Refused:
  """Says what is told of a global that no data has."""
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
    """Says what is told of a global that the table lacks."""
    return refusal(module, name)

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
            known: dict[int, int] = {}
            self._left -= sum(_hashed(item, known) for item in argument)
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


class DType:
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


class Array:
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
      self.items = to_numbers(content, dtype, shape, self.order)


def size_of(shape: Sequence[int]) -> int:
  size = 1
  if len(shape) > _MOST_AXES:
    raise ValueError(f"array of {len(shape)} axes")
  for length in shape:
    if not isinstance(length, int) or length < 0:
      raise ValueError(f"impossible array shape {shape}")
    size *= length
  return size


def to_numbers(raw: Any, dtype: DType, shape: Any, order: _Order) -> np.ndarray:
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

  They become arrays, types and plain dicts.
  """
  if isinstance(value, DType):
    return value.dtype
  if isinstance(value, Namespace):
    value = getattr(value, "state", {})
  if not isinstance(value, Array | dict | list | tuple):
    return value
  if id(value) in done:
    return done[id(value)]
  if isinstance(value, Array) and isinstance(value.items, np.ndarray):
    return value.items
  if isinstance(value, Array):
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


def _scalar(dtype: DType, raw: bytes) -> Any:
  return to_numbers(raw, dtype, (), "C")[()]


def _frombuffer(raw: Any, dtype: DType, shape: Any, order: str) -> Array:
  array = Array()
  array.__setstate__((1, shape, dtype, order == "F", raw))
  return array


def _encode(text: str, encoding: str) -> bytes:
  if encoding not in ("latin1", "latin-1"):
    raise Refused(f"refused: text encoding {encoding!r}")
  return text.encode("latin1")


def _ndarray(*_: object) -> None:
  raise Refused("refused: it builds an array without its contents")


TABLE: Table = {
  ("numpy", "ndarray"): _ndarray,
  ("numpy", "dtype"): DType,
  ("_codecs", "encode"): _encode,
  ("collections", "OrderedDict"): collections.OrderedDict,
  # Type and shape come with the state.
  ("numpy._core.multiarray", "_reconstruct"): lambda *_: Array(),
  ("numpy._core.multiarray", "scalar"): _scalar,
  ("numpy._core.numeric", "_frombuffer"): _frombuffer,
  # How protocols 0-2 write b""; any argument is an error.
  ("builtins", "bytes"): lambda: b"",
  **{
    ("builtins", kind.__name__): kind
    for kind in (dict, list, tuple, set, frozenset)
  },
}
