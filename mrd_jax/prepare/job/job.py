"""Runs a preparation job: keeps what is finished, says what became of all.

OUTPUT.incomplete/ is the folder of a job that is not done:
  job.json   what is made of what; another job does not go on with it
  lock       held by the run that is at work
  ...        shards, as the job likes
"""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrd_jax.data.records import SCHEMA
from mrd_jax.errors import BadInput
from mrd_jax.io.files import (
  locked,
  read_json,
  read_json_lines,
  write_json,
  write_text,
)
from mrd_jax.io.notes import count_notes
from mrd_jax.io.terminal import printable
from mrd_jax.prepare.job import engine, shards
from mrd_jax.prepare.job.dataset_writer import Made, assemble, check_output
from mrd_jax.prepare.job.shards import Commit, Reject

JOB_FILE = "job.json"
REPORT_FILE = "report.json"
REJECTS_FILE = "rejects.jsonl"


@dataclasses.dataclass
class SplitCount:
  """What became of one split; listed = converted + all of refused."""

  listed: int = 0
  converted: int = 0
  without_text: int = 0  # of the converted
  refused: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )


@dataclasses.dataclass
class Report:
  """What a job did, also written as `report.json`.

  Attributes:
    splits: Counts per split.
    problems: Sentences about archives or lists, not about single items.
    rejects: Every item that was left out, also written as `rejects.jsonl`.
  """

  splits: dict[str, SplitCount]
  problems: list[str] = dataclasses.field(default_factory=list)
  rejects: list[Reject] = dataclasses.field(default_factory=list)

  def __str__(self) -> str:
    row = "{:<14}{:>9}{:>11}{:>9}{:>14}".format
    lines = [row("split", "listed", "converted", "refused", "without text")]
    for name, count in self.splits.items():
      refused = count.refused.total()
      lines.append(
        row(name, count.listed, count.converted, refused, count.without_text)
      )
      lines += [f"  {n} refused: {why}" for why, n in count.refused.items()]
    lines += [f"problem: {problem}" for problem in self.problems]
    return "\n".join(map(printable, lines))


def make_dataset(
  output: str | os.PathLike[str],
  job: Mapping[str, Any],
  name: str,
  listed: Mapping[str, int],
  make: Callable[[Path], Made],
  problems: Sequence[str] = (),
) -> Report:
  """Runs a job, or goes on with it; a finished one is left as it is.

  Args:
    output: Folder to create.
    job: What is made of what: all that decides the bytes, as JSON, but the
      name and the schema.
    name: Dataset name, letters, digits and underscores.
    listed: How many items every split is to get.
    make: Makes the shards, in the folder that it is given, where finished
      ones of an earlier run are.
    problems: Sentences that are in no commit.

  Returns:
    The counts, also written to `output`.

  Raises:
    BadInput: when `output` holds something else, another job began it, a run
      of it is going on, or not one record could be made.
  """
  job = {"job": name, **job, "schema": SCHEMA}
  job = json.loads(json.dumps(job, default=os.fspath))
  with _job_folder(Path(output), job) as folder:
    if folder is None:  # it is made
      summary = read_json(Path(output) / REPORT_FILE)
      rows = read_json_lines(Path(output) / REJECTS_FILE)
      splits = {}
      for split, count in summary["splits"].items():
        refused = collections.Counter(count.pop("refused"))
        splits[split] = SplitCount(**count, refused=refused)
      rejects = [Reject(**row) for row in rows]
      return Report(splits, summary["problems"], rejects)
    made = make(folder)
    report = _summarise(listed, made.commits)
    report.problems[:0] = problems
    if not any(commit.shards for commit in made.commits):
      shutil.rmtree(folder)
      if not report.rejects:
        raise BadInput(f"{job['input']}: its lists name no shape to convert")
      raise BadInput(
        f"{job['input']}: none of {len(report.rejects)} shapes could be "
        f"converted; the first: {report.rejects[0].detail}"
      )

    def finish(target: Path) -> None:
      splits = {name: vars(count) for name, count in report.splits.items()}
      summary = {"splits": splits, "problems": report.problems}
      write_json(target / REPORT_FILE, summary)
      rejects = [json.dumps(dataclasses.asdict(x)) for x in report.rejects]
      write_text(target / REJECTS_FILE, "".join(f"{x}\n" for x in rejects))
      write_json(target / JOB_FILE, job)
      made.add_files(target)

    assemble(dataclasses.replace(made, add_files=finish), Path(output), name)
  return report


def make_records(
  folder: Path,
  units: Sequence[engine.Unit],
  where: engine.Engine | None,
  embed_dim: int,
  **others: Any,
) -> Made:
  """Makes records of all units.

  Args:
    folder: The job's folder; shards go into one below.
    units: Their outcomes are encoded records.
    where: Where the units run.
    embed_dim: Width D of the features.
    **others: Further fields of `Made`.
  """
  folder = folder / "shards"
  serialize = functools.partial(shards.serialize_record, embed_dim=embed_dim)
  stems = engine.run(units, folder, serialize, where)
  commits = engine.read_commits(folder, stems)
  return Made(folder=folder, commits=commits, embed_dim=embed_dim, **others)


def _summarise(listed: Mapping[str, int], commits: Sequence[Commit]) -> Report:
  """Adds up the commits of a job.

  Raises:
    RuntimeError: if an item got lost; that would be a fault of the program.
  """
  report = Report({split: SplitCount(count) for split, count in listed.items()})
  for commit in commits:
    report.problems += commit.problems
    report.rejects += commit.rejects
    for shard in commit.shards:
      report.splits[shard.split].converted += shard.records
      report.splits[shard.split].without_text += shard.without_text
    for reject in commit.rejects:
      report.splits[reject.split].refused[reject.reason] += 1
  report.problems += count_notes(
    note for commit in commits for note in commit.notes
  )
  for split, count in report.splits.items():
    if count.listed != count.converted + count.refused.total():
      raise RuntimeError(f"split {split!r} does not add up: {count}")
  return report


@contextlib.contextmanager
def _job_folder(output: Path, job: Mapping[str, Any]) -> Iterator[Path | None]:
  """Opens OUTPUT.incomplete, in which a job keeps its finished shards.

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

  def is_made() -> bool:
    """Says whether `output` is the finished dataset of this very job."""
    file = output / JOB_FILE
    return file.is_file() and read_json(file) == job

  folder = output.with_name(f"{output.name}.incomplete")
  if not is_made():
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
      if is_made():  # perhaps by a run that ended just now
        yield None
        return
      check_output(output)
      file = folder / JOB_FILE
      begun = read_json(file, "remove its folder") if file.exists() else job
      fields = {**begun, **job}
      if changed := [f for f in fields if begun.get(f) != job.get(f)]:
        raise BadInput(
          f"{folder} was begun with other settings or input "
          f"({', '.join(changed)}); repeat the first command to go on with it, "
          "or remove it to start afresh"
        )
      write_json(file, job)
      yield folder
    finally:
      # Nothing to keep: all is in `output`, or not one shard was finished.
      if is_made() or not any(folder.glob("*/*.json")):
        shutil.rmtree(folder, ignore_errors=True)
