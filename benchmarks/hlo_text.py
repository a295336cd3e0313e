"""Reads the lines of a compiled program's text (HLO)."""

import dataclasses
import math
import re
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0}  # the others say it: bf16, s4, f8e4m3fn


class Array(NamedTuple):
  """An array of device memory; `near` if it lies in a TPU's own VMEM."""

  dtype: str
  dims: tuple[int, ...]
  near: bool = False

  @property
  def size(self) -> int:
    return math.prod(self.dims)

  @property
  def itemsize(self) -> float:
    found = re.search(r"\d+", self.dtype)
    return _BITS.get(self.dtype, int(found[0]) if found else 0) / 8

  @property
  def bytes(self) -> float:
    return 0.0 if self.near else self.size * self.itemsize


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line: `name = results opcode(operands), attributes`."""

  name: str
  opcode: str
  results: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str
  literal: str  # what stands between the parentheses

  @property
  def size(self) -> int:
    return self.results[0].size if self.results else 0

  @property
  def scope(self) -> str:
    """The names of modules and scopes: XLA's op_name."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""

  def called(self, key: str) -> list[str]:
    """Names of the computations behind `key=`."""
    found = re.search(rf"\b{key}=(\{{[^}}]*\}}|[%\w.-]+)", self.attributes)
    return re.findall(r"[\w.-]+", found[1]) if found else []

  def numbers(self, key: str) -> list[int]:
    """A list as in `dimensions={0,2}`, or of backend_config's JSON."""
    found = re.search(rf'{key}"?[=:] ?[{{\[]([^}}\]]*)', self.attributes)
    return [int(x) for x in re.findall(r"\d+", found[1])] if found else []


def _arrays(text: str) -> tuple[Array, ...]:
  """The arrays of a shape as HLO writes it: `(bf16[2,3]{1,0:S(1)}, s32[])`."""
  return tuple(
    Array(
      kind, tuple(int(n) for n in re.findall(r"\d+", dims)), "S(1)" in layout
    )
    for kind, dims, layout in re.findall(
      r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?", text
    )
  )


def instruction_of(line: str) -> Instruction | None:
  """Reads a line; None if it is no instruction."""
  found = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(", line)
  if not found:
    return None
  end, depth = found.end(), 1
  while depth:
    depth += {"(": 1, ")": -1}.get(line[end], 0)
    end += 1
  literal = line[found.end() : end - 1]
  return Instruction(
    found[1],
    found[3],
    _arrays(found[2]),
    tuple(re.findall(r"%([\w.-]+)", literal)),
    line[end:],
    literal,
  )
