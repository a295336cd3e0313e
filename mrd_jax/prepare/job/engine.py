"""Runs the units of a preparation job on Apache Beam.

A unit is what one worker reads in one go: an archive, some thousand files.
Its items come in a fixed order, and every `shards.SHARD_ITEMS` of them are
committed before the next are begun.  So a job that was killed goes on with
the first shard that is missing, whoever makes it and in whatever order, and
ends with the same bytes.

TFDS's own Beam writers are not used: they start in a new temporary folder
every time, so nothing survives a kill, and shuffle all records through the
runner.
"""

import _thread
import contextlib
import dataclasses
import functools
import io
import itertools
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from mrd_jax.errors import BadInput
from mrd_jax.prepare.job import shards
from mrd_jax.prepare.job.shards import (
  Commit,
  Record,
  Reject,
  Serialize,
  ShardWriter,
)

_LOCAL_RUNNER = "DirectRunner"

# A record and its split, an item left out, or a sentence about a file.
Outcome = tuple[str, Record] | Reject | str
Item = Callable[[], Iterable[Outcome]]


class Unit(Protocol):
  """What one worker does; it is pickled and sent to the worker.

  Attributes:
    name: Unique in the job, and fit for a file name.
  """

  @property
  def name(self) -> str: ...

  def items(self) -> Iterable[Item]:
    """The same items in the same order every time; cheap until called."""
    ...


@dataclasses.dataclass(frozen=True)
class BeamConfig:
  """Where the units run.

  Attributes:
    runner: Name of a Beam runner; the default uses this machine's cores.
    options: Its options, "name=value,name=value", as TFDS takes them.
  """

  runner: str = _LOCAL_RUNNER
  options: str = ""


def run(
  units: Sequence[Unit],
  folder: Path,
  serialize: Serialize,
  beam_config: BeamConfig,
) -> None:
  """Makes all shards of `units` that are not in `folder` yet.

  Args:
    units: The whole job.
    folder: Where shards go; all workers must see it under this name.
    serialize: Makes the stored bytes of a record; picklable.
    beam_config: Where to run.

  Raises:
    BadInput: for a runner that Beam does not know, an option that it cannot
      read, or when a worker process dies.
  """
  folder.mkdir(parents=True, exist_ok=True)
  shards.remove_temporaries(folder)
  pending = [unit for unit in units if not _done(folder, unit).exists()]
  if not pending:
    return
  make = functools.partial(make_unit, folder=folder, serialize=serialize)
  with _quiet():
    import apache_beam as beam

    runner, options = pipeline_options(beam_config, len(pending))
  with (
    _watched(),
    _progress(folder, units),
    _quiet()
    if beam_config.runner == _LOCAL_RUNNER
    else contextlib.nullcontext(),
    beam.Pipeline(runner=runner, options=options) as pipeline,
  ):
    _ = (
      pipeline
      | "Units" >> beam.Create(pending)
      | "Spread" >> beam.Reshuffle()
      # Beam would look into the annotations, and cannot judge a Protocol.
      | "Make" >> beam.Map(make).with_input_types(Any)
    )


def make_unit(unit: Unit, folder: Path, serialize: Serialize) -> None:
  """Makes the shards of one unit that are missing."""
  count = 0
  for chunk in shards.chunks(unit.items()):
    stem = _stem(unit, count)
    count += 1
    if shards.is_committed(folder, stem):
      for _ in chunk:  # only read past: an item is cheap until it is called
        pass
      continue
    with ShardWriter(folder, stem, serialize) as writer:
      for outcome in itertools.chain.from_iterable(item() for item in chunk):
        if isinstance(outcome, Reject):
          writer.rejects.append(outcome)
        elif isinstance(outcome, str):
          writer.problems.append(outcome)
        else:
          writer.add(*outcome)
      writer.commit()
  shards.write_text(_done(folder, unit), str(count))


def stems(units: Iterable[Unit], folder: Path) -> Iterator[str]:
  """The stems of all commits of a finished job, in its order."""
  for unit in units:
    for index in range(int(_done(folder, unit).read_text())):
      yield _stem(unit, index)


def commits(units: Iterable[Unit], folder: Path) -> list[Commit]:
  """All commits of a finished job, in its order."""
  return [shards.read_commit(folder, stem) for stem in stems(units, folder)]


def pipeline_options(config: BeamConfig, units: int) -> tuple[Any, Any]:
  """Returns the runner and its options for so many units."""
  from apache_beam.options.pipeline_options import PipelineOptions
  from apache_beam.runners import runner as runners

  given = [f"--{o.strip()}" for o in config.options.split(",") if o.strip()]
  words = io.StringIO()
  try:
    with contextlib.redirect_stderr(words):
      PipelineOptions(given).get_all_options()  # argparse judges the values
  except SystemExit:
    reason = words.getvalue().strip().rpartition("\n")[2]
    raise BadInput(
      f"--beam_pipeline_options: {config.options!r} cannot be read ({reason}); "
      "expected NAME or NAME=VALUE, separated by commas"
    ) from None
  if config.runner != _LOCAL_RUNNER:
    try:
      return runners.create_runner(config.runner), PipelineOptions(given)
    except (ValueError, ImportError, AttributeError) as error:
      reason = str(error).partition("\n")[0]
      raise BadInput(
        f"--beam_runner: {config.runner} cannot be used ({reason}); use "
        "DirectRunner, FlinkRunner, SparkRunner, DataflowRunner, or install "
        "what Beam asks for"
      ) from None
  # The runner behind "DirectRunner", without its attempt to fetch another one
  # (Prism, a Go program) from the network.
  from apache_beam.runners.portability.fn_api_runner.fn_runner import (
    FnApiRunner,
  )
  from apache_beam.transforms import environments

  workers = min(os.cpu_count() or 1, units)
  environment = None  # this process
  if workers > 1:
    # A worker must find this package wherever it was imported from.
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    command = [
      sys.executable,
      "-m",
      "mrd_jax.prepare.job.worker",
      str(os.getpid()),
    ]
    environment = environments.SubprocessSDKEnvironment.from_command_string(
      f"PYTHONPATH={shlex.quote(os.pathsep.join(filter(None, path)))} "
      f"exec {shlex.join(command)}"
    )
  options = PipelineOptions([f"--direct_num_workers={workers}", *given])
  return FnApiRunner(environment), options


def _stem(unit: Unit, index: int) -> str:
  return f"{unit.name}-{index:05d}"


def _done(folder: Path, unit: Unit) -> Path:
  return folder / f"{unit.name}.done"


@contextlib.contextmanager
def _progress(folder: Path, units: Sequence[Unit]) -> Iterator[None]:
  """A line that counts finished units and shards every few seconds."""
  stop = threading.Event()

  def watch() -> None:
    with tqdm(total=len(units), unit="unit", disable=None) as bar:
      last = False
      while not last:
        last = stop.wait(2)
        files = os.listdir(folder)
        bar.n = sum(name.endswith(".done") for name in files)
        made = sum(name.endswith(".json") for name in files)
        bar.set_postfix(shards=made)

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
  """Ends the run if a worker process dies: Beam would wait for it for ever."""
  deaths: list[str] = []
  before = threading.excepthook

  def give_up() -> None:
    """The main thread waits where no interrupt reaches it."""
    print(deaths[0], file=sys.stderr, flush=True)
    os._exit(2)  # what is finished is on the disk

  timer = threading.Timer(5, give_up)
  timer.daemon = True

  def notice(args: threading.ExceptHookArgs) -> None:
    words = str(args.exc_value)
    if not words.startswith("Worker subprocess exited"):
      before(args)
    elif not deaths:  # in a thread of Beam's, which nobody looks at
      deaths.append(
        f"a worker process ended (return code {words.rpartition(' ')[2]}; it is "
        "-9 if memory ran out); repeat the command to go on, with fewer "
        "workers: --beam_pipeline_options=direct_num_workers=1"
      )
      timer.start()
      _thread.interrupt_main()

  threading.excepthook = notice
  try:
    yield
  except KeyboardInterrupt:
    if not deaths:
      raise
    raise BadInput(deaths[0]) from None
  finally:
    timer.cancel()
    threading.excepthook = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Beam warns of parts that nobody asked for, and of how it runs here."""
  root = logging.getLogger()
  level = root.level
  root.setLevel(logging.ERROR)
  try:
    yield
  finally:
    root.setLevel(level)
