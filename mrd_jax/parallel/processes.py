"""Joins several processes to one run, and ends them together.

Who the others are is said by flags, else by the environment variables
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else found by
JAX: SLURM, Open MPI, TPU metadata, Kubernetes.
"""

import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils

from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.io.terminal import say

_BROKEN = re.compile(
  "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "
)
TRY_AGAIN = 75  # the exit code EX_TEMPFAIL of sysexits.h
# How long process 0 outlives a failure, for the others to report theirs: they
# are aborted when it goes.
_LAST_SECONDS = 5.0
_ALL_THREE = (
  "--coordinator, --num_processes and --process_id (or "
  "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID)"
)


def run(
  work: Callable[[], int],
  exit_code: Callable[[Callable[[], int]], int],
  *,
  distributed: bool,
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  join_seconds: int,
  heartbeat_seconds: int,
) -> int:
  """Works alone, or as one of several processes that begin and end together.

  Args:
    work: Returns an exit code.
    exit_code: Calls it, and tells of its errors as the verb does.
    distributed: Whether there are others; the rest is about them.
    coordinator: HOST:PORT where process 0 listens.
    num_processes: How many there are.
    process_id: Which one this is, from 0.
    join_seconds: For how long each waits for the others at the start.
    heartbeat_seconds: After how long a process that is not heard of is taken
      for dead, and the others abort (SIGABRT).

  Returns:
    What `work` returned.  With others it returns only 0, when all have come to
    their end.  After a failure it ends this process at once, with what
    `exit_code` returned, 1 for what that does not know, or `TRY_AGAIN` if a
    connection to another process broke.  To wait for others that wait for this
    one would end in an abort, which hides the code.

  Raises:
    BadInput: if it cannot be known who the others are, or they cannot be
      joined.  Ends the process with code 2 if they do not come in time.
    RunFailed: as `check_platform`.
  """
  if not distributed:
    if (coordinator, num_processes, process_id) != (None, None, None):
      raise BadInput(
        "--coordinator, --num_processes and --process_id have no effect "
        "without --distributed; add it"
      )
    check_platform()
    return work()
  others = _others(coordinator, num_processes, process_id)
  _join(others, join_seconds, heartbeat_seconds)
  lost = False

  def noting_losses() -> int:
    nonlocal lost
    try:
      check_platform()
      code = work()
      # All is done but the waiting for each other.
      signal.signal(signal.SIGTERM, signal.SIG_IGN)
      if not code:
        # The first may still be writing, for longer than JAX would wait.
        multihost_utils.sync_global_devices("the end")
    except Exception as error:
      lost = _is_loss(error)
      raise
    return code

  try:
    code = exit_code(noting_losses)
  except BaseException:
    traceback.print_exc()
    code = 1
  code = TRY_AGAIN if lost else code
  if code:
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
      time.sleep(_LAST_SECONDS)
    os._exit(code)
  return 0


def check_platform() -> None:
  """Compares the devices found with the platform that JAX_PLATFORMS names.

  JAX logs an accelerator's plug-in that fails, and goes on with the next
  platform of the list: on the CPU, for days.

  Raises:
    RunFailed: if the first platform named is not the one in use.
  """
  wanted = (jax.config.jax_platforms or "").split(",")[0]  # pyright: ignore
  try:
    found = jax.default_backend()
  except (RuntimeError, AssertionError) as error:  # the latter says nothing
    found, reason = "none", " ".join(str(error).split()) or "no such device"
  else:
    reason = f"JAX finds {jax.devices()[0].device_kind} only"
  names = {"cuda": "gpu", "rocm": "gpu"}
  if wanted and names.get(wanted, wanted) != found:
    raise RunFailed(
      f"JAX_PLATFORMS names {wanted!r}, which cannot be used here ({reason}); "
      "see whether its driver and the extra cuda12, cuda13 or tpu are "
      "installed, or set JAX_PLATFORMS=cpu"
    )


def _is_loss(error: BaseException | None) -> bool:
  """Whether the backend failed, here or below, as when a connection breaks.

  That is told by the status that the message begins with: the class is
  JaxRuntimeError or, from some calls, ValueError.
  """
  while error is not None:
    if isinstance(
      error, jax.errors.JaxRuntimeError | ValueError
    ) and _BROKEN.match(str(error)):
      return True
    error = error.__cause__
  return False


class _Others(NamedTuple):
  """All of it, or the coordinator alone, or nothing: JAX finds the rest."""

  coordinator: str | None
  num_processes: int | None
  process_id: int | None


def _others(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> _Others:
  """What the flags say, else the variables; checked."""
  others = _Others(
    coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS"),
    _variable("JAX_NUM_PROCESSES") if num_processes is None else num_processes,
    _variable("JAX_PROCESS_ID") if process_id is None else process_id,
  )
  if others.coordinator and not re.fullmatch(r"\S+:\d+", others.coordinator):
    raise BadInput(
      f"--coordinator (or JAX_COORDINATOR_ADDRESS) is {others.coordinator!r}, "
      "must be HOST:PORT of process 0, such as node1:1234"
    )
  if others[1:] == (None, None):
    return others
  if None in others:
    missing = [
      f"--{name}" for name, value in others._asdict().items() if value is None
    ]
    raise BadInput(
      f"--distributed: {' and '.join(missing)} missing; give {_ALL_THREE}, or "
      "neither of the latter two where a cluster has them"
    )
  count, index = others.num_processes or 0, others.process_id or 0
  if not 0 <= index < count:
    raise BadInput(
      f"--process_id (or JAX_PROCESS_ID) is {index} of {count} processes; "
      "they are counted from 0"
    )
  return others


def _variable(name: str) -> int | None:
  value = os.environ.get(name)
  if value is None:
    return None
  if not value.isdecimal():
    raise BadInput(f"{name} is {value!r}, must be a whole number")
  return int(value)


def _join(others: _Others, join_seconds: int, heartbeat_seconds: int) -> None:
  """Starts jax.distributed."""
  complete = None not in others
  where = others.coordinator or "the address that the cluster gives"
  who = (
    f"process {others.process_id} of {others.num_processes}"
    if complete
    else "this process"
  )

  def give_up() -> None:
    say(
      f"error: --distributed: {who} waited {join_seconds} s and not all have "
      f"come to {where}; see whether every process was started, runs process 0 "
      "at that address, and can reach it, or allow more --join_seconds",
      error=True,
    )
    os._exit(2)

  if complete and others.process_id == 0:
    _check_port(others.coordinator or "")
  # SIGTERM is ours (`parallel/stop.py`), not JAX's.
  jax.config.update("jax_enable_preemption_service", False)
  # JAX itself would abort with a stack trace, which nobody can catch.
  timer = threading.Timer(join_seconds, give_up)
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      *others,
      # Else it asks the cluster although nothing is missing.
      cluster_detection_method="deactivate" if complete else None,
      initialization_timeout=join_seconds + 60,
      heartbeat_timeout_seconds=heartbeat_seconds,
    )
  except ValueError as error:
    raise BadInput(
      "--distributed: no cluster is recognised here (SLURM, Open MPI, TPU, "
      f"Kubernetes); set {_ALL_THREE} ({error})"
    ) from error
  except RuntimeError as error:
    raise BadInput(
      f"--distributed: {who} cannot start at {where} ({error}); set "
      f"{_ALL_THREE} if the cluster is misunderstood"
    ) from error
  finally:
    timer.cancel()


def _check_port(address: str) -> None:
  """Process 0 must be able to listen there; JAX crashes if it is not."""
  if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
    return
  port = int(address.rsplit(":", 1)[1])
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  try:
    socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
  except (OSError, OverflowError) as error:
    raise BadInput(
      f"--coordinator (or JAX_COORDINATOR_ADDRESS) is {address}, where process "
      f"0 cannot listen ({error}); name another port"
    ) from error
