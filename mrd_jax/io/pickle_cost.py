"""Estimates, from its opcodes alone, how much memory a pickle would take."""

import pickletools
import sys
from typing import Any, BinaryIO, NamedTuple

from mrd_jax.io.archives import SPARE, TooCostly

# Bytes of the objects that opcodes without an argument make, with what we keep
# beside them; every opcode has room for a place on the stack and in a list.
_PLACE = 24
_MADE = {
  **dict.fromkeys(("EMPTY_SET", "FROZENSET"), 240),
  **dict.fromkeys(("EMPTY_LIST", "LIST"), 200),
  **dict.fromkeys(("EMPTY_DICT", "DICT"), 400),
  **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), 250),
  **dict.fromkeys(("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ"), 300),
}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_FILLING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}
_DEEPEST = 500
_HASHED = 10_000_000  # items in tuples that hashes may walk through: a second


def check_cost(stream: BinaryIO, size: int, most: float = float("inf")) -> None:
  """Reads the opcodes of one pickle, to its end.

  One byte can be an object of 200, and one flipped bit an index of 64 GB.

  Args:
    stream: The pickle begins where it stands.
    size: Bytes of the whole file.
    most: How many opcodes it may have; here one takes some microseconds.

  Raises:
    TooCostly: if it would take more than three times its size and 300 MB, or
      too long.
    ValueError: if it is no pickle, or not a whole one.
  """
  cost, depths = size, _Depths()
  for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
    if count > most:
      raise TooCostly(f"refused: its pickle has more than {most:,.0f} opcodes")
    depths.follow(opcode, argument)
    cost += _PLACE + _MADE.get(opcode.name, 0)
    if opcode.name.endswith("PUT"):
      # Of the table of objects, which is as large as the largest index.
      if int(argument or 0) > count:
        raise ValueError("impossible memo index")
    elif isinstance(argument, str | bytes | bytearray | int | float):
      cost += sys.getsizeof(argument)
    if cost > 3 * size + SPARE:
      raise TooCostly(
        f"refused: its objects would take more than {cost / 1e6:,.0f} MB of "
        f"memory, far more than its {size:,} bytes say"
      )


class _Item(NamedTuple):
  """What is known of an object on the stack."""

  depth: int = 0
  hashed: int = 1  # items that its hash walks through


_MARK = _Item(-1, 0)


class _Depths:
  """Follows the stack of an unpickler: how deep each object on it is nested.

  Python's hash of a tuple in a tuple, and so on a million times, ends the
  process: it runs out of the machine's stack.  A tuple that holds another
  twice, and so on forty times, is small, but its hash takes for ever.
  """

  def __init__(self):
    self._stack: list[_Item] = []
    self._memo: dict[Any, _Item] = {}
    self._hashed = 0

  def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
    """Does to the stack what the opcode does.

    Raises:
      TooCostly: if hashes of keys would take more than a second or so.
      ValueError: if an object is nested more than `_DEEPEST` times.
    """
    stack, name, taken = self._stack, opcode.name, []
    below = opcode.stack_before
    if pickletools.markobject in below:
      while stack and (item := stack.pop()) is not _MARK:
        taken.append(item)
      below = below[: below.index(pickletools.markobject)]
    taken += [stack.pop() for _ in range(min(len(below), len(stack)))]
    deepest, hashed = max((x.depth for x in taken), default=0), 1
    if name in _MADE:
      deepest += 1
      if name in _TUPLES:
        hashed += sum(x.hashed for x in taken)
      elif name == "FROZENSET":
        self._hash(taken)
    elif name in _FILLING and taken:  # the container is below what it gets
      *items, container = taken
      filled = 1 + max((x.depth for x in items), default=0)
      deepest = max(container.depth, filled)
      if name == "ADDITEMS":
        self._hash(items)
      elif name.startswith("SETITEM"):
        self._hash(items[1::2])  # each key is below its value
    elif name.endswith("GET"):
      deepest, hashed = self._memo.get(argument, _Item())
    elif name in ("MEMOIZE", "DUP") and taken:
      deepest, hashed = taken[0]
      if name == "MEMOIZE":
        self._memo[len(self._memo)] = taken[0]
    elif name.endswith("PUT") and stack:
      self._memo[argument] = stack[-1]
    if deepest > _DEEPEST:
      raise ValueError(f"objects are nested more than {_DEEPEST} times")
    mark = opcode.stack_after == [pickletools.markobject]
    made = _MARK if mark else _Item(deepest, hashed)
    stack += [made] * len(opcode.stack_after)

  def _hash(self, keys: list[_Item]) -> None:
    self._hashed += sum(key.hashed - 1 for key in keys)
    if self._hashed > _HASHED:
      raise TooCostly("refused: its keys are tuples of tuples without end")
