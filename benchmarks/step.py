"""Times one training step of a size, and what the tokenizer takes of it.

  python -m benchmarks.step --size t --batch 64 --dtype bfloat16

Random clouds and features, the paper's losses, AdamW; medians of interleaved
rounds.  Prints a line of JSON: milliseconds, shapes per second, and XLA's own
count of temporary memory.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from benchmarks.training import make_training, random_batch
from mrd_jax import sharding
from mrd_jax.data.transforms import train_examples
from mrd_jax.models.pointbert import SIZES


def measure(args: argparse.Namespace) -> dict[str, object]:
  """Runs the benchmark; the result is what is printed."""
  mesh = sharding.make_mesh(1)
  batch_sharding = sharding.batch_sharding(mesh)
  training = make_training(
    args.size,
    mesh,
    points=args.points,
    embed_dim=args.embed_dim,
    dtype=jnp.dtype(args.dtype),
    remat=args.remat,
    attention=args.attention,
    sampling=args.sampling,
    fps_chunk=args.fps_chunk,
    query_chunk=args.query_chunk,
  )
  batch = jax.device_put(
    random_batch(args.batch, args.points, args.embed_dim), batch_sharding
  )
  compile_start = time.perf_counter()
  step = training.step.lower(training.abstract_state, batch).compile()
  state = training.init()
  compile_seconds = time.perf_counter() - compile_start
  memory = step.memory_analysis()

  @jax.jit
  def tokenizer(batch):
    augment = training.config.augment
    examples = train_examples(batch, augment, seed=0, step=jnp.int32(0))
    return training.encoder.group(examples.points, examples.num_points)

  times: dict[str, list[float]] = {"step": [], "tokenizer": []}
  for i in range(args.rounds + 1):
    start = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    middle = time.perf_counter()
    jax.block_until_ready(tokenizer(batch))
    end = time.perf_counter()
    if i:  # the first round compiles the tokenizer and warms up
      times["step"].append(middle - start)
      times["tokenizer"].append(end - middle)
  step_seconds, tokenizer_seconds = (
    statistics.median(times[name]) for name in ("step", "tokenizer")
  )
  return vars(args) | {
    "device": f"{mesh.size} x {jax.devices()[0].device_kind}",
    "jax": jax.__version__,
    "step_ms": round(step_seconds * 1e3, 2),
    "input_and_tokenizer_ms": round(tokenizer_seconds * 1e3, 2),
    "input_and_tokenizer_share": round(tokenizer_seconds / step_seconds, 3),
    "shapes_per_second": round(args.batch / step_seconds, 1),
    "compile_s": round(compile_seconds, 1),
    "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
    "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 2),
    "loss": float(metrics["loss"]),
  }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=SIZES, default="t")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--remat", default="none")
  parser.add_argument("--attention", default="xla")
  parser.add_argument("--sampling", default="auto")
  parser.add_argument("--fps_chunk", type=int, default=8)
  parser.add_argument("--query_chunk", type=int, default=8)
  parser.add_argument("--rounds", type=int, default=5)
  return parser.parse_args(argv)


if __name__ == "__main__":
  print(json.dumps(measure(parse())))
