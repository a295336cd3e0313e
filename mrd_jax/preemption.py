"""Asked to stop: SIGTERM to any process makes all stop at one point."""

import signal

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
  """Raised where a run should save and leave."""


class Preemption:
  """Notices SIGTERM; polled at points that every process passes in order.

  With `jax.distributed` running, JAX's own handler makes the processes agree
  on the point.  Without it, this process's own signal decides.
  """

  def __init__(self):
    self._signalled = False
    self._polls = 0
    self._distributed = jax.distributed.is_initialized()
    if not self._distributed:
      signal.signal(signal.SIGTERM, self._note)

  def _note(self, signum, frame) -> None:
    del signum, frame
    self._signalled = True

  def poll(self) -> None:
    """Raises `Preempted` once the processes are asked to stop."""
    self._polls += 1
    if self._distributed:
      self._signalled |= multihost_utils.reached_preemption_sync_point(
        self._polls
      )
    if self._signalled:
      raise Preempted
