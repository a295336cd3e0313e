"""Estimates, from its opcodes alone, how much memory a pickle would take."""

import pickletools
import sys
from typing import Any, BinaryIO

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


def check_cost(stream: BinaryIO, size: int, most: float = float("inf")) -> int:
  """Reads the opcodes of one pickle, to its end.

  One byte can be an object of 200, and one flipped bit an index of 64 GB.

  Args:
    stream: The pickle begins where it stands.
    size: Bytes of the whole file.
    most: How many opcodes it may have; one takes some microseconds.

  Returns:
    How many it has.

  Raises:
    TooCostly: if it would take more than three times its size and 300 MB, or
      too long.
    ValueError: if it is no pickle, or not a whole one.
  """
  cost, count, depths = size, 0, _Depths()
  for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
    if count > most:
      raise TooCostly(f"refused: its pickle has more than {most:,} opcodes")
    depths.follow(opcode.name, argument)
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
  return count + 1


def _effect(opcode: pickletools.OpcodeInfo) -> tuple[bool, int, int]:
  """Says whether it takes all down to a mark, how many below, what it puts."""
  before = opcode.stack_before
  to_mark = pickletools.markobject in before
  below = before.index(pickletools.markobject) if to_mark else len(before)
  return to_mark, below, len(opcode.stack_after)


_EFFECTS = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes}
# Of an object on the stack: how deep it is nested, and how many items of tuples
# its hash walks through.
_PLAIN, _MARK = (0, 1), (-1, 0)


class _Depths:
  """Follows the stack of an unpickler: how deep each object on it is nested.

  Python's hash of a tuple in a tuple, and so on a million times, ends the
  process: it runs out of the machine's stack.  A tuple that holds another
  twice, and so on forty times, is small, but its hash takes for ever.
  """

  def __init__(self):
    self._stack: list[tuple[int, int]] = []
    self._memo: dict[Any, tuple[int, int]] = {}
    self._hashed = 0

  def follow(self, name: str, argument: Any) -> None:
    """Does to the stack what the opcode of this name does.

    Raises:
      TooCostly: if hashes of keys would take more than a second or so.
      ValueError: if an object is nested more than `_DEEPEST` times.
    """
    stack, taken = self._stack, []
    to_mark, below, puts = _EFFECTS[name]
    if to_mark:
      while stack and (item := stack.pop()) is not _MARK:
        taken.append(item)
    if below:
      taken += stack[: -below - 1 : -1]
      del stack[-below:]
    made = (max(taken)[0], 1) if taken else _PLAIN
    if name in _FILLING and taken:  # the container is below what it gets
      *items, (depth, hashed) = taken
      if items:
        made = max(depth, 1 + max(items)[0]), hashed
      if name == "ADDITEMS":
        self._hash(items)
      elif name.startswith("SETITEM"):
        self._hash(items[1::2])  # each key is below its value
    elif name in _MADE:
      hashed = 1
      if name in _TUPLES:
        hashed += sum(item[1] for item in taken)
      elif name == "FROZENSET":
        self._hash(taken)
      made = made[0] + 1, hashed
    elif name == "MARK":
      made = _MARK
    elif name.endswith("GET"):
      made = self._memo.get(argument, _PLAIN)
    elif name.endswith("PUT") and stack:
      self._memo[argument] = stack[-1]
    elif name in ("MEMOIZE", "DUP") and taken:
      made = taken[0]
      if name == "MEMOIZE":
        self._memo[len(self._memo)] = made
    if made[0] > _DEEPEST:
      raise ValueError(f"objects are nested more than {_DEEPEST} times")
    if puts:
      stack += [made] * puts

  def _hash(self, keys: list[tuple[int, int]]) -> None:
    for _, hashed in keys:
      self._hashed += hashed - 1
    if self._hashed > _HASHED:
      raise TooCostly("refused: its keys are tuples of tuples without end")
