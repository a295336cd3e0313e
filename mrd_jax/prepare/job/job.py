"""A preparation job: it keeps what is finished, and says what became of all.

OUTPUT.incomplete/ is the folder of a job that is not done:
  job.json   what is made of what; another job does not go on with it
  lock       held by the run that is at work
  ...        shards, as the job likes
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.files import locked
from mrd_jax.prepare.job.dataset_writer import assemble, check_output
from mrd_jax.prepare.job.outcome import Report, read_report, summarise
from mrd_jax.prepare.job.shards import Commit, remove_temporaries, write_text

JOB_FILE = "job.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
  """What a job made, ready to become a dataset.

  Attributes:
    folder: Where its shards are.
    commits: In the order in which records are to come.
    listed: How many items every split was to get.
    problems: Sentences that are in no commit.
    teacher: Which model made the features, in words.
    embed_dim: Width D of the features.
    class_names: For every split with labels, its class names in label order.
    class_features: For the same splits, (C, D) features.
    add_files: Called with the finished folder; may put more files there.
  """

  folder: Path
  commits: Sequence[Commit]
  listed: Mapping[str, int]
  problems: Sequence[str] = ()
  teacher: str
  embed_dim: int
  class_names: Mapping[str, Sequence[str]]
  class_features: Mapping[str, np.ndarray]
  add_files: Callable[[Path], None] = lambda folder: None


def make_dataset(
  output: str | os.PathLike[str],
  job: Mapping[str, Any],
  name: str,
  make: Callable[[Path], Made],
) -> Report:
  """Runs a job, or goes on with it; a finished one is left as it is.

  Args:
    output: Folder to create.
    job: What is made of what: all that decides the bytes, as JSON.
    name: Dataset name, letters, digits and underscores.
    make: Makes the shards, in the folder that it is given, where finished
      ones of an earlier run are.

  Returns:
    The counts, also written to `output`.

  Raises:
    BadInput: when `output` holds something else, another job began it, a run
      of it is going on, or not one record could be made.
  """
  with _job_folder(Path(output), job) as folder:
    if folder is None:  # it is made
      return read_report(Path(output))
    made = make(folder)
    report = summarise(made.listed, made.commits)
    report.problems[:0] = made.problems
    if not any(commit.shards for commit in made.commits):
      shutil.rmtree(folder)
      if not report.rejects:
        raise BadInput(f"{job['input']}: its lists name no shape to convert")
      raise BadInput(
        f"{job['input']}: none of {len(report.rejects)} shapes could be "
        f"converted; the first: {report.rejects[0].detail}"
      )

    def finish(target: Path) -> None:
      report.write(target)
      (target / JOB_FILE).write_text(_text(job))
      made.add_files(target)

    assemble(
      made.folder,
      made.commits,
      Path(output),
      name=name,
      teacher=made.teacher,
      embed_dim=made.embed_dim,
      class_names=made.class_names,
      class_features=made.class_features,
      finish=finish,
    )
  return report


@contextlib.contextmanager
def _job_folder(output: Path, job: Mapping[str, Any]) -> Iterator[Path | None]:
  """The folder OUTPUT.incomplete, in which a job keeps its finished shards.

  It outlives a run that is killed or fails, so that the same command goes on,
  and is removed when `output` is there.

  Args:
    output: The dataset's folder to be.
    job: What is made of what, as JSON; stored, and compared by a later run.

  Yields:
    The folder, or None if `output` is the finished dataset of this very job.

  Raises:
    BadInput: when `output` holds something else, another job began it, or a
      run of it is going on.
  """
  folder = output.with_name(f"{output.name}.incomplete")
  if not _is_made(output, job):
    check_output(output)
  elif not folder.exists():
    yield None
    return
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise BadInput(
      f"{output}: cannot be created ({error.strerror}); name another folder"
    ) from None
  refusal = f"{folder}: another run is at work on it; wait for it, or stop it"
  with locked(folder / "lock", refusal):
    try:
      if _is_made(output, job):  # perhaps by a run that ended just now
        yield None
        return
      check_output(output)
      text = _text(job)
      file = folder / JOB_FILE
      if not file.exists():
        write_text(file, text)
      elif changed := _changed(file.read_text(), text):
        raise BadInput(
          f"{folder} was begun with other settings or input ({changed}); repeat "
          "the first command to go on with it, or remove it to start afresh"
        )
      remove_temporaries(folder)
      yield folder
    finally:
      # Nothing to keep: all is in `output`, or not one shard was finished.
      if _is_made(output, job) or not any(folder.glob("*/*.json")):
        shutil.rmtree(folder, ignore_errors=True)


def _is_made(output: Path, job: Mapping[str, Any]) -> bool:
  """Whether `output` is the finished dataset of this very job."""
  file = output / JOB_FILE
  return file.is_file() and not _changed(file.read_text(), _text(job))


def _text(job: Mapping[str, Any]) -> str:
  return json.dumps(job, indent=2, default=os.fspath) + "\n"


def _changed(old: str, new: str) -> str:
  """Names the fields that differ between two jobs; "" if none does."""
  was, now = json.loads(old), json.loads(new)
  fields = {**was, **now}
  return ", ".join(f for f in fields if was.get(f) != now.get(f))
