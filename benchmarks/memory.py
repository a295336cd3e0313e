"""What a training step holds on each device: XLA's own count, nothing is run.

  python -m benchmarks.memory --devices 8 --sizes t,s,m,b,l --fsdp 1,8

Compiles the real step (input stage, tokenizer, encoder, losses, gradients,
AdamW) for a batch of 512 clouds of 10,000 points over virtual CPU devices and
prints a table and a line of JSON.  Arguments are the state (parameters and two
moments, in float32) and the batch; the state is donated, so the outputs take
no more.  XLA for CPUs widens bfloat16 to float32 here and there and fuses less
than XLA for GPUs: read the figures as upper bounds.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from benchmarks.training import abstract_batch, make_training
from mrd_jax import sharding
from mrd_jax.models.pointbert import SIZES

GIB = 2**30


def measure(
  args: argparse.Namespace,
  devices: Sequence[jax.Device],
  size: str,
  fsdp: int,
  remat: str,
  accumulate: int,
) -> dict[str, object]:
  """One row of the table; GiB are of one device."""
  mesh = sharding.make_mesh(fsdp, devices)
  sharding.check_batch_size("--batch", args.batch, mesh, parts=accumulate)
  training = make_training(
    size,
    mesh,
    points=args.points,
    embed_dim=args.embed_dim,
    accumulate=accumulate,
    keep_average=args.average,
    dtype=jnp.dtype(args.dtype),
    remat=remat,
    fps_chunk=4096,
    query_chunk=args.query_chunk,
  )
  start = time.perf_counter()
  memory = (
    training.step.lower(
      training.abstract_state,
      abstract_batch(args.batch, args.points, args.embed_dim),
    )
    .compile()
    .memory_analysis()
  )
  arguments = memory.argument_size_in_bytes / GIB
  temporaries = memory.temp_size_in_bytes / GIB
  kept = (memory.output_size_in_bytes - memory.alias_size_in_bytes) / GIB
  return {
    "size": size.upper(),
    "devices": mesh.size,
    "fsdp": fsdp,
    "remat": remat,
    "accumulate": accumulate,
    "arguments GiB": round(arguments, 2),
    "temporaries GiB": round(temporaries, 2),
    "in all GiB": round(arguments + temporaries + kept, 2),
    "compiled in s": round(time.perf_counter() - start, 1),
  }


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
  parser.add_argument("--batch", type=int, default=512)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--dtype", default="bfloat16")
  parser.add_argument("--query_chunk", type=int, default=8)
  parser.add_argument("--average", action="store_true")
  return parser.parse_args(argv)


def main(args: argparse.Namespace) -> list[dict[str, object]]:
  devices = jax.devices()
  if args.tpu:
    devices = topologies.get_topology_desc(args.tpu, platform="tpu").devices
  settings = itertools.product(
    args.sizes, args.fsdp, args.remat, args.accumulate
  )
  rows = []
  for setting in settings:
    rows.append(measure(args, devices, *setting))
    if len(rows) == 1:
      print("| " + " | ".join(rows[0]) + " |", flush=True)
      print("|" + "---|" * len(rows[0]), flush=True)
    print("| " + " | ".join(map(str, rows[-1].values())) + " |", flush=True)
  print(json.dumps({"jax": jax.__version__} | vars(args) | {"rows": rows}))
  return rows


if __name__ == "__main__":
  arguments = parse()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", arguments.devices)
  main(arguments)
