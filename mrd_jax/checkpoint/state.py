"""Holds what a training step carries on."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The state of a run; with the config and the data, it decides the rest.

  Attributes:
    step: () int32 steps done.
    params: {"encoder", "logit_scale", "dynamic_weights"}.
    batch_stats: The encoder's running BatchNorm statistics.
    opt_state: The optimizer's.
    average: Moving average of `params`, or an empty dict when none is kept.
  """

  step: jax.Array
  params: dict[str, Any]
  batch_stats: Any
  opt_state: Any
  average: Any
