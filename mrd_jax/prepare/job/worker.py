"""A worker process of the local Beam runner: python -m mrd_jax.prepare.worker.

Beam's own would live on for ever, waiting, when the process that started it is
killed, and tells of every connection.
"""

import logging
import os
import sys
import threading
import time


def _follow(parent: int) -> None:
  """Ends this process when its parent is gone."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def main() -> None:
  """Works until the runner, whose process id is the argument, has no more."""
  parent = int(sys.argv.pop(1))
  threading.Thread(target=_follow, args=(parent,), daemon=True).start()
  logging.disable(logging.WARNING)  # errors reach the runner as exceptions
  from apache_beam.runners.worker import sdk_worker_main

  sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
  main()
