"""Where a run's time and memory go.

`Clock` is the one notion of where the training loop stands: it splits the
wall time into stages for metrics.jsonl, and `watchdog.py` reads it.
"""

import collections
import contextlib
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from mrd_jax.errors import BadInput

# What every line of metrics.jsonl has; other stages appear where they were.
STAGES = ("input", "step", "evaluation", "save")
_GIB = 2**30


class Position(NamedTuple):
  """A stage, and when it last moved on (of `time.monotonic`)."""

  stage: str
  since: float


class Clock:
  """Where the loop stands, and for how long it was in which stage.

  It is in one stage at any time, so the stages add up to the wall time.

  Attributes:
    step: Steps done; the loop's to set.
    position: The stage and since when, one object that a thread may read.
  """

  def __init__(self):
    self.step = 0
    self.position = Position("start", time.monotonic())
    self._counted_until = self.position.since
    self._seconds = collections.defaultdict(float)

  def enter(self, stage: str) -> None:
    """Moves on to a stage, or on within it."""
    now = time.monotonic()
    self._seconds[self.position.stage] += now - self._counted_until
    self._counted_until = now
    self.position = Position(stage, now)

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    """Is in a stage for as long as the block, or the decorated call, lasts."""
    before = self.position.stage
    self.enter(name)
    try:
      yield
    finally:
      self.enter(before)

  def lap(self) -> dict[str, float]:
    """Seconds since the last lap by stage, named as in metrics.jsonl."""
    self.enter(self.position.stage)
    seconds, self._seconds = self._seconds, collections.defaultdict(float)
    return {f"seconds/{stage}": seconds[stage] for stage in (*STAGES, *seconds)}


def memory() -> dict[str, float]:
  """Memory in GiB, named as in metrics.jsonl.

  Returns:
    `memory/host_gib`, the resident size of this process, and where the
    backend tells, `memory/in_use_gib` and `memory/peak_gib` of the fullest of
    its devices.
  """
  sizes = {"memory/host_gib": _resident_bytes() / _GIB}
  devices = [stats for d in jax.local_devices() if (stats := d.memory_stats())]
  if devices:
    sizes |= {
      "memory/in_use_gib": max(x["bytes_in_use"] for x in devices) / _GIB,
      "memory/peak_gib": max(x["peak_bytes_in_use"] for x in devices) / _GIB,
    }
  return sizes


def _resident_bytes() -> int:
  try:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
  except FileNotFoundError:  # not Linux: the peak is the next best
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def parse_window(text: str) -> tuple[int, int] | None:
  """The steps that `config.profile` names, None for "".

  Raises:
    BadInput: unless it is "START:STOP" with 0 <= START < STOP.
  """
  if not text:
    return None
  found = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text, re.ASCII)
  if not found or int(found[1]) >= int(found[2]):
    raise BadInput(
      f"config.profile is {text!r}, must be START:STOP, two step numbers of "
      "which the second is larger, or ''"
    )
  return int(found[1]), int(found[2])


class Profile:
  """Traces the steps of a window: from when START steps are done to STOP.

  The steps are marked "train" with their number in metrics.jsonl, START + 1
  to STOP.  A run that resumes inside the window traces the rest of it, into a
  folder of its own.  TensorBoard's profile plugin, XProf and Perfetto show
  the files.

  Args:
    window: As in the config.
    folder: Where the trace goes; made when the window begins.
    num_steps: Length of the run.
    enabled: Whether this process is the one that is traced: one trace shows
      what all do, and those of two on one host would overwrite each other.

  Raises:
    BadInput: if the window begins where the run ends, or after it.
  """

  def __init__(
    self, window: str, folder: Path, *, num_steps: int, enabled: bool
  ):
    steps = parse_window(window)
    if steps and steps[0] >= num_steps:
      raise BadInput(
        f"config.profile is {window!r}, but the run has only {num_steps} "
        "steps; name an earlier window"
      )
    self._start, self._stop = steps if steps and enabled else (0, 0)
    self._folder = folder
    self._tracing = False

  def step(self, step: int, state: Any) -> contextlib.AbstractContextManager:
    """Marks the step that is made of `state`, which has done `step` steps."""
    if not self._tracing and self._start <= step < self._stop:
      jax.block_until_ready(state)  # the work before is not of the window
      self._folder.mkdir(exist_ok=True)
      jax.profiler.start_trace(self._folder)
      self._tracing = True
    return jax.profiler.StepTraceAnnotation("train", step_num=step + 1)

  def done(self, step: int, state: Any) -> None:
    """Ends the trace if `state`, of `step` steps, is the window's last."""
    if self._tracing and step == self._stop:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Writes what is traced by now."""
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()


@contextlib.contextmanager
def compile_cache(folder: str) -> Iterator[None]:
  """Keeps compiled programs in a folder; "" leaves JAX's own setting.

  JAX decides by its other settings what is worth keeping: what took longer
  than a second to compile (JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS).

  Raises:
    BadInput: if the folder cannot be made.
  """
  if not folder:
    yield
    return
  try:
    Path(folder).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise BadInput(
      f"config.compile_cache: {folder} cannot be made ({error.strerror}); name "
      "a folder that can be written to"
    ) from error
  settings: Any = jax.config  # a type checker does not see its fields
  before = settings.jax_compilation_cache_dir
  settings.update("jax_compilation_cache_dir", folder)
  compilation_cache.reset_cache()  # it may be open on another folder
  try:
    yield
  finally:
    settings.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()
