"""Catches what fails in Orbax, and says why in a few words."""

import contextlib
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from mrd_jax.parallel.agree import LONGEST


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps libraries' logs, warnings and abandoned tracebacks from stderr."""
  hooks = sys.excepthook, sys.unraisablehook
  level = logging.root.manager.disable
  sys.excepthook = sys.unraisablehook = lambda *_: None
  logging.disable(logging.ERROR)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", RuntimeWarning)
      yield
  finally:
    sys.excepthook, sys.unraisablehook = hooks
    logging.disable(level)


def quiet_threads(failed: list[BaseException]) -> Callable[[], None]:
  """Keeps from stderr what fails in Orbax's threads; the caller tells it.

  They log it with a traceback, and Python prints another for each read or
  write of TensorStore's that nobody waits for any more.

  Args:
    failed: What makes a save fail is appended, as soon as it is known.

  Returns:
    What ends it, if ever.
  """
  absl, before = logging.getLogger("absl"), sys.unraisablehook

  def not_abandoned(problem) -> None:
    code = getattr(problem.object, "cr_code", None)  # a coroutine's
    if str(problem.exc_value) != "Event loop is closed" and not (
      code and "orbax" in code.co_filename
    ):
      before(problem)

  def not_of_a_thread(record: logging.LogRecord) -> bool:
    error = record.exc_info and record.exc_info[1]
    if error and record.module == "async_checkpointer":
      failed.append(error)
    return not (error and "orbax" in record.pathname)

  def end() -> None:
    sys.unraisablehook = before
    absl.removeFilter(not_of_a_thread)

  sys.unraisablehook = not_abandoned
  # Before that of a save that failed earlier, which lets none of these pass.
  absl.filters.insert(0, not_of_a_thread)
  return end


def attempt(read: Callable[[], Any]) -> tuple[Any, str]:
  """Returns what `read` returns and ""; or None and why it fails."""
  with quiet():
    try:
      return read(), ""
    except Exception as error:  # whatever damage can lead to
      problem = reason(error)
    # When Orbax gives up, the reads that it leaves behind end in tracebacks of
    # other threads, of which nobody learns more.
    gc.collect()
    time.sleep(0.2)
    return None, problem


def reason(error: BaseException) -> str:
  """Words the first cause of an error, in at most `LONGEST` bytes; never ""."""
  causes = [error]
  while cause := (
    causes[-1].__cause__
    or (None if causes[-1].__suppress_context__ else causes[-1].__context__)
  ):
    causes.append(cause)
  first = next((x for x in reversed(causes) if str(x)), error)
  words = str(first).split(" [tensorstore_spec")[0]
  if not isinstance(first, OSError) and type(first) is not ValueError:
    words = f"{type(first).__name__} {words}"
  words = " ".join(words.split())
  if len(words) > LONGEST:  # what fails is at its start, why is at its end
    half = LONGEST // 2 - 3
    words = f"{words[:half]} ... {words[-half:]}"
  return words or type(error).__name__
