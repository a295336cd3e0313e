"""A sheet of what was asked and of the shapes that were found."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mrd_jax.data.records import record_cloud
from mrd_jax.draw import cloud
from mrd_jax.draw.sheet import drawable
from mrd_jax.draw.style import GREY, HEADER, INK, MARGIN, RULE, WIDTH, sheet
from mrd_jax.encoder.encoder import shuffled
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds import read_cloud
from mrd_jax.search.gallery import Gallery
from mrd_jax.search.queries import Query
from mrd_jax.search.ranking import Hits
from mrd_jax.teachers.images import to_rgb

MOST = 50  # hits on a sheet
COLUMNS = 5
_TILE = 1.42  # inches
_GAP = 0.1
_ROW = _TILE + 0.46
_ASKED = 1.9  # inches that the queries take, on the left
_PIXELS = 300  # of a picture
_POINTS = 10_000  # that are drawn of a cloud
_PLAIN = 0.62  # grey of clouds without colours


def draw_hits(
  gallery: Gallery,
  asked: Sequence[Query],
  hits: Hits,
  path: Path,
  *,
  up: str,
) -> None:
  """Draws the queries and the first 50 hits, best first, as a PNG.

  What cannot be read any more is a frame that says so.

  Args:
    gallery: What was searched in.
    asked: The queries.
    hits: What was found.
    path: The file to write.
    up: The axis of the queries' shapes that is up.
  """
  shown = min(len(hits.rows), MOST)
  rows = max(-(-shown // COLUMNS), len(asked), 1)
  height = HEADER + rows * _ROW + 0.1
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
  with sheet(path, "What was found", notes, height) as figure:
    for i, query in enumerate(asked):
      _draw_query(figure, height - HEADER - i * _ROW, query, up)
    for i in range(shown):
      row = int(hits.rows[i])
      left = MARGIN + _ASKED + (i % COLUMNS) * (_TILE + _GAP)
      top = height - HEADER - i // COLUMNS * _ROW
      _draw(figure, left, top, _found(gallery, row))
      figures = f"{i + 1}.  {hits.score[i]:.3f}"
      if len(asked) == 2:
        cosines = ", ".join(f"{c:.2f}" for c in hits.cosine[i])
        figures += f"  ({cosines})"
      # Names differ at their ends: folders are cut first.
      name = drawable(str(gallery.files[row]))
      name = name if len(name) <= 24 else f"…{name[-23:]}"
      _write(figure, left, top - _TILE - 0.06, figures, INK, 8.5)
      _write(figure, left, top - _TILE - 0.2, name, GREY, 7)


def _draw_query(figure: Figure, top: float, query: Query, up: str) -> None:
  if query.kind == "text":
    text = textwrap.wrap(
      drawable(f"“{query.value}”"), 22, max_lines=7, placeholder=" …”"
    )
    _write(figure, MARGIN, top - 0.1, "\n".join(text), INK, 10)
    return
  try:
    if query.kind == "image":
      picture: Any = to_rgb(query.value)
    else:
      picture = _render(read_cloud(query.value), up)
  except BadInput:
    picture = "cannot be read"
  _draw(figure, MARGIN, top, picture)
  name = drawable(Path(query.value).name)
  name = name if len(name) <= 22 else f"…{name[-21:]}"
  _write(figure, MARGIN, top - _TILE - 0.06, f"{query.kind}: {name}", INK, 8.5)


def _found(gallery: Gallery, row: int) -> Any:
  """A picture of a shape, or why there is none."""
  name, source = str(gallery.files[row]), gallery.source
  try:
    if gallery.records is None:
      if not Path(name).is_file():
        return "file not found"
      return _render(read_cloud(name), source["up"])
    from mrd_jax.data.dataset import open_split  # brings TFDS

    split = open_split(source["data"], source["split"])
    number = int(gallery.records[row])
    if number >= len(split) or split[number]["id"] != name:
      return "not in the data"
    return _render(record_cloud(split[number]), source["up"])
  except BadInput:
    return "cannot be read"


def _render(cloud_NC: np.ndarray, up: str) -> np.ndarray:
  cloud_NC = cloud_NC[shuffled(len(cloud_NC))[:_POINTS]]
  xyz_N3, rgb_N3 = cloud_NC[:, :3], cloud_NC[:, 3:]
  if not rgb_N3.shape[1]:
    rgb_N3 = np.full_like(xyz_N3, _PLAIN)
  if up == "z":
    xyz_N3 = xyz_N3[:, [0, 2, 1]] * [1, 1, -1]  # a rotation
  if (xyz_N3 == xyz_N3[0]).all():
    raise BadInput("all points coincide")
  return cloud.render(xyz_N3, rgb_N3, _PIXELS)


def _draw(figure: Figure, left: float, top: float, picture: Any) -> None:
  """A picture in its frame, or words."""
  height = figure.get_figheight()
  axes = figure.add_axes(
    (left / WIDTH, (top - _TILE) / height, _TILE / WIDTH, _TILE / height)
  )
  if isinstance(picture, str):
    axes.text(0.5, 0.5, picture, ha="center", va="center", color=GREY)
  else:
    axes.imshow(picture, interpolation="antialiased")
  axes.set(xticks=[], yticks=[])
  axes.grid(False)
  for spine in axes.spines.values():
    spine.set(visible=True, color=RULE, linewidth=0.9)


def _write(
  figure: Figure, left: float, top: float, text: str, color: str, size: float
) -> None:
  figure.text(
    left / WIDTH,
    top / figure.get_figheight(),
    text,
    va="top",
    color=color,
    fontsize=size,
    linespacing=1.35,
  )
