"""Checkpoints: the only module that knows Orbax.

Saves are asynchronous and atomic (written beside, then renamed).  A save that
fails shows on the next save or on `close`, as an exception that nobody here
swallows; until then Orbax reports the unfinished step as its latest, so
`latest_step` is asked only when a run starts.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1

from mrd_jax.errors import BadInput
from mrd_jax.train_state import TrainState

ocp: Any = v1  # its type hints contradict each other
_policies = ocp.training.preservation_policies


class Checkpoints:
  """The checkpoints of one run: the newest few and the best few.

  Args:
    directory: Where they live.
    keep_latest: How many of the newest are kept.
    keep_best: How many of the best are kept besides.
    best_metric: Name of the metric that decides; largest wins.
  """

  def __init__(
    self, directory: Path, *, keep_latest: int, keep_best: int, best_metric: str
  ):
    self._best_metric = best_metric
    keep = [_policies.LatestN(keep_latest)]
    if keep_best:
      keep.append(
        _policies.BestN(
          n=keep_best,
          get_metric_fn=self._score,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._checkpointer = ocp.training.Checkpointer(
      directory.absolute(),
      preservation_policy=_policies.AnyPreservationPolicy(keep),
      cleanup_tmp_directories=True,
    )

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint; ask before the first save."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  def has_scores(self, step: int) -> bool:
    """Whether the checkpoint of `step` was saved with its evaluation."""
    return any(
      info.step == step and info.metrics
      for info in self._checkpointer.checkpoints
    )

  def _score(self, metrics: dict[str, float]) -> float:
    # Another metric may have decided when an older one was saved.
    return metrics.get(self._best_metric, -math.inf)

  def best_step(self) -> int:
    """Step of the best checkpoint with scores, the newest of equals."""
    scored = [info for info in self._checkpointer.checkpoints if info.metrics]
    return max(
      scored, key=lambda info: (self._score(info.metrics), info.step)
    ).step

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """The state of `step`, laid out as `abstract` says, whatever saved it."""
    return TrainState(**self._checkpointer.load(step, _as_dict(abstract)))

  def save(
    self, step: int, state: TrainState, metrics: dict[str, float] | None
  ) -> None:
    """Starts saving; returns when the arrays may be overwritten."""
    self._checkpointer.save_async(
      step, _as_dict(state), force=True, metrics=metrics
    )

  def close(self) -> None:
    """Waits for the save under way; raises if it failed."""
    self._checkpointer.close()


def load_on_one_device(
  directory: Path, *, best_metric: str | None
) -> tuple[int, dict[str, Any]]:
  """Reads a checkpoint to use it, without touching a run that may go on.

  Args:
    directory: The checkpoints of a run.
    best_metric: Which metric's best is wanted; None wants the newest.

  Returns:
    The step, and the fields of its `TrainState` on the first device.

  Raises:
    BadInput: if there is no such checkpoint.
  """
  if not directory.is_dir():
    raise BadInput(f"{directory} does not exist: the run has saved nothing yet")
  with ocp.training.Checkpointer(directory.absolute()) as checkpointer:
    steps = {
      info.step: (info.metrics or {}).get(best_metric, -1.0)
      for info in checkpointer.checkpoints
      if best_metric is None or best_metric in (info.metrics or {})
    }
    if not steps:
      raise BadInput(
        f"{directory} has no complete checkpoint"
        + (f" with the metric {best_metric!r}" if best_metric else "")
      )
    step = max(steps, key=lambda step: (steps[step], step))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
      checkpointer.metadata(step).metadata,
    )
    return step, checkpointer.load(step, abstract)


def _as_dict(state: TrainState) -> dict:
  """A plain tree on disk, readable without our classes."""
  return {
    field.name: getattr(state, field.name)
    for field in dataclasses.fields(state)
  }
