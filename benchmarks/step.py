"""Times one training step of a size, and its first and last parts.

  python -m benchmarks.step --size t --batch 64 --dtype bfloat16

Random clouds and features, the paper's losses, AdamW; medians of interleaved
rounds, or --calls at a time, of the whole step and, as programs of their own, of
its first part (input stage and tokenizer) and of its last (losses, value and
gradient).  The floor is the step's matrix products at the peak of square ones,
and, for the tokens' first layers, their activations once at the bandwidth of a
copy; both are measured in the same run (`floors.py`).  Prints a line of JSON:
milliseconds, shapes per second, and XLA's own count of temporary memory.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp

from benchmarks import floors, timing
from benchmarks.losses import gradient, random_inputs
from benchmarks.training import (
  abstract_batch,
  random_batch,
  training_of_flags,
)
from mrd_jax.config.pretraining import SIZES
from mrd_jax.data.examples import train_examples
from mrd_jax.parallel import sharding


def measure(args: argparse.Namespace) -> dict[str, object]:
  """Runs the benchmark; the result is what is printed."""
  mesh = sharding.make_mesh(1)
  training = training_of_flags(args.size, mesh, args)
  clouds = (args.batch, args.points, args.embed_dim)
  layout = sharding.batch_sharding(mesh)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
    abstract_batch(*clouds),
  )
  losses = gradient(training.config.loss, None)
  embeddings = random_inputs(training.config.loss, args.batch, args.embed_dim)

  @jax.jit
  def tokenizer(batch):
    augment = training.config.augment
    examples = train_examples(batch, augment, seed=0, step=jnp.int32(0))
    return training.encoder.group(examples.points, examples.num_points)

  compile_start = time.perf_counter()
  step = training.step.lower(training.abstract_state, abstract).compile()
  state = training.init()
  compile_seconds = time.perf_counter() - compile_start
  tokenize = tokenizer.lower(abstract).compile()
  losses = losses.lower(*embeddings).compile()
  memory = step.memory_analysis()
  compiled = {
    "compile_s": round(compile_seconds, 1),
    "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
    "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 2),
  }
  if args.compile_only:
    return vars(args) | compiled
  batch = jax.device_put(random_batch(*clouds), layout)
  metrics: dict[str, jax.Array] = {}

  def whole() -> dict[str, jax.Array]:
    nonlocal state, metrics
    state, metrics = step(state, batch)
    return metrics

  seconds = timing.medians(
    timing.seconds(
      {
        "step": whole,
        "tokenizer": lambda: tokenize(batch),
        "losses": lambda: losses(*embeddings),
      },
      rounds=args.rounds,
      calls=args.calls,
    )
  )
  size = training.encoder.size
  peak = timing.matrix_peak(args.dtype, args.peak_side, args.rounds)
  bandwidth = timing.copy_bandwidth(args.copy_megabytes, args.rounds)
  floor = {
    "matrices": args.batch * floors.step_flops(size, args.embed_dim) / peak,
    "point_net": args.batch
    * floors.point_net_bytes(size, jnp.dtype(args.dtype).itemsize)
    / bandwidth,
  }
  return vars(args) | {
    "machine": timing.machine(),
    **compiled,
    "step_ms": round(seconds["step"] * 1e3, 2),
    "input_and_tokenizer_ms": round(seconds["tokenizer"] * 1e3, 2),
    "input_and_tokenizer_share": round(
      seconds["tokenizer"] / seconds["step"], 3
    ),
    "losses_ms": round(seconds["losses"] * 1e3, 2),
    "losses_share": round(seconds["losses"] / seconds["step"], 4),
    "shapes_per_second": round(args.batch / seconds["step"], 1),
    "matrix_peak_tflops": round(peak / 1e12, 3),
    "copy_gb_per_second": round(bandwidth / 1e9, 1),
    "floor_matrices_ms": round(floor["matrices"] * 1e3, 2),
    "floor_point_net_ms": round(floor["point_net"] * 1e3, 2),
    "share_of_matrix_floor": round(floor["matrices"] / seconds["step"], 3),
    "loss": float(metrics["loss"]),
  }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=SIZES, default="t")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed_dim", type=int, default=1280)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--groups", type=int, default=0)
  parser.add_argument("--accumulate", type=int, default=1)
  parser.add_argument("--remat", default="none")
  parser.add_argument("--attention", default="auto")
  parser.add_argument("--point_net", default="auto")
  parser.add_argument("--sampling", default="auto")
  parser.add_argument("--fps_chunk", type=int, default=8)
  parser.add_argument("--query_chunk", type=int, default=8)
  timing.add_flags(parser)
  parser.add_argument("--peak_side", type=int, default=2048)
  parser.add_argument("--copy_megabytes", type=int, default=256)
  return parser.parse_args(argv)


if __name__ == "__main__":
  print(json.dumps(measure(parse())))
