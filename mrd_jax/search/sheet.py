"""Draws what was asked and the shapes that were found."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.config.pretraining import UpAxis
from mrd_jax.data.records import record_cloud
from mrd_jax.data.shape_files import read_shape
from mrd_jax.draw import cloud
from mrd_jax.draw.sheet import Line, Tile, draw_sheet, in_rows
from mrd_jax.draw.style import GREY
from mrd_jax.errors import BadInput
from mrd_jax.io.images import to_rgb
from mrd_jax.search.gallery import Gallery
from mrd_jax.search.nearest import Hits, Query

MOST = 50  # hits on a sheet
COLUMNS = 5


def draw_hits(
  gallery: Gallery,
  asked: Sequence[Query],
  hits: Hits,
  path: Path,
  *,
  up: UpAxis,
  columns: Sequence[str] | None = None,
) -> None:
  """Draws the queries and the first 50 hits, best first, as a PNG.

  What cannot be read any more is a frame that says so.

  Args:
    gallery: What was searched in.
    asked: The queries.
    hits: What was found.
    path: The file to write.
    up: The axis of the queries' shapes that is up.
    columns: Of the queries' clouds, as in `read_cloud`.
  """
  shown = min(len(hits.rows), MOST)
  notes = [
    f"{gallery.path.name}, {len(gallery):,} shapes",
    f"step {gallery.source['step']}",
    (
      "numbers: cosine similarity",
      "numbers: the score, and the cosine with each query",
      "numbers: the score",  # for more there is no room
    )[min(len(asked), 3) - 1],
  ]
  if shown < len(hits.rows):
    notes.append(f"the first {shown} of {len(hits.rows)}")
  found = []
  for i in range(shown):
    row = int(hits.rows[i])
    score = f"{i + 1}.  {hits.score[i]:.3f}"
    if len(asked) == 2:
      score += f"  ({', '.join(f'{c:.2f}' for c in hits.cosine[i])})"
    name = Line(str(gallery.files[row]), GREY, 7, most=2, middle=True)
    found.append(Tile(_found(gallery, row), [Line(score), name]))
  queries = [_asked(query, up, columns) for query in asked]
  rows = [
    [query or Tile(None), *(tiles or ())]
    for query, tiles in itertools.zip_longest(queries, in_rows(found, COLUMNS))
  ]
  draw_sheet(path, "What was found", notes, rows, columns=COLUMNS, left=1.9)


def _asked(query: Query, up: UpAxis, columns: Sequence[str] | None) -> Tile:
  if query.kind == "text":
    return Tile(None, [Line(f"“{query.value}”", size=10, most=7)])
  try:
    if query.kind == "image":
      picture = np.asarray(to_rgb(query.value))
    else:
      points, axis = read_shape(query.value, up=up, columns=columns)
      picture = cloud.picture(points, up=axis)
  except BadInput:
    picture = "cannot be read"
  name = f"{query.kind}: {Path(query.value).name}"
  return Tile(picture, [Line(name, most=2, middle=True)])


def _found(gallery: Gallery, row: int):
  """Returns a picture of a shape, or why there is none."""
  name, source = str(gallery.files[row]), gallery.source
  try:
    if gallery.records is None:
      if not os.path.isfile(name):  # bears a name of any length
        return "file not found"
      points, axis = read_shape(
        name, up=source["up"], columns=source.get("columns")
      )
      return cloud.picture(points, up=axis)
    from mrd_jax.data.dataset import open_split  # brings ArrayRecord

    split = open_split(source["data"], source["split"])
    number = int(gallery.records[row])
    if number >= len(split) or split[number]["id"] != name:
      return "not in the data"
    return cloud.picture(record_cloud(split[number]), up=source["up"])
  except BadInput:
    return "cannot be read"
