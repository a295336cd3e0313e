"""Starts training processes quickly, from one that has imported everything.

Reads a line of JSON a command from stdin and answers with one:
["start", [ARGUMENT, ...], STDERR_FILE] -> the process's pid;
["wait", PID] -> its exit code, negative for the signal that killed it; one that
does not end is killed, in the end.
"""

import json
import os
import signal
import sys
import time
from unittest import mock

from jax._src import compiler, distributed

from mrd_jax import main

SECONDS = 1200.0  # for which one is waited for


def write_as_the_first(*arguments, write=compiler._cache_write) -> None:
  """Lets any process fill the compile cache, not the first alone.

  The first one's entries fit the others on accelerators, not on CPUs.
  """
  with mock.patch.object(distributed.global_state, "process_id", 0):
    write(*arguments)


def start(arguments: list[str], errors: str) -> int:
  pid = os.fork()
  if pid:
    return pid
  file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(file, 2)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(file, 1)
  # A job in the background has it ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  compiler._cache_write = write_as_the_first
  sys.exit(main.main(arguments))


def wait(pid: int) -> int:
  deadline = time.monotonic() + SECONDS
  while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
    if time.monotonic() > deadline:
      os.kill(pid, signal.SIGKILL)
    time.sleep(0.02)
  return os.waitstatus_to_exitcode(ended[1])


if __name__ == "__main__":
  for line in sys.stdin:
    verb, *arguments = json.loads(line)
    answer = {"start": start, "wait": wait}[verb](*arguments)
    print(json.dumps(answer), flush=True)
