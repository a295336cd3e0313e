"""mrd_jax.main, in which a piece of work takes long: for tests that interrupt.

python -m tests.slow_main evaluation|compilation|opening MARK ARGUMENT...

writes the file MARK when it is in the middle of that piece.  Opening: no file of
records stays open while another is read.
"""

import sys
import time
from pathlib import Path

from mrd_jax import main
from mrd_jax.data import map_split
from mrd_jax.data.open_files import OpenFiles
from mrd_jax.training import set_up

SECONDS = 3.0


def slow_evaluation(mark: Path) -> None:
  to_local = map_split.sharding.to_local
  seen = []

  def slow(array):
    seen.append(array)
    if len(seen) > 1:  # of the first batch
      mark.touch()
      time.sleep(0.02)
    return to_local(array)

  map_split.sharding.to_local = slow


def slow_compilation(mark: Path) -> None:
  """The first step blocks the interpreter, as a compilation does."""
  jit_train_step = set_up.jit_train_step

  def slow(*arguments, **named):
    step = jit_train_step(*arguments, **named)
    calls = []

    def first_is_slow(state, batch):
      if not calls:
        calls.append(1)
        mark.touch()
        time.sleep(SECONDS)
      return step(state, batch)

    return first_is_slow

  set_up.jit_train_step = slow


def slow_opening(mark: Path) -> None:
  OpenFiles.most = 1
  mark.touch()


if __name__ == "__main__":
  piece, mark = sys.argv.pop(1), Path(sys.argv.pop(1))
  {
    "evaluation": slow_evaluation,
    "compilation": slow_compilation,
    "opening": slow_opening,
  }[piece](mark)
  sys.exit(main.main())
