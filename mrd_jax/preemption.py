"""Asked to stop: SIGTERM to any process makes all stop at one point."""

import signal

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
  """Raised where a run should save and leave."""


class Preemption:
  """Notices SIGTERM; polled with the number of steps done.

  Alone, a process stops at its next poll.  With `jax.distributed`, JAX's own
  handler makes all processes agree on a step that none has reached yet; Orbax
  asks it about the same numbers, so they must be the steps and nothing finer:
  an evaluation that is under way then ends first.
  """

  def __init__(self):
    self._signalled = False
    self._distributed = jax.distributed.is_initialized()
    if not self._distributed:
      self._before = signal.signal(signal.SIGTERM, self._note)

  def _note(self, signum, frame) -> None:
    del signum, frame
    self._signalled = True

  def close(self) -> None:
    """Gives SIGTERM back to whom it belonged before."""
    if not self._distributed:
      signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

  def poll(self, step: int) -> None:
    """Raises `Preempted` once the processes are asked to stop."""
    if self._distributed:
      self._signalled = multihost_utils.reached_preemption_sync_point(step)
    if self._signalled:
      raise Preempted
