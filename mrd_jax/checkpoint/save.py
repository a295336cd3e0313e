"""Saves the state of a run, and restores the newest good one.

Only this module and `checkpoint/read.py`, which reads them, know Orbax.

Saves are asynchronous and atomic (written beside, then renamed).  A save that
fails shows on `check`, `save` or `close`, as `SaveFailed`; until then Orbax
reports the unfinished step as its latest, so `latest_step` is asked only when
a run starts.

With every checkpoint go the checksums of its arrays and of its scores
(`checkpoint/checksum.py`), which are compared when it is read.
"""

import contextlib
import dataclasses
import functools
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mrd_jax.checkpoint import read
from mrd_jax.checkpoint.checksum import checksums, of_scores
from mrd_jax.checkpoint.failures import quiet_threads, reason
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.io.files import write_json
from mrd_jax.parallel.agree import agree, first_says

_training: Any = read.ocp.training
_policies = _training.preservation_policies


class SaveFailed(RunFailed):
  """A checkpoint could not be written; the ones before are untouched."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """What a run goes on from.

  Attributes:
    step: The newest step that is undamaged.
    state: Its state.
    remarks: A sentence for every newer one, which is damaged.
  """

  step: int
  state: TrainState
  remarks: list[str]


class Checkpoints:
  """The checkpoints of one run: the newest few and the best few.

  With several processes all must make the same calls.  Nothing is changed on
  disk before `restore_newest` has found its step, or `has_scores` is asked.

  Args:
    directory: Where they live.
    keep_latest: How many of the newest are kept.
    keep_best: How many of the best are kept besides.
    best_metric: Name of the metric that decides; largest wins.
  """

  def __init__(
    self, directory: Path, *, keep_latest: int, keep_best: int, best_metric: str
  ):
    self._directory = directory.absolute()
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
    self._keep = _policies.AnyPreservationPolicy(keep)
    self._names = read.StepNames(self._directory)
    self._saving: int | None = None
    self._failed: list[BaseException] = []
    self._loud_again = quiet_threads(self._failed)

  @functools.cached_property
  def _checkpointer(self) -> Any:
    """Orbax's; it removes what a kill has left, so a refusal comes before."""
    if jax.process_index() == 0:
      for path in read.remnants(self._directory).values():
        shutil.rmtree(path, ignore_errors=True)
    self._directory.mkdir(parents=True, exist_ok=True)
    return _training.Checkpointer(
      read.plain(self._directory),
      preservation_policy=self._keep,
      step_name_format=self._names,
      cleanup_tmp_directories=True,
    )

  def latest_step(self) -> int | None:
    """Returns the newest complete checkpoint; ask before the first save.

    It may turn out to be damaged, see `restore_newest`.
    """
    return self._newest_before(math.inf)

  def _newest_before(self, limit: float) -> int | None:
    """As the first process sees it: a network file system's lists may lag."""
    steps = (step for step in read.steps_in(self._directory) if step < limit)
    newest = first_says(max(steps, default=-1))
    return None if newest < 0 else newest

  def has_scores(self, step: int) -> bool:
    """Says whether `step` was saved with its evaluation."""
    infos = self._checkpointer.checkpoints
    found = any(info.step == step and info.metrics for info in infos)
    return bool(first_says(found))

  def _score(self, metrics: dict[str, float]) -> float:
    # Another metric may have decided when an older one was saved.
    return metrics.get(self._best_metric, -math.inf)

  def best_step(self) -> int:
    """Returns the best step with scores, the newest of equals."""
    scored = [info for info in self._checkpointer.checkpoints if info.metrics]
    best = max(scored, key=lambda info: (self._score(info.metrics), info.step))
    return first_says(best.step)

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """Reads the state of `step`, laid out as `abstract` says.

    Raises:
      BadInput: if it is damaged.
      RunFailed: if the machine fails to read it.
    """
    state, problem = self._attempt(step, abstract)
    if state is None:
      raise read.refusal(self._directory, step, problem)
    return state

  def restore_newest(self, abstract: TrainState) -> Restored:
    """Reads the newest checkpoint that is undamaged.

    Damaged ones that are newer are renamed to damaged-STEP, since the run
    will save these steps again.

    Args:
      abstract: Shapes and shardings of the state.

    Raises:
      BadInput: if all are damaged; nothing is renamed then.
      RunFailed: if the machine fails to read one; the same.
    """
    damaged = {}
    step = self.latest_step()
    while step is not None:
      state, problem = self._attempt(step, abstract)
      if state is not None:
        remarks = self._set_aside(damaged, step)
        return Restored(step, state, remarks)
      read.check_is_damage(self._directory / str(step), problem)
      damaged[step] = problem
      step = self._newest_before(step)
    listed = "; ".join(f"step {step}: {damaged[step]}" for step in damaged)
    raise BadInput(
      f"{self._directory} has no checkpoint that can be used ({listed}); bring "
      "the folder back from a copy, or start again in another --workdir"
    )

  def _attempt(
    self, step: int, abstract: TrainState
  ) -> tuple[TrainState | None, str]:
    """The state of `step`, or None and what is wrong with it on any process."""

    wanted = dict(vars(abstract))

    def layout(saved: dict[str, Any]) -> dict[str, Any]:
      read.check_same_arrays(saved, wanted)
      return wanted

    found, problem = read.try_to_read(
      self._directory / str(step), layout, agreed=agree
    )
    return (None if found is None else TrainState(**found)), problem

  def _set_aside(self, damaged: dict[int, str], good: int) -> list[str]:
    """Renames the damaged; returns a sentence for each."""
    remarks, refused = [], ""
    for step, problem in damaged.items():
      path = self._directory / str(step)
      # Kept apart if that step was damaged before.
      taken = len(list(self._directory.glob(f"damaged-{step}*")))
      number = f"-{taken + 1}" if taken else ""
      aside = path.with_name(f"damaged-{step}{number}")
      remarks.append(
        f"the checkpoint of step {step} is damaged ({problem}) and now called "
        f"{aside}; the run goes on from step {good}"
      )
      if jax.process_index() == 0:
        try:
          path.rename(aside)
        except OSError as error:
          refused = f"{path} is damaged ({problem}); rename it: {error}"
    if refused := agree(refused):  # all wait for the renaming here
      raise BadInput(refused)
    # A network file system may still list them to the other processes.
    self._names.hidden.update(damaged)
    self._checkpointer.reload()
    return remarks

  def save(
    self, step: int, state: TrainState, metrics: dict[str, float] | None
  ) -> None:
    """Starts saving; returns when the arrays may be overwritten.

    Raises:
      SaveFailed: if this or the save before could not be written.
    """
    values = dict(vars(state))  # a plain tree, readable without our classes
    sums = checksums(values)
    self._wait()  # an error is of the save before
    self._saving = step
    with self._saying_what_failed():
      self._checkpointer.save_async(
        step,
        values,
        force=True,
        metrics=metrics and _with_checksum(metrics),
        custom_metadata={read.CHECKSUMS: sums},
      )

  def add_scores(self, step: int, metrics: dict[str, float]) -> None:
    """Gives scores to the checkpoint of `step`, which was saved without.

    Raises:
      SaveFailed: if they could not be written.
    """
    problem = ""
    if jax.process_index() == 0:
      file = self._directory / str(step) / "metrics" / "metrics"
      try:
        file.parent.mkdir(exist_ok=True)
        write_json(file, _with_checksum(metrics))
      except OSError as error:
        problem = reason(error)
    if problem := agree(problem):
      raise SaveFailed(
        f"the scores of step {step} could not be saved in {self._directory} "
        f"({problem}); mend that and repeat the command"
      )
    self._checkpointer.reload()

  def check(self) -> None:
    """Looks whether the save under way has failed.

    Raises:
      SaveFailed: if it has, on this process.
    """
    if self._failed:
      with self._saying_what_failed():
        raise self._failed[0]

  def close(self) -> None:
    """Waits for the save under way.

    Raises:
      SaveFailed: if it could not be written.
    """
    if "_checkpointer" in vars(self):
      self._wait()
      with self._saying_what_failed():
        self._checkpointer.close()
    self._loud_again()

  def _wait(self) -> None:
    """Waits for the save under way, unless it fails here.

    Orbax waits on: for the other processes, which wait for this one, for
    twenty minutes.
    """
    while self._checkpointer.is_saving_in_progress():
      self.check()
      time.sleep(0.01)
    with self._saying_what_failed():
      self._checkpointer.wait()

  @contextlib.contextmanager
  def _saying_what_failed(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      # What it began goes on for a while, or ends unheard; nor is it waited for.
      vars(self).pop("_checkpointer", None)
      self._loud_again = lambda: None
      warnings.filterwarnings("ignore", "coroutine .* was never awaited")
      newest = max(read.steps_in(self._directory), default=None)
      raise SaveFailed(
        f"the checkpoint of step {self._saving} could not be saved in "
        f"{self._directory} ({reason(error)}); mend that and repeat the "
        "command, which goes on from "
        + ("the start" if newest is None else f"step {newest}")
      ) from error


def _with_checksum(scores: dict[str, float]) -> dict[str, float]:
  return scores | {read.CHECKSUM: of_scores(scores)}
