"""The configuration as typed, checked values.

A config file returns an `ml_collections.ConfigDict` (`configs/base.py` is the
complete list of fields); `from_config_dict` turns it into the frozen
`Config` below or says in one sentence which field is wrong.  There are no
defaults here: what a run uses is what its config says.
"""

import dataclasses
import re
from typing import Any, Literal

import ml_collections

from mrd_jax.config.fields import BELOW_ONE, build, check_ranges, parse_window
from mrd_jax.errors import BadInput

Representation = Literal["similarity", "euclidean", "partial_order"]
CrossForm = Literal["full", "matched"]
Weighting = Literal["dynamic", "alternating", "fixed"]
Form = Literal["auto", "dense", "gather", "ring"]
Remat = Literal["none", "blocks", "all"]
Sampling = Literal["auto", "xla", "kernel"]
Attention = Literal["xla", "cudnn"]
UpAxis = Literal["y", "z"]


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
  """AdamW with a warm-up and half a cosine.

  Attributes:
    learning_rate: Peak; in pre-training that of the encoder group.
    final_learning_rate: What the cosine ends at, as a share of the peak.
    warmup_epochs: Linear warm-up from zero, in epochs.
    warmup_steps: The same in steps; set one of the two to 0.
    weight_decay: AdamW's, on weight matrices only: not on biases, norms, the
      cls token, the logit scale.
    b1: Adam's.
    b2: Adam's.
    eps: Adam's.
    clip_norm: Largest norm of a group's gradients; 0 does not clip.
  """

  learning_rate: float
  final_learning_rate: float
  warmup_epochs: float
  warmup_steps: int
  weight_decay: float
  b1: float
  b2: float
  eps: float
  clip_norm: float


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(AdamWConfig):
  """The optimizer of pre-training.

  Attributes:
    dynamic_learning_rate: Peak for the dynamic weights.
    ema_decay: Decay of a moving average of the parameters, which is then what
      is evaluated; 0 keeps none.
    frozen: Regular expressions of paths that are not updated.
  """

  dynamic_learning_rate: float
  ema_decay: float
  frozen: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """OpenShape's augmentations; the values of `configs/base.py` are theirs.

  Attributes:
    num_points: Points drawn from a cloud; clouds with fewer keep all theirs.
    swap_yz: Whether to exchange y and z: records are y up, the encoder z up.
    point_dropout: Largest share of points collapsed onto the first one.
    scale_low: Smallest random scale.
    scale_high: Largest random scale.
    shift: Largest random shift per axis.
    tilt: Standard deviation of small rotations per axis, radians.
    tilt_max: Where these are clipped, radians.
    rotate: Whether clouds are turned about z, the encoder's up, at random.
    colour_drop: Probability that a cloud loses its colours.
    colour_fill: The grey that replaces them.
  """

  num_points: int
  swap_yz: bool
  point_dropout: float
  scale_low: float
  scale_high: float
  shift: float
  tilt: float
  tilt_max: float
  rotate: bool
  colour_drop: float
  colour_fill: float

  @classmethod
  def plain(
    cls, *, num_points: int, swap_yz: bool, colour_fill: float
  ) -> "AugmentConfig":
    """No augmentation at all: what an encoder is used with."""
    return cls(
      num_points=num_points,
      swap_yz=swap_yz,
      point_dropout=0.0,
      scale_low=1.0,
      scale_high=1.0,
      shift=0.0,
      tilt=0.0,
      tilt_max=0.0,
      rotate=False,
      colour_drop=0.0,
      colour_fill=colour_fill,
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Which of the method's variants is computed; the defaults are the paper's.

  Attributes:
    representation: How a relation is represented, with its discrepancy:
      normalised similarity with Jeffrey divergence, Euclidean distance with
      mean squared error, or partial order with margin ranking.
    intra: Whether the intra-modal terms take part.
    cross: Whether the cross-modal terms take part.
    cross_form: "full": four cross terms, two pairs of weights; "matched":
      D(PI, TI) and D(PT, IT) only, one pair over them.
    weighting: "dynamic": pairs of learned weights; "alternating": the same,
      but every second step updates only them (`training/optimizer.py`); "fixed": 1/2.
    relation_weight: lambda of Eq. 13.
    relation_scale: Scale of the similarities in Eq. 5-6; 0 means the
      contrastive logit scale without its gradient.
    keep_diagonal: Whether intra relations keep the pair of a sample with
      itself.
    normalize_intra: Whether intra Euclidean distances are divided by their
      mean (Eq. 3 as printed does not, Eq. 4 does).
    margin: m of Eq. 12.
    sampled_pairs: How many random pairs per anchor Eq. 12 takes; 0 takes all.
    form: How the terms are computed; the numbers are the same.  "dense":
      from (B, B) matrices; "gather": tile by tile, every device its rows
      against all columns; "ring": the same, the columns on their way from
      device to device; "auto": `choose_form`.
    stripe: Columns of a tile in the forms "gather" and "ring".
  """

  representation: Representation = "similarity"
  intra: bool = True
  cross: bool = True
  cross_form: CrossForm = "full"
  weighting: Weighting = "dynamic"
  relation_weight: float = 3.0
  relation_scale: float = 0.0
  keep_diagonal: bool = False
  normalize_intra: bool = True
  margin: float = 0.1
  sampled_pairs: int = 0
  form: Form = "auto"
  stripe: int = 512


@dataclasses.dataclass(frozen=True)
class PointBERTSize:
  """The architecture: what decides the parameters and the numbers.

  Attributes:
    width: Token width.
    depth: Transformer blocks.
    heads: Attention heads of width 64.
    mlp_dim: Hidden width of a block's MLP.
    sa_dim: Output width of the mini-PointNet.
    groups: G, tokens per cloud.
    radius: Radius of a group's ball in the normalised cloud.
    group_size: K, points per group.
  """

  width: int
  depth: int
  heads: int
  mlp_dim: int
  sa_dim: int = 256
  groups: int = 384
  radius: float = 0.2
  group_size: int = 64


SIZES = {
  # T and M are OpenShape's scales 1 and 4.
  "t": PointBERTSize(
    256, 6, 4, 1024, 96, groups=64, radius=0.4, group_size=256
  ),
  "s": PointBERTSize(384, 12, 6, 1536),
  "m": PointBERTSize(512, 12, 8, 1536),
  "b": PointBERTSize(768, 12, 12, 3072),
  "l": PointBERTSize(1024, 24, 16, 4096),
}


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
  """

  dir: str
  made_from: str
  split: str
  threads: int
  workers: int


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
