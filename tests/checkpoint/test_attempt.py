"""What failed, in a few words, and nothing else on stderr."""

import logging
import sys
from types import SimpleNamespace

import pytest

from mrd_jax.checkpoint.failures import attempt, quiet, quiet_threads, reason
from mrd_jax.parallel.agree import agree


def raised(*errors: Exception) -> Exception:
  """Each error with the next as its cause; the first is returned."""
  for error, cause in zip(errors, errors[1:], strict=False):
    error.__cause__ = cause
  return errors[0]


@pytest.mark.parametrize(
  ("errors", "words"),
  [
    ([ValueError("no such\n  file")], "no such file"),
    ([RuntimeError("a story"), OSError(28, "full")], "[Errno 28] full"),
    ([RuntimeError("outer"), ValueError("inner"), ValueError()], "inner"),
    ([KeyError("shape")], "KeyError 'shape'"),
    ([ValueError()], ""),
    ([ValueError("LOSS: bad [tensorstore_spec='...']")], "LOSS: bad"),
    ([ValueError("x" * 999)], "x" * 297 + " ... " + "x" * 297),
  ],
)
def test_the_first_cause_is_the_reason(errors, words):
  assert reason(raised(*errors)) == (words or "ValueError")


def test_a_context_counts_unless_it_is_suppressed():
  error = ValueError("second")
  error.__context__ = OSError("first")
  assert reason(error) == "first"
  error.__suppress_context__ = True  # raised "from None"
  assert reason(error) == "second"


def test_an_attempt_gives_a_value_or_a_reason(capfd):
  assert attempt(lambda: 3) == (3, "")

  def fail():
    logging.getLogger("absl").error("a long story")
    raise ValueError("in short")

  hooks = sys.excepthook, sys.unraisablehook
  assert attempt(fail) == (None, "in short")
  assert (sys.excepthook, sys.unraisablehook) == hooks
  assert capfd.readouterr().err == ""
  assert agree("in short") == "in short" and agree("") == ""  # alone


def test_quiet_ends(caplog):
  with pytest.raises(KeyError), quiet():
    logging.getLogger("absl").error("hidden")
    raise KeyError
  logging.getLogger("absl").error("shown")
  assert [record.message for record in caplog.records] == ["shown"]


def test_abandoned_work_is_quiet_and_nothing_else(monkeypatch):
  told = []
  monkeypatch.setattr(sys, "unraisablehook", told.append)
  loud_again = quiet_threads([])

  problems = [
    SimpleNamespace(
      exc_value=RuntimeError(words),
      object=SimpleNamespace(cr_code=SimpleNamespace(co_filename=file)),
    )
    for words, file in (
      ("x", "/site/orbax/checkpoint/read.py"),
      ("Event loop is closed", "/site/else.py"),
      ("x", "/site/else.py"),
    )
  ]
  problems.append(SimpleNamespace(exc_value=ValueError("x"), object=None))
  for problem in problems:
    sys.unraisablehook(problem)  # type: ignore
  assert told == problems[2:]
  loud_again()
  assert sys.unraisablehook == told.append


def test_logged_failures_of_threads_are_quiet_and_nothing_else(
  caplog, monkeypatch
):
  absl = logging.getLogger("absl")
  monkeypatch.setattr(absl, "filters", [])  # of a save that failed before

  def log(path: str, exc_info) -> None:
    record = (logging.ERROR, path, 1, path, (), exc_info)
    absl.handle(absl.makeRecord("absl", *record))

  failure = (ValueError, ValueError("x"), None)
  failed = []
  loud_again = quiet_threads(failed)
  log("/site/orbax/checkpoint/future.py", failure)
  assert not failed
  log("/site/orbax/checkpoint/async_checkpointer.py", failure)
  assert failed == [failure[1]]  # of the save as a whole
  log("/site/orbax/checkpoint/other.py", None)
  log("/site/else.py", failure)
  loud_again()
  log("/site/orbax/checkpoint/after.py", failure)
  assert [record.message for record in caplog.records] == [
    "/site/orbax/checkpoint/other.py",
    "/site/else.py",
    "/site/orbax/checkpoint/after.py",
  ]
