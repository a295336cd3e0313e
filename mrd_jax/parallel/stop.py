"""Stops a run: SIGTERM to any process makes all stop at one point."""

import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.parallel import sharding


class Preempted(Exception):
  """Raised where a run should save and leave."""


class Preemption:
  """Notices SIGTERM; polled before every piece of work.

  Alone, a process stops at its next poll.  Several agree: every poll starts a
  tiny reduction over all devices of who has been asked, and reads that of the
  poll before, which is done by then.  All processes poll at the same points
  of the same program, so all read the same answer at the same point, in
  training as in an evaluation, and nobody waits for it.

  (JAX's own service speaks of training steps alone; `parallel/processes.py`
  turns it off, so that SIGTERM is ours.)
  """

  def __init__(self):
    self._signalled = False
    self._agreement: Any = False  # of the poll before, on the devices
    self._before = signal.signal(signal.SIGTERM, self._note)
    if jax.process_count() > 1:
      self._mesh = sharding.make_mesh(1)
      self._any = jax.jit(
        jnp.any, out_shardings=sharding.replicated(self._mesh)
      )

  def _note(self, signum, frame) -> None:
    del signum, frame
    self._signalled = True

  def close(self) -> None:
    """Gives SIGTERM back to whom it belonged before."""
    signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

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
