"""Times a process from its start to its first training steps.

  python -m benchmarks.startup --size m

A fresh process each time: without a compile cache, with an empty one, and with
the one that the process before has filled (`config.compile_cache`).  Says how
long XLA compiles (or reads from the cache), and how often it does after the first
step, which must be never.  Prints a table, and JSON with --json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from mrd_jax.config.pretraining import SIZES
from mrd_jax.metrics.table import render

STARTS = ("no cache", "empty cache", "filled cache")


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark."""
  rows = []
  # A cache of the user's would answer for those without one.
  environment = {
    name: value
    for name, value in os.environ.items()
    if name != "JAX_COMPILATION_CACHE_DIR"
  }
  with tempfile.TemporaryDirectory() as cache:
    for start in args.starts:
      command = [sys.executable, "-m", "benchmarks.startup", "--child"]
      for name in ("size", "batch", "points", "embed_dim", "dtype"):
        command += [f"--{name}", str(getattr(args, name))]
      if start != "no cache":
        command += ["--cache", cache]
      begun = time.time()
      found = subprocess.run(
        [*command, "--begun", str(begun)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
      )
      rows.append({"start": start} | json.loads(found.stdout.splitlines()[-1]))
  return vars(args) | {"rows": rows}


def child(args: argparse.Namespace) -> dict[str, Any]:
  """What one process takes."""
  import jax

  from benchmarks import timing
  from benchmarks.training import make_training, random_batch
  from mrd_jax.parallel import sharding
  from mrd_jax.training.profile import compile_cache

  compiled: list[float] = []

  def note(event: str, seconds: float, **_) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(note)
  with compile_cache(args.cache):
    imported = time.time()
    mesh = sharding.make_mesh(1)
    training = make_training(
      args.size,
      mesh,
      points=args.points,
      embed_dim=args.embed_dim,
      dtype=jax.numpy.dtype(args.dtype),
    )
    state = training.init()
    batch = jax.device_put(
      random_batch(args.batch, args.points, args.embed_dim),
      sharding.batch_sharding(mesh),
    )
    ready = time.time()
    before = len(compiled)
    ends, counts = [], []
    for _ in range(4):
      state, metrics = training.step(state, batch)
      jax.block_until_ready(metrics)
      ends.append(time.time())
      counts.append(len(compiled))
  return {
    "machine": timing.machine(),
    "imports": imported - args.begun,
    "state": ready - imported,
    "compiling the state": sum(compiled[:before]),
    "first step": ends[0] - ready,
    "compiling the step": sum(compiled[before : counts[0]]),
    "to the first step": ends[0] - args.begun,
    "a step after it": min(b - a for a, b in zip(ends, ends[1:], strict=False)),
    "compiled after it": counts[-1] - counts[0],
  }


def table(result: dict[str, Any]) -> str:
  """The result in Markdown."""
  names = [
    name for name in result["rows"][0] if name not in ("start", "machine")
  ]
  return render(
    ["size", "start", *(f"{name}, s" for name in names[:-1]), names[-1]],
    [
      [result["size"].upper(), row["start"]]
      + [f"{row[name]:.2f}" for name in names[:-1]]
      + [str(row[names[-1]])]
      for row in result["rows"]
    ],
  )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.startup",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--size", choices=SIZES, default="m")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument(
    "--starts",
    type=lambda text: [start for start in text.split(",") if start],
    default=list(STARTS),
    help=f"some of {','.join(STARTS)}, in this order",
  )
  parser.add_argument("--json", action="store_true")
  # Of the processes that it starts.
  parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
  parser.add_argument("--begun", type=float, help=argparse.SUPPRESS)
  parser.add_argument("--cache", default="", help=argparse.SUPPRESS)
  return parser.parse_args(argv)


if __name__ == "__main__":
  args = parse()
  if args.child:
    print(json.dumps(child(args)))
  else:
    result = measure(args)
    print(json.dumps(result) if args.json else table(result))
