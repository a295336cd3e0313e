"""Reads the table that says what the meshes of a folder are."""

import csv
import dataclasses
import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from mrd_jax.errors import BadInput

_COLUMNS = ("name", "caption", "category", "split", "dataset")


@dataclasses.dataclass(frozen=True)
class Row:
  """What is known of one mesh.

  Attributes:
    name: A few words, "office chair"; its feature is averaged over prompts.
    captions: Sentences.
    category: Class; labels its split.
    split: Split that it belongs to.
    dataset: Name of the source collection.
  """

  name: str = ""
  captions: tuple[str, ...] = ()
  category: str = ""
  split: str = "train"
  dataset: str = "meshes"


def read_table(
  path: str | os.PathLike[str], files: Sequence[str]
) -> tuple[dict[str, Row], list[str]]:
  """Reads a CSV file with a header.

  Its columns: `file`, required, the path of a mesh below the folder, or its
  end, with or without suffix; `name`, `category`, `split`, `dataset` at most
  once; `caption` any number of times.  Empty cells are as if absent.

  Args:
    path: The table.
    files: Paths of the meshes below their folder.

  Returns:
    The rows by mesh, and sentences about rows and columns that are not used.

  Raises:
    BadInput: naming the table and the line or column that cannot be used.
  """
  path = Path(path)
  try:
    with open(path, newline="", encoding="utf-8-sig") as opened:
      lines = list(csv.reader(opened, strict=True))
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise BadInput(
      f"{path}: cannot be read as CSV ({error}); save it as UTF-8, with "
      "commas between cells and quotes around texts that hold any"
    ) from None
  header = [name.strip().lower() for name in lines[0]] if lines else []
  if header.count("file") != 1:
    raise BadInput(
      f"{path}: the first line must name the columns, with commas between, "
      f"one of them 'file'; others are {', '.join(_COLUMNS)}"
    )
  for name in _COLUMNS:
    if name != "caption" and header.count(name) > 1:
      raise BadInput(f"{path}: column {name!r} is there twice")
  unused = sorted({n for n in header if n not in (*_COLUMNS, "file")})
  problems = [f"{path}: column {name!r} is not used" for name in unused]
  ends = _ends(files)
  rows: dict[str, Row] = {}
  for number, line in enumerate(lines[1:], 2):
    if not any(cell.strip() for cell in line):
      continue
    if len(line) != len(header):
      raise BadInput(
        f"{path}: row {number} has {len(line)} cells where the header has "
        f"{len(header)}; quote texts that hold commas"
      )
    cells = [(n, c.strip()) for n, c in zip(header, line, strict=True)]
    named = dict(cells)
    matches = ends.get(posixpath.normpath(named["file"]), [])
    if len(matches) != 1:
      what = "no mesh" if not matches else f"{len(matches)} meshes"
      problems.append(
        f"{path}: row {number}: {named['file']!r} is {what} below the folder; "
        "the row is not used"
      )
      continue
    if matches[0] in rows:
      raise BadInput(
        f"{path}: row {number}: {matches[0]} has a row already; give a mesh "
        "one row with several columns 'caption'"
      )
    split = named.get("split") or "train"
    if split == "all" or not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", split):
      raise BadInput(
        f"{path}: row {number}: split {split!r} must begin with a letter, hold "
        "letters, digits and _ alone, and not be 'all', which is all of them"
      )
    rows[matches[0]] = Row(
      name=named.get("name", ""),
      captions=tuple(c for n, c in cells if n == "caption" and c),
      category=named.get("category", ""),
      split=split,
      dataset=named.get("dataset") or "meshes",
    )
  return rows, problems


def _ends(files: Sequence[str]) -> dict[str, list[str]]:
  """Maps all ends of all paths, with and without suffix, to the paths."""
  ends: dict[str, list[str]] = {}
  for file in files:
    parts = Path(file).parts
    for start in range(len(parts)):
      end = Path(*parts[start:])
      for name in {end.as_posix(), end.with_suffix("").as_posix()}:
        ends.setdefault(name, []).append(file)
  # A whole path is meant before any end, first of all with its suffix.
  whole: dict[str, list[str]] = {}
  for file in files:
    whole.setdefault(os.path.splitext(file)[0], []).append(file)
  return ends | whole | {file: [file] for file in files}
