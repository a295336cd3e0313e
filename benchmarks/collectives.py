"""Counts the collectives of a compiled program."""

import math
import re
from typing import NamedTuple

import numpy as np

NAMES = (
  "all-gather",
  "reduce-scatter",
  "collective-permute",
  "all-reduce",
  "all-to-all",
)
_BYTES = {
  **dict.fromkeys(("pred", "s8", "u8"), 1),
  **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
  **dict.fromkeys(("f32", "s32", "u32"), 4),
  **dict.fromkeys(("f64", "s64", "u64"), 8),
}
_SHAPE = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")


class Moved(NamedTuple):
  """How often a collective runs, and the bytes of its larger side."""

  count: int
  bytes: int


def shape_bytes(shape: str) -> int:
  """Bytes of an array, or of a tuple of arrays, as HLO writes its shape."""
  return sum(
    _BYTES[kind] * int(np.prod([int(n) for n in dims.split(",") if n]))
    for kind, dims in _SHAPE.findall(shape)
  )


def group_size(line: str) -> int:
  """Devices of a collective's group, in the three ways in which XLA says it."""
  if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
    return len(found[1].split(","))
  if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
    return int(found[1])
  found = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
  assert found, line
  sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
  return math.prod(int(sizes[x]) for x in re.findall(r"'(\w+)'", found[2]))


def count(text: str) -> dict[str, Moved]:
  """The collectives of a run, on one device.

  Args:
    text: A compiled program.  A loop's body counts as often as it runs.

  Returns:
    For each of `NAMES`; the larger side is of an all-gather the result, of a
    reduce-scatter the operand, of the others either.
  """
  bodies: dict[str, list[str]] = {}
  entry, lines = "", []
  for line in text.splitlines():
    start = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
    if start:
      lines = bodies.setdefault(start[2], [])
      entry = start[2] if start[1] else entry
    else:
      lines.append(line)
  total = dict.fromkeys(NAMES, Moved(0, 0))

  def walk(name: str, times: int) -> None:
    for line in bodies[name]:
      found = re.search(r" = (.*?) ([a-z-]+)\(", line)
      if not found:
        continue
      operation = found[2].removesuffix("-start")
      if operation in total:
        size = shape_bytes(found[1])
        if operation == "reduce-scatter":
          size *= group_size(line)
        before = total[operation]
        total[operation] = Moved(
          before.count + times, before.bytes + times * size
        )
      runs = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
      for body in re.findall(r"(?:body|to_apply|calls)=%?([\w.-]+)", line):
        walk(body, times * (int(runs[1]) if runs else 1))

  walk(entry, 1)
  return total
