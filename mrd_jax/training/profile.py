"""Traces steps, and keeps compiled programs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from mrd_jax.config.fields import parse_window
from mrd_jax.errors import BadInput


class Profile:
  """Traces the steps of a window: from when START steps are done to STOP.

  The steps are marked "train" with their number in metrics.jsonl, START + 1
  to STOP.  A run that resumes inside the window traces the rest of it, into a
  folder of its own.  TensorBoard's profile plugin, XProf and Perfetto show
  the files.  Only the first process is traced: one trace shows what all do, and
  those of two on one host would overwrite each other.

  Args:
    window: As in the config.
    folder: Where the trace goes; made when the window begins.
    num_steps: Length of the run.

  Raises:
    BadInput: if the window begins where the run ends, or after it.
  """

  def __init__(self, window: str, folder: Path, num_steps: int):
    steps = parse_window(window)
    if steps and steps[0] >= num_steps:
      raise BadInput(
        f"config.profile is {window!r}, but the run has only {num_steps} "
        "steps; name an earlier window"
      )
    traced = jax.process_index() == 0
    self._start, self._stop = steps if steps and traced else (0, 0)
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
