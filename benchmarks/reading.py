"""Times reading of training data, and whether a step has to wait for it.

  python -m benchmarks.reading --shapes 512 --rounds 5

Writes the same random shapes (12 views, a thumbnail, 3 texts) twice, as
OpenShape's pickled dicts and as records, and reads both from the page cache
with every thread of this process on one core, in interleaved rounds.  The .npy
files go through what OpenShape's loader does in its workers; the records
through what training does on the host, whose augmentation is on the device, and
on to the device as the loop puts them there.
Prints shapes per second of processor time (median, range), which others on the
machine disturb least; the share of the wall time in which this process had the
core; and how many cores 5,000 and 500 shapes/s take.

Then batches of --step_batch are taken as the loop takes them, at the pace of a
device that works --step_ms on each (142 ms: 3,600 shapes/s), with --cores
cores: how long it stands idle for want of a batch, a step and as a share.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.openshape_loader import (
  make_sample,
  openshape_example,
  write_npy,
)
from mrd_jax.data.batches import train_batches
from mrd_jax.data.dataset import RecordSource, open_split, read_meta
from mrd_jax.data.examples import Batch
from mrd_jax.data.order import TrainOrder
from mrd_jax.data.records import Shape
from mrd_jax.metrics.table import render
from mrd_jax.parallel import sharding
from mrd_jax.prepare.job.dataset_writer import write_dataset
from mrd_jax.prepare.openshape.lists import Entry
from mrd_jax.prepare.openshape.sample import to_shape
from mrd_jax.training.loop import one_ahead

DTYPES = ("float32", "float16")  # users have re-stored the files in the second
BASE = f".npy {DTYPES[0]}, OpenShape's loader"
RELEASE = 874_402  # shapes of OpenShape's training set
RATES = (5000, 500)  # shapes/s of a GPU, with a small and a large encoder
ENDLESS = 10**9  # steps


def write_records(folder: Path, args: argparse.Namespace) -> None:
  def shapes() -> Iterator[Shape]:
    for i in range(args.shapes):
      sample = make_sample(i, args.points, args.embed_dim)
      yield to_shape(sample, Entry(sample["id"], "", sample["dataset"]))

  write_dataset(folder, "reading", {"train": shapes()}, "random", {}, {})


class Repeated:
  """A split as long as OpenShape's."""

  def __init__(self, source: RecordSource):
    self._source = source

  def __len__(self) -> int:
    return RELEASE

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    return self._source[index % len(self._source)]


class Records:
  """The records as training gets them."""

  def __init__(self, folder: Path):
    self.source = open_split(folder, "train")
    self._meta = read_meta(folder)
    self._mesh = sharding.make_mesh(1)

  def on_host(self, batch: int, threads: int, steps: int) -> Iterator[Batch]:
    return train_batches(
      Repeated(self.source),
      self._meta,
      TrainOrder(RELEASE, batch, seed=0),
      start_step=0,
      num_steps=steps,
      process_index=0,
      process_count=1,
      threads=threads,
      workers=0,
    )

  def on_device(self, batch: int, threads: int, steps: int) -> Iterator[Batch]:
    split = sharding.batch_sharding(self._mesh)
    return one_ahead(self.on_host(batch, threads, steps), split)


def readers(
  folder: Path, records: Records, args: argparse.Namespace
) -> Mapping[str, Callable[[], int]]:
  """For every row of the table what reads all shapes and counts them."""
  result: dict[str, Callable[[], int]] = {}
  steps = args.shapes // args.batch
  for dtype in DTYPES:
    files = sorted((folder / dtype).iterdir())

    def load(files: list[Path] = files) -> int:
      return sum(
        "xyz" in np.load(file, allow_pickle=True).item() for file in files
      )

    def batches(files: list[Path] = files) -> int:
      count = 0
      for start in range(0, len(files), args.batch):
        examples = [
          openshape_example(file) for file in files[start : start + args.batch]
        ]
        batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
        count += len(batch["xyz"])
      return count

    result[f".npy {dtype}, np.load alone"] = load
    result[f".npy {dtype}, OpenShape's loader"] = batches

  def count(batches: Iterator[Batch]) -> int:
    return sum(len(jax.block_until_ready(batch).row) for batch in batches)

  source = records.source
  rows = range(len(source))
  return result | {
    "records, RecordSource alone": lambda: sum(
      "xyz" in source[i] for i in rows
    ),
    "records, the training pipeline": lambda: count(
      records.on_host(args.batch, 1, steps)
    ),
    "records to the device": lambda: count(
      records.on_device(args.batch, 1, steps)
    ),
  }


def starvation(
  batches: Iterator[Batch], seconds: float, warm: int, steps: int
) -> dict[str, float]:
  """How long a device stands idle that works `seconds` on every batch.

  As in `training/loop.py`, the host asks for the next batch when the device begins with
  the one before.

  Args:
    batches: As the loop gets them.
    seconds: Of a step.
    warm: Steps before it counts, in which what was read ahead is used up.
    steps: Steps that count.

  Returns:
    Per step, in ms: `next_ms`, for how long the host asks, and `idle_ms`, for
    how long the device has nothing to do.
  """
  asked = idle = 0.0
  free = time.perf_counter()  # when the device is done with all it has
  for step in range(-1 - warm, steps):
    start = time.perf_counter()
    batch = next(batches)
    now = time.perf_counter()
    jax.block_until_ready(batch)
    begin = max(time.perf_counter(), free)
    if step >= 0:
      asked += now - start
      idle += begin - free
    free = begin + seconds
    time.sleep(max(begin - time.perf_counter(), 0))
  return {"next_ms": asked / steps * 1e3, "idle_ms": idle / steps * 1e3}


def measure_starvation(
  records: Records, cores: set[int], args: argparse.Namespace
) -> list[dict[str, Any]]:
  """A row for each pace: medians over the rounds."""
  batches = records.on_device(args.step_batch, args.threads, ENDLESS)
  found = {ms: [] for ms in args.step_ms}
  pin(cores)
  for _ in range(args.rounds):
    for ms, rounds in found.items():  # each goes on where the last has left it
      rounds.append(starvation(batches, ms / 1e3, args.warm_steps, args.steps))
  rows = []
  for ms, rounds in found.items():
    row = {k: statistics.median(x[k] for x in rounds) for k in rounds[0]}
    share = row["idle_ms"] / (ms + row["idle_ms"])
    rows.append(row | {"step_ms": ms, "cores": len(cores), "share": share})
  return rows


def pin(cores: set[int]) -> None:
  """Binds all threads, those of NumPy's BLAS too, and what they start."""
  for thread in os.listdir("/proc/self/task"):
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
      os.sched_setaffinity(int(thread), cores)


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark; under "rows" there is one for each way of reading."""
  cores = os.sched_getaffinity(0)
  result = timing.machine() | vars(args)
  with tempfile.TemporaryDirectory(dir=args.dir) as name:
    folder = Path(name)
    for dtype in DTYPES:
      size = (args.shapes, args.points, args.embed_dim)
      write_npy(folder / dtype, *size, dtype)
    write_records(folder / "records", args)
    sizes = {
      form.name: sum(f.stat().st_size for f in form.iterdir()) / args.shapes
      for form in folder.iterdir()
    }
    records = Records(folder / "records")
    ways = readers(folder, records, args)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    shares: dict[str, list[float]] = {way: [] for way in ways}
    try:
      pin({max(cores)})
      for i in range(args.rounds + 1):
        for way, read in ways.items():
          cpu, wall = time.process_time(), time.perf_counter()
          count = read()
          cpu = time.process_time() - cpu
          wall = time.perf_counter() - wall
          if i:  # the first round fills the page cache
            rates[way].append(count / cpu)
            shares[way].append(cpu / wall)
      result["starvation"] = measure_starvation(
        records, set(sorted(cores)[: args.cores]), args
      )
    finally:
      pin(cores)
  base = statistics.median(rates[BASE])
  result["rows"] = rows = []
  for way, found in rates.items():
    median = statistics.median(found)
    form = next((d for d in DTYPES if d in way), "records")
    rows.append(
      {
        "way": way,
        "bytes": round(sizes[form]),
        "rate": median,
        "low": min(found),
        "high": max(found),
        "core": statistics.median(shares[way]),
        "ratio": median / base,
        "cores": [math.ceil(rate / median) for rate in RATES],
      }
    )
  return result


def tables(result: dict[str, Any]) -> str:
  rates = [f"cores for {rate:,}/s" for rate in RATES]
  reading = render(
    ["reading", "KB a shape", "shapes/s a core (range)", "core held", "ratio"]
    + rates,
    [
      [
        row["way"],
        f"{row['bytes'] / 1e3:.0f}",
        f"{row['rate']:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})",
        f"{row['core']:.0%}",
        f"{row['ratio']:.1f}",
        *map(str, row["cores"]),
      ]
      for row in result["rows"]
    ],
  )
  starvation = render(
    ["cores", "step, ms", "shapes/s", "next(), ms", "idle, ms", "share"],
    [
      [
        str(row["cores"]),
        f"{row['step_ms']:g}",
        f"{result['step_batch'] / row['step_ms'] * 1e3:,.0f}",
        f"{row['next_ms']:.2f}",
        f"{row['idle_ms']:.2f}",
        f"{row['share']:.1%}",
      ]
      for row in result["starvation"]
    ],
  )
  return f"{reading}\n\n{starvation}"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.reading",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--shapes", type=int, default=512)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument(
    "--step_ms",
    type=lambda text: [float(x) for x in text.split(",")],
    default=[142.0],
  )
  parser.add_argument("--step_batch", type=int, default=512)
  parser.add_argument("--steps", type=int, default=40)
  parser.add_argument("--warm_steps", type=int, default=16)
  parser.add_argument("--threads", type=int, default=8)
  parser.add_argument("--cores", type=int, default=2)
  parser.add_argument("--dir", help="where to write (default: the system's)")
  parser.add_argument("--json", action="store_true")
  return parser.parse_args(argv)


if __name__ == "__main__":
  args = parse()
  result = measure(args)
  print(json.dumps(result) if args.json else tables(result))
