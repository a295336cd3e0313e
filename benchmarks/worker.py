"""Runs measurements for `benchmarks.on_gpu`, one after the other.

It reads a JSON object a line: {"name", "module", "options"}, or {"compile":
[such objects]}, and answers each with rows, a JSON object a line, then with {}.
What libraries print goes to stderr.
"""

import dataclasses
import gc
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from mrd_jax.config.pretraining import SIZES

THREADS = 4  # that compile at once: tracing is Python, compiling is not


def reason(error: BaseException) -> str:
  """Puts an error into one line that is not too long."""
  return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def measured(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
  """The row of a work, or of its failure."""
  start = time.perf_counter()
  try:
    found = work()
  except (Exception, SystemExit) as error:
    traceback.print_exc()
    found = {"failed": reason(error)}
  gc.collect()  # what it had on the card
  return {"row": name, **found, "took_s": round(time.perf_counter() - start, 1)}


def run(module: str, options: list[str]) -> dict[str, Any]:
  """Runs one benchmark in this process."""
  if module == "pytest":
    return run_tests(options)
  if module == "check":
    return check_device()
  benchmark = importlib.import_module(module)
  args = benchmark.parse(options)
  given = {"machine", *vars(args)}
  result = {k: v for k, v in benchmark.measure(args).items() if k not in given}
  return result | {"options": " ".join(options)}


def run_tests(options: list[str]) -> dict[str, Any]:
  ended = subprocess.run(
    [sys.executable, "-m", "pytest", *options],
    stdout=subprocess.PIPE,
    text=True,
  )
  sys.stderr.write(ended.stdout)
  lines = ended.stdout.splitlines() or ["nothing was said"]
  if ended.returncode:
    bad = [x for x in lines[:-1] if x.startswith(("FAILED", "ERROR"))]
    raise RuntimeError("; ".join([lines[-1], *bad]))
  return {"said": lines[-1]}


def compile_all(jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """Fills the compile cache with the programs of benchmarks that can.

  Those of a rehearsal are the same: one after the other, one is compiled.
  """

  def work(job: dict[str, Any]) -> dict[str, Any]:
    return run(job["module"], [*job["options"], "--compile_only"])

  with ThreadPoolExecutor(1 if "tiny" in SIZES else THREADS) as pool:
    rows = [
      pool.submit(measured, f"compile {job['name']}", lambda job=job: work(job))
      for job in jobs
    ]
    for row in as_completed(rows):
      yield row.result()


def check_device() -> dict[str, Any]:
  """What the machine is; fails where JAX finds another than was named."""
  from benchmarks import timing
  from mrd_jax.parallel.processes import check_platform

  check_platform()
  return timing.machine()


def answer(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
  if "compile" in job:
    yield from compile_all(job["compile"])
  else:
    yield measured(job["name"], lambda: run(job["module"], job["options"]))
  yield {}


def main() -> None:
  if "--rehearse" in sys.argv:
    SIZES["tiny"] = dataclasses.replace(
      SIZES["t"], depth=1, groups=8, group_size=16
    )
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  for line in sys.stdin:
    for row in answer(json.loads(line)):
      print(json.dumps(row), file=answers, flush=True)


if __name__ == "__main__":
  main()
