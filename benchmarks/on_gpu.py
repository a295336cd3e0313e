"""Measures on a GPU what only a GPU can say, within eight minutes.

  benchmarks/on_gpu.sh FOLDER

First every program of the encoder is compiled into a cache in FOLDER, and what
`make test-gpu` runs; then steps of all sizes, sampling, attention, peers, losses,
start-up, the weightiest first.  Each row is a line of JSON, printed and added to
FOLDER/rows.jsonl as it comes, with the card's clocks, power and temperature in
the meantime (all samples: FOLDER/gpu.csv).  A form that fails, hangs or takes its
process down is a row that says why, and the others go on; FOLDER/errors.txt has
the rest.  JAX and PyTorch are never in one process: JAX takes most of the card.
The last line names what failed, and the exit code is then 1.

Repeat it with the same FOLDER and nothing is compiled again.  GPU_SECONDS is the
time it has (470).  With --rehearse it does all that in miniature on a CPU.
"""

import argparse
import contextlib
import json
import math
import os
import queue
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# What a process of each place computes on: PyTorch is beside JAX on the CPU.
PLATFORMS = {
  "jax": "cuda",
  "torch": "cpu",
  "tests": "cuda,cpu",
  "starts": "cuda",
}
SAMPLES = {
  "clocks.sm": "sm_mhz",
  "clocks.mem": "memory_mhz",
  "power.draw": "watts",
  "temperature.gpu": "celsius",
  "memory.used": "mib",
}
# What takes --compile_only: the other programs are small.
COMPILED = ("benchmarks.step", "benchmarks.encoder", "benchmarks.tokenizer")
# What makes a rehearsal of a measurement; "tiny" is a size of the worker's.
_TINY = "--size=tiny --batch=2 --points=300 --embed_dim=32 --dtype=float32"
TINY = {
  "benchmarks.step": f"{_TINY} --calls=2 --attention=auto --remat=none"
  " --peak_side=64 --copy_megabytes=4",
  "benchmarks.encoder": f"{_TINY} --calls=2 --peak_side=64 --threads=1"
  " --torch-device=cpu",
  "benchmarks.tokenizer": "--size=tiny --batch=2 --points=300 --calls=2"
  " --torch-device=cpu",
  "benchmarks.losses": "--timed=16 --dim=8 --rounds=1",
  "benchmarks.ranking": "--batch=8 --anchors=8 --rounds=1",
  "benchmarks.startup": "--starts=",  # none: its processes know no tiny size
  "pytest": "--collect-only tests/models/test_attention.py",
}


class Job(NamedTuple):
  """A measurement.

  Attributes:
    name: Of its row.
    place: A key of `PLATFORMS`: neighbours in one place share a process.
    seconds: It may take so long.
    module: What measures, see `worker.run`.
    options: The module's flags.
  """

  name: str
  place: str
  seconds: float
  module: str
  options: list[str]


def all_jobs(folder: Path) -> list[Job]:
  """Everything that is measured, in this order."""
  half = "--dtype bfloat16 --fps_chunk 4096 --query_chunk 512 --calls 20"
  floors = "--peak_side 8192 --copy_megabytes 4096"
  jobs = []

  def add(name: str, place: str, seconds: float, command: str) -> None:
    module, *options = shlex.split(command)
    jobs.append(Job(name, place, seconds, module, options))

  def step(name: str, seconds: float, options: str) -> None:
    command = f"benchmarks.step {half} {floors} --batch 512 {options}"
    add(f"step {name}", "jax", seconds, command)

  def encoder(work: str, size: str, form: str, batch: int) -> None:
    """Peers are compared with our first result, which ours leaves in a file."""
    add(
      f"{work} {size} {form} at {batch}",
      "jax" if form == "mrd_jax" else "torch",
      60 if form == "mrd_jax" else 45,
      f"benchmarks.encoder {half} --peak_side 8192 --torch-device cuda"
      f" --work {work} --size {size} --forms {form} --batch {batch}"
      f" --reference {folder.resolve()}/{work}-{size}-{batch}.npy",
    )

  def tokenizer(name: str, place: str, options: str) -> None:
    chunks = "--fps_chunk 4096 --query_chunk 512 --calls 20 --account 0"
    add(name, place, 60, f"benchmarks.tokenizer --size m {chunks} {options}")

  add("tests", "tests", 110, "pytest -m gpu -rfE")
  step("m cudnn", 120, "--size m --attention cudnn")
  step("m xla", 120, "--size m --attention xla")
  step("t cudnn", 60, "--size t --attention cudnn")
  step("t, no kernels", 60, "--size t --point_net xla")
  tokenizer("sampling kernel", "jax", "--batch 512 --forms mrd_jax,kernel")
  encoder("train", "m", "mrd_jax", 64)
  encoder("infer", "m", "mrd_jax", 64)
  encoder("train", "t", "mrd_jax", 64)
  step(
    "l cudnn, blocks again", 150, "--size l --attention cudnn --remat blocks"
  )
  step("b cudnn", 90, "--size b --attention cudnn")
  step("s cudnn", 90, "--size s --attention cudnn")
  encoder("infer", "m", "mrd_jax", 512)
  for size in "mt":
    for form in ("tuned", "eager", "compile"):
      encoder("train", size, form, 64)
  for form in ("tuned", "eager"):
    encoder("infer", "m", form, 64)
  # At 512 clouds its indices alone would take 16 GB, and their sort more.
  query = '--batch 64 --torch-device cuda --forms "PyTorch\'s sort"'
  tokenizer("query, PyTorch's sort", "torch", query)
  for form in ("top-k", "sort"):  # chunks that bound it to a few GB
    query = f"--batch 512 --forms mrd_jax,{form} --query_chunk 64"
    tokenizer(f"query {form}", "jax", query)
  naive = "--batch 512 --forms 'mrd_jax,naive loop'"
  tokenizer("sampling naive", "jax", naive)
  add("losses", "jax", 60, "benchmarks.losses --batch= --timed 512,4096")
  add("ranking", "jax", 45, "benchmarks.ranking --batch 4096")
  add(
    *("start-up m", "starts", 120),
    "benchmarks.startup --size m --dtype bfloat16 "
    "--starts 'empty cache,filled cache'",
  )
  return jobs


def rehearsal(jobs: Sequence[Job]) -> list[Job]:
  """The jobs in miniature, without limits; of the sizes M alone."""
  return [
    job._replace(
      seconds=math.inf,
      options=[*job.options, *shlex.split(TINY.get(job.module, ""))],
    )
    for job in jobs
    if "--size" not in job.options or "m" in job.options
  ]


def first_card() -> str:
  """The number or UUID of the GPU that is measured."""
  return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


class Card:
  """Watches the clocks, power and temperature of the GPU by nvidia-smi.

  Args:
    path: Where all samples go, in CSV.
  """

  def __init__(self, path: Path):
    self.samples: list[list[str]] = []
    self.process = None
    fields = ["timestamp", "name", "driver_version", *SAMPLES]
    query = f"--query-gpu={','.join(fields)}"
    command = ["nvidia-smi", query, f"--id={first_card()}"]
    with contextlib.suppress(FileNotFoundError):
      self.process = subprocess.Popen(
        [*command, "--format=csv,noheader,nounits", "--loop-ms=500"],
        stdout=subprocess.PIPE,
        text=True,
      )
      self.reader = threading.Thread(target=self.watch, args=[path])
      self.reader.start()

  def watch(self, path: Path) -> None:
    with path.open("a") as file:
      for line in self.process.stdout:
        file.write(line)
        file.flush()
        self.samples.append([x.strip() for x in line.split(",")])

  def now(self) -> dict[str, Any]:
    """What the card is, and its next sample."""
    if not self.process:
      return {"said": "nvidia-smi is not here: no clocks, power, temperature"}
    seen, deadline = len(self.samples), time.monotonic() + 5
    while len(self.samples) == seen and time.monotonic() < deadline:
      time.sleep(0.05)
    if len(self.samples) == seen:
      return {"said": "nvidia-smi says nothing: no clocks, power, temperature"}
    _, name, driver, *_ = self.samples[-1]
    return {"name": name, "driver": driver} | self.since(seen)

  def since(self, seen: int) -> dict[str, Any]:
    """The median of each figure over the samples from the `seen`-th on."""
    found = {}
    for i, name in enumerate(SAMPLES.values(), 3):
      values = []
      for sample in self.samples[seen:]:
        with contextlib.suppress(ValueError, IndexError):  # [N/A]
          values.append(float(sample[i]))
      if values:
        found[name] = statistics.median(values)
    return found

  def close(self) -> None:
    if self.process:
      self.process.kill()
      self.process.wait()
      self.reader.join()
      self.process.stdout.close()


class Worker:
  """A process that measures, see `worker.py`.

  Args:
    place: A key of `PLATFORMS`.
    folder: For its errors, and what it compiles.
    rehearsal: Whether it has a CPU only.
  """

  def __init__(self, place: str, folder: Path, rehearsal: bool):
    self.place = place
    environment = {
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      # JAX takes one of its two names only
      **(
        {}
        if os.environ.get("XLA_CLIENT_MEM_FRACTION")
        else {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".92"}
      ),
      **os.environ,
      # One card is measured; the tests take all.
      **({} if place == "tests" else {"CUDA_VISIBLE_DEVICES": first_card()}),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PLATFORMS": PLATFORMS[place],
    }
    if rehearsal:  # compiles soon
      environment |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
      }
    self.errors = folder / "errors.txt"
    with self.errors.open("a") as errors:
      self.process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker"]
        + ["--rehearse"] * rehearsal,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
      )
    self.answers: queue.Queue[str] = queue.Queue()
    self.reader = threading.Thread(target=self.read, daemon=True)
    self.reader.start()

  def read(self) -> None:
    for line in self.process.stdout:
      self.answers.put(line)
    self.answers.put("")

  def ask(
    self, name: str, request: dict[str, Any], seconds: float
  ) -> Iterator[dict[str, Any]]:
    """Sends a request; yields its rows, the last of which may be its end."""
    with contextlib.suppress(BrokenPipeError):
      print(json.dumps(request), file=self.process.stdin, flush=True)
    deadline = time.monotonic() + seconds
    while True:
      try:
        answer = self.answers.get(timeout=max(deadline - time.monotonic(), 0))
      except queue.Empty:
        yield {"row": name, "failed": f"late after {seconds:.0f} s"}
        return
      if not answer:
        code = self.process.wait()
        last = self.errors.read_text(errors="replace").splitlines()[-1:]
        ended = f"its process ended with {code}: {' '.join(last)[:300]}"
        yield {"row": name, "failed": ended}
        return
      if not (row := json.loads(answer)):
        return
      yield row

  def close(self) -> None:
    """Ends the process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)
    self.process.wait()
    self.reader.join()
    self.process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      self.process.stdin.close()


def measure(
  jobs: Sequence[Job], folder: Path, *, seconds: float, rehearsal: bool
) -> list[str]:
  """Runs all jobs in turn, prints their rows, and names those that failed."""
  deadline = time.monotonic() + seconds
  failed = []
  card = Card(folder / "gpu.csv")
  worker = None
  rows = (folder / "rows.jsonl").open("a")

  def tell(row: dict[str, Any]) -> None:
    for file in (sys.stdout, rows):
      print(json.dumps(row), file=file, flush=True)
    if "failed" in row:
      failed.append(row["row"])

  tell({"row": "before"} | card.now())
  for job in jobs:
    if (left := deadline - time.monotonic()) < 5:
      tell({"row": job.name, "failed": "no time left"})
      continue
    if worker and worker.place != job.place:
      worker.close()
      worker = None
    worker = worker or Worker(job.place, folder, rehearsal)
    seen, before = len(card.samples), len(failed)
    request = {
      "compile": [
        x._asdict() for x in jobs if x.place == "jax" and x.module in COMPILED
      ]
    }
    if job.module != "compile":
      request = job._asdict()
    for row in worker.ask(job.name, request, min(job.seconds, left)):
      tell(row | ({"gpu": gpu} if (gpu := card.since(seen)) else {}))
    if len(failed) > before:  # what it left on the card, or in it, is gone
      worker.close()
      worker = None
      if job.module == "check":
        break
  if worker:
    worker.close()
  tell({"row": "after"} | card.now())
  card.close()
  rows.close()
  return failed


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="benchmarks/on_gpu.sh",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("folder", type=Path)
  parser.add_argument("--rehearse", action="store_true")
  args = parser.parse_args(argv)
  args.folder.mkdir(parents=True, exist_ok=True)
  jobs = [
    Job("machine", "jax", 60, "check", []),
    Job("compile", "jax", 200, "compile", []),
    *all_jobs(args.folder),
  ]
  if args.rehearse:
    jobs = rehearsal(jobs)
  failed = measure(
    jobs,
    args.folder,
    seconds=float(os.environ.get("GPU_SECONDS", "470")),
    rehearsal=args.rehearse,
  )
  print(f"failed: {'; '.join(failed)}" if failed else "all rows are there")
  return int(bool(failed))


if __name__ == "__main__":
  sys.exit(main())
