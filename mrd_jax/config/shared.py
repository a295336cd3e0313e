"""Declares the fields that pre-training and fine-tuning have in common."""

import dataclasses
from typing import Any, Literal, Self

import ml_collections

from mrd_jax.config.fields import SHARE, build, check, field, parse_window
from mrd_jax.errors import BadInput

Remat = Literal["none", "blocks", "all"]
Attention = Literal["auto", "xla", "cudnn"]
Form = Literal["auto", "xla", "kernel"]


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """What every kind of run has."""

  seed: int = field(0, "Of everything random.", between=(0, 2**31 - 2))
  profile: str = field(
    "", "START:STOP, the steps to trace; '': none.", may_change=True
  )
  compile_cache: str = field(
    "",
    "Folder of JAX's persistent compilation cache; '' leaves what JAX's own "
    "settings say.",
    may_change=True,
  )

  def __post_init__(self):
    """Checks every field, and what both kinds of run ask of several.

    Raises:
      BadInput: naming the field, what it must be, and what it is.
    """
    check(self, "config")
    parse_window(self.profile)
    config: Any = self  # the kinds of run declare the sections
    if config.model.attention == "cudnn" and config.model.dtype == "float32":
      raise BadInput(
        "config.model.attention is 'cudnn', which needs model.dtype "
        "'bfloat16'; it is 'float32'"
      )
    if config.augment.scale_low > config.augment.scale_high:
      raise BadInput("config.augment.scale_low is above augment.scale_high")

  @classmethod
  def from_dict(cls, values: ml_collections.ConfigDict | dict) -> Self:
    """Makes a config of a config file's values, or of a run's config.json.

    Raises:
      BadInput: naming the field, what it must be, and what it is.
    """
    return build(cls, values, "config")


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
  """Where the shapes come from, and by how many threads and processes."""

  dir: str = field(
    "data/openshape",
    "Prepared dataset (python -m mrd_jax.prepare).",
    may_change=True,
  )
  threads: int = field(
    8, "Reading threads.", between=(1, 1024), may_change=True
  )
  workers: int = field(
    0,
    "Worker processes; 0 reads with threads alone.",
    between=(0, 1024),
    may_change=True,
  )


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
  """How the encoder is computed."""

  dtype: Literal["float32", "bfloat16"] = field(
    "bfloat16", "Of the encoder's matrix products; CPUs have no fast bfloat16."
  )
  gradient_dtype: Literal["float32", "bfloat16"] = field(
    "float32",
    "Of the gradients of the blocks' and the lift's matrices while devices sum "
    "them: bfloat16 sends half, and rounds each device's by up to 0.4 %.",
    may_change=True,
  )
  remat: Remat = field(
    "none",
    "What the backward pass recomputes to save memory: nothing, the "
    "transformer blocks, or the mini-PointNet too.",
    may_change=True,
  )
  attention: Attention = field(
    "auto",
    "Form of attention: 'cudnn' needs an NVIDIA GPU and bfloat16, 'xla' runs "
    "everywhere; 'auto' takes cudnn where it can.",
    may_change=True,
  )
  point_net: Form = field(
    "auto",
    "Form of the mini-PointNet: 'kernel' needs a Hopper GPU, bfloat16 and groups "
    "of 64, 128, 192 or 256 points, 'xla' runs everywhere; 'auto' takes kernel "
    "where it can.",
    may_change=True,
  )
  fps_chunk: int = field(
    4096, "Clouds sampled at a time.", between=(1, 2**24), may_change=True
  )
  query_chunk: int = field(
    512, "Clouds grouped at a time.", between=(1, 2**24), may_change=True
  )


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
  """AdamW with a linear warm-up and half a cosine."""

  learning_rate: float = field(
    1e-3, "Peak; in pre-training that of the encoder.", between=(0, 1e3)
  )
  final_learning_rate: float = field(
    0.0, "What the cosine ends at, as a share of the peak.", between=(0, 1)
  )
  warmup_epochs: float = field(
    15.0, "Warm-up from zero, in epochs.", between=(0, 1e6)
  )
  warmup_steps: int = field(
    0, "The same in steps; set one of the two to 0.", between=(0, 2**31)
  )
  weight_decay: float = field(
    0.05,
    "Decay of weight matrices only: not of biases, norms, the cls token, the "
    "logit scale.",
    between=(0, 1e3),
  )
  b1: float = field(
    0.9, "Decay of Adam's mean of the gradients.", between=SHARE
  )
  b2: float = field(
    0.999, "Decay of Adam's mean of their squares.", between=SHARE
  )
  eps: float = field(
    1e-8, "What Adam adds to the root of that.", between=(0, 1)
  )
  clip_norm: float = field(
    0.0,
    "Largest norm of a group's gradients; 0 does not clip.",
    between=(0, 1e9),
  )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices: all of them."""

  fsdp: int = field(
    1,
    "How many of them share one copy of the state.",
    between=(1, 2**20),
    may_change=True,
  )


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """What a run tells while it goes on."""

  every_steps: int = field(
    50, "So many steps a line in metrics.jsonl.", between=(1, 2**31)
  )
  stall_seconds: float = field(
    600.0,
    "After so long in one stage the watchdog says where everything stands; 0: "
    "it never does.",
    between=(0, 1e9),
  )
  wandb: str = field(
    "", "Project of Weights & Biases that gets the metrics too; '': none."
  )
