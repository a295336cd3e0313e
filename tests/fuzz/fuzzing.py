"""Hands damaged files to a reader until one is not refused as it should be."""

import contextlib
import dataclasses
import faulthandler
import random
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from bounds import SPARE, measure
from mutation import mutate

from mrd_jax.errors import BadInput, RunFailed

PATIENCE = 10.0  # seconds that a file may take, of some KB, on a busy machine
_ROOM = 2**32  # bytes that this process may reserve beyond what it has


@dataclasses.dataclass(frozen=True)
class Reader:
  """What reads a kind of file.

  Attributes:
    name: Of the kind.
    make: Writes sound files into a folder.
    read: Reads the files of the folder, and asserts of what comes out what the
      reader promises.
    changed: Which files are damaged, one at a time.
    needs: A library without which it cannot read.
    refusals: How it may refuse; the message names a file or the folder.
  """

  name: str
  make: Callable[[Path], object]
  read: Callable[[Path], object]
  changed: str = "*"
  needs: str = "numpy"
  refusals: tuple[type[Exception], ...] = (BadInput, RunFailed)


class Hang(BaseException):
  """It takes too long; no `except Exception` of the reader keeps this."""


def fuzz(
  reader: Reader,
  folder: Path,
  draw: random.Random,
  *,
  seconds: float = float("inf"),
  most: float = float("inf"),
  patience: float = PATIENCE,
) -> int:
  """Reads damaged files, at least one; returns how many.

  The file that is being read is on the disk: what ends the process leaves it
  there, and beside the folder the stack of what did not return.

  Args:
    reader: What reads.
    folder: Is made.
    draw: Decides how files are damaged.
    seconds: After which no further one is begun.
    most: How many, at most.
    patience: Seconds that one may take.

  Raises:
    AssertionError: naming the first file that was neither read nor refused as
      it should be, and what happened.
  """
  folder.mkdir()
  reader.make(folder)
  whole = {
    path: path.read_bytes()
    for path in sorted(folder.rglob(reader.changed))
    if path.is_file()
  }
  reader.read(folder)  # whole files are not refused
  count, end, taken = 0, time.monotonic() + seconds, measure()
  room = 3 * sum(map(len, whole.values())) + SPARE
  with _guarded(folder, min(seconds, 600) + 6 * patience):
    while count < most and (not count or time.monotonic() < end):
      count += 1
      path = draw.choice([*whole])
      damaged = mutate(whole[path], draw, [*whole.values()])
      path.write_bytes(damaged)
      problem = _read(reader, folder, patience)
      if taken() > room + 3 * len(damaged):
        taken = measure()  # of this file alone
        problem = _read(reader, folder, patience)
        if (peak := taken()) > room + 3 * len(damaged):
          problem = f"takes {peak / 1e6:.0f} MB of memory; {problem}"
      assert not problem, f"{reader.name}, file {count}: {path}: {problem}"
      path.write_bytes(whole[path])
  return count


def _read(reader: Reader, folder: Path, patience: float) -> str:
  """Says what is wrong with how the files are read or refused."""
  # Again and again: what is raised within a callback of the collector of
  # garbage is lost.
  signal.setitimer(signal.ITIMER_REAL, patience, 0.5)
  end = time.monotonic() + patience
  try:
    reader.read(folder)
  except reader.refusals as error:
    if "\n" in str(error) or str(folder) not in str(error):
      return f"the sentence names no file, or is none: {error}"
  except Hang:
    return f"takes more than {patience:g} seconds"
  except KeyboardInterrupt:
    raise
  except BaseException as error:  # a fault in Rust is no Exception
    return f"{type(error).__name__}: {error}"
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
  # Also where a library has caught it.
  late = time.monotonic() > end + 1
  return f"takes more than {patience:g} seconds" if late else ""


@contextlib.contextmanager
def _guarded(folder: Path, patience: float) -> Iterator[None]:
  """Ends what takes too long or too much; hides what a user would be told."""

  def stop(*_: object) -> None:
    raise Hang

  before = resource.getrlimit(resource.RLIMIT_AS)
  has = int(Path("/proc/self/statm").read_text().split()[0])
  room = has * resource.getpagesize() + _ROOM
  handler = signal.signal(signal.SIGALRM, stop)
  with (
    folder.with_name("stack.txt").open("w") as stack,
    warnings.catch_warnings(),
  ):
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (room, before[1]))
    # Python cannot stop what runs in a library's machine code.
    faulthandler.dump_traceback_later(patience, exit=True, file=stack)
    try:
      yield
    finally:
      faulthandler.cancel_dump_traceback_later()
      resource.setrlimit(resource.RLIMIT_AS, before)
      signal.signal(signal.SIGALRM, handler)
