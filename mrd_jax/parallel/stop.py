"""Stops a run: SIGTERM or Ctrl-C to any process makes all stop at one point."""

import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.parallel import sharding
from mrd_jax.parallel.agree import agree

T = TypeVar("T")
INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it


class Preempted(Exception):
  """Raised where a run should save and leave."""


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
      self._waiting = False
      raise Preempted

  def close(self) -> None:
    """Gives the signals back to whom they belonged before."""
    for number, before in self._before.items():
      signal.signal(number, before or signal.SIG_DFL)

  def wait(self, get: Callable[[], T]) -> T:
    """Returns what `get` returns; alone, a process need not wait for it.

    A data worker that is stuck would keep a run from stopping for ever.

    Raises:
      Preempted: at the signal.
    """
    self._waiting = jax.process_count() == 1
    try:
      return get()
    finally:
      self._waiting = False

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
