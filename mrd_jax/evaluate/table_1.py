"""Tabulates the suite table1: measured, the paper's row, the authors' own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mrd_jax.evaluate import published
from mrd_jax.io.terminal import printable
from mrd_jax.metrics import table
from mrd_jax.metrics.zero_shot import KS
from mrd_jax.zoo.registry import NAMES
from mrd_jax.zoo.system import figures

# Of `mrd_jax.evaluate.suites`, with the paper's names of their test sets.
SUITES = {
  "objaverse_lvis": "lvis",
  "modelnet40": "modelnet40",
  "scanobjectnn": "scanobjectnn",
}
_TITLES = {
  "own": "Table 1, each by its authors' protocol",
  "ours": "Table 1, all by one protocol, which nobody has published",
}
_SETS = {"lvis": "LVIS", "modelnet40": "MN40", "scanobjectnn": "Scan"}


def own_figures() -> dict[str, published.Table]:
  """Sorts the figures that systems publish of themselves by their source."""
  tables: dict[str, published.Table] = {
    # The best three files, of those that have names.
    "Uni3D's README": {
      ("uni3d-g", "ensembled, a file per set"): figures(
        lvis=(55.3, 82.9), modelnet40=(88.2, 99.3), scanobjectnn=(65.3, 92.7)
      )
    }
  }
  for name, (_, release) in NAMES.items():
    if release.figures:
      data = release.row[1] if release.row else "as it is published"
      table = tables.setdefault(release.source, {})
      table[name, data] = dict(release.figures)
  return tables


def key(suite: str, standard: str) -> str:
  """Names in results.json what a suite found by a standard protocol."""
  return f"{suite} {standard}"


def is_of(suite: str) -> bool:
  """Says whether a suite of results.json is of a standard protocol."""
  return suite.partition(" ")[2] in _TITLES


def tabulate(rows: Sequence[Mapping[str, Any]]) -> str:
  """Makes a Markdown table of each standard protocol that rows have.

  Args:
    rows: Of results.json.
  """
  text = []
  for standard, title in _TITLES.items():
    lines, notes = [], []
    for row in rows:
      found = {
        split: row["suites"][key(suite, standard)]
        for suite, split in SUITES.items()
        if key(suite, standard) in row["suites"]
      }
      if found:
        lines += _lines(row, found)
        notes += _notes(row, found)
    if lines:
      header = [
        "top 1, 3, 5 in percent",
        *(f"{_SETS[s]} {k}" for s in SUITES.values() for k in KS),
      ]
      text += [f"## {title}", "", table.render(header, lines), ""]
      text += [*(f"* {printable(note)}" for note in dict.fromkeys(notes)), ""]
  return "\n".join(text)


def _lines(
  row: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]
) -> Iterable[list[str]]:
  """Makes the lines of one encoder."""
  measured = {
    f"{split}/{metric}": 100 * value
    for split, of_split in found.items()
    for metric, value in of_split["metrics"].items()
  }
  yield [row["name"], *_cells(measured)]
  if row.get("model") not in NAMES:
    return
  _, release = NAMES[row["model"]]
  if release.row:
    paper = ", ".join(release.row)
    yield [f"... the paper: {paper}", *_cells(published.TABLE_1[release.row])]
  if release.figures:
    yield [f"... {release.source}", *_cells(release.figures)]


def _cells(figures: Mapping[str, float]) -> Iterable[str]:
  for split in SUITES.values():
    for k in KS:
      value = figures.get(f"{split}/top{k}")
      yield "" if value is None else f"{value:.1f}"


def _notes(
  row: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]
) -> Iterable[str]:
  """Says how each figure was measured, and what differs from the published."""
  for split, of_split in found.items():
    protocol = dict(of_split["protocol"])
    differs = protocol.pop("differs", None)
    words = ", ".join(
      f"{name.replace('_', ' ')} {value}"
      for name, value in protocol.items()
      if value is not None
    )
    yield (
      f"{row['name']}, {_SETS[split]}: {of_split['split']} of "
      f"{of_split['data']}, {words}"
    )
    shapes = published.SHAPES[split]
    if protocol["shapes"] != shapes:
      yield (
        f"{_SETS[split]}: the published figures are of {shapes:,} shapes, "
        "another test set, not comparable"
      )
    if differs:
      yield f"{row['name']} differs from what is published: {differs}"
