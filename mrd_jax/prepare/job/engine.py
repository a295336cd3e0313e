"""Runs the units of a preparation job, on all cores or on Apache Beam.

A unit is what one worker reads in one go: an archive, some thousand files.
Its items come in a fixed order, and every `shards.SHARD_ITEMS` of them are
committed before the next are begun.  So a job that was killed goes on with
the first shard that is missing, whoever makes it and in whatever order, and
ends with the same bytes.
"""

import concurrent.futures as futures
import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from mrd_jax.errors import BadInput
from mrd_jax.io.notes import Note
from mrd_jax.prepare.job import beam, shards

# A record and its split, an item left out, what was lost on reading one, or a
# sentence about a file.
Outcome = tuple[str, shards.Record] | shards.Reject | Note | str
# One thing that the input lists; called, it is read and gives its outcomes.
Item = Callable[[], Iterable[Outcome]]


class Unit(Protocol):
  """What one worker does; it is pickled and sent to the worker.

  Attributes:
    name: Unique in the job, and fit for a file name.
  """

  @property
  def name(self) -> str: ...

  def items(self) -> Iterable[Item]:
    """Yields the same items in the same order every time; cheap to skip."""
    ...


@dataclasses.dataclass(frozen=True)
class ListedUnit:
  """A unit whose items are sent to its worker, in a list."""

  name: str
  listed: Sequence[Item]

  def items(self) -> Sequence[Item]:
    return self.listed


@dataclasses.dataclass(frozen=True)
class Engine:
  """Where the units run: on this machine, unless one of Beam's is given.

  Attributes:
    workers: Processes on this machine, at most; None for one a core.
    beam_runner: Name of a Beam runner.
    beam_options: Its options, "name=value,name=value", as TFDS takes them.
  """

  workers: int | None = None
  beam_runner: str | None = None
  beam_options: str = ""


def run(
  units: Sequence[Unit],
  folder: Path,
  serialize: shards.Serialize,
  engine: Engine | None = None,
) -> list[str]:
  """Makes all shards of `units` that are not in `folder` yet.

  Args:
    units: The whole job.
    folder: Where shards go; all workers must see it under this name.
    serialize: Makes the stored bytes of a record; picklable.
    engine: Where to run; None is this machine's cores.

  Returns:
    The stems of all commits, in the order of the units.

  Raises:
    BadInput: for a runner that Beam does not know, an option that it cannot
      read, or when a worker process dies.
  """
  engine = engine or Engine()
  folder.mkdir(parents=True, exist_ok=True)
  shards.remove_temporaries(folder)
  make = functools.partial(make_unit, folder=folder, serialize=serialize)
  if pending := [unit for unit in units if not _done(folder, unit).exists()]:
    with _progress(folder, len(units)):
      if engine.beam_runner or engine.beam_options:
        beam.run(pending, make, engine.beam_runner, engine.beam_options)
      else:
        _run_here(pending, make, engine.workers or os.cpu_count() or 1)
  return [
    _stem(unit, index)
    for unit in units
    for index in range(int(_done(folder, unit).read_text()))
  ]


def make_unit(unit: Unit, folder: Path, serialize: shards.Serialize) -> None:
  """Makes the shards of one unit that are missing."""
  count = 0
  for count, chunk in enumerate(shards.chunks(unit.items()), 1):
    stem = _stem(unit, count - 1)
    if shards.is_committed(folder, stem):
      for _ in chunk:  # only read past: an item is cheap until it is called
        pass
      continue
    with shards.ShardWriter(folder, stem, serialize) as writer:
      for outcome in itertools.chain.from_iterable(item() for item in chunk):
        if isinstance(outcome, shards.Reject):
          writer.rejects.append(outcome)
        elif isinstance(outcome, Note):
          writer.notes.append(outcome)
        elif isinstance(outcome, str):
          writer.problems.append(outcome)
        else:
          writer.add(*outcome)
  with shards.finished(_done(folder, unit)) as path:
    path.write_text(str(count))


def read_commits(folder: Path, stems: Iterable[str]) -> list[shards.Commit]:
  """Reads the commits of a finished job."""
  return [shards.read_commit(folder, stem) for stem in stems]


def _stem(unit: Unit, index: int) -> str:
  return f"{unit.name}-{index:05d}"


def _done(folder: Path, unit: Unit) -> Path:
  """Names the file that says how many commits a finished unit has."""
  return folder / f"{unit.name}.done"


def _run_here(
  units: Sequence[Unit], make: Callable[[Unit], None], workers: int
) -> None:
  """Gives the units to processes of this machine."""
  workers = min(workers, len(units))
  if workers == 1:
    for unit in units:
      make(unit)
    return
  # A worker must end with this process, and at once when the job fails, though
  # its unit may take an hour more.  Both close `held`, one end of a pipe at
  # whose other end every worker listens; a kill leaves no time for more.
  # Spawned, because a process that has started JAX must not be forked.
  spawn = multiprocessing.get_context("spawn")
  heard, held = spawn.Pipe(duplex=False)
  pool = futures.ProcessPoolExecutor(workers, spawn, _end_with, (heard,))
  try:
    for made in futures.as_completed([pool.submit(make, u) for u in units]):
      made.result()
  except BrokenProcessPool:
    raise BadInput(
      "a worker process ended, perhaps because memory ran out; repeat the "
      "command to go on, with fewer workers: --workers=1"
    ) from None
  except BaseException:
    held.close()
    raise
  finally:
    pool.shutdown(cancel_futures=True)
    held.close()
    heard.close()


def _end_with(heard: Connection) -> None:
  """Lets a worker end when the other end of the pipe is closed."""

  def listen() -> None:
    with contextlib.suppress(EOFError, OSError):
      heard.recv_bytes()
    os._exit(1)

  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the job's process sees to it
  threading.Thread(target=listen, daemon=True).start()


@contextlib.contextmanager
def _progress(folder: Path, units: int) -> Iterator[None]:
  """Shows a line that counts finished units and shards every few seconds."""
  stop = threading.Event()

  def watch() -> None:
    with tqdm(total=units, unit="unit", disable=None) as bar:
      last = False
      while not last:
        last = stop.wait(2)
        bar.n = len(list(folder.glob("*.done")))
        bar.set_postfix(shards=len(list(folder.glob("*.json"))))

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()
