"""The configuration as typed, checked values.

A config file returns an `ml_collections.ConfigDict` (`configs/base.py` is the
complete list of fields); `from_config_dict` turns it into the frozen
`Config` below or says in one sentence which field is wrong.  There are no
defaults here: what a run uses is what its config says.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from mrd_jax.data.examples import AugmentConfig
from mrd_jax.errors import BadInput
from mrd_jax.losses.mrd import LossConfig
from mrd_jax.models.attention import Attention
from mrd_jax.models.point_ops import Sampling
from mrd_jax.models.pointbert import PointBERTSize, Remat
from mrd_jax.training.clock import parse_window
from mrd_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where the training shapes come from.

  Attributes:
    dir: Prepared dataset (`python -m mrd_jax.prepare`).
    made_from: What `dir` is made from when it does not exist: "procedural",
      a folder in OpenShape's layout, or "" to make nothing.
    split: Training split.
    threads: Reading threads.
    workers: Worker processes; 0 reads with threads alone.
    resident: Whether the devices keep the whole split in their memory
      (`data/resident.py`); the batches are the same.
  """

  dir: str
  made_from: str
  split: str
  threads: int
  workers: int
  resident: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(PointBERTSize):
  """The encoder: its architecture and how it is computed."""

  dtype: Literal["float32", "bfloat16"]
  remat: Remat
  attention: Attention
  sampling: Sampling
  fps_chunk: int
  query_chunk: int

  @property
  def size(self) -> PointBERTSize:
    names = (field.name for field in dataclasses.fields(PointBERTSize))
    return PointBERTSize(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
  """The contrastive logit scale.

  Attributes:
    init: Its value at the start.
    max: Its largest value; 0 lets it grow.
  """

  init: float
  max: float


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The length of a run.

  Attributes:
    batch_size: Global batch.
    accumulate: In how many parts the encoder takes it, one after the other,
      where it does not fit; the losses and the gradient are those of the
      whole (`training/accumulate.py`).
    epochs: Length in epochs.
    steps: Length in steps; set one of the two to 0.
  """

  batch_size: int
  accumulate: int
  epochs: float
  steps: int


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices: all of them; `fsdp` of them share one copy of the state."""

  fsdp: int


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Checkpoints.

  Attributes:
    every_epochs: Interval in epochs (besides the last step).
    every_steps: Interval in steps; set one of the two to 0.
    keep_latest: How many of the newest are kept.
    keep_best: How many of the best are kept besides.
    best_metric: The evaluation metric that decides, e.g. "val/top1"; largest
      wins.
    rule: Which checkpoint the run's results are of: the "last", or the "best"
      by `best_metric`.  Figures of the split that it names are then selected
      on, which results.json says.
  """

  every_epochs: float
  every_steps: int
  keep_latest: int
  keep_best: int
  best_metric: str
  rule: Literal["last", "best"]


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Evaluation on held-out splits.

  Attributes:
    every_epochs: Interval in epochs (besides the last step).
    every_steps: Interval in steps; set one of the two to 0.
    batch_size: Global batch.
    data_dir: Prepared dataset of the splits below; "" is `data.dir`.
    zero_shot: Labelled splits to classify.
    retrieval: Splits with texts to retrieve from.
    relation_gap: Splits whose relations are compared with the teachers'.
  """

  every_epochs: float
  every_steps: int
  batch_size: int
  data_dir: str
  zero_shot: tuple[str, ...]
  retrieval: tuple[str, ...]
  relation_gap: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """What a run tells while it goes on.

  Attributes:
    every_steps: So many steps a line in metrics.jsonl.
    stall_seconds: After so long in one stage the watchdog says where
      everything stands (`training/watchdog.py`); 0: it never does.
    wandb: Project of Weights & Biases that gets the metrics too; "": none.
  """

  every_steps: int
  stall_seconds: float
  wandb: str


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything a run depends on.

  Attributes:
    profile: "START:STOP", the steps to trace (`training/clock.py`); "": none.
    compile_cache: Folder of JAX's persistent compilation cache; "" leaves
      what JAX's own settings say.
  """

  seed: int
  profile: str
  compile_cache: str
  data: DataConfig
  augment: AugmentConfig
  model: ModelConfig
  loss: LossConfig
  logit_scale: ScaleConfig
  optimizer: OptimizerConfig
  train: TrainConfig
  mesh: MeshConfig
  checkpoint: CheckpointConfig
  eval: EvalConfig
  log: LogConfig


def from_config_dict(values: ml_collections.ConfigDict) -> Config:
  """Checks a config file's values and makes a `Config` of them.

  Raises:
    BadInput: naming the field, what it must be, and what it is.
  """
  config = build(Config, values.to_dict(), "config")
  _check_ranges(config)
  return config


# Fields that came later, with the value under which they change nothing; the
# section "" is the top.
ADDED = (
  ("checkpoint", "rule", "last"),
  ("data", "resident", False),
  ("eval", "data_dir", ""),
  ("eval", "relation_gap", ()),
  ("model", "sampling", "auto"),
  ("loss", "form", "dense"),
  ("loss", "stripe", 512),
  ("train", "accumulate", 1),
  ("", "profile", ""),
  ("", "compile_cache", ""),
  ("log", "stall_seconds", 0.0),
  ("log", "wandb", ""),
)


def from_saved(values: dict[str, Any]) -> Config:
  """The `Config` of a run's config.json, also of an older mrd_jax.

  Raises:
    BadInput: as `from_config_dict`.
  """
  values = dict(values)
  for section, field, value in ADDED:
    if not section:
      values = {field: value} | values
    elif isinstance(values.get(section), dict):
      values[section] = {field: value} | values[section]
  return from_config_dict(ml_collections.ConfigDict(values))


def build(cls: type, values: Any, name: str) -> Any:
  """A frozen dataclass of a section's values.

  Args:
    cls: The dataclass; its fields may be dataclasses.
    values: A dict of exactly its fields.
    name: Of the section, for messages.

  Raises:
    BadInput: naming the field that is missing, unknown or of another type.
  """
  if not isinstance(values, dict):
    raise BadInput(f"{name} must be a section of fields, it is {values!r}")
  hints = typing.get_type_hints(cls)
  fields = {field.name for field in dataclasses.fields(cls)}
  for odd in sorted(fields ^ values.keys()):
    problem = "is missing" if odd in fields else "is not a field"
    raise BadInput(
      f"{name}.{odd} {problem}; {name} has {', '.join(sorted(fields))}"
    )
  return cls(
    **{
      field: _check(hints[field], value, f"{name}.{field}")
      for field, value in values.items()
    }
  )


def _check(hint: Any, value: Any, name: str) -> Any:
  if dataclasses.is_dataclass(hint):
    return build(typing.cast(type, hint), value, name)
  if typing.get_origin(hint) is Literal:
    choices = typing.get_args(hint)
    if value not in choices:
      raise BadInput(
        f"{name} is {value!r}, must be one of {', '.join(map(repr, choices))}"
      )
    return value
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, (list, tuple)) or not all(
      isinstance(item, str) for item in value
    ):
      raise BadInput(f"{name} is {value!r}, must be a tuple of strings")
    return tuple(value)
  if hint is float and type(value) is int:
    value = float(value)
  assert not isinstance(hint, types.GenericAlias), hint
  if type(value) is not hint:
    raise BadInput(f"{name} is {value!r}, must be of type {hint.__name__}")
  if hint is float and not math.isfinite(value):
    raise BadInput(f"{name} is {value}, must be finite")
  return value


BELOW_ONE = 1 - 1e-9

# field: (lowest, highest); the ends are allowed.
_RANGES = {
  "seed": (0, 2**31 - 1),
  "data.threads": (1, 1024),
  "data.workers": (0, 1024),
  "augment.num_points": (1, 2**24 - 1),
  "augment.point_dropout": (0, 1),
  "augment.scale_low": (1e-3, 1e3),
  "augment.scale_high": (1e-3, 1e3),
  "augment.shift": (0, 10),
  "augment.tilt": (0, 4),
  "augment.tilt_max": (0, 4),
  "augment.colour_drop": (0, 1),
  "augment.colour_fill": (0, 1),
  "model.width": (1, 2**16),
  "model.depth": (1, 1024),
  "model.heads": (1, 1024),
  "model.mlp_dim": (1, 2**20),
  "model.sa_dim": (1, 2**16),
  "model.groups": (1, 2**16),
  "model.group_size": (1, 2**16),
  "model.radius": (1e-6, 4),
  "model.fps_chunk": (1, 2**24),
  "model.query_chunk": (1, 2**24),
  "loss.relation_weight": (0, 1e6),
  "loss.relation_scale": (0, 1e6),
  "loss.margin": (0, 4),
  "loss.sampled_pairs": (0, 2**24),
  "loss.stripe": (1, 2**24),
  "logit_scale.init": (1e-3, 1e3),
  "logit_scale.max": (0, 1e3),
  "optimizer.learning_rate": (0, 1e3),
  "optimizer.dynamic_learning_rate": (0, 1e3),
  "optimizer.final_learning_rate": (0, 1),
  "optimizer.warmup_epochs": (0, 1e6),
  "optimizer.warmup_steps": (0, 2**31),
  "optimizer.weight_decay": (0, 1e3),
  "optimizer.b1": (0, BELOW_ONE),
  "optimizer.b2": (0, BELOW_ONE),
  "optimizer.eps": (0, 1),
  "optimizer.clip_norm": (0, 1e9),
  "optimizer.ema_decay": (0, BELOW_ONE),
  "train.batch_size": (2, 2**24),
  "train.accumulate": (1, 2**24),
  "eval.batch_size": (1, 2**24),
  "mesh.fsdp": (1, 2**20),
  "checkpoint.keep_latest": (1, 2**20),
  "checkpoint.keep_best": (0, 2**20),
  "log.every_steps": (1, 2**31),
  "log.stall_seconds": (0, 1e9),
}


def check_ranges(
  config: Any, ranges: Mapping[str, tuple[float, float]]
) -> None:
  """Raises BadInput if a field, by its dotted name, is out of its range."""
  for name, (low, high) in ranges.items():
    value: Any = config
    for part in name.split("."):
      value = getattr(value, part)
    if not low <= value <= high:
      raise BadInput(
        f"config.{name} is {value}, must be between {low} and {high}"
      )


def _check_ranges(config: Config) -> None:
  check_ranges(config, _RANGES)
  parse_window(config.profile)
  if config.model.attention == "cudnn" and config.model.dtype == "float32":
    raise BadInput(
      "config.model.attention is 'cudnn', which needs model.dtype 'bfloat16'; "
      "it is 'float32'"
    )
  if config.checkpoint.rule == "best" and not config.checkpoint.keep_best:
    raise BadInput(
      "config.checkpoint.rule is 'best', which needs a keep_best above 0"
    )
  if 0 < config.logit_scale.max < config.logit_scale.init:
    raise BadInput("config.logit_scale.init is above logit_scale.max")
  for pattern in config.optimizer.frozen:
    try:
      re.compile(pattern)
    except re.error as error:
      raise BadInput(
        f"config.optimizer.frozen holds {pattern!r}, which is not a regular "
        f"expression: {error}"
      ) from None
  if config.augment.scale_low > config.augment.scale_high:
    raise BadInput("config.augment.scale_low is above augment.scale_high")
  for section in ("train", "checkpoint", "eval"):
    values = getattr(config, section)
    epochs, steps = (
      (values.epochs, values.steps)
      if section == "train"
      else (values.every_epochs, values.every_steps)
    )
    if (epochs > 0) == (steps > 0) or epochs < 0 or steps < 0:
      raise BadInput(
        f"config.{section} needs either epochs or steps: set one of the two "
        f"to a positive number and the other to 0 (they are {epochs}, {steps})"
      )


def in_steps(epochs: float, steps: int, steps_per_epoch: int) -> int:
  """An interval that is given in epochs or in steps, in steps."""
  return steps or max(round(epochs * steps_per_epoch), 1)
