"""Encoders with random weights, without training and without PyTorch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.encoder import published
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.models.clip import ImageTowerSize, TowerSize
from mrd_jax.models.clip_resnet import ResNetSize
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.zoo import (
  cg3d,
  cg3d_pointmlp,
  clip2point,
  pointclip,
  recon,
  reconpp,
  spconv,
  ulip,
  uni3d,
)
from mrd_jax.zoo.openshape import Size
from mrd_jax.zoo.registry import SYSTEMS

TINY = PointBERTSize(
  32, 2, 1, 48, sa_dim=16, groups=12, radius=0.4, group_size=8
)
EMBED_DIM = 10
# What a run of ours leaves in the config; the values are arbitrary.
TRAINED = {
  "training_config": {
    "seed": 3,
    "train": {"batch_size": 64, "steps": 7},
    "optimizer": {"learning_rate": 0.001},
    "loss": {"weighting": "dynamic"},
    "augment": {"num_points": 600},
  },
  "data": {"name": "Chairs", "teacher": "a teacher", "records": 123},
  "results": {"step": 7, "metrics": {"val/top1": 0.25, "val/top5": 0.5}},
  "license": "cc-by-4.0",
}


def make_config(**changes) -> EncoderConfig:
  """A config whose every value differs from a default of ours."""
  values = {
    "architecture": TINY,
    "up_axis": "z",
    "num_points": 600,
    "colour_fill": 0.3,
    "embedding_space": "a teacher",
    "logit_scale": 2.5,
    "step": 7,
    "source": "drawn at random",
  }
  embed_dim = changes.pop("embed_dim", EMBED_DIM)
  values |= changes
  size = values["architecture"]
  if not isinstance(size, Size):
    values["architecture"] = Size(**vars(size), embed_dim=embed_dim)
  return EncoderConfig(**values)


def random_variables(
  size: PointBERTSize, embed_dim: int | None, seed: int = 0
) -> dict:
  """Variables of `PointBERT` as numpy arrays, norms and statistics perturbed.

  Larger weights than PyTorch's at the start, and a small cls token: so that
  different clouds have quite different embeddings, as after training.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf) -> np.ndarray:
    name, shape = path[-1].key, leaf.shape
    if name == "kernel":
      value = rng.normal(size=shape) * (2 / shape[0]) ** 0.5
    elif name in ("bias", "cls_token"):
      value = 0.1 * rng.normal(size=shape)
    else:
      value = {"scale": 1.0, "mean": 0.0, "var": 1.1}[name]
      value = value + 0.1 * rng.uniform(-1, 1, shape)
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(
    draw, variable_shapes(size, embed_dim)
  )


@functools.cache
def variable_shapes(size: PointBERTSize, embed_dim: int | None) -> dict:
  return jax.eval_shape(
    lambda key: PointBERT(size, embed_dim).init(
      key, jnp.zeros((1, 2, 6)), jnp.ones(1, jnp.int32), train=False
    ),
    jax.random.key(0),
  )


def make_encoder(seed: int = 0, dtype: str = "float32", **changes) -> Encoder:
  """An encoder of `make_config(**changes)`."""
  config = make_config(**changes)
  size = config.architecture.size
  variables = random_variables(size, config.embed_dim, seed)
  return Encoder.make(config, variables, dtype)


def load_published(path, **given) -> Encoder:
  """What `convert from-torch` makes of a file."""
  return Encoder.make(*published.read(path, **given))


def cloud(n: int, channels: int = 6, seed: int = 0) -> np.ndarray:
  """A cloud (n, channels) float64: a box of random sides, rgb in [0, 1)."""
  rng = np.random.default_rng(seed)
  points = rng.random((n, channels))
  points[:, :3] *= 0.5 + 3 * rng.random(3)
  return points


def assert_same(found: Encoder, expected: Encoder) -> None:
  """Config, variables and embeddings are equal, every bit."""
  assert found.config == expected.config
  assert found.model == expected.model
  jax.tree.map(
    np.testing.assert_array_equal, found.variables, expected.variables
  )
  for leaf in jax.tree.leaves(found.variables):
    assert leaf.dtype == np.float32
  np.testing.assert_array_equal(found([cloud(99)]), expected([cloud(99)]))


# Of every other system, as small as it goes.
_TOWER = ImageTowerSize(
  16, TowerSize(64, 1, 1, 64, "quick_gelu", 1e-5), 224, 56
)
TINY_SIZES = {
  "spconv": spconv.Size((1, 1, 1, 1), 6, 16, 0.2),
  "uni3d": uni3d.Size(64, 1, 64, True, "swiglu_norm", 48, 32, 6, 16, 8, 8),
  "ulip": ulip.Size(64, 1, 48, 32, 3, 16, 8, 8),
  "recon": recon.Size(64, 1, 48, 3, 16, 8, 8),
  "reconpp": reconpp.Size(64, 1, 48, 6, 15, 16, groups=8, group_size=8),
  "cg3d": cg3d.Size(64, 1, 48, 32, 3, 16, 8, 8),
  "cg3d_pointmlp": cg3d_pointmlp.Size(8, 1, 1, 16, (16, 8), 6),
  "clip2point": clip2point.Size(_TOWER),
  "pointclip": pointclip.Size(ResNetSize(32, 16, (1, 1, 1, 1), 64)),
}


@functools.cache
def make_of_system(system: str, seed: int = 0) -> Encoder:
  """An encoder of another system, with random weights."""
  size = TINY_SIZES[system]
  rng = np.random.default_rng(seed)

  def draw(path, leaf) -> np.ndarray:
    name, shape = path[-1].key, leaf.shape
    value = 0.1 * rng.normal(size=shape)
    if name in ("scale", "alpha", "var"):
      value = 1 + 0.1 * rng.uniform(-1, 1, shape)
    elif name in ("kernel", "weight"):
      fan_in = np.prod(shape[:-1] if name == "kernel" else shape[-1:])
      value *= 14 * fan_in**-0.5
    return value.astype(np.float32)

  shapes = jax.eval_shape(
    functools.partial(SYSTEMS[system].make(size).init, train=False),
    jax.random.key(0),
    jnp.zeros((1, 2, 6)),
    jnp.ones(1, jnp.int32),
  )
  prepared: dict[str, Any] = SYSTEMS[system].preparation(size)._asdict()
  config = EncoderConfig(
    system=system,
    architecture=size,
    embedding_space="a teacher",
    source="drawn at random",
    **prepared | {"colour_fill": 0.3},
  )
  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  return Encoder.make(config, variables)
