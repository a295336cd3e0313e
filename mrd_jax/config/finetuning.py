"""The configuration of a fine-tuning run; see `mrd_jax/config/pretraining.py`."""

import dataclasses
from typing import Literal

import ml_collections

from mrd_jax.config.fields import BELOW_ONE, build, check_ranges, parse_window
from mrd_jax.config.pretraining import (
  AdamWConfig,
  Attention,
  LogConfig,
  MeshConfig,
  PointBERTSize,
  Remat,
  UpAxis,
)
from mrd_jax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where the labelled shapes come from.

  Attributes:
    dir: Prepared dataset (`python -m mrd_jax.prepare`).
    train: Labelled split to learn from.
    test: Labelled split to be tested on, of the same classes.
    threads: Reading threads.
    workers: Worker processes; 0 reads with threads alone.
  """

  dir: str
  train: str
  test: str
  threads: int
  workers: int


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """How a cloud is drawn (`finetune/transforms.py`).

  Attributes:
    num_points: Points that the encoder sees.
    sampled_points: In training, these are a random choice of so many that
      farthest point sampling found.
    scale_low: Smallest scale of an axis, in training.
    scale_high: Largest.
    shift: Largest shift along an axis, in training.
  """

  num_points: int
  sampled_points: int
  scale_low: float
  scale_high: float
  shift: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScratchConfig(PointBERTSize):
  """The encoder where there is no checkpoint that says it.

  Attributes:
    up_axis: The axis that is up in the clouds that it sees.
    colour_fill: The grey of all its points.
  """

  up_axis: UpAxis
  colour_fill: float


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The head, and how the model is computed.

  Attributes:
    hidden: Width of the head's hidden layer.
    dropout: Share of it that is dropped in training.
    drop_path: Rate of stochastic depth in the last block; it grows linearly
      from 0 in the first.
    dtype: As in pre-training, likewise the next four.
    remat: See there.
    attention: See there.
    fps_chunk: See there.
    query_chunk: See there.
  """

  hidden: int
  dropout: float
  drop_path: float
  dtype: Literal["float32", "bfloat16"]
  remat: Remat
  attention: Attention
  fps_chunk: int
  query_chunk: int


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The length and the loss of a run.

  Attributes:
    batch_size: Global batch.
    epochs: Length.
    label_smoothing: Share of the target that is spread over all classes.
  """

  batch_size: int
  epochs: float
  label_smoothing: float


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Checkpoints.

  Attributes:
    every_epochs: Interval (besides the last step).
    keep_latest: How many of the newest are kept.
  """

  every_epochs: float
  keep_latest: int


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Evaluation on the test split.

  Attributes:
    every_epochs: Interval (besides the last step).
    batch_size: Global batch.
    voting: How many augmented copies of a shape vote in the end; 0: no vote.
  """

  every_epochs: float
  batch_size: int
  voting: int


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything a run depends on, but the checkpoint that it starts from.

  Attributes:
    profile, compile_cache: As in pre-training.
  """

  seed: int
  profile: str
  compile_cache: str
  data: DataConfig
  augment: AugmentConfig
  scratch: ScratchConfig
  model: ModelConfig
  optimizer: AdamWConfig
  train: TrainConfig
  mesh: MeshConfig
  checkpoint: CheckpointConfig
  eval: EvalConfig
  log: LogConfig


# field: (lowest, highest); the ends are allowed.
_RANGES = {
  "seed": (0, 2**31 - 2),
  "data.threads": (1, 1024),
  "data.workers": (0, 1024),
  "augment.num_points": (1, 2**24 - 1),
  "augment.sampled_points": (1, 2**24 - 1),
  "augment.scale_low": (1e-3, 1e3),
  "augment.scale_high": (1e-3, 1e3),
  "augment.shift": (0, 10),
  **{
    f"scratch.{name}": (1, 2**16)
    for name in (
      "width",
      "depth",
      "heads",
      "mlp_dim",
      "sa_dim",
      "groups",
      "group_size",
    )
  },
  "scratch.radius": (1e-6, 4),
  "scratch.colour_fill": (0, 1),
  "model.hidden": (1, 2**16),
  "model.dropout": (0, BELOW_ONE),
  "model.drop_path": (0, BELOW_ONE),
  "model.fps_chunk": (1, 2**24),
  "model.query_chunk": (1, 2**24),
  "optimizer.learning_rate": (0, 1e3),
  "optimizer.final_learning_rate": (0, 1),
  "optimizer.warmup_epochs": (0, 1e6),
  "optimizer.warmup_steps": (0, 2**31),
  "optimizer.weight_decay": (0, 1e3),
  "optimizer.b1": (0, BELOW_ONE),
  "optimizer.b2": (0, BELOW_ONE),
  "optimizer.eps": (0, 1),
  "optimizer.clip_norm": (0, 1e9),
  "train.batch_size": (2, 2**24),
  "train.epochs": (1e-9, 1e6),
  "train.label_smoothing": (0, BELOW_ONE),
  "mesh.fsdp": (1, 2**20),
  "checkpoint.every_epochs": (1e-9, 1e6),
  "checkpoint.keep_latest": (1, 2**20),
  "eval.every_epochs": (1e-9, 1e6),
  "eval.batch_size": (1, 2**24),
  "eval.voting": (0, 1000),
  "log.every_steps": (1, 2**31),
  "log.stall_seconds": (0, 1e9),
}


def from_config_dict(values: ml_collections.ConfigDict) -> Config:
  """Checks a config file's values and makes a `Config` of them.

  Raises:
    BadInput: naming the field, what it must be, and what it is.
  """
  config: Config = build(Config, values.to_dict(), "config")
  check_ranges(config, _RANGES)
  parse_window(config.profile)
  if config.model.attention == "cudnn" and config.model.dtype == "float32":
    raise BadInput(
      "config.model.attention is 'cudnn', which needs model.dtype 'bfloat16'; "
      "it is 'float32'"
    )
  if config.augment.scale_low > config.augment.scale_high:
    raise BadInput("config.augment.scale_low is above augment.scale_high")
  if config.augment.sampled_points < config.augment.num_points:
    raise BadInput(
      f"config.augment.sampled_points is {config.augment.sampled_points}, of "
      f"which augment.num_points {config.augment.num_points} cannot be chosen; "
      "raise it"
    )
  return config
