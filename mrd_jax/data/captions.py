"""Reads and writes Cap3D's captions; says which shapes of a split have one.

Files: `Cap3D_automated_Objaverse_full.csv` and, from the time of the paper,
`misc/Cap3D_automated_Objaverse_old.csv`.  Captions differ between the two, and
neither has one for every shape.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mrd_jax.data.dataset import open_split
from mrd_jax.errors import BadInput
from mrd_jax.io.files import replacing


def read_captions(
  path: str | os.PathLike[str], problems: list[str]
) -> dict[str, str]:
  """Reads a headerless CSV file of two columns, uid and caption.

  Captions may hold commas, doubled quotes and line breaks if they are quoted;
  blanks around them are dropped.  An id that comes again keeps its first
  caption, which is the one that Cap3D's own evaluation takes.

  Args:
    path: The file, UTF-8 with or without a byte order mark.
    problems: Sentences on repeated ids and empty captions are appended here.

  Returns:
    Caption by uid, in the order of the file.  Ids whose caption is empty are
    left out.

  Raises:
    BadInput: naming the file and the line where its row begins, when a row has
      no uid, another number of columns, or quotes that do not close.
  """
  captions: dict[str, str] = {}
  repeated = empty = line = 0
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      rows = csv.reader(file, strict=True)
      for row in rows:
        if len(row) == 2 and row[0].strip():
          uid, caption = row[0].strip(), row[1].strip()
          if not caption:
            empty += 1
          elif uid in captions:
            repeated += 1
          else:
            captions[uid] = caption
        elif row:  # not a blank line
          what = "no uid" if len(row) == 2 else f"{len(row)} columns"
          raise BadInput(
            f"{path}, line {line + 1}: has {what}, must be a uid and a "
            "caption, in quotes if it holds commas"
          )
        line = rows.line_num
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
  except UnicodeDecodeError as error:
    raise BadInput(
      f"{path}: is not UTF-8 text after line {line} ({error}); fetch it again"
    ) from None
  except csv.Error as error:
    raise BadInput(
      f"{path}, line {line + 1}: {error}; a caption that holds quotes must be "
      "in quotes, with each of its own doubled"
    ) from None
  if repeated:
    problems.append(
      f"{path}: {repeated:,} rows repeat an id; its first caption was taken"
    )
  if empty:
    problems.append(f"{path}: {empty:,} captions are empty and were left out")
  if not captions:
    raise BadInput(f"{path}: holds no captions; fetch it again")
  return captions


def coverage(captions: Mapping[str, str], ids: Iterable[str]) -> str:
  """Says how many of the shapes, named by their ids, have a caption."""
  unique = dict.fromkeys(ids)
  missing = [uid for uid in unique if uid not in captions]
  covered = len(unique) - len(missing)
  share = f"{covered / len(unique):.1%}" if unique else "none"
  text = (
    f"{covered:,} of {len(unique):,} shapes ({share}) have a caption; "
    f"{len(captions) - covered:,} captions belong to no shape here"
  )
  if missing:
    first = ", ".join(missing[:3])
    text += f"; {len(missing):,} shapes have none, first: {first}"
  return text


def write_captions(
  data_dir: str | os.PathLike[str], split: str, captions: Mapping[str, str]
) -> str:
  """Writes a split's captions beside it, and says how many shapes have one.

  For retrieval by text.  The file is `captions_SPLIT.csv` in `data_dir`, which
  `read_captions` reads; rows are in the order of the records, and one from
  before is replaced.

  Raises:
    BadInput: when there is no such split, the file cannot be written, or no
      shape has a caption.
  """
  ids = dict.fromkeys(record["id"] for record in open_split(data_dir, split))
  if not ids.keys() & captions.keys():
    raise BadInput(
      f"split {split!r} of {data_dir}: none of its {len(ids)} shapes has "
      "a caption; Cap3D's are for shapes of Objaverse, by their uid"
    )
  file = Path(data_dir) / f"captions_{split}.csv"
  try:
    with (
      replacing(file) as temporary,
      open(temporary, "w", encoding="utf-8", newline="") as stream,
    ):
      csv.writer(stream).writerows(
        (uid, captions[uid]) for uid in ids if uid in captions
      )
  except OSError as error:
    raise BadInput(f"{file}: cannot be written ({error.strerror})") from None
  return coverage(captions, ids)
