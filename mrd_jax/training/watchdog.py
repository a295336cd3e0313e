"""Says where everything stands when a run no longer moves on.

A thread of its own reads the loop's `Clock`; it ends no run, and the loop
does nothing for it.
"""

import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import jax

from mrd_jax.training.clock import Clock
from mrd_jax.training.log import duration

_DOING = {
  "start": "restoring or making the first state",
  "input": "waiting for the next batch",
  "compile": "compiling the first step",
  "step": "waiting for the devices, or for the other processes",
  "evaluation": "evaluating",
  "save": "saving a checkpoint",
  "results": "writing the results",
}
_STATES = {
  "R": "running",
  "S": "asleep",
  "D": "waiting for a disk or a network file system",
  "T": "stopped",
  "t": "stopped by a debugger",
  "Z": "dead, not yet collected",
  "X": "dead",
  "I": "idle",
}


class Watchdog:
  """Watches a clock for as long as it is open.

  Prints to stderr when the loop has been at one place for `stall_seconds`,
  again after every further `stall_seconds`, and once when it has moved on.  A
  place is a stage, within an evaluation one batch of it.

  Args:
    clock: The loop's.
    stall_seconds: 0 watches nothing.
  """

  def __init__(self, clock: Clock, stall_seconds: float):
    self._clock = clock
    self._stall_seconds = stall_seconds
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._watch, name="watchdog", daemon=True
    )
    if stall_seconds:
      self._thread.start()

  def close(self) -> None:
    """Ends the thread."""
    self._closed.set()
    if self._thread.is_alive():
      self._thread.join()

  def _watch(self) -> None:
    reported = None  # the position that was last reported
    due = 0.0
    wait = self._stall_seconds
    while not self._closed.wait(wait):
      now, position = time.monotonic(), self._clock.position
      if reported and position != reported:
        # A loop that goes on is seen within a tenth of the interval.
        print(
          f"watchdog: {self._who()} has moved on after "
          f"{duration(position.since - reported.since)}",
          file=sys.stderr,
          flush=True,
        )
        reported = None
      if not reported:
        due = position.since + self._stall_seconds
      if now >= due:
        text = report(self._clock, self._who())
        print(text, file=sys.stderr, flush=True)
        reported, due = position, now + self._stall_seconds
      wait = max(due - now, 0)
      if reported:
        wait = min(wait, self._stall_seconds / 10)

  def _who(self) -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def report(clock: Clock, who: str) -> str:
  """Where the loop, the threads and the child processes of this one stand.

  Args:
    clock: The loop's.
    who: Which process this is, in words.
  """
  stage, since = clock.position
  lines = [
    f"watchdog: {who} has not moved on for "
    f"{duration(time.monotonic() - since)}",
    f"  after step {clock.step}, stage {stage}: {_DOING[stage]}",
  ]
  children = child_processes()
  lines += ["  child processes (data workers are among them):"] * bool(children)
  lines += [
    f"    {child.pid} {child.state}"
    + f", waits in {child.waits_in}" * bool(child.waits_in)
    + f": {child.command}"
    for child in children
  ]
  frames = sys._current_frames()
  for thread in threading.enumerate():
    if thread is threading.current_thread() or thread.ident not in frames:
      continue
    lines.append(f"  thread {thread.name}:")
    stack = "".join(traceback.format_stack(frames[thread.ident]))
    lines += [f"    {line}" for line in stack.rstrip().splitlines()]
  return "\n".join(lines)


class Child(NamedTuple):
  """A process that this one started, directly or not.

  Attributes:
    pid: Its number.
    state: In words.
    waits_in: The kernel's function that it waits in; "" where it is not told.
    command: The start of its command line; its name if that is empty.
  """

  pid: int
  state: str
  waits_in: str
  command: str


def child_processes(root: Path = Path("/proc")) -> list[Child]:
  """The processes below this one, of Linux; elsewhere none are known."""
  processes = {}
  parents = {}
  for folder in root.glob("[0-9]*"):
    try:
      stat = (folder / "stat").read_text(errors="replace")
      command = (folder / "cmdline").read_text(errors="replace")
      pid = int(folder.name)
      # pid (name) state parent ...; a name may hold brackets and spaces.
      name, _, rest = stat.partition("(")[2].rpartition(")")
      state, parent = rest.split()[:2]
      processes[pid] = Child(
        pid,
        _STATES.get(state, state),
        _read_waits_in(folder),
        command.replace("\0", " ").strip()[:120] or name,
      )
      parents[pid] = int(parent)
    except (OSError, ValueError):  # it has just ended
      continue

  def is_below(pid: int) -> bool:
    while pid in parents:
      pid = parents[pid]
      if pid == os.getpid():
        return True
    return False

  return [processes[pid] for pid in sorted(processes) if is_below(pid)]


def _read_waits_in(folder: Path) -> str:
  try:
    return (folder / "wchan").read_text().strip("0\n")
  except OSError:  # not everybody may read it
    return ""
