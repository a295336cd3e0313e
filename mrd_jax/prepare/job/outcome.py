"""What became of every item of a preparation job."""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrd_jax.prepare.job.shards import Commit, Reject

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

  def write(self, folder: Path) -> None:
    """Writes `report.json` and `rejects.jsonl` into `folder`."""
    summary = {
      "splits": {name: vars(count) for name, count in self.splits.items()},
      "problems": self.problems,
    }
    (folder / REPORT_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    with open(folder / REJECTS_FILE, "w") as file:
      for reject in self.rejects:
        file.write(json.dumps(dataclasses.asdict(reject)) + "\n")

  def __str__(self) -> str:
    row = "{:<14}{:>9}{:>11}{:>9}{:>14}".format
    lines = [row("split", "listed", "converted", "refused", "without text")]
    for name, count in self.splits.items():
      refused = count.refused.total()
      lines.append(
        row(name, count.listed, count.converted, refused, count.without_text)
      )
      lines += [f"  {n} refused: {why}" for why, n in count.refused.items()]
    return "\n".join([*lines, *(f"problem: {p}" for p in self.problems)])


def summarise(listed: Mapping[str, int], commits: Sequence[Commit]) -> Report:
  """Adds up the commits of a job.

  Args:
    listed: How many items each split was to get.
    commits: All commits.

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
  for split, count in report.splits.items():
    if count.listed != count.converted + count.refused.total():
      raise RuntimeError(f"split {split!r} does not add up: {count}")
  return report


def read_report(folder: Path) -> Report:
  """Reads what `Report.write` wrote."""
  summary: dict[str, Any] = json.loads((folder / REPORT_FILE).read_text())
  lines = (folder / REJECTS_FILE).read_text().splitlines()
  counter = collections.Counter
  return Report(
    {
      name: SplitCount(**count | {"refused": counter(count["refused"])})
      for name, count in summary["splits"].items()
    },
    summary["problems"],
    [Reject(**json.loads(line)) for line in lines],
  )
