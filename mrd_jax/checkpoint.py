"""Checkpoints: the only module that knows Orbax.

Saves are asynchronous and atomic (written beside, then renamed).  A save that
fails shows on the next save or on `close`, as an exception that nobody here
swallows; until then Orbax reports the unfinished step as its latest, so
`latest_step` is asked only when a run starts.
"""

import dataclasses
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from mrd_jax.train_state import TrainState

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
    keep: list[_policies.PreservationPolicy] = [_policies.LatestN(keep_latest)]
    if keep_best:
      keep.append(
        _policies.BestN(
          n=keep_best,
          get_metric_fn=lambda metrics: metrics[best_metric],
          keep_checkpoints_without_metrics=False,
        )
      )
    self._best_metric = best_metric
    self._checkpointer = ocp.training.Checkpointer(
      directory.absolute(),
      preservation_policy=_policies.AnyPreservationPolicy(keep),
      cleanup_tmp_directories=True,
    )

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint; ask before the first save."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  def best_step(self) -> int | None:
    """Step of the checkpoint with the best metric; None if none has it."""
    scored = [
      (info.metrics[self._best_metric], info.step)
      for info in self._checkpointer.checkpoints
      if info.metrics and self._best_metric in info.metrics
    ]
    return max(scored)[1] if scored else None

  def restore(self, step: int, like: TrainState, shardings: TrainState):
    """The state of `step`, laid out by `shardings` whatever saved it."""
    abstract = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      like,
      shardings,
    )
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


def _as_dict(state: TrainState) -> dict:
  """A plain tree on disk, readable without our classes."""
  return {
    field.name: getattr(state, field.name)
    for field in dataclasses.fields(state)
  }
