"""Declares every field of a fine-tuning run; see `config/pretraining.py`.

`Config()` is Point-BERT's recipe, but for the data's splits.
"""

import dataclasses

from mrd_jax.config import shared
from mrd_jax.config.fields import SHARE, field
from mrd_jax.config.pretraining import PointBERTSize, UpAxis
from mrd_jax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class DataConfig(shared.ReadingConfig):
  """Where the labelled shapes come from."""

  dir: str = ""
  train: str = field("", "Labelled split to learn from.")
  test: str = field("", "Labelled split to be tested on, of the same classes.")


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """How a cloud is drawn."""

  num_points: int = field(
    1024, "Points that the encoder sees.", between=(1, 2**24 - 1)
  )
  sampled_points: int = field(
    1200,
    "In training, these are a random choice of so many that farthest point "
    "sampling found.",
    between=(1, 2**24 - 1),
  )
  scale_low: float = field(
    2 / 3, "Smallest scale of an axis, in training.", between=(1e-3, 1e3)
  )
  scale_high: float = field(3 / 2, "Largest.", between=(1e-3, 1e3))
  shift: float = field(
    0.2, "Largest shift along an axis, in training.", between=(0, 10)
  )


@dataclasses.dataclass(frozen=True)
class ScratchConfig(PointBERTSize):
  """The encoder with --checkpoint ''; else the checkpoint says all this."""

  up_axis: UpAxis = field(
    "y", "The axis that is up in the clouds that it sees; records are y up."
  )
  colour_fill: float = field(0.4, "The grey of all its points.", between=(0, 1))


@dataclasses.dataclass(frozen=True)
class ModelConfig(shared.ComputeConfig):
  """The head, and how the model is computed."""

  hidden: int = field(
    256, "Width of the head's hidden layer.", between=(1, 2**16)
  )
  dropout: float = field(
    0.5, "Share of it that is dropped in training.", between=SHARE
  )
  drop_path: float = field(
    0.1,
    "Rate of stochastic depth in the last block; it grows linearly from 0 in "
    "the first.",
    between=SHARE,
  )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(shared.AdamWConfig):
  """AdamW with a linear warm-up and half a cosine."""

  learning_rate: float = 5e-4
  final_learning_rate: float = 2e-3  # 1e-6
  warmup_epochs: float = 10.0
  clip_norm: float = 10.0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The length and the loss of a run."""

  batch_size: int = field(32, "Global batch.", between=(2, 2**24))
  epochs: float = field(300.0, "Length.", between=(1e-9, 1e6))
  label_smoothing: float = field(
    0.0, "Share of the target that is spread over all classes.", between=SHARE
  )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When the state is saved, and which checkpoints are kept."""

  every_epochs: float = field(
    1.0, "Interval (besides the last step).", between=(1e-9, 1e6)
  )
  keep_latest: int = field(
    2, "How many of the newest are kept.", between=(1, 2**20)
  )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Evaluation on the test split."""

  every_epochs: float = field(
    1.0, "Interval (besides the last step).", between=(1e-9, 1e6)
  )
  batch_size: int = field(128, "Global batch.", between=(1, 2**24))
  voting: int = field(
    0,
    "How many augmented copies of a shape vote in the end, 10 is usual; 0: no "
    "vote.",
    between=(0, 1000),
  )


@dataclasses.dataclass(frozen=True)
class Config(shared.RunConfig):
  """Everything a run depends on, but the checkpoint that it starts from."""

  data: DataConfig = field(DataConfig())
  augment: AugmentConfig = field(AugmentConfig())
  scratch: ScratchConfig = field(ScratchConfig())
  model: ModelConfig = field(ModelConfig())
  optimizer: OptimizerConfig = field(OptimizerConfig())
  train: TrainConfig = field(TrainConfig())
  mesh: shared.MeshConfig = field(shared.MeshConfig())
  checkpoint: CheckpointConfig = field(CheckpointConfig(), may_change=True)
  eval: EvalConfig = field(EvalConfig(), may_change=True)
  log: shared.LogConfig = field(shared.LogConfig(), may_change=True)

  def __post_init__(self):
    super().__post_init__()
    if self.augment.sampled_points < self.augment.num_points:
      raise BadInput(
        f"config.augment.sampled_points is {self.augment.sampled_points}, of "
        f"which augment.num_points {self.augment.num_points} cannot be chosen; "
        "raise it"
      )
