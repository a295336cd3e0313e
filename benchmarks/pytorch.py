"""Holds the sizes against PyTorch with random weights, as `compare` does.

  python -m benchmarks.pytorch --sizes t,m --output runs/pytorch

Random weights, BatchNorm statistics that are not the initial ones, random
clouds on two spheres and random features: nothing needs to be trained or
downloaded.  Writes compare.json and compare.png of each size.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.config.pretraining import SIZES
from mrd_jax.data.examples import Examples
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.zoo import openshape


def random_encoder(size: str, embed_dim: int, num_points: int) -> Encoder:
  """An encoder with PyTorch's initialisation and perturbed norms."""
  architecture = SIZES[size]
  init = jax.jit(
    functools.partial(PointBERT(architecture, embed_dim).init, train=False)
  )
  variables = init(
    jax.random.key(0), jnp.zeros((1, 2, 6)), jnp.ones(1, jnp.int32)
  )
  rng = np.random.default_rng(0)

  def perturb(path, x):
    if "norm" not in jax.tree_util.keystr(path):
      return np.asarray(x)
    return np.asarray(x + 0.2 * rng.random(x.shape), np.float32)

  config = EncoderConfig(
    architecture=openshape.Size(**vars(architecture), embed_dim=embed_dim),
    up_axis="z",
    num_points=num_points,
    colour_fill=0.4,
    embedding_space="none",
  )
  variables = jax.tree_util.tree_map_with_path(perturb, variables)
  return Encoder.make(config, variables)


def random_examples(batch: int, points: int, embed_dim: int) -> Examples:
  """Clouds on two spheres: as many points in a ball as on real surfaces."""
  rng = np.random.default_rng(1)
  xyz = rng.normal(size=(batch, points, 3))
  xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
  xyz *= np.where(rng.random((batch, points, 1)) < 0.5, 1.0, 0.6)
  clouds = np.concatenate([xyz, rng.random(xyz.shape)], axis=-1)
  image, text = rng.normal(size=(2, batch, embed_dim)).astype(np.float32)
  return Examples(
    points=jnp.asarray(clouds, jnp.float32),
    num_points=jnp.full(batch, points, jnp.int32),
    image=jnp.asarray(image),
    text=jnp.asarray(text),
    has_text=jnp.arange(batch) % 3 != 1,
  )


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--sizes", default="t,m", help="some of t,s,m,b,l")
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--embed-dim", type=int, default=1280)
  parser.add_argument("--dtypes", default="float64,float32,bfloat16")
  parser.add_argument("--torch-device", default="cpu")
  parser.add_argument("--output", type=Path, required=True)
  args = parser.parse_args()
  from mrd_jax.compare import report, run
  from mrd_jax.convert import bridge

  passed = True
  for size in args.sizes.split(","):
    started = time.monotonic()
    encoder = random_encoder(size, args.embed_dim, args.points)
    rows = run.compare(
      encoder,
      bridge.torch_model(encoder),
      random_examples(args.batch, args.points, args.embed_dim),
      dtypes=tuple(args.dtypes.split(",")),
      device=args.torch_device,
    )
    name = f"size {size.upper()}, random weights"
    title = f"{name}, {args.batch} clouds of {args.points:,} points"
    print(report.table(rows))
    print(f"\n{title}, {time.monotonic() - started:.0f} s")
    inputs = {"model": name, "clouds": args.batch, "points": args.points}
    for path in report.write(args.output / size, rows, inputs, title):
      print(path)
    print(report.verdict(rows))
    passed = passed and all(row.passed for row in rows)
  return 0 if passed else 1


if __name__ == "__main__":
  sys.exit(main())
