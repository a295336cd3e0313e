"""Lists the checkpoints in a run's folder, and reads one.

A folder whose name is a number is a checkpoint.  Orbax removes an old one file
by file; what a removal that was cut off has left (older than the newest, and
without the file that makes it one) is none.
"""

import atexit
import functools
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1

from mrd_jax.checkpoint.checksum import by_path, difference, of_scores
from mrd_jax.checkpoint.failures import attempt, quiet, reason
from mrd_jax.errors import BadInput, RunFailed

ocp: Any = v1  # its type hints contradict each other
_NAMES = ocp.path.step.standard_name_format()
_MARK = "_CHECKPOINT_METADATA"

CHECKSUMS = "checksums"  # of the arrays: the key in Orbax's metadata
CHECKSUM = "checksum"  # of the scores: the key among them

# What a disk, a network or a device says of itself, not of a file: of the
# system's errors all but "no such file", "not" and "is a directory".
_PASSING = re.compile(
  r"\[Errno (?!(2|20|21)\])|os_error_code='(?!(2|20|21)')|MemoryError|"
  "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED"
)


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
    RunFailed: if the machine fails to read it.
  """
  if not directory.is_dir():
    raise BadInput(f"{directory} does not exist: the run has saved nothing yet")
  directory = directory.absolute()
  steps = {}
  for step, metrics in steps_in(directory).items():
    if best_metric is None:
      steps[step] = -1.0
    elif isinstance(metrics, Exception):  # it might have been the best
      raise refusal(directory, step, reason(metrics))
    elif best_metric in metrics:
      steps[step] = metrics[best_metric]
  if not steps:
    raise BadInput(
      f"{directory} has no complete checkpoint"
      + (f" with the metric {best_metric!r}" if best_metric else "")
    )
  step = max(steps, key=lambda step: (steps[step], step))
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def on_device(saved: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
      {name: saved[name] for name in saved if name not in without},
    )

  found, problem = try_to_read(directory / str(step), on_device)
  if found is None:
    raise refusal(directory, step, problem)
  return step, found


def try_to_read(
  path: Path,
  layout: Callable[[dict[str, Any]], dict[str, Any]],
  *,
  agreed: Callable[[str], str] = lambda problem: problem,
) -> tuple[dict[str, Any] | None, str]:
  """Reads the checkpoint in `path` and compares it with its checksums.

  Orbax's own barriers are left out: where one process fails, the others would
  wait in them for minutes, and never agree on what to do instead.

  Args:
    path: The checkpoint.
    layout: Shapes and types of the saved arrays -> the same, with shardings, of
      those that are wanted; raises ValueError if they cannot be.
    agreed: `agree` where all processes read; one alone needs none.

  Returns:
    The arrays and ""; or None and what is wrong with them, on any process.
  """

  path = plain(path.parent) / path.name

  def read() -> tuple[dict[str, Any], dict[str, int]]:
    _scores(path)
    info = ocp.metadata(path)
    if info.metadata is None:
      raise ValueError("the list of its arrays cannot be read")
    sums = (info.custom_metadata or {}).get(CHECKSUMS)
    if sums is None:
      raise ValueError("it has no checksums")
    if lost := sorted(sums.keys() - by_path(info.metadata).keys()):
      raise ValueError(f"the list of its arrays lacks {lost[0]}")
    abstract = layout(info.metadata)
    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    context.pytree.loading.partial_load = abstract.keys() < info.metadata.keys()
    with context:
      return ocp.load(path, abstract), sums

  found, problem = attempt(read)
  problem = agreed(problem)
  if found and not problem:
    problem = agreed(difference(*found))
  return (None if problem or not found else found[0]), problem


def refusal(directory: Path, step: int, problem: str) -> Exception:
  """Makes the error to raise where the checkpoint of `step` cannot be used."""
  check_is_damage(directory / str(step), problem)
  others = sorted(steps_in(directory).keys() - {step})
  return BadInput(
    f"{directory / str(step)}: the checkpoint is damaged ({problem}); "
    + (
      f"move it elsewhere to use another (there are {others}), or repeat the "
      "run's command, which goes on from the one before"
      if others
      else "there is no other, so bring it back from a copy"
    )
  )


def check_is_damage(path: Path, problem: str) -> None:
  """Raises RunFailed if the machine is at fault, not the checkpoint."""
  if _PASSING.search(problem):
    raise RunFailed(
      f"{path}: the checkpoint cannot be read ({problem}), which may pass; "
      "nothing was changed: mend that and repeat the command"
    )


@functools.cache
def plain(directory: Path) -> Path:
  """Names a folder so that Orbax can use it.

  Orbax searches by patterns that hold the whole path, which [, ] and * in it
  spoil, and TensorStore takes no name that cannot be decoded (as of any é under
  an ASCII locale): such a folder gets a link elsewhere, for as long as this
  process lives.
  """
  name = os.fspath(directory)
  if (
    glob.escape(name) == name and name.encode(errors="ignore").decode() == name
  ):
    return directory
  elsewhere = tempfile.mkdtemp(prefix="mrd_jax_")
  atexit.register(shutil.rmtree, elsewhere, ignore_errors=True)
  link = Path(elsewhere) / "checkpoints"
  link.symlink_to(directory)
  return link


class StepNames:
  """Orbax's names of steps; hides those at which Orbax would give up."""

  build_name = staticmethod(_NAMES.build_name)
  find_step = staticmethod(_NAMES.find_step)

  def __init__(self, directory: Path):
    self.hidden = {
      step
      for step, scores in steps_in(directory).items()
      if isinstance(scores, Exception)
    }

  def find_all(self, base_path: Any) -> Iterator[Any]:
    for step in sorted(steps_in(Path(base_path)).keys() - self.hidden):
      yield _NAMES.find_step(base_path, step)


def steps_in(directory: Path) -> dict[int, Any]:
  """Lists the complete checkpoints: their scores, or why there are none."""
  found = {}
  for step, path in _folders(directory).items():
    try:
      with quiet():
        found[step] = _scores(path)
    except Exception as error:  # whatever damage can lead to
      found[step] = error
  return {step: found[step] for step in found.keys() - remnants(directory)}


def remnants(directory: Path) -> dict[int, Path]:
  """Finds what is left of those whose removal was cut off."""
  folders = _folders(directory)
  complete = [step for step in folders if (folders[step] / _MARK).exists()]
  return {
    step: path
    for step, path in folders.items()
    if step not in complete and step < max(complete, default=0)
  }


def _folders(directory: Path) -> dict[int, Path]:
  """Finds those named by digits; one that is being written has another name."""
  return {
    int(path.name): path
    for path in directory.glob("[0-9]*")
    if path.name.isdigit()
  }


def _scores(path: Path) -> dict[str, float]:
  """Reads the scores of the checkpoint in `path`; {} if it has none."""
  info = _NAMES.find_step(path.parent, int(path.name))
  if info.init_timestamp_nsecs is None:  # Orbax would go on without it
    raise ValueError(f"{_MARK} is missing or damaged")
  try:
    scores = dict(json.loads((path / "metrics" / "metrics").read_text()))
  except FileNotFoundError:
    return {}
  if scores.pop(CHECKSUM, None) != of_scores(scores):
    raise ValueError("the checksum of its scores is not what was saved")
  return scores


def check_same_arrays(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
  """Raises ValueError if the trees are not of the same arrays."""
  kinds = [
    {name: f"{x.dtype} {x.shape}" for name, x in by_path(tree).items()}
    for tree in (saved, wanted)
  ]
  for name in sorted(kinds[0].keys() | kinds[1].keys()):
    found, expected = (kind.get(name, "missing") for kind in kinds)
    if found != expected:
      raise ValueError(f"{name} is {found}, this program wants {expected}")
