"""The training step that benchmarks time, and the random batches it takes."""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from configs import base
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.pretraining import SIZES, Config
from mrd_jax.data.examples import Batch
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding
from mrd_jax.training.optimizer import make_optimizer
from mrd_jax.training.pretraining import batch_loss, init_params
from mrd_jax.training.state import make_state
from mrd_jax.training.step import jit_train_step


class Training(NamedTuple):
  """A step of `training/step.py` and what it is made of."""

  config: Config
  encoder: PointBERT
  init: Callable[[], TrainState]
  abstract_state: TrainState
  step: Any


def make_training(
  size: str,
  mesh: Mesh,
  *,
  points: int,
  embed_dim: int,
  accumulate: int = 1,
  keep_average: bool = False,
  groups: int = 0,
  **options: Any,
) -> Training:
  """The paper's losses and AdamW, as `configs/base.py` has them.

  Args:
    size: A name of `SIZES`.
    mesh: The devices.
    points: Points a cloud.
    embed_dim: D.
    accumulate: Parts of a batch.
    keep_average: Whether a moving average of the parameters is kept.
    groups: Tokens a cloud; 0 leaves those of the size.
    **options: Of `PointBERT`.
  """
  values = base.get_config()
  values.augment.num_points = points
  values.train.accumulate = accumulate
  config = Config.from_dict(values)
  architecture = SIZES[size]
  if groups:
    architecture = dataclasses.replace(architecture, groups=groups)
  encoder = PointBERT(
    architecture,
    embed_dim=embed_dim,
    batch_sharding=sharding.batch_sharding(mesh),
    **options,
  )
  optimizer = make_optimizer(
    config.optimizer, steps_per_epoch=100, num_steps=30_000
  )
  init, abstract_state = make_state(
    functools.partial(
      init_params, encoder, config.loss, config.logit_scale.init
    ),
    optimizer,
    keep_average=keep_average,
    seed=0,
    mesh=mesh,
  )
  step = jit_train_step(
    abstract_state,
    mesh,
    loss=functools.partial(
      batch_loss, encoder=encoder, config=config, mesh=mesh
    ),
    optimizer=optimizer,
    ema_decay=config.optimizer.ema_decay,
    max_logit_scale=config.logit_scale.max,
  )
  return Training(config, encoder, init, abstract_state, step)


def training_of_flags(
  size: str, mesh: Mesh, args: argparse.Namespace
) -> Training:
  """Makes the training that the flags of `step` and `compiled` describe."""
  return make_training(
    size,
    mesh,
    points=args.points,
    embed_dim=args.embed_dim,
    accumulate=args.accumulate,
    groups=args.groups,
    dtype=jnp.dtype(args.dtype),
    remat=args.remat,
    attention=args.attention,
    point_net=args.point_net,
    sampling=args.sampling,
    fps_chunk=args.fps_chunk,
    query_chunk=args.query_chunk,
  )


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


def abstract_batch(batch: int, points: int, embed_dim: int) -> Batch:
  """The shapes and types of `random_batch`."""
  one = random_batch(1, 1, 1)
  shapes = {
    "xyz": (points, 3),
    "rgb": (points, 3),
    "image_feat": (2, embed_dim),
    "text_feat": (2, embed_dim),
  }
  fields = {
    name: jax.ShapeDtypeStruct(
      (batch, *shapes.get(name, field.shape[1:])), jnp.asarray(field).dtype
    )
    for name, field in one._asdict().items()
  }
  return Batch(**fields)
