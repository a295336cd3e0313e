"""Times the stages of `prepare meshes`, and CLIP inside or beside its workers.

  python -m benchmarks.prepare --size b32 --batch 16

1. Milliseconds of processor time a shape takes on one core: the workers'
   part (read, sample, render, encode) for bumpy spheres of 20,480 faces, half
   with a texture (.glb), half without colours (.obj); and the part of the
   teacher's process that no accelerator does (decode, crop, write a record).
2. The same images through the same CLIP with random weights, `ClipTeacher` in
   both: in one process over all its devices, as `prepare/job/add_features.py`
   has it, and in the workers of a job, each with its own copy and its part of
   the images.  The ways take turns; the workers wait for each other before
    the clock starts.  Memory is the sum of the processes' peaks (VmHWM).

Prints two tables, medians and ranges, and what follows from the first.  With
accelerators set XLA_PYTHON_CLIENT_PREALLOCATE=false, or the first worker takes
all of their memory.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reading import pin
from benchmarks.teacher import SIZES
from mrd_jax.data.records import TextKind, encode
from mrd_jax.data.surfaces import sample_surface
from mrd_jax.io.images import encode_png
from mrd_jax.io.meshes.read import read_mesh
from mrd_jax.metrics.table import render
from mrd_jax.models.clip import TowerSize
from mrd_jax.prepare.job import add_features, shards
from mrd_jax.prepare.job.drafts import (
  Draft,
  Text,
  read_draft,
  serialize_draft,
  to_record,
)
from mrd_jax.prepare.job.engine import Engine, Item, Outcome, run
from mrd_jax.prepare.mesh.renders import render_views
from mrd_jax.prepare.openshape.sample import GREY

KINDS = ("glb", "obj")  # with a texture, without colours
DRAFTING = ("read .glb", "read .obj", "sample", "render", "encode PNG")
WAYS = ("one process", "workers")
NAME = Text("a shape", TextKind.RAW)
_PATIENCE = 600  # seconds, for workers that are being loaded

Times = dict[str, list[float]]  # step -> seconds of processor time, a shape


def write_meshes(folder: Path, args: argparse.Namespace) -> list[Path]:
  """Spheres with bumps of their own, the kinds in turn."""
  import trimesh
  from PIL import Image
  from trimesh.visual import TextureVisuals

  paths = []
  for i in range(args.meshes):
    rng = np.random.default_rng(i)
    mesh = trimesh.creation.icosphere(subdivisions=args.subdivisions)
    xyz = np.asarray(mesh.vertices)
    waves = np.sin(xyz @ rng.normal(0, 4, (3, 5))).mean(axis=1, keepdims=True)
    mesh.vertices = xyz * (1 + 0.3 * waves) * rng.uniform(0.6, 1, 3)
    paths.append(folder / f"shape{i}.{KINDS[i % 2]}")
    if KINDS[i % 2] == "glb":
      u = np.arctan2(xyz[:, 2], xyz[:, 0]) / (2 * np.pi) + 0.5
      v = np.arccos(xyz[:, 1].clip(-1, 1)) / np.pi
      small = rng.integers(0, 256, (32, 32, 3), np.uint8)
      image = Image.fromarray(small).resize((args.texture, args.texture))
      mesh.visual = TextureVisuals(uv=np.stack([u, v], axis=1), image=image)
    mesh.export(paths[-1])
  return paths


@contextlib.contextmanager
def clock(times: Times, step: str) -> Iterator[None]:
  """Appends the processor time of what is done under it, in all threads."""
  start = time.process_time()
  yield
  times.setdefault(step, []).append(time.process_time() - start)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
  """Binds all threads to a core meanwhile."""
  cores = os.sched_getaffinity(0)
  pin({max(cores)})
  try:
    yield
  finally:
    pin(cores)


def make_drafts(
  paths: list[Path], args: argparse.Namespace
) -> tuple[Times, list[Draft]]:
  """What a worker does, step by step."""
  times: Times = {step: [] for step in DRAFTING}
  drafts = []
  for i, path in enumerate([*paths[: len(KINDS)], *paths]):
    found = times if i >= len(KINDS) else {}  # the first ones import
    with clock(found, f"read {path.suffix}"):
      mesh = read_mesh(path)
    with clock(found, "sample"):
      xyz, rgb = sample_surface(mesh, args.points, seed=0)
    with clock(found, "render"):
      views = render_views(mesh, views=args.views, image_size=args.image_size)
    with clock(found, "encode PNG"):
      images = [encode_png(view) for view in views]
    if rgb is None:
      rgb = np.full_like(xyz, GREY)
    file = path.name
    drafts.append(
      Draft("train", file, file, xyz, rgb, images, [NAME], "meshes")
    )
  return times, drafts[len(KINDS) :]


def read_drafts(folder: Path) -> Iterator[Draft]:
  """Those that `measure` wrote."""
  commit = shards.read_commit(folder, "drafts")
  for _, content in shards.read_files(folder, commit):
    yield read_draft(content)


def write_model(folder: Path, args: argparse.Namespace) -> Path:
  """Writes a CLIP of a published size, with random weights."""
  from tests.clips import make_clip

  size = SIZES[args.size]

  def tower(of: TowerSize) -> dict[str, Any]:
    return {
      "hidden_size": of.width,
      "intermediate_size": of.mlp_dim,
      "num_hidden_layers": of.depth,
      "num_attention_heads": of.heads,
      "hidden_act": of.activation,
      "layer_norm_eps": of.epsilon,
    }

  vision = {"image_size": size.image_size, "patch_size": size.patch_size}
  text = tower(size.text) | {"vocab_size": size.vocabulary}
  vision = tower(size.vision) | vision
  return make_clip(folder, embed_dim=size.embed_dim, text=text, vision=vision)


def make_records(
  folder: Path, model: Path, features: np.ndarray, args: argparse.Namespace
) -> Times:
  """What the teacher's process does of every shape on its host's cores."""
  from mrd_jax.teachers.files import preprocessor
  from mrd_jax.teachers.images import Preprocessor

  dim = features.shape[1]
  side = json.loads((model / "config.json").read_text())["vision_config"]
  prepare = Preprocessor(preprocessor(model), side["image_size"])
  serialize = functools.partial(shards.serialize_record, embed_dim=dim)
  texts = {(NAME.text, NAME.prompted): np.full(dim, dim**-0.5, np.float32)}
  times: Times = {}
  for i in range(args.rounds + 1):
    found = times if i else {}  # the first round imports TFDS
    drafts = read_drafts(folder)
    committing = contextlib.ExitStack()
    writer = committing.enter_context(
      shards.ShardWriter(folder, "records", serialize)
    )
    for views_VD in np.split(features, args.meshes):
      with clock(found, "read the draft"):
        draft = next(drafts)
      with clock(found, "decode and crop"):
        for image in draft.images:
          prepare(image)
      with clock(found, "write the record"):
        shape = add_features.to_shape(draft, views_VD, texts)
        writer.add("train", encode(shape))
    with clock(found, "commit (all shapes)"):
      committing.close()
  return times


@dataclasses.dataclass(frozen=True)
class TeacherUnit:
  """Part `part` of `parts`, all at work at once, through a copy of the teacher.

  Reads `drafts`; leaves features and costs in `out`.
  """

  name: str
  drafts: Path
  model: Path
  args: argparse.Namespace
  part: int
  parts: int
  out: Path

  def items(self) -> Iterator[Item]:
    yield self.embed

  def embed(self) -> list[Outcome]:
    """Writes the features, and what they cost."""
    begin = time.time()
    from mrd_jax.teachers.clip import ClipTeacher

    drafts = list(read_drafts(self.drafts))[self.part :: self.parts]
    images = [image for draft in drafts for image in draft.images]
    teacher = ClipTeacher.from_pretrained(
      self.model, dtype=self.args.dtype, batch_size=self.args.batch
    )
    teacher.image_features(images[:1])  # compiles
    loaded = time.time()
    (self.out / f"{self.name}.ready").touch()
    while len(list(self.out.glob("*.ready"))) < self.parts:
      assert time.time() < loaded + _PATIENCE, "the others were not ready"
      time.sleep(0.01)
    start, cpu = time.time(), time.process_time()
    features = teacher.image_features(images)
    status = Path("/proc/self/status").read_text()
    cost = {
      "images": len(images),
      "start_up": loaded - begin,
      "start": start,
      "end": time.time(),
      "cpu": time.process_time() - cpu,
      "peak_kib": int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]),
      "process": os.getpid(),
    }
    np.save(self.out / f"{self.name}.npy", features)
    (self.out / f"{self.name}.cost").write_text(json.dumps(cost))
    return []


def embed_all(
  way: str, drafts: Path, model: Path, out: Path, args: argparse.Namespace
) -> tuple[dict[str, float], np.ndarray]:
  """All images, one of the two ways: what it cost, and features in order."""
  parts = 1 if way == WAYS[0] else min(args.workers, os.cpu_count() or 1)
  out.mkdir()
  units = [
    TeacherUnit(f"p{i}", drafts, model, args, i, parts, out)
    for i in range(parts)
  ]
  begin = time.time()
  if way == WAYS[0]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
      pool.submit(units[0].embed).result()
  else:
    run(units, out / "shards", serialize_draft, Engine(workers=parts))
  whole = time.time() - begin
  costs = [json.loads((out / f"{u.name}.cost").read_text()) for u in units]
  images = sum(cost["images"] for cost in costs)
  seconds = max(c["end"] for c in costs) - min(c["start"] for c in costs)
  found = [np.load(out / f"{unit.name}.npy") for unit in units]
  features = np.zeros((images // args.views, args.views, found[0].shape[1]))
  for part, rows in enumerate(found):
    features[part::parts] = rows.reshape(-1, *features.shape[1:])
  return {
    "processes": len({cost["process"] for cost in costs}),
    "images/s": images / seconds,
    "images/s a core": images / sum(cost["cpu"] for cost in costs),
    "start-up s": max(cost["start_up"] for cost in costs),
    "whole s": whole,
    "peak GiB": sum(cost["peak_kib"] for cost in costs) / 2**20,
  }, features.reshape(images, -1).astype(np.float32)


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark.

  Returns:
    `drafts` and `records`: steps and their seconds, a value a shape;
    `features`: (n, D), of one process;
    `ways`: for both ways a row of costs each round; `difference`: the largest
    between the features of the two.
  """
  with tempfile.TemporaryDirectory(dir=args.dir) as name:
    folder = Path(name)
    paths = write_meshes(folder, args)
    model = args.model or write_model(folder / "clip", args)
    with one_core():
      times, drafts = make_drafts(paths, args)
    with shards.ShardWriter(folder, "drafts", serialize_draft) as writer:
      for draft in drafts:
        writer.add("train", to_record(draft))
    ways: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    features = {}
    for i in range(args.rounds):
      for way in WAYS[:: -1 if i % 2 else 1]:
        out = folder / f"{way} {i}"
        row, features[way] = embed_all(way, folder, model, out, args)
        ways[way].append(row)
    one, many = (features[way] for way in WAYS)
    with one_core():
      records = make_records(folder, model, one, args)
  return {
    "drafts": times,
    "records": records,
    "ways": ways,
    "features": one,
    "difference": float(np.abs(one - many).max()),
  }


def span(values: Sequence[float], digits: int) -> str:
  """The median and the range."""
  three = min(values), statistics.median(values), max(values)
  low, middle, high = (f"{x:,.{digits}f}" for x in three)
  return middle if low == high else f"{middle} ({low} to {high})"


def tables(result: dict[str, Any], args: argparse.Namespace) -> str:
  """The two tables, and what follows from the first, in Markdown."""
  drafts, records = result["drafts"], result["records"]
  steps = [
    [step, where, span([1e3 * x for x in values], 1)]
    for where, times in (("worker", drafts), ("teacher's host", records))
    for step, values in times.items()
  ]
  ways = []
  for key in result["ways"][WAYS[0]][0]:
    digits = {"processes": 0, "peak GiB": 2}.get(key, 1)
    found = ([row[key] for row in result["ways"][way]] for way in WAYS)
    ways.append([key, *(span(values, digits) for values in found)])
  lines = [
    render(["step", "where", "ms a shape on one core (range)"], steps),
    "",
    render([f"CLIP {args.size}, {args.dtype}", *WAYS], ways),
  ]
  middle = {k: statistics.median(v) for k, v in (drafts | records).items()}
  draft = sum(middle[step] for step in DRAFTING[1:])  # of an .obj
  feed = middle["read the draft"] + middle["decode and crop"]
  write = middle["write the record"]
  write += middle["commit (all shapes)"] / args.meshes
  drafted, fed, written = (
    f"{args.views / seconds:,.0f}" for seconds in (draft, feed, write)
  )
  lines += [
    "",
    f"- A core drafts {drafted} images/s (an .obj in {draft * 1e3:,.0f} ms).",
    f"- A core of the teacher's host feeds {fed} images/s, or writes the "
    f"records of {written}.",
    f"- Features of the two ways differ by at most {result['difference']:.0e}.",
  ]
  return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=SIZES, default="b32")
  parser.add_argument("--model", type=Path, help="folder, not random weights")
  parser.add_argument("--batch", type=int, default=16, help="on each device")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--workers", type=int, default=os.cpu_count())
  parser.add_argument("--meshes", type=int, default=16)
  parser.add_argument("--subdivisions", type=int, default=5)
  parser.add_argument("--texture", type=int, default=1024, help="pixels a side")
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--views", type=int, default=12)
  parser.add_argument("--image_size", type=int, default=224)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--dir", help="where the temporary files go")
  return parser.parse_args(argv)


def main() -> None:
  args = parse()
  about = Path("/proc/cpuinfo").read_text()
  names = re.findall(r"model name\s*: (.+)", about) or [platform.machine()]
  print(
    f"{datetime.date.today()}, {os.cpu_count()} cores of {names[0]}, "
    f"jax {version('jax')}, `python -m benchmarks.prepare "
    f"{' '.join(sys.argv[1:])}`:\n"
  )
  print(tables(measure(args), args))


if __name__ == "__main__":
  main()
