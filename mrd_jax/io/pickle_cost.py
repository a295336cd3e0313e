"""Estimates, from its opcodes alone, how much memory a pickle would take."""

import io
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from mrd_jax.io.archives import SPARE, TooCostly, check_expanded

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
_FILLING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}
_DEEPEST, _MARK = 500, -1
# Of the old form: a magic number, a version, the machine, the content, names.
_OLD = 5


def check_cost(stream: BinaryIO, size: int) -> None:
  """Reads the opcodes of one pickle, to its end.

  One byte can be an object of 200, and one flipped bit an index of 64 GB.

  Args:
    stream: The pickle begins where it stands.
    size: Bytes of the whole file.

  Raises:
    TooCostly: if it would take more than three times its size and 300 MB.
    ValueError: if it is no pickle, or not a whole one.
  """
  cost, depths = size, _Depths()
  for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
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


class _Depths:
  """Follows the stack of an unpickler: how deep each object on it is nested.

  Python's hash of a tuple in a tuple, and so on a million times, ends the
  process: it runs out of the machine's stack.
  """

  def __init__(self):
    self._stack: list[int] = []
    self._memo: dict[Any, int] = {}

  def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
    """Does to the stack what the opcode does.

    Raises:
      ValueError: if an object is nested more than `_DEEPEST` times.
    """
    stack, name, taken = self._stack, opcode.name, []
    below = opcode.stack_before
    if pickletools.markobject in below:
      while stack and (depth := stack.pop()) != _MARK:
        taken.append(depth)
      below = below[: below.index(pickletools.markobject)]
    taken += [stack.pop() for _ in range(min(len(below), len(stack)))]
    deepest = max(taken, default=0)
    if name in _MADE:
      deepest += 1
    elif name in _FILLING and taken:  # the container is below what it gets
      deepest = max(taken[-1], 1 + max(taken[:-1], default=0))
    elif name.endswith("GET"):
      deepest = self._memo.get(argument, 0)
    elif name == "MEMOIZE":
      self._memo[len(self._memo)] = deepest
    elif name.endswith("PUT") and stack:
      self._memo[argument] = stack[-1]
    if deepest > _DEEPEST:
      raise ValueError(f"objects are nested more than {_DEEPEST} times")
    mark = opcode.stack_after == [pickletools.markobject]
    stack += [_MARK if mark else deepest] * len(opcode.stack_after)


def check_torch_file(path: Path) -> None:
  """Checks the pickles in a .pt file, of PyTorch's new or old form.

  Raises:
    TooCostly: as `check_cost`, or if it is compressed.
    Exception: of other kinds, if it is damaged.
  """
  size = path.stat().st_size
  with path.open("rb") as file:
    if not zipfile.is_zipfile(file):
      file.seek(0)
      try:
        for _ in range(_OLD):
          check_cost(file, size)
      except TooCostly:
        raise
      except ValueError:
        pass  # PyTorch, which stops there too, says what is wrong
      return
    with zipfile.ZipFile(file) as archive:
      check_expanded(archive, size)
      for member in archive.infolist():
        if member.filename.endswith(".pkl"):
          check_cost(io.BytesIO(archive.read(member)), size)
