"""Stops a run: SIGTERM or Ctrl-C to any process makes all stop at one point."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.errors import INTERRUPTED
from mrd_jax.parallel import sharding
from mrd_jax.parallel.agree import agree

T = TypeVar("T")
WORKER_SECONDS = 10  # in which data workers answer, or end by themselves


class Preempted(Exception):
  """Raised where a run should save and leave."""


def end_workers() -> threading.Timer:
  """Kills the data workers of now that are still there in a while."""
  workers = multiprocessing.active_children()
  timer = threading.Timer(
    WORKER_SECONDS, lambda: [worker.kill() for worker in workers]
  )
  timer.daemon = True
  timer.start()
  return timer


class Preemption:
  """Notices SIGTERM and SIGINT; polled before every piece of work.

  A second SIGINT (Ctrl-C) ends the process at once.

  Alone, a process stops at its next poll.  Several agree: every poll starts a
  tiny reduction over all devices of who has been asked, and reads that of the
  poll before, which is done by then.  All processes poll at the same points
  of the same program, so all read the same answer at the same point, in
  training as in an evaluation, and nobody waits for it.

  (JAX's own service speaks of training steps alone; `parallel/processes.py`
  turns it off, so that SIGTERM is ours.)
  """

  def __init__(self):
    self._signalled = self._interrupted = self._waiting = False
    self._ending: threading.Timer | None = None
    self._agreement: Any = False  # of the poll before, on the devices
    self._before = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._note)}
    # A shell's background job ignores Ctrl-C: its launcher sees to it.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
      self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)
    if jax.process_count() > 1:
      self._mesh = sharding.make_mesh(1)
      self._any = jax.jit(
        jnp.any, out_shardings=sharding.replicated(self._mesh)
      )

  def _note(self, signum, frame) -> None:
    del frame
    if signum == signal.SIGINT:
      if self._interrupted:
        os._exit(INTERRUPTED)
      self._interrupted = True
    self._signalled = True
    if self._waiting:
      self._hurry()

  def close(self) -> None:
    """Gives the signals back to whom they belonged before."""
    for number, before in self._before.items():
      signal.signal(number, before or signal.SIG_DFL)

  def wait(self, get: Callable[[], T]) -> T:
    """Returns the next batch, which `get` returns; none keeps a run from ending.

    A data worker may be stuck.  Alone, a process need not wait for it, and
    saves.  Several cannot: the others have begun a step that needs this batch.
    They end with what the worker's death makes of it.

    Raises:
      Preempted: at the signal.
    """
    self._waiting = True
    try:
      if self._signalled:
        self._hurry()
      return get()
    finally:
      self._waiting = False
      if self._ending:
        self._ending.cancel()
        self._ending = None

  def _hurry(self) -> None:
    if jax.process_count() == 1:
      self._waiting = False
      raise Preempted
    self._ending = self._ending or end_workers()

  def leave(self) -> None:
    """Raises KeyboardInterrupt, on all processes, if one's Ctrl-C it was."""
    if agree("interrupted" if self._interrupted else ""):
      raise KeyboardInterrupt

  def poll(self) -> None:
    """Raises `Preempted` once the processes are asked to stop."""
    stop = self._signalled
    if jax.process_count() > 1:
      stop = bool(jax.device_get(self._agreement))
      self._agreement = self._any(
        sharding.to_global(
          np.full(jax.local_device_count(), self._signalled),
          sharding.batch_sharding(self._mesh),
        )
      )
    if stop:
      raise Preempted
