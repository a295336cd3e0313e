"""Measures where a run's time and memory go."""

import collections
import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

# What every line of metrics.jsonl has; other stages appear where they were.
STAGES = ("input", "step", "evaluation", "save")
_GIB = 2**30


class Position(NamedTuple):
  """A stage, and when it last moved on (of `time.monotonic`)."""

  stage: str
  since: float


class Clock:
  """Notes where the loop stands, and for how long it was in which stage.

  It is in one stage at any time, so the stages, which metrics.jsonl has, add
  up to the wall time; `training/watchdog.py` reads the position.

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
    """Holds a stage for as long as the block, or the decorated call, lasts."""
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
  """Measures memory in GiB, named as in metrics.jsonl.

  Returns:
    `memory/host_gib`, the resident size of this process, and where the
    backend tells, `memory/in_use_gib` and `memory/peak_gib` of the fullest of
    its devices.
  """
  try:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE")
  except FileNotFoundError:  # not Linux: the peak is the next best
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform != "darwin":
      resident *= 1024
  sizes = {"memory/host_gib": resident / _GIB}
  devices = [stats for d in jax.local_devices() if (stats := d.memory_stats())]
  if devices:
    sizes |= {
      "memory/in_use_gib": max(x["bytes_in_use"] for x in devices) / _GIB,
      "memory/peak_gib": max(x["peak_bytes_in_use"] for x in devices) / _GIB,
    }
  return sizes
