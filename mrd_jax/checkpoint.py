"""Checkpoints: the only module that knows Orbax.

Saves are asynchronous and atomic (written beside, then renamed).  A save that
fails shows on the next save or on `close`, as `SaveFailed`; until then Orbax
reports the unfinished step as its latest, so `latest_step` is asked only when
a run starts.

With every checkpoint go the checksums of its arrays (`checksum.py`), which
are compared when it is read.  Checkpoints of before 0.2 have none.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1

from mrd_jax.attempt import agree, attempt, quiet, reason, threads_quiet
from mrd_jax.checksum import checksums, difference
from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.train_state import TrainState

ocp: Any = v1  # its type hints contradict each other
_policies = ocp.training.preservation_policies
_NAMES = ocp.path.step.standard_name_format()

_CHECKSUMS = "checksums"  # the key in Orbax's metadata of a checkpoint


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

  With several processes all must make the same calls.

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
    self._names = _StepNames(self._directory)
    self._checkpointer = ocp.training.Checkpointer(
      self._directory,
      preservation_policy=_policies.AnyPreservationPolicy(keep),
      step_name_format=self._names,
      cleanup_tmp_directories=True,
    )
    self._saving: int | None = None
    self._quiet = contextlib.ExitStack()
    self._quiet.enter_context(threads_quiet())

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint; ask before the first save.

    It may turn out to be damaged, see `restore_newest`.
    """
    return max(_steps(self._directory), default=None)

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
    """The state of `step`, laid out as `abstract` says, whatever saved it.

    Raises:
      BadInput: if it is damaged.
    """
    state, problem = self._attempt(step, abstract)
    if state is None:
      raise BadInput(_refusal(self._directory, step, problem))
    return state

  def restore_newest(self, abstract: TrainState) -> Restored:
    """The state of the newest checkpoint that is undamaged.

    Damaged ones that are newer are renamed to damaged-STEP, since the run
    will save these steps again.

    Args:
      abstract: Shapes and shardings of the state.

    Raises:
      BadInput: if all are damaged; nothing is renamed then.
    """
    damaged = {}
    for step in sorted(_steps(self._directory), reverse=True):
      state, problem = self._attempt(step, abstract)
      if state is not None:
        remarks = self._set_aside(damaged, step)
        return Restored(step, state, remarks)
      damaged[step] = problem
    listed = "; ".join(f"step {step}: {damaged[step]}" for step in damaged)
    raise BadInput(
      f"{self._directory} has no checkpoint that can be used ({listed}); bring "
      "the folder back from a copy, or start again in another --workdir"
    )

  def _attempt(
    self, step: int, abstract: TrainState
  ) -> tuple[TrainState | None, str]:
    """The state of `step`, or None and what is wrong with it on any process."""

    def read() -> tuple[dict[str, Any], dict[str, int] | None]:
      path = self._directory / str(step)
      saved, sums = _describe(path)
      _check_same_arrays(saved, _as_dict(abstract))
      return _load(path, _as_dict(abstract), partial=False), sums

    found, problem = attempt(read)
    problem = agree(problem)
    if found and not problem:
      problem = agree(difference(*found))
    if problem or not found:
      return None, problem
    return TrainState(**found[0]), ""

  def _set_aside(self, damaged: dict[int, str], good: int) -> list[str]:
    """Renames the damaged; returns a sentence for each."""
    remarks, refused = [], ""
    for step, problem in damaged.items():
      path = self._directory / str(step)
      # Kept apart if that step was damaged before.
      taken = len(list(self._directory.glob(f"damaged-{step}*")))
      aside = path.with_name(f"damaged-{step}" + f"-{taken + 1}" * bool(taken))
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
    values = _as_dict(state)
    sums = checksums(values)
    with self._saying_what_failed():
      self._checkpointer.wait()  # an error is of the save before
    self._saving = step
    with self._saying_what_failed():
      self._checkpointer.save_async(
        step,
        values,
        force=True,
        metrics=metrics,
        custom_metadata={_CHECKSUMS: sums},
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
        temporary = file.with_name("metrics.tmp")
        temporary.write_text(json.dumps(metrics))
        temporary.replace(file)
      except OSError as error:
        problem = reason(error)
    if problem := agree(problem):
      raise SaveFailed(
        f"the scores of step {step} could not be saved in {self._directory} "
        f"({problem}); mend that and repeat the command"
      )
    self._checkpointer.reload()

  def close(self) -> None:
    """Waits for the save under way.

    Raises:
      SaveFailed: if it could not be written.
    """
    with self._saying_what_failed():
      self._checkpointer.close()
    self._quiet.close()  # where it failed, threads may go on for a while

  @contextlib.contextmanager
  def _saying_what_failed(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      newest = max(_steps(self._directory), default=None)
      raise SaveFailed(
        f"the checkpoint of step {self._saving} could not be saved in "
        f"{self._directory} ({reason(error)}); mend that and repeat the "
        "command, which goes on from "
        + ("the start" if newest is None else f"step {newest}")
      ) from error


def load_on_one_device(
  directory: Path, *, best_metric: str | None, without: tuple[str, ...] = ()
) -> tuple[int, dict[str, Any]]:
  """Reads a checkpoint to use it, without touching a run that may go on.

  Any process may call it, alone.

  Args:
    directory: The checkpoints of a run.
    best_metric: Which metric's best is wanted; None wants the newest.
    without: Fields of the `TrainState` that are not wanted, and not read.

  Returns:
    The step, and the other fields on this process's first device.

  Raises:
    BadInput: if there is no such checkpoint, or it is damaged.
  """
  if not directory.is_dir():
    raise BadInput(f"{directory} does not exist: the run has saved nothing yet")
  directory = directory.absolute()
  steps = {}
  for step, metrics in _steps(directory).items():
    if best_metric is None:
      steps[step] = -1.0
    elif isinstance(metrics, Exception):  # it might have been the best
      raise BadInput(_refusal(directory, step, reason(metrics)))
    elif best_metric in metrics:
      steps[step] = metrics[best_metric]
  if not steps:
    raise BadInput(
      f"{directory} has no complete checkpoint"
      + (f" with the metric {best_metric!r}" if best_metric else "")
    )
  step = max(steps, key=lambda step: (steps[step], step))
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def read() -> tuple[dict[str, Any], dict[str, int] | None]:
    saved, sums = _describe(directory / str(step))
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
      {name: saved[name] for name in saved if name not in without},
    )
    return _load(directory / str(step), abstract, partial=True), sums

  found, problem = attempt(read)
  if found:
    problem = difference(*found)
  if problem or not found:
    raise BadInput(_refusal(directory, step, problem))
  return step, found[0]


def _refusal(directory: Path, step: int, problem: str) -> str:
  others = sorted(_steps(directory).keys() - {step})
  return f"{directory / str(step)}: the checkpoint is damaged ({problem}); " + (
    f"move it elsewhere to use another (there are {others}), or repeat the "
    "run's command, which goes on from the one before"
    if others
    else "there is no other, so bring it back from a copy"
  )


class _StepNames:
  """Orbax's names of steps; hides those at which Orbax would give up."""

  build_name = staticmethod(_NAMES.build_name)
  find_step = staticmethod(_NAMES.find_step)

  def __init__(self, directory: Path):
    self.hidden = {
      step
      for step, scores in _steps(directory).items()
      if isinstance(scores, Exception)
    }

  def find_all(self, base_path: Any) -> Iterator[Any]:
    for step in sorted(_steps(Path(base_path)).keys() - self.hidden):
      yield _NAMES.find_step(base_path, step)


def _steps(directory: Path) -> dict[int, Any]:
  """The complete checkpoints: their scores, or why they cannot be read."""
  steps = {}
  for path in directory.glob("[0-9]*"):
    if path.name.isdigit():  # not one that is being written
      try:
        with quiet():
          steps[int(path.name)] = _scores(path)
      except Exception as error:  # whatever damage can lead to
        steps[int(path.name)] = error
  return steps


def _scores(path: Path) -> dict[str, float]:
  """The scores of the checkpoint in `path`; {} if it was saved without any."""
  info = _NAMES.find_step(path.parent, int(path.name))
  if info.init_timestamp_nsecs is None:  # Orbax would go on without it
    raise ValueError("_CHECKPOINT_METADATA is missing or damaged")
  try:
    return dict(json.loads((path / "metrics" / "metrics").read_text()))
  except FileNotFoundError:
    return {}


def _describe(path: Path) -> tuple[dict[str, Any], dict[str, int] | None]:
  """What the checkpoint in `path` holds.

  Returns:
    Its arrays' shapes and types, and their checksums if it has them.
  """
  _scores(path)
  info = ocp.metadata(path)
  if info.metadata is None:
    raise ValueError("the list of its arrays cannot be read")
  return info.metadata, (info.custom_metadata or {}).get(_CHECKSUMS)


def _check_same_arrays(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
  """Raises ValueError if the trees are not of the same arrays."""
  kinds = [
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): (
        f"{leaf.dtype} {leaf.shape}"
      )
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (saved, wanted)
  ]
  for name in sorted(kinds[0].keys() | kinds[1].keys()):
    found, expected = (kind.get(name, "missing") for kind in kinds)
    if found != expected:
      raise ValueError(f"{name} is {found}, this program wants {expected}")


def _load(path: Path, abstract: Any, *, partial: bool) -> dict[str, Any]:
  """The arrays in `path` as `abstract` says.

  Orbax's own barriers are left out: where one process fails, the others would
  wait in them for minutes, and never agree on what to do instead.
  """
  context = ocp.Context()
  context.multiprocessing.primary_host = jax.process_index()
  context.multiprocessing.active_processes = {jax.process_index()}
  context.pytree.loading.partial_load = partial
  with context:
    return ocp.load(path, abstract)


def _as_dict(state: TrainState) -> dict:
  """A plain tree on disk, readable without our classes."""
  return {
    field.name: getattr(state, field.name)
    for field in dataclasses.fields(state)
  }
