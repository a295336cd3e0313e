"""Times reading of training data on one core: records against OpenShape's .npy.

  python -m benchmarks.reading --shapes 512 --rounds 5

Writes the same random shapes (12 views, a thumbnail, 3 texts) twice, as
OpenShape's pickled dicts and as records, and reads both from the page cache
with every thread of this process on one core, in interleaved rounds.  The .npy
files go through what OpenShape's loader does in its workers; the records
through what training does on the host, whose augmentation is on the device.
Prints shapes per second of processor time (median, range), which others on the
machine disturb least; the share of the wall time in which this process had the
core; and how many cores 5,000 and 500 shapes/s take.
"""

import argparse
import contextlib
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data.dataset import RecordSource, open_split, read_meta
from mrd_jax.data.pipeline import TrainOrder, train_batches
from mrd_jax.data.records import Shape
from mrd_jax.prepare.builder import write_dataset
from mrd_jax.prepare.sample import to_shape
from mrd_jax.prepare.splits import Entry

DTYPES = ("float32", "float16")  # users have re-stored the files in the second
RELEASE = 874_402  # shapes of OpenShape's training set
RATES = (5000, 500)  # shapes/s of a GPU, with a small and a large encoder


def make_sample(i: int, points: int, dim: int) -> dict[str, Any]:
  """One shape in the keys of OpenShape's README, float32."""
  rng = np.random.default_rng(i)

  def unit(*shape: int) -> np.ndarray:
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  def text_feat() -> dict[str, np.ndarray]:
    return {"original": unit(1, dim), "prompt_avg": unit(1, dim)}

  return {
    "dataset": "Objaverse",
    "group": "000-000",
    "id": f"{i:032x}",
    "xyz": unit(points, 3),
    "rgb": rng.random((points, 3), np.float32),
    "image_feat": unit(12, dim),
    "thumbnail_feat": unit(dim),
    "text": ["the name of a shape"],
    "text_feat": [text_feat()],
    "blip_caption": "a caption of the shape",
    "blip_caption_feat": text_feat(),
    "msft_caption": "",
    "msft_caption_feat": text_feat(),
    "retrieval_text": ["a text of something alike"],
    "retrieval_text_feat": [{"original": unit(1, dim)}],
  }


def cast(value: Any, dtype: str) -> Any:
  """The same with all its arrays in another type."""
  if isinstance(value, dict):
    return {key: cast(item, dtype) for key, item in value.items()}
  if isinstance(value, list):
    return [cast(item, dtype) for item in value]
  return value.astype(dtype) if isinstance(value, np.ndarray) else value


def write_npy(folder: Path, args: argparse.Namespace, dtype: str) -> None:
  """Writes 0-d object arrays of a pickled dict, a file for each shape."""
  folder.mkdir()
  for i in range(args.shapes):
    sample = np.empty((), object)
    sample[()] = cast(make_sample(i, args.points, args.embed_dim), dtype)
    np.save(folder / f"{i:06d}.npy", sample, allow_pickle=True)


def write_records(folder: Path, args: argparse.Namespace) -> None:
  def shapes() -> Iterator[Shape]:
    for i in range(args.shapes):
      sample = make_sample(i, args.points, args.embed_dim)
      yield to_shape(sample, Entry(sample["id"], "", sample["dataset"]))

  write_dataset(folder, "reading", {"train": shapes}, "random", {}, {})


def rotation(axis: int, angle: float) -> np.ndarray:
  """(3, 3), about a coordinate axis, in radians."""
  i, j = (axis + 1) % 3, (axis + 2) % 3
  r_33 = np.eye(3)
  r_33[i, i] = r_33[j, j] = np.cos(angle)
  r_33[j, i] = np.sin(angle)
  r_33[i, j] = -r_33[j, i]
  return r_33


def openshape_example(path: Path) -> dict[str, Any]:
  """What a worker of OpenShape's loader makes of a file, in NumPy.

  The same steps in the same order, with the same numbers; written from their
  description, see `docs/data.md`, "The input stage".
  """
  sample = np.load(path, allow_pickle=True).item()
  order = np.random.permutation(len(sample["xyz"]))
  xyz_N3 = sample["xyz"][order].astype(np.float32)
  rgb_N3 = sample["rgb"][order].astype(np.float32)
  xyz_N3[:, [1, 2]] = xyz_N3[:, [2, 1]]
  xyz_N3 -= xyz_N3.mean(axis=0)
  largest = np.sqrt((xyz_N3**2).sum(axis=1)).max()
  xyz_N3 = np.zeros_like(xyz_N3) if largest < 1e-6 else xyz_N3 / largest
  dropped = np.random.random(len(xyz_N3)) <= np.random.random() * 0.875
  xyz_N3[dropped] = xyz_N3[0]
  xyz_N3 *= np.random.uniform(0.8, 1.25)
  xyz_N3 += np.random.uniform(-0.1, 0.1, 3)
  x, y, z = np.clip(np.random.normal(0, 0.06, 3), -0.18, 0.18)
  xyz_N3 = xyz_N3 @ (rotation(2, z) @ rotation(1, y) @ rotation(0, x))
  xyz_N3 = xyz_N3 @ rotation(2, np.random.uniform(0, 2 * np.pi))
  if np.random.random() < 0.5:
    rgb_N3 = np.full_like(rgb_N3, 0.4)
  texts = [sample["text_feat"][0]["prompt_avg"]]
  source = "blip" if np.random.random() < 0.5 else "msft"
  if sample[f"{source}_caption"]:
    texts.append(sample[f"{source}_caption_feat"]["prompt_avg"])
  retrieved = sample["retrieval_text_feat"]
  texts.append(retrieved[np.random.randint(len(retrieved))]["original"])
  image = sample["thumbnail_feat"]
  if np.random.random() < 0.5:
    image = sample["image_feat"][np.random.randint(12)]
  return {
    "xyz": xyz_N3.astype(np.float32),
    "features": np.concatenate([xyz_N3, rgb_N3], axis=1).astype(np.float32),
    "text_feat": texts[np.random.randint(len(texts))][0].astype(np.float32),
    "image_feat": image.astype(np.float32),
  }


class Repeated:
  """A split as long as OpenShape's.

  Grain's shuffle takes 4 us an index of a large split and 55 of one of 512.
  """

  def __init__(self, source: RecordSource):
    self._source = source

  def __len__(self) -> int:
    return RELEASE

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    return self._source[index % len(self._source)]


def readers(
  folder: Path, args: argparse.Namespace
) -> Mapping[str, Callable[[], int]]:
  """For every row of the table what reads all shapes and counts them."""
  result: dict[str, Callable[[], int]] = {}
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
  source = open_split(folder / "records", "train")
  meta = read_meta(folder / "records")
  order = TrainOrder(RELEASE, args.batch, seed=0)

  def records() -> int:
    return sum("xyz" in source[i] for i in range(len(source)))

  def pipeline() -> int:
    steps = train_batches(
      Repeated(source),
      meta,
      order,
      start_step=0,
      num_steps=args.shapes // args.batch,
      process_index=0,
      process_count=1,
      threads=1,
      workers=0,
    )
    return sum(len(batch.row) for batch in steps)

  result["records, RecordSource alone"] = records
  result["records, the training pipeline"] = pipeline
  return result


def pin(cores: set[int]) -> None:
  """Binds all threads, those of NumPy's BLAS too, and what they start."""
  for thread in os.listdir("/proc/self/task"):
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
      os.sched_setaffinity(int(thread), cores)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
  """Runs the benchmark; a row for each way of reading."""
  cores = os.sched_getaffinity(0)
  with tempfile.TemporaryDirectory(dir=args.dir) as name:
    folder = Path(name)
    for dtype in DTYPES:
      write_npy(folder / dtype, args, dtype)
    write_records(folder / "records", args)
    size = {
      form.name: sum(f.stat().st_size for f in form.iterdir()) / args.shapes
      for form in folder.iterdir()
    }
    ways = readers(folder, args)
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
    finally:
      pin(cores)
  base = statistics.median(rates[f".npy {DTYPES[0]}, OpenShape's loader"])
  rows = []
  for way, found in rates.items():
    median = statistics.median(found)
    form = next((d for d in DTYPES if d in way), "records")
    rows.append(
      {
        "way": way,
        "bytes": round(size[form]),
        "rate": median,
        "low": min(found),
        "high": max(found),
        "core": statistics.median(shares[way]),
        "ratio": median / base,
        "cores": [math.ceil(rate / median) for rate in RATES],
      }
    )
  return rows


def table(rows: list[dict[str, Any]]) -> str:
  lines = [
    "| reading | KB a shape | shapes/s a core (range) | core held | ratio | "
    + " | ".join(f"cores for {rate:,}/s" for rate in RATES)
    + " |",
    "|---" * (5 + len(RATES)) + "|",
  ]
  for row in rows:
    cells = [
      row["way"],
      f"{row['bytes'] / 1e3:.0f}",
      f"{row['rate']:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})",
      f"{row['core']:.0%}",
      f"{row['ratio']:.1f}",
      *map(str, row["cores"]),
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--shapes", type=int, default=512)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--dir", help="where to write (default: the system's)")
  return parser.parse_args(argv)


if __name__ == "__main__":
  print(table(measure(parse())))
