"""Declares every field of a pre-training run.

`Config()` is the paper's run on the ensembled dataset with the encoder M.  It
is checked whenever it is made: from a config file's `ml_collections.ConfigDict`
or a run's config.json by `Config.from_dict`, or in Python, as in
`Config(train=TrainConfig(batch_size=64))`.
"""

import dataclasses
import re
from typing import Literal

from mrd_jax.config import shared
from mrd_jax.config.fields import SHARE, field
from mrd_jax.errors import BadInput

Representation = Literal["similarity", "euclidean", "partial_order"]
UpAxis = Literal["y", "z"]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(shared.AdamWConfig):
  """AdamW with a linear warm-up and half a cosine, by groups of parameters."""

  dynamic_learning_rate: float = field(
    1e-3, "Peak for the dynamic weights.", between=(0, 1e3)
  )
  ema_decay: float = field(
    0.0,
    "Decay of a moving average of the parameters, which is then what is "
    "evaluated; 0 keeps none.",
    between=SHARE,
  )
  frozen: tuple[str, ...] = field(
    (), "Regular expressions of paths of parameters that are not updated."
  )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """OpenShape's augmentations, with its values."""

  num_points: int = field(
    10_000,
    "Points drawn from a cloud; clouds with fewer keep all theirs.",
    between=(1, 2**24 - 1),
  )
  swap_yz: bool = field(
    True, "Whether to exchange y and z: records are y up, the encoder z up."
  )
  point_dropout: float = field(
    0.875,
    "Largest share of points collapsed onto the first one.",
    between=(0, 1),
  )
  scale_low: float = field(0.8, "Smallest random scale.", between=(1e-3, 1e3))
  scale_high: float = field(1.25, "Largest random scale.", between=(1e-3, 1e3))
  shift: float = field(0.1, "Largest random shift per axis.", between=(0, 10))
  tilt: float = field(
    0.06,
    "Standard deviation of small rotations per axis, radians.",
    between=(0, 4),
  )
  tilt_max: float = field(
    0.18, "Where these are clipped, radians.", between=(0, 4)
  )
  rotate: bool = field(
    True, "Whether clouds are turned about z, the encoder's up, at random."
  )
  colour_drop: float = field(
    0.5, "Probability that a cloud loses its colours.", between=(0, 1)
  )
  colour_fill: float = field(
    0.4, "The grey that replaces them.", between=(0, 1)
  )
  thumbnails: bool = field(
    True,
    "Whether a coin decides between a shape's thumbnail and its views, as "
    "OpenShape has it; else only views are drawn, but of a shape without any "
    "its thumbnail.",
  )

  @property
  def up_axis(self) -> UpAxis:
    """Returns the axis that is up in the clouds that the encoder sees."""
    return "z" if self.swap_yz else "y"


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Which of the method's variants is computed."""

  representation: Representation = field(
    "similarity",
    "How a relation is represented, with its discrepancy: normalised "
    "similarity with Jeffrey divergence, Euclidean distance with mean squared "
    "error, or partial order with margin ranking.",
  )
  intra: bool = field(True, "Whether the intra-modal terms take part.")
  intra_teacher: Literal["both", "image", "text"] = field(
    "both", "Whose relations the intra-modal terms are held against."
  )
  cross: bool = field(True, "Whether the cross-modal terms take part.")
  cross_form: Literal["full", "matched"] = field(
    "full",
    "'full': four cross terms, two pairs of weights; 'matched': D(PI, TI) and "
    "D(PT, IT) only, one pair over them.",
  )
  weighting: Literal["dynamic", "alternating", "fixed"] = field(
    "dynamic",
    "'dynamic': pairs of learned weights, updated with the encoder; "
    "'alternating': the same, but every step updates them first and then the "
    "encoder under the new ones; 'fixed': 1/2.",
  )
  relation_weight: float = field(3.0, "lambda of Eq. 13.", between=(0, 1e6))
  intra_scale: float = field(
    1.0,
    "Scale of the similarities of Eq. 5; 0 is the contrastive logit scale "
    "without its gradient.",
    between=(0, 1e6),
  )
  cross_scale: float = field(1.0, "The same of Eq. 6.", between=(0, 1e6))
  intra_diagonal: bool = field(
    True, "Whether intra relations keep the pair of a sample with itself."
  )
  cross_diagonal: bool = field(
    True, "Whether cross relations keep it, which is their positive pair."
  )
  normalize_intra: bool = field(
    True,
    "Whether intra Euclidean distances are divided by their mean (Eq. 3 as "
    "printed does not, Eq. 4 does).",
  )
  margin: float = field(0.1, "m of Eq. 12.", between=(0, 4))
  sampled_pairs: int = field(
    0,
    "How many random pairs per anchor Eq. 12 takes; 0 takes all.",
    between=(0, 2**24),
  )
  form: Literal["auto", "dense", "gather"] = field(
    "auto",
    "How the terms are computed, the numbers are the same: 'dense' from (B, B) "
    "matrices; 'gather' tile by tile, every device its rows against all "
    "columns; 'auto' chooses by the size.",
    may_change=True,
  )
  stripe: int = field(
    512, "Columns of a tile.", between=(1, 2**24), may_change=True
  )


@dataclasses.dataclass(frozen=True)
class PointBERTSize:
  """The architecture: what decides the parameters and the numbers."""

  width: int = field(512, "Token width.", between=(1, 2**16))
  depth: int = field(12, "Transformer blocks.", between=(1, 1024))
  heads: int = field(8, "Attention heads of width 64.", between=(1, 1024))
  mlp_dim: int = field(
    1536, "Hidden width of a block's MLP.", between=(1, 2**20)
  )
  sa_dim: int = field(
    256, "Output width of the mini-PointNet.", between=(1, 2**16)
  )
  groups: int = field(384, "G, tokens per cloud.", between=(1, 2**16))
  radius: float = field(
    0.2, "Radius of a group's ball in the normalised cloud.", between=(1e-6, 4)
  )
  group_size: int = field(64, "K, points per group.", between=(1, 2**16))

  @property
  def size(self) -> "PointBERTSize":
    """Returns the architecture alone, of a section that has more fields."""
    names = (item.name for item in dataclasses.fields(PointBERTSize))
    return PointBERTSize(**{name: getattr(self, name) for name in names})


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
class DataConfig(shared.ReadingConfig):
  """Where the training shapes come from."""

  made_from: str = field(
    "",
    "What data.dir is made from when it does not exist: 'procedural', a folder "
    "in OpenShape's layout, or '' to make nothing.",
    may_change=True,
  )
  split: str = field("train", "Training split.")


@dataclasses.dataclass(frozen=True)
class ModelConfig(shared.ComputeConfig, PointBERTSize):
  """The encoder: its architecture and how it is computed."""

  sampling: shared.Form = field(
    "auto",
    "Implementation of farthest point sampling: portable, or a kernel for "
    "Hopper GPUs and newer, which 'auto' takes where it runs.",
    may_change=True,
  )


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
  """The contrastive logit scale."""

  init: float = field(14.28, "Its value at the start.", between=(1e-3, 1e3))
  max: float = field(
    100.0, "Its largest value; 0 lets it grow.", between=(0, 1e3)
  )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The length of a run."""

  batch_size: int = field(512, "Global batch.", between=(2, 2**24))
  accumulate: int = field(
    1,
    "In how many parts the encoder takes it, one after the other, where it "
    "does not fit; the losses and the gradient are those of the whole.",
    between=(1, 2**24),
    may_change=True,
  )
  epochs: float = field(300.0, "Length in epochs.", between=(0, 1e6))
  steps: int = field(
    0, "Length in steps; set one of the two to 0.", between=(0, 2**31)
  )


@dataclasses.dataclass(frozen=True)
class IntervalConfig:
  """How often something is done."""

  every_epochs: float = field(
    1.0, "Interval in epochs (besides the last step).", between=(0, 1e6)
  )
  every_steps: int = field(
    0, "Interval in steps; set one of the two to 0.", between=(0, 2**31)
  )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(IntervalConfig):
  """When the state is saved, and which checkpoints are kept."""

  keep_latest: int = field(
    3, "How many of the newest are kept.", between=(1, 2**20)
  )
  keep_best: int = field(
    1, "How many of the best are kept besides.", between=(0, 2**20)
  )
  best_metric: str = field(
    "lvis/top1", "The evaluation metric that decides; largest wins."
  )
  rule: Literal["last", "best"] = field(
    "last",
    "Which checkpoint the run's results are of; 'best' by best_metric selects "
    "on the split that it names, which results.json says.",
  )


@dataclasses.dataclass(frozen=True)
class EvalConfig(IntervalConfig):
  """Evaluation on held-out splits."""

  every_epochs: float = 5.0
  batch_size: int = field(512, "Global batch.", between=(1, 2**24))
  data_dir: str = field(
    "", "Prepared dataset of the splits below; '' is data.dir."
  )
  zero_shot: tuple[str, ...] = field(
    ("lvis", "modelnet40"), "Labelled splits to classify."
  )
  retrieval: tuple[str, ...] = field((), "Splits with texts to retrieve from.")
  relation_gap: tuple[str, ...] = field(
    (), "Splits whose relations are compared with the teachers'."
  )


@dataclasses.dataclass(frozen=True)
class Config(shared.RunConfig):
  """Everything a run depends on."""

  data: DataConfig = field(DataConfig())
  augment: AugmentConfig = field(AugmentConfig())
  model: ModelConfig = field(ModelConfig())
  loss: LossConfig = field(LossConfig())
  logit_scale: ScaleConfig = field(ScaleConfig())
  optimizer: OptimizerConfig = field(OptimizerConfig())
  train: TrainConfig = field(TrainConfig())
  mesh: shared.MeshConfig = field(shared.MeshConfig())
  checkpoint: CheckpointConfig = field(CheckpointConfig(), may_change=True)
  eval: EvalConfig = field(EvalConfig(), may_change=True)
  log: shared.LogConfig = field(shared.LogConfig(), may_change=True)

  def __post_init__(self):
    super().__post_init__()
    if self.checkpoint.rule == "best" and not self.checkpoint.keep_best:
      raise BadInput(
        "config.checkpoint.rule is 'best', which needs a keep_best above 0"
      )
    if 0 < self.logit_scale.max < self.logit_scale.init:
      raise BadInput("config.logit_scale.init is above logit_scale.max")
    for pattern in self.optimizer.frozen:
      try:
        re.compile(pattern)
      except re.error as error:
        raise BadInput(
          f"config.optimizer.frozen holds {pattern!r}, which is not a regular "
          f"expression: {error}"
        ) from None
    for section, epochs, steps in (
      ("train", self.train.epochs, self.train.steps),
      ("checkpoint", self.checkpoint.every_epochs, self.checkpoint.every_steps),
      ("eval", self.eval.every_epochs, self.eval.every_steps),
    ):
      if (epochs > 0) == (steps > 0):
        raise BadInput(
          f"config.{section} needs either epochs or steps: set one of the two "
          f"to a positive number and the other to 0 (they are {epochs}, "
          f"{steps})"
        )
