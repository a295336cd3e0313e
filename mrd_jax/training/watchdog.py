"""Says where everything stands when a run no longer moves on."""

import contextlib
import faulthandler
import threading
import time
from collections.abc import Iterator

import jax

from mrd_jax.io import terminal
from mrd_jax.training.clock import Clock
from mrd_jax.training.log import duration

DOING = {
  "start": "restoring or making the first state",
  "input": "waiting for the next batch",
  "compile": "compiling the first step",
  "step": "waiting for the devices, or for the other processes",
  "evaluation": "evaluating",
  "save": "saving a checkpoint",
  "results": "writing the results",
}


@contextlib.contextmanager
def watchdog(clock: Clock, stall_seconds: float) -> Iterator[None]:
  """Watches the loop's clock for as long as the block lasts; ends no run.

  When the loop has been at one place for `stall_seconds` (0: never), stderr
  gets the stage, the step, and the stacks of all threads; again after every
  further `stall_seconds`, and a line when it has moved on.  A place is a stage,
  within an evaluation one batch of it.
  """
  closed = threading.Event()

  def say(text: str) -> None:
    who = f"process {jax.process_index()} of {jax.process_count()}"
    terminal.say(f"watchdog: {who} {text}", error=True)

  def watch() -> None:
    reported, told = None, 0.0  # the position that was last reported, and when
    while not closed.wait(stall_seconds / 10):
      now, position = time.monotonic(), clock.position
      if reported and position != reported:
        stood = duration(position.since - reported.since)
        say(f"has moved on after {stood}")
        reported = None
      if now - (told if reported else position.since) >= stall_seconds:
        reported, told = position, now
        stage, since = position
        say(
          f"has not moved on for {duration(now - since)}\n"
          f"  after step {clock.step}, stage {stage}: {DOING[stage]}"
        )
        faulthandler.dump_traceback()

  thread = threading.Thread(target=watch, name="watchdog", daemon=True)
  if stall_seconds:
    thread.start()
  try:
    yield
  finally:
    closed.set()
    if stall_seconds:
      thread.join()
