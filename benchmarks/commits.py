"""Times the training step of this tree beside that of another commit.

  python -m benchmarks.commits --commit v0.1.0 --size t

The other commit is checked out into a temporary folder.  A process in each tree
compiles the step of its own `benchmarks.training`; then both take turns, so that
what disturbs the machine disturbs both, and who goes first alternates.  Prints
the median ratio of the pairs (this tree / the commit) with an interval of its
order statistics that covers the true median with 95 % or more.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks import timing

# Runs in the folder of a tree; older ones have these names in `benchmarks.step`.
_CHILD = """
import importlib, importlib.util, json, sys, time
import jax
found = importlib.util.find_spec("benchmarks.training")
step = importlib.import_module(found.name if found else "benchmarks.step")
size, batch, points, embed_dim = sys.argv[1], *map(int, sys.argv[2:])
mesh = step.sharding.make_mesh(1)
training = step.make_training(
  size, mesh, points=points, embed_dim=embed_dim, fps_chunk=8, query_chunk=8,
)
clouds = jax.device_put(
  step.random_batch(batch, points, embed_dim),
  step.sharding.batch_sharding(mesh),
)
train = training.step.lower(training.abstract_state, clouds).compile()
state = training.init()
while True:
  start = time.perf_counter()
  state, metrics = train(state, clouds)
  loss = float(metrics["loss"])
  print(json.dumps([time.perf_counter() - start, loss]), flush=True)
  if not sys.stdin.readline():
    break
"""


def interval(ratios: Sequence[float]) -> tuple[float, float]:
  """An interval that covers the true median with a probability of 95 %.

  Between the k-th smallest and the k-th largest of n values lies the median
  unless fewer than k of them are below, or above, it: a binomial with p = 1/2.
  """
  n, tail, k = len(ratios), 0.0, 0
  while k < n // 2 and (tail := tail + math.comb(n, k) / 2**n) <= 0.025:
    k += 1
  if not k:
    return -math.inf, math.inf
  ordered = sorted(ratios)
  return ordered[k - 1], ordered[-k]


def measure(args: argparse.Namespace) -> dict[str, object]:
  """Runs both trees; the result is what is printed."""
  with tempfile.TemporaryDirectory() as folder:
    subprocess.run(
      ["git", "worktree", "add", "-q", "--detach", folder, args.commit],
      check=True,
    )
    try:
      return _turns(args, {"this": os.getcwd(), "commit": folder})
    finally:
      subprocess.run(["git", "worktree", "remove", "--force", folder])


def _turns(args: argparse.Namespace, trees: dict[str, str]):
  what = [args.size, *map(str, (args.batch, args.points, args.embed_dim))]
  children = {
    name: subprocess.Popen(
      [sys.executable, "-c", _CHILD, *what],
      cwd=tree,
      env=os.environ | {"PYTHONPATH": tree},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for name, tree in trees.items()
  }

  def step(name: str) -> tuple[float, float]:
    line = children[name].stdout.readline()  # pyright: ignore
    if not line:
      raise SystemExit(f"the step of {name!r} has failed")
    return tuple(json.loads(line))

  def go(name: str) -> tuple[float, float]:
    children[name].stdin.write("\n")  # pyright: ignore
    children[name].stdin.flush()  # pyright: ignore
    return step(name)

  try:
    losses = {name: step(name)[1] for name in trees}  # the first warms up
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    for i in range(args.rounds):
      for name in list(trees)[:: 1 if i % 2 else -1]:
        seconds[name].append(go(name)[0])
  finally:
    for child in children.values():
      child.kill()
      child.wait()
  pairs = zip(seconds["this"], seconds["commit"], strict=True)
  ratios = [a / b for a, b in pairs]
  low, high = interval(ratios)
  return vars(args) | {
    "machine": timing.machine(),
    "first_loss": losses,
    "this_ms": round(statistics.median(seconds["this"]) * 1e3, 1),
    "commit_ms": round(statistics.median(seconds["commit"]) * 1e3, 1),
    "ratio": round(statistics.median(ratios), 4),
    "interval": [round(low, 4), round(high, 4)],
  }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--commit", required=True)
  parser.add_argument("--size", default="t")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--rounds", type=int, default=15)
  return parser.parse_args(argv)


if __name__ == "__main__":
  print(json.dumps(measure(parse())))
