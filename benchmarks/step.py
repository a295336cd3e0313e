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
import numpy as np

from configs import base
from mrd_jax import sharding
from mrd_jax.config import from_config_dict
from mrd_jax.data.transforms import Batch, train_examples
from mrd_jax.models import point_ops
from mrd_jax.models.pointbert import SIZES, PointBERT
from mrd_jax.optimizer import make_optimizer
from mrd_jax.train_state import make_state
from mrd_jax.train_step import jit_train_step


def random_batch(batch: int, points: int, embed_dim: int) -> Batch:
  """Clouds on two spheres: as many points in a ball as on real surfaces."""
  rng = np.random.default_rng(0)
  xyz = rng.normal(size=(batch, points, 3))
  xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
  xyz *= np.where(rng.random((batch, points, 1)) < 0.5, 1.0, 0.6)
  return Batch(
    row=np.arange(batch, dtype=np.int32),
    xyz=(xyz * 32767).astype(np.int16),
    rgb=rng.integers(0, 256, (batch, points, 3)).astype(np.uint8),
    num_points=np.full(batch, points, np.int32),
    image_feat=rng.normal(size=(batch, 2, embed_dim)).astype(np.float16),
    image_kind=np.ones((batch, 2), np.uint8),
    text_feat=rng.normal(size=(batch, 2, embed_dim)).astype(np.float16),
    text_kind=np.ones((batch, 2), np.uint8),
    label=np.full(batch, -1, np.int32),
  )


def measure(args: argparse.Namespace) -> dict[str, object]:
  """Runs the benchmark; the result is what is printed."""
  values = base.get_config()
  values.augment.num_points = args.points
  config = from_config_dict(values)
  mesh = sharding.make_mesh(1)
  batch_sharding = sharding.batch_sharding(mesh)
  size = SIZES[args.size]
  chunks = {"fps_chunk": args.fps_chunk, "query_chunk": args.query_chunk}
  encoder = PointBERT(
    size,
    embed_dim=args.embed_dim,
    dtype=jnp.dtype(args.dtype),
    remat=args.remat,
    attention=args.attention,
    batch_sharding=batch_sharding,
    **chunks,
  )
  optimizer = make_optimizer(
    config.optimizer, steps_per_epoch=100, num_steps=30_000, alternating=False
  )
  init, abstract_state = make_state(
    encoder,
    config.loss,
    config.logit_scale.init,
    optimizer,
    keep_average=False,
    seed=0,
    mesh=mesh,
  )
  batch = jax.device_put(
    random_batch(args.batch, args.points, args.embed_dim), batch_sharding
  )
  compile_start = time.perf_counter()
  step = (
    jit_train_step(encoder, optimizer, config, abstract_state, mesh)
    .lower(abstract_state, batch)
    .compile()
  )
  state = init()
  compile_seconds = time.perf_counter() - compile_start
  memory = step.memory_analysis()

  @jax.jit
  def tokenizer(batch):
    examples = train_examples(batch, config.augment, seed=0, step=jnp.int32(0))
    return point_ops.group_points(
      examples.points,
      examples.num_points,
      groups=size.groups,
      radius=size.radius,
      group_size=size.group_size,
      batch_sharding=batch_sharding,
      **chunks,
    )

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
  parser.add_argument("--fps_chunk", type=int, default=8)
  parser.add_argument("--query_chunk", type=int, default=8)
  parser.add_argument("--rounds", type=int, default=5)
  return parser.parse_args(argv)


if __name__ == "__main__":
  print(json.dumps(measure(parse())))
