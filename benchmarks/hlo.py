"""Reads a compiled program's text: what each of its kernels costs.

Bytes are counted as XLA's own cost model does: a kernel reads its operands and
writes its results, each once; of an operand that a fusion only slices or
gathers from it reads what it uses, and an update in place touches what it
updates.  Nothing is said of caches or of how well a kernel does its work, so
bytes over bandwidth and operations over peak are lower bounds.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from benchmarks.hlo_text import Instruction, instruction_of

# Operations on vectors; each element counts one, whatever it is.
_ARITHMETIC = re.compile(
  "abs|add|and|atan2|cbrt|ceil|clamp|compare|convert|cosine|divide|erf|"
  "exponential.*|floor|log.*|maximum|minimum|multiply|negate|not|or|popcnt|"
  "power|remainder|round.*|r?sqrt|select|shift.*|sign|sine|subtract|tanh?|xor"
)
# What names memory instead of touching it, and ends of what began before.
_FREE = re.compile(
  "add-dependency|after-all|bitcast|constant|get-tuple-element|opt-barrier|"
  "parameter|partition-id|replica-id|tuple|.*-done|.*-update"
)
_COLLECTIVE = re.compile("all-|reduce-scatter|collective-|ragged-all")
# What runs another computation, and where it is named.
_CALLING = {
  "while": ("body",),
  "call": ("to_apply",),
  "async-start": ("calls",),
  "conditional": (
    "branch_computations",
    "true_computation",
    "false_computation",
  ),
}
# A cloud's points are held against each chosen one: three differences, three
# squares and two sums, a minimum, a maximum and the index that attains it.
_SAMPLING = 11


@dataclasses.dataclass(frozen=True)
class Kernel:
  """One launch, and how often the program makes it.

  Attributes:
    instruction: The instruction.
    scope: Its op_name, or that of its root, its users or what surrounds it.
    times: How often it runs: trip counts of the loops around it.
    bytes: What one launch reads and writes.
    operations: What one launch computes: products of matrices under their
      type ("bf16", "f32", and "tf32" for those of float32 that may be
      rounded), all else under "vector".
    operands: What it takes.
  """

  instruction: Instruction
  scope: str
  times: int
  bytes: float
  operations: collections.Counter[str]
  operands: list[Instruction]

  @property
  def collective(self) -> str:
    """Which collective it is, as "all-reduce", or ""."""
    name = self.instruction.opcode.removesuffix("-start")
    return name if _COLLECTIVE.match(name) else ""

  def sent(self) -> dict[str, float]:
    """Bytes of a collective by type: of an all-gather the result's."""
    arrays = [a for x in self.operands for a in x.results]
    if self.collective == "all-gather":  # started, it names operands, too
      arrays = list(self.instruction.results[-len(arrays) :])
    total: dict[str, float] = collections.Counter()
    for array in arrays:
      total[array.dtype] += array.bytes
    return total


class Program:
  """A compiled program.

  Args:
    text: What `jax.stages.Compiled.as_text` returns.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.roots: dict[str, str] = {}
    self.entry = ""
    self._users: dict[str, dict[str, list[Instruction]]] = {}
    name = ""
    for line in text.splitlines():
      if start := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
        name = start[2]
        self.computations[name] = {}
        self._users[name] = collections.defaultdict(list)
        self.entry = name if start[1] else self.entry
      elif name and (instruction := instruction_of(line)):
        self.computations[name][instruction.name] = instruction
        for operand in instruction.operands:
          self._users[name][operand].append(instruction)
        if line.lstrip().startswith("ROOT"):
          self.roots[name] = instruction.name

  def kernels(self) -> list[Kernel]:
    """All launches of a run on one device; a branch taken is the largest."""
    return list(self._kernels(self.entry, 1, ""))

  def _kernels(self, name: str, times: int, around: str) -> Iterator[Kernel]:
    for x in self.computations[name].values():
      scope = self._scope(name, x) or around
      if keys := _CALLING.get(x.opcode):
        runs = times * self._trips(x) if x.opcode == "while" else times
        ways = [
          list(self._kernels(called, runs, scope))
          for key in keys
          for called in x.called(key)
        ]
        yield from max(ways, key=len)
      elif not _FREE.fullmatch(x.opcode):
        yield Kernel(
          x, scope, times, self._bytes(name, x), self._operations(name, x),
          self._operands(name, x),
        )  # fmt: skip

  def _trips(self, loop: Instruction) -> int:
    """What XLA knows, else the constant that the condition compares with."""
    if found := re.search(
      r'"known_trip_count": ?\{"n": ?"(\d+)"', loop.attributes
    ):
      return int(found[1])
    inside = list(self.computations[loop.called("condition")[0]].values())
    for called in [name for x in inside for name in x.called("calls")]:
      inside += self.computations[called].values()
    numbers = [x.literal for x in inside if x.opcode == "constant"]
    return max((int(n) for n in numbers if n.isdigit()), default=1)

  def _scope(self, name: str, x: Instruction) -> str:
    """Its own op_name, else its root's, else that of its first named user."""
    seen, front = {x.name}, [x]
    while front:
      for y in front:
        roots = [self.computations[z][self.roots[z]] for z in y.called("calls")]
        if scopes := [z.scope for z in (y, *roots) if z.scope]:
          return scopes[0]
      front = [
        user
        for y in front
        for user in self._users[name][y.name]
        if user.name not in seen
      ]
      seen |= {y.name for y in front}
    return ""

  def _operands(self, name: str, x: Instruction) -> list[Instruction]:
    inside = self.computations[name]
    return [inside[y] for y in x.operands if y in inside]

  def _bytes(self, name: str, x: Instruction) -> float:
    """What one launch moves."""
    operands = self._operands(name, x)
    if x.opcode == "fusion":
      read, written = self._fused(x.called("calls")[0])
      near = sum(r.size * r.itemsize for r in x.results if r.near)
      return max(written - near, 0) + sum(
        used * y.results[0].itemsize
        for y, used in zip(operands, read, strict=True)
        if not y.results[0].near
      )
    whole = sum(r.bytes for r in x.results)
    # The last result of cuBLAS and cuDNN is room to work in.
    if '"__cu' in x.attributes and x.results[-1].dtype in ("s8", "u8"):
      whole -= x.results[-1].bytes
    inputs = [sum(r.bytes for r in y.results) for y in operands]
    if x.opcode in ("slice", "dynamic-slice"):
      near = operands[0].results[0].near
      return whole + (0 if near else x.size * x.results[0].itemsize)
    if x.opcode == "gather":
      return 2 * whole + inputs[1]
    if x.opcode == "dynamic-update-slice":
      return 2 * inputs[1]
    if x.opcode == "scatter":
      return inputs[1] + 3 * inputs[2]
    if x.opcode == "copy-start":  # its results are the copy and the original
      return x.results[0].bytes + sum(inputs)
    if x.opcode.endswith("-start"):
      return 2 * sum(inputs)
    return whole + sum(inputs)

  def _fused(self, name: str) -> tuple[list[float], float]:
    """Elements that a fusion uses of each parameter, and bytes it writes.

    Goes from the root to the parameters with the number of elements that are
    asked of each instruction (XLA's GpuHloCostAnalysis does the same).
    """
    inside = self.computations[name]
    used: dict[str, float] = collections.Counter()
    root = inside[self.roots[name]]
    written = 0.0
    in_place = set()
    for x in self._operands(name, root) if root.opcode == "tuple" else [root]:
      used[x.name] = x.size
      result = x
      while result.opcode == "bitcast":
        result = inside[result.operands[0]]
      operands = self._operands(name, result)
      if result.opcode in ("dynamic-update-slice", "scatter"):
        in_place.add(result.name)
        # The update's place among the operands; a scatter reads, too.
        at = 1 if result.opcode == "dynamic-update-slice" else 2
        written += at * operands[at].size * result.results[0].itemsize
      else:
        written += sum(r.size * r.itemsize for r in x.results)
    parameters = {}
    for x in reversed(inside.values()):
      count = min(used[x.name], x.size)
      if x.opcode == "parameter":
        parameters[int(x.literal)] = count
      operands = self._operands(name, x)
      asked = [float(y.size) for y in operands]
      if x.opcode == "tuple":
        continue
      if x.opcode in ("slice", "dynamic-slice", "gather"):
        asked[0] = count
      elif x.opcode in ("dynamic-update-slice", "scatter"):
        asked[0] = 0 if x.name in in_place else count
      elif x.opcode == "fusion":
        asked = self._fused(x.called("calls")[0])[0]
      elif x.opcode in ("reduce", "concatenate", "reduce-window"):
        asked = [size * count / max(x.size, 1) for size in asked]
      elif x.opcode not in ("dot", "convolution", "sort", "get-tuple-element"):
        asked = [min(count, size) for size in asked]
      for y, wanted in zip(operands, asked, strict=True):
        used[y.name] += wanted
    return [parameters[i] for i in sorted(parameters)], written

  def _operations(self, name: str, x: Instruction) -> collections.Counter[str]:
    """Operations by kind, of a fusion those of all that it fuses."""
    total = collections.Counter()
    for called in x.called("calls"):
      for y in self.computations[called].values():
        total += self._operations(called, y)
    if x.opcode != "fusion":
      kind, n = _operations(x, self._operands(name, x))
      total[kind] += n
    return total


def _operations(x: Instruction, operands: list[Instruction]) -> tuple[str, int]:
  """Kind and number of the operations of an instruction that is no fusion."""
  if _ARITHMETIC.fullmatch(x.opcode):
    return "vector", x.size
  if x.opcode in ("reduce", "reduce-window", "map"):
    return "vector", max(operands[0].size, x.size)
  if x.opcode == "convolution":
    return _kind(x, operands[0]), _convolution(x, operands)
  if x.opcode == "dot" or "__cublas$" in x.attributes:
    lhs = operands[0].results[0].dims
    dims = x.numbers("lhs_contracting_dim(?:ension)?s")
    length = math.prod(lhs[i] for i in dims)
    return _kind(x, operands[0]), 2 * length * x.size
  if "__cudnn$fmha" in x.attributes:
    config = x.attributes[x.attributes.index('"intermediate_tensor_shape"') :]
    weights = dataclasses.replace(x, attributes=config).numbers("dimensions")
    width = operands[0].size // math.prod(weights[:3])
    # Backward recomputes q k' and makes dv, dp, dq and dk.
    products = 5 if "Backward" in x.attributes else 2
    operations = products * 2 * math.prod(weights) * width
    return operands[0].results[0].dtype, operations
  if "mosaic_gpu" in x.attributes and x.results[0].dtype == "s32":
    # The sampling kernel, of (B, 3, R, 256).
    return "vector", _SAMPLING * operands[0].size // 3 * x.results[0].dims[1]
  if "mosaic_gpu" in x.attributes:
    # The mini-PointNet's kernels, of rows (B, R, 16): each is multiplied with
    # the matrices and with what is summed, (B, parts, ...); what is computed
    # again counts once.
    batch, rows, _ = operands[0].results[0].dims
    matrices = [
      y.size
      for y in operands[1:]
      if len(y.results[0].dims) in (2, 3) and y.results[0].dims[-2] >= 16
    ]
    sums = [r.size // batch for r in x.results if r.dims[-1] <= 64]
    return "bf16", 2 * batch * rows * (sum(matrices) + sum(sums))
  return "vector", 0


def _kind(x: Instruction, lhs: Instruction) -> str:
  """Under which peak a product runs."""
  dtype = lhs.results[0].dtype
  precision = re.search(r'operand_precision"?[=:] ?[{\[]"?(\w+)', x.attributes)
  rounded = precision is None or precision[1].lower() == "default"
  return "tf32" if dtype == "f32" and rounded else dtype


def _convolution(x: Instruction, operands: list[Instruction]) -> int:
  """A TPU's products of matrices are convolutions, batches their windows."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes)
  assert labels, x.name
  shape, kernel, output = (
    dict(zip(names, array.results[0].dims, strict=True))
    for names, array in zip(labels.groups(), (*operands[:2], x), strict=True)
  )
  window = re.search(r"window=\{([^}]*)\}", x.attributes)
  fields = dict(re.findall(r"(\w+)=(\S+)", window[1] if window else ""))
  operations = 2 * kernel["i"] * output["b"] * output["f"]
  for i, axis in enumerate(sorted(name for name in kernel if name.isdigit())):
    stride, taps_apart, apart, low = (
      int(fields[key].split("x")[i].split("_")[0]) if key in fields else default
      for key, default in (
        ("stride", 1), ("rhs_dilate", 1), ("lhs_dilate", 1), ("pad", 0)
      )
    )  # fmt: skip
    at = np.arange(output[axis])[:, None] * stride - low
    at = at + np.arange(kernel[axis]) * taps_apart
    # Pairs of an output and a tap that meet an element, not padding.
    inside = (at >= 0) & (at <= (shape[axis] - 1) * apart) & (at % apart == 0)
    operations *= int(inside.sum())
  return operations
