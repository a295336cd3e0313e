"""Compiles the training step for accelerators that are not at hand.

  pip install -e .[aot]
  python -m benchmarks.compiled --sizes t,m --targets h100,h200

The real step (input stage, tokenizer, encoder, losses, gradients, AdamW) goes
through the compiler of the accelerator, which needs none of them, and nothing
is run.  What the compiled program says of itself is printed as tables: memory,
launches, bytes, operations and collectives, by stage, forward and backward
together.  The time is a roofline, never a measurement: a stage takes its bytes
at the bandwidth or its operations at the peak, whichever is longer, and 2 us a
launch.  Beside it stands the sum of every kernel's own.  `docs/benchmarks.md`
says how to read the tables.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import floors, hlo, targets
from benchmarks.training import abstract_batch, training_of_flags
from mrd_jax import cli
from mrd_jax.config.pretraining import SIZES, ModelConfig
from mrd_jax.io.files import write_json
from mrd_jax.metrics.table import render
from mrd_jax.parallel import sharding

GIB, MIB = 2**30, 2**20

# The part of a step in which an operation was written down: the first of these
# names in its scope.
STAGES = {
  "input": "input",
  "tokenizer": "tokenizer",
  "losses": "losses",
  "optimizer": "optimizer",
  "point_net|MiniPointNet": "mini-PointNet",
  "attention": "attention",
  r"block_\d+": "rest of the blocks",
  "PointBERT": "lift and projection",
}
OTHER = "other"


@dataclasses.dataclass(frozen=True)
class Bar:
  """What `--check` asks of a size at 512 clouds of 10,000 points."""

  size: str
  target: str
  devices: int = 1
  peak_gib: float = float("inf")
  ms: float = float("inf")


BARS = (
  Bar("m", "h100", peak_gib=56, ms=165),
  Bar("m", "h200", ms=135),
  Bar("t", "h200", ms=17),
  Bar("t", "h100", devices=8),  # gradients are summed in float32
)


def compile_step(
  size: str, name: str, args: argparse.Namespace
) -> tuple[jax.stages.Compiled, sharding.Mesh]:
  """The step's executable for a target, and the mesh it is laid out over."""
  target = targets.TARGETS[name]
  mesh = sharding.make_mesh(args.fsdp, targets.topology(name, args.devices))
  sharding.check_batch_size("--batch", args.batch, mesh, parts=args.accumulate)
  with targets.standing_in(target):
    training = training_of_flags(size, mesh, args)
    batch = abstract_batch(args.batch, args.points, args.embed_dim)
    lowered = training.step.lower(training.abstract_state, batch)
    return lowered.compile(
      compiler_options=targets.compiler_options(target)
    ), mesh


def stage(scope: str) -> str:
  """The stage of an instruction, by the names of its scope."""
  words = re.findall(r"\w+", scope)
  for pattern, name in STAGES.items():
    if any(re.fullmatch(pattern, word) for word in words):
      return name
  return OTHER


def account(program: hlo.Program, target: targets.Target) -> dict[str, Any]:
  """What a compiled step does, by stage, and what it sends.

  Args:
    program: The compiled program.
    target: What it is for.

  Returns:
    "remat" (instructions that XLA repeats to save memory), "stages" and
    "collectives", both lists of rows.
  """
  stages: dict[str, Any] = {
    name: {
      "stage": name, "launches": 0, "bytes": 0.0, "kernels_s": 0.0,
      "operations": collections.Counter(),
    }
    for name in (*STAGES.values(), OTHER)
  }  # fmt: skip
  sent: dict[tuple[str, str], list[float]] = {}

  def seconds(moved: float, operations: dict[str, float], launches: int):
    computing = sum(n / target.peaks[kind] for kind, n in operations.items())
    parts = {"bytes": moved / target.bandwidth, "operations": computing}
    bound = max(parts, key=lambda part: parts[part])
    waiting = launches * target.launch
    if waiting > parts[bound]:
      return parts[bound] + waiting, "launches"
    return parts[bound] + waiting, bound

  for kernel in program.kernels():
    row = stages[stage(kernel.scope)]
    row["launches"] += kernel.times
    row["bytes"] += kernel.times * kernel.bytes
    for kind, n in kernel.operations.items():
      row["operations"][kind] += kernel.times * n
    one, _ = seconds(kernel.bytes, kernel.operations, 1)
    row["kernels_s"] += kernel.times * one
    if kernel.collective:
      for dtype, moved in kernel.sent().items():
        found = sent.setdefault((kernel.collective, dtype), [0, 0.0])
        found[0] += kernel.times
        found[1] += kernel.times * moved
  for row in stages.values():
    row["roofline_s"], row["bound"] = seconds(
      row["bytes"], row["operations"], row["launches"]
    )
  return {
    "remat": sum(
      ".remat" in name
      for inside in program.computations.values()
      for name in inside
    ),
    "stages": [row for row in stages.values() if row["launches"]],
    "collectives": [
      {"collective": name, "type": dtype, "count": n, "MiB": moved / MIB}
      for (name, dtype), (n, moved) in sent.items()
    ],
  }


def measure(size: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
  """A row of the summary, with `account`; all figures are of one device."""
  start = time.perf_counter()
  compiled, mesh = compile_step(size, name, args)
  text = compiled.as_text()
  memory = compiled.memory_analysis()
  if args.hlo:
    path = Path(args.hlo, f"{size}-{args.batch}-{name}-{mesh.size}.hlo")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  target, architecture = targets.TARGETS[name], SIZES[size]
  if args.groups:
    architecture = dataclasses.replace(architecture, groups=args.groups)
  peak = (
    memory.argument_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
  )
  found = account(hlo.Program(text), target)
  dtype = {"bfloat16": "bf16", "float32": "f32"}[args.dtype]
  clouds = args.batch / mesh.size
  seconds = sum(row["roofline_s"] for row in found["stages"])
  return found | {
    "size": size,
    "target": name,
    "devices": mesh.size,
    "compiled_s": time.perf_counter() - start,
    "arguments_gib": memory.argument_size_in_bytes / GIB,
    "temporaries_gib": memory.temp_size_in_bytes / GIB,
    "peak_gib": peak / GIB,
    "pools_gib": [share * target.memory / GIB for share in target.shares],
    "roofline_ms": seconds * 1e3,
    "kernels_ms": 1e3 * sum(row["kernels_s"] for row in found["stages"]),
    "shapes_per_second": args.batch / seconds,
    "floor_matrices_ms": 1e3
    * clouds
    * floors.step_flops(architecture, args.embed_dim)
    / target.peaks[dtype],
    "floor_point_net_ms": 1e3
    * clouds
    * floors.point_net_bytes(architecture, jnp.dtype(args.dtype).itemsize)
    / target.bandwidth,
  }


def tables(rows: Sequence[dict[str, Any]]) -> str:
  """The summary, the stages of each row, and the collectives, in Markdown."""
  settings = ("size", "target", "devices")

  def cells(row: dict[str, Any]) -> list[str]:
    return [str(row[name]) for name in settings]

  def fits(row: dict[str, Any]) -> str:
    return " / ".join(
      f"{pool:.1f} {'yes' if row['peak_gib'] <= pool else 'no'}"
      for pool in row["pools_gib"]
    )

  text = [
    render(
      [*settings, "arguments GiB", "temporaries GiB", "peak GiB"]
      + ["fits pools of", ".remat", "launches", "GB", "roofline, ms"]
      + ["kernel by kernel, ms", "floor, ms", "shapes/s at most"],
      [
        [
          *cells(row),
          f"{row['arguments_gib']:.2f}",
          f"{row['temporaries_gib']:.2f}",
          f"{row['peak_gib']:.2f}",
          fits(row),
          str(row["remat"]),
          str(sum(part["launches"] for part in row["stages"])),
          f"{sum(part['bytes'] for part in row['stages']) / 1e9:.0f}",
          f"{row['roofline_ms']:.1f}",
          f"{row['kernels_ms']:.1f}",
          f"{row['floor_matrices_ms']:.1f} + {row['floor_point_net_ms']:.1f}",
          f"{row['shapes_per_second']:,.0f}",
        ]
        for row in rows
      ],
    ),
    render(
      [*settings, "stage", "launches", "GB", "products, TFLOP"]
      + ["other operations, T", "roofline, ms", "bound by"]
      + ["kernel by kernel, ms"],
      [
        [
          *cells(row),
          part["stage"],
          str(part["launches"]),
          f"{part['bytes'] / 1e9:.2f}",
          f"{products(part) / 1e12:.3f}",
          f"{part['operations']['vector'] / 1e12:.3f}",
          f"{part['roofline_s'] * 1e3:.2f}",
          part["bound"],
          f"{part['kernels_s'] * 1e3:.2f}",
        ]
        for row in rows
        for part in row["stages"]
      ],
    ),
  ]
  sent = [(row, x) for row in rows for x in row["collectives"]]
  if sent:
    text.append(
      render(
        [*settings, "collective", "type", "count", "MiB"],
        [
          [*cells(row), x["collective"], x["type"], str(x["count"])]
          + [f"{x['MiB']:.1f}"]
          for row, x in sent
        ],
      )
    )
  return "\n\n".join(text)


def products(part: dict[str, Any]) -> float:
  return sum(n for kind, n in part["operations"].items() if kind != "vector")


def misses(bar: Bar, row: dict[str, Any]) -> list[str]:
  """What keeps a row from its bar, a sentence each."""
  where = f"{bar.size} on {bar.devices} x {bar.target}"
  found = []
  if row["peak_gib"] > bar.peak_gib:
    found.append(f"{where}: {row['peak_gib']:.1f} GiB, at most {bar.peak_gib}")
  if bar.peak_gib < float("inf") and row["remat"]:
    found.append(f"{where}: XLA repeats {row['remat']} instructions, at most 0")
  if row["roofline_ms"] > bar.ms:
    found.append(f"{where}: {row['roofline_ms']:.1f} ms, at most {bar.ms}")
  for x in row["collectives"]:
    summing = x["collective"] in ("all-reduce", "reduce-scatter")
    if summing and x["type"] == "bf16":
      what = f"{x['count']} {x['collective']} of bf16"
      found.append(f"{where}: {what}, {x['MiB']:.1f} MiB, at most 0")
  return found


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  model = ModelConfig()
  split = lambda text: text.split(",")  # noqa: E731
  parser.add_argument("--sizes", type=split, help="M; with --check all")
  parser.add_argument("--targets", type=split, default=["h100"])
  parser.add_argument("--devices", type=int, default=1)
  parser.add_argument("--fsdp", type=int, default=1)
  parser.add_argument("--batch", type=int, default=512)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument(
    "--dtype", choices=("bfloat16", "float32"), default="bfloat16"
  )
  parser.add_argument("--groups", type=int, default=0)
  parser.add_argument("--accumulate", type=int, default=1)
  parser.add_argument("--remat", default=model.remat)
  parser.add_argument("--attention", default=model.attention)
  parser.add_argument("--point_net", default=model.point_net)
  parser.add_argument("--sampling", default=model.sampling)
  parser.add_argument("--fps_chunk", type=int, default=4096)
  parser.add_argument("--query_chunk", type=int, default=model.query_chunk)
  parser.add_argument("--json", default="", help="write the rows here, too")
  parser.add_argument("--hlo", default="", help="keep the programs in here")
  parser.add_argument(
    "--check",
    action="store_true",
    help="compile what has a bar instead; 1 if one is missed",
  )
  args = parser.parse_args(argv)
  args.sizes = args.sizes or (list(SIZES) if args.check else ["m"])
  for flag, known in (("sizes", SIZES), ("targets", targets.TARGETS)):
    for name in getattr(args, flag):
      if name not in known:
        parser.error(f"--{flag}: {name} is none of {', '.join(known)}")
  return args


def main(args: argparse.Namespace) -> int:
  runs = [
    (size, name, args)
    for size, name in itertools.product(args.sizes, args.targets)
  ]
  bars = [bar for bar in BARS if args.check and bar.size in args.sizes]
  if args.check:
    runs = [
      (
        bar.size,
        bar.target,
        argparse.Namespace(**vars(args) | {"devices": bar.devices}),
      )
      for bar in bars
    ]
  rows = []
  for run in runs:
    rows.append(measure(*run))
    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
  print(tables(rows))
  if args.json:
    write_json(
      Path(args.json), {"jax": jax.__version__} | vars(args) | {"rows": rows}
    )
  if not args.check:
    return 0
  missed = [
    x for bar, row in zip(bars, rows, strict=True) for x in misses(bar, row)
  ]
  print("\n" + "\n".join(missed or ["All bars are met."]))
  return int(bool(missed))


if __name__ == "__main__":
  arguments = parse()
  jax.config.update("jax_platforms", "cpu")
  sys.exit(cli.exit_code(lambda: main(arguments)))
