"""Brings several processes to one answer."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from mrd_jax.errors import BadInput
from mrd_jax.io.files import held

LONGEST = 600  # bytes of a reason


def agree(problem: str) -> str:
  """Returns the problem of the first process that has one; "" if none has.

  All processes must call it, wait here for each other, and get the same
  answer.
  """
  if jax.process_count() == 1:
    return problem
  text = problem.encode()[:LONGEST].ljust(LONGEST)
  gathered = multihost_utils.process_allgather(np.frombuffer(text, np.uint8))
  problems = [
    bytes(row).decode(errors="ignore").strip() for row in np.asarray(gathered)
  ]
  return next((x for x in problems if x), "")


def first_says(answer: int) -> int:
  """Returns the answer of process 0, on every process; all must ask."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(answer)))


@contextlib.contextmanager
def held_together(flag: str, lock: Path) -> Iterator[None]:
  """Holds an output, as `io.files.held`, for all processes of one run.

  The first holds the lock; all raise its error.
  """
  with contextlib.ExitStack() as stack:
    problem = ""
    if jax.process_index() == 0:
      try:
        stack.enter_context(held(flag, lock))
      except BadInput as error:
        problem = str(error)
    if problem := agree(problem):
      raise BadInput(problem)
    yield
