"""What a training step holds on each device, and what it sends: XLA's count.

  python -m benchmarks.memory --devices 8 --sizes t,s,m,b,l --fsdp 1,8

Compiles the real step (input stage, tokenizer, encoder, losses, gradients,
AdamW) for clouds of 10,000 points over virtual CPU devices, runs nothing, and
prints a table for every combination of the lists that it is given, then the
collectives of the compiled programs and a line of JSON.  Arguments are the
state (parameters and two moments, in float32) and the batch; the state is
donated, so the outputs take no more.  XLA for CPUs widens bfloat16 to float32
here and there and fuses less than XLA for GPUs: read the figures as upper
bounds.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from benchmarks import collectives
from benchmarks.training import abstract_batch, make_training
from mrd_jax.config.pretraining import SIZES
from mrd_jax.metrics.table import render
from mrd_jax.parallel import sharding

GIB, MIB = 2**30, 2**20


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is varied; `groups` 0 leaves those of the size."""

  size: str
  fsdp: int
  remat: str
  accumulate: int
  batch: int
  points: int
  groups: int


def measure(
  args: argparse.Namespace, devices: Sequence[jax.Device], setting: Setting
) -> dict[str, Any]:
  """One row of the tables; GiB and MiB are of one device."""
  mesh = sharding.make_mesh(setting.fsdp, devices)
  sharding.check_batch_size(
    "--batch", setting.batch, mesh, parts=setting.accumulate
  )
  training = make_training(
    setting.size,
    mesh,
    points=setting.points,
    embed_dim=args.embed_dim,
    accumulate=setting.accumulate,
    keep_average=args.average,
    groups=setting.groups,
    dtype=jnp.dtype(args.dtype),
    remat=setting.remat,
    fps_chunk=4096,
    query_chunk=args.query_chunk,
  )
  start = time.perf_counter()
  program = training.step.lower(
    training.abstract_state,
    abstract_batch(setting.batch, setting.points, args.embed_dim),
  ).compile()
  memory = program.memory_analysis()
  arguments = memory.argument_size_in_bytes / GIB
  temporaries = memory.temp_size_in_bytes / GIB
  kept = (memory.output_size_in_bytes - memory.alias_size_in_bytes) / GIB
  moved = collectives.count(program.as_text())
  parameters = sum(
    x.size for x in jax.tree.leaves(training.abstract_state.params)
  )
  return dataclasses.asdict(setting) | {
    "size": setting.size.upper(),
    "devices": mesh.size,
    "groups": training.encoder.size.groups,
    "arguments GiB": round(arguments, 2),
    "temporaries GiB": round(temporaries, 2),
    "in all GiB": round(arguments + temporaries + kept, 2),
    "compiled in s": round(time.perf_counter() - start, 1),
    "parameters MiB": round(4 * parameters / MIB, 1),
    "embeddings MiB": round(4 * setting.batch * args.embed_dim / MIB, 1),
    "collectives": {
      name: (found.count, round(found.bytes / MIB, 1))
      for name, found in moved.items()
    },
  }


VARIED = ("sizes", "fsdp", "remat", "accumulate", "batch", "points", "groups")
SETTINGS = ("size", "devices", *VARIED[1:])
MEMORY = ("arguments GiB", "temporaries GiB", "in all GiB", "compiled in s")


def tables(rows: Sequence[dict[str, Any]]) -> str:
  """Memory, and collectives as MiB (how many), in Markdown."""
  text = [render([*SETTINGS, *MEMORY], [cells(row, MEMORY) for row in rows])]
  many = [row for row in rows if row["devices"] > 1]
  if many:
    needed = ("parameters MiB", "embeddings MiB")
    names = [f"{name} MiB" for name in collectives.NAMES]
    text.append(
      render(
        [*SETTINGS, *needed, *names],
        [
          cells(row, needed)
          + [f"{moved} ({n})" for n, moved in row["collectives"].values()]
          for row in many
        ],
      )
    )
  return "\n\n".join(text)


def cells(row: dict[str, Any], names: Sequence[str]) -> list[str]:
  return [str(row[name]) for name in (*SETTINGS, *names)]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)

  def several(kind):
    return lambda text: [kind(x) for x in text.split(",")]

  parser.add_argument("--devices", type=int, default=8)
  parser.add_argument(
    "--tpu",
    default="",
    help="compile for this slice instead, as v5p:2x2x2; needs libtpu, no TPU",
  )
  parser.add_argument("--sizes", type=several(str), default=[*SIZES])
  parser.add_argument("--fsdp", type=several(int), default=[1])
  parser.add_argument("--remat", type=several(str), default=["none"])
  parser.add_argument("--accumulate", type=several(int), default=[1])
  parser.add_argument("--batch", type=several(int), default=[512])
  parser.add_argument("--points", type=several(int), default=[10_000])
  parser.add_argument("--groups", type=several(int), default=[0])
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--dtype", default="bfloat16")
  parser.add_argument("--query_chunk", type=int, default=8)
  parser.add_argument("--average", action="store_true")
  return parser.parse_args(argv)


def main(args: argparse.Namespace) -> list[dict[str, Any]]:
  devices = jax.devices()
  if args.tpu:
    devices = topologies.get_topology_desc(args.tpu, platform="tpu").devices
  lists = [getattr(args, name) for name in VARIED]
  rows = []
  for setting in itertools.product(*lists):
    rows.append(measure(args, devices, Setting(*setting)))
    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
  print(tables(rows))
  print(json.dumps({"jax": jax.__version__} | vars(args) | {"rows": rows}))
  return rows


if __name__ == "__main__":
  arguments = parse()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", arguments.devices)
  main(arguments)
