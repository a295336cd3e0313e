"""The retrieval gallery: queries, the shapes found, and their point clouds."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrd_jax.data import dataset
from mrd_jax.data.records import XYZ_LEVELS
from mrd_jax.encoder.embed_split import SplitEmbeddings
from mrd_jax.report.classes import class_names
from mrd_jax.report.markup import Markup, tag
from mrd_jax.report.retrieval_sheet import choose_queries, open_retrieval
from mrd_jax.report.run_folder import RunFolder

QUERIES = 8
TOP = 5
MOST_POINTS = 1024  # of a cloud
POINT_BYTES = 9  # three int16 coordinates, three uint8 colours
MOST_BYTES = 3_000_000  # of all clouds; a third more in base64

WAYS = {
  "text": "Text to shape",
  "image": "Image to shape",
}


class Ready(NamedTuple):
  """A run whose shapes can be retrieved and shown."""

  run: RunFolder
  split: str
  found: SplitEmbeddings
  source: dataset.RecordSource


class Clouds:
  """The clouds that the page shows, each once."""

  def __init__(self):
    self._records: dict[tuple[Path, str, int], Any] = {}

  def number(self, ready: Ready, shape: int) -> int:
    """The number under which the page's script finds a shape's cloud."""
    key = (ready.run.data_dir.resolve(), ready.split, shape)
    if key not in self._records:
      self._records[key] = ready.source[shape]
    return list(self._records).index(key)

  def encode(self) -> list[str]:
    """Every cloud in base64, all of them within `MOST_BYTES`.

    A cloud of N points is 6 N bytes of int16 coordinates (little-endian,
    centred, the farthest point at 32,767) and 3 N bytes of colours.
    """
    share = MOST_BYTES // max(len(self._records), 1) // POINT_BYTES
    most = min(MOST_POINTS, max(share, 1))
    return [_encode(record, most) for record in self._records.values()]


def open_run(run: RunFolder) -> Ready:
  """Reads what the gallery shows of a run: its first retrieval split.

  Raises:
    BadInput: if the run has none, is not finished, or its data is not there.
  """
  return Ready(run, *open_retrieval(run))


def gallery(runs: Mapping[str, Ready], clouds: Clouds) -> list[Markup]:
  """Queries and what each run retrieves, runs on the same data side by side.

  Args:
    runs: By name.
    clouds: Gets the clouds that are shown.
  """
  groups: dict[tuple[Path, str], dict[str, Ready]] = {}
  for name, ready in runs.items():
    key = (ready.run.data_dir.resolve(), ready.split)
    groups.setdefault(key, {})[name] = ready
  blocks = []
  for (_, split), group in groups.items():
    first = next(iter(group.values()))
    for way, title in WAYS.items():
      able = {
        name: ready
        for name, ready in group.items()
        if getattr(ready.found, f"has_{way}").any()
      }
      if not able:
        continue
      has_query_N = getattr(next(iter(able.values())).found, f"has_{way}")
      queries = choose_queries(has_query_N, first.found.label, QUERIES)
      heading = f"{title}, split “{split}”, {int(has_query_N.sum()):,} shapes"
      blocks.append(tag("h3", heading))
      if way == "image":
        blocks.append(
          tag(
            "p",
            "The query is the feature of one image of the shape; a dataset "
            "holds no images, so the shape itself stands for it.",
            class_="note",
          )
        )
      blocks += [_query(able, way, int(query), clouds) for query in queries]
  return blocks


def _query(
  runs: Mapping[str, Ready], way: str, query: int, clouds: Clouds
) -> Markup:
  first = next(iter(runs.values()))
  names = class_names(first.run, first.split)
  texts, label = first.source[query]["texts"], int(first.found.label[query])
  name = names[label] if 0 <= label < len(names) else ""
  if way == "text":
    asked: list[str | None] = [tag("p", f"“{texts[0]}”", class_="asked")]
  else:
    described = name or (texts[0] if texts else "a shape without a name")
    cloud = clouds.number(first, query)
    asked = [
      tag("p", f"an image of: {described}", class_="asked"),
      _tile(cloud, "example", "query", described, None),
    ]
  answers = []
  for i, (run_name, ready) in enumerate(runs.items()):
    gallery = np.flatnonzero(getattr(ready.found, f"has_{way}"))
    scores = ready.found.point[gallery] @ getattr(ready.found, way)[query]
    order = np.argsort(-scores, kind="stable")
    # The place among the tiles: equal scores, of a run that has collapsed, say,
    # must not all rank first.
    rank = 1 + int(np.flatnonzero(gallery[order] == query)[0])
    tiles = []
    for place, position in enumerate(order[:TOP].tolist(), start=1):
      shape = int(gallery[position])
      found_label = int(ready.found.label[shape])
      kind, word = "other", ""
      if shape == query:
        kind, word = "own", " · own shape"
      elif found_label >= 0 and found_label == label:
        kind, word = "same", " · class"
      found_name = names[found_label] if 0 <= found_label < len(names) else ""
      if not found_name:
        found_name = next(iter(ready.source[shape]["texts"]), "")
      tile = _tile(
        clouds.number(ready, shape),
        kind,
        f"{place}{word}",
        found_name,
        float(scores[position]),
      )
      tiles.append(tag("li", tile))
    answers.append(
      tag(
        "div",
        tag(
          "p",
          tag("span", tag("i"), run_name, class_=f"swatch c{i % 8}")
          if len(runs) > 1
          else None,
          f" its own shape ranks {rank:,} of {len(gallery):,}",
          class_="rank",
        ),
        tag("ol", *tiles, class_="tiles"),
        class_="answer",
      )
    )
  return tag(
    "article",
    tag("div", *asked, class_="question"),
    tag("div", *answers, class_="answers"),
    class_="query",
  )


def _tile(
  cloud: int, kind: str, place: str, name: str, score: float | None
) -> Markup:
  """A cloud that opens the viewer, with what is known about it below."""
  similarity = "" if score is None else f"{score:.3f}"
  parts = [place, name, similarity and f"similarity {similarity}"]
  known = ", ".join(part for part in parts if part)
  return tag(
    "button",
    tag("canvas", width=1, height=1, aria_hidden="true"),
    tag("span", place, class_="place"),
    tag("span", similarity, class_="score"),
    tag("span", name, class_="name"),
    type="button",
    class_=f"tile {kind}",
    data_cloud=cloud,
    data_title=known,
    aria_label=f"{known}: look at it in 3D",
  )


def _encode(record: Mapping[str, Any], most: int) -> str:
  count = len(record["xyz"])
  kept = np.arange(count)
  if count > most:
    kept = np.linspace(0, count - 1, most).round().astype(int)
  xyz_N3 = record["xyz"][kept].astype(np.float64)
  xyz_N3 -= (xyz_N3.min(axis=0) + xyz_N3.max(axis=0)) / 2
  radius = np.linalg.norm(xyz_N3, axis=1).max() or 1  # the few kept may be one
  levels_N3 = np.rint(xyz_N3 / radius * XYZ_LEVELS).astype("<i2")
  content = levels_N3.tobytes() + record["rgb"][kept].tobytes()
  return base64.b64encode(content).decode("ascii")
