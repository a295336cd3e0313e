"""What all benchmarks share: interleaved rounds, the machine and its limits."""

import argparse
import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def interleaved(
  forms: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
  """Seconds of each form in each round; all forms take turns.

  What disturbs the machine for a while then disturbs all of them.

  Args:
    forms: Each does the work once, and returns when it is done.
    rounds: How often, besides a first time that compiles and warms up.
  """
  seconds: dict[str, list[float]] = {name: [] for name in forms}
  for i in range(rounds + 1):
    for name, form in forms.items():
      start = time.perf_counter()
      form()
      if i:
        seconds[name].append(time.perf_counter() - start)
  return seconds


def seconds(
  forms: Mapping[str, Callable[[], Any]],
  *,
  rounds: int,
  calls: int,
  wait: Callable[[Any], Any] = jax.block_until_ready,
) -> dict[str, list[float]]:
  """Times forms in turns, or each in one piece.

  Args:
    forms: Each starts the work, and returns what `wait` waits for.
    rounds: As of `interleaved`.
    calls: 0, or how many calls are waited for together, after one that warms
      up: what feeds an accelerator is ahead of it in training, and waiting
      for each call would count it.
    wait: Returns when the work behind its argument, and before it, is done.
  """
  if not calls:
    return interleaved(
      {name: lambda form=form: wait(form()) for name, form in forms.items()},
      rounds,
    )
  found = {}
  for name, form in forms.items():
    wait(form())
    start = time.perf_counter()
    for _ in range(calls - 1):
      form()
    wait(form())
    found[name] = [(time.perf_counter() - start) / calls]
  return found


def add_flags(parser: argparse.ArgumentParser, rounds: int = 5) -> None:
  """Adds what says how a benchmark is timed."""
  parser.add_argument("--rounds", type=int, default=rounds)
  parser.add_argument(
    "--calls",
    type=int,
    default=0,
    help="time each form alone, so many calls without waiting between them",
  )
  parser.add_argument(
    "--compile_only",
    action="store_true",
    help="fill the compile cache, and time nothing",
  )


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
  return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
  """How many times faster, the median over the pairs of a round."""
  pairs = zip(seconds[slow], seconds[fast], strict=True)
  return statistics.median(a / b for a, b in pairs)


def machine() -> dict[str, Any]:
  """What every result says about where it was measured."""
  versions = {}
  for name in ("jax", "jaxlib", "flax", "torch"):
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return {
    "date": datetime.date.today().isoformat(),
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "cores": len(os.sched_getaffinity(0)),
    "python": platform.python_version(),
    **versions,
  }


def matrix_peak(dtype: str, side: int, rounds: int) -> float:
  """FLOP/s of the fastest of a few products of square matrices."""
  a = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
  precision = "highest" if dtype == "float32" else "default"
  product = jax.jit(lambda x, y: jnp.matmul(x, y, precision=precision))

  def chain() -> None:
    b = a
    for _ in range(8):
      b = product(a, b)
    jax.block_until_ready(b)

  seconds = interleaved({"products": chain}, rounds)["products"]
  return 8 * 2 * side**3 / min(seconds)


def copy_bandwidth(megabytes: int, rounds: int) -> float:
  """Bytes per second, read and written, of the fastest copy of an array."""
  count = megabytes * 2**20 // 4
  x = jnp.zeros(count, jnp.float32)
  add = jax.jit(lambda x: x + 1)  # a copy alone would be optimised away
  seconds = interleaved(
    {"copy": lambda: jax.block_until_ready(add(x))}, rounds
  )["copy"]
  return 2 * 4 * count / min(seconds)
