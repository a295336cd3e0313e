"""Shows queries, the shapes found, and their point clouds to turn."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data.records import XYZ_LEVELS
from mrd_jax.draw.markup import Markup, json_block, tag
from mrd_jax.errors import BadInput
from mrd_jax.report.retrieval import Retrieval, open_retrieval, spaced
from mrd_jax.report.run_folder import Folders

MOST_POINTS = 1024  # of a cloud
POINT_BYTES = 9  # three int16 coordinates, three uint8 colours
MOST_BYTES = 3_000_000  # of all clouds; a third more in base64

WAYS = {"text": "Text to shape", "image": "Image to shape"}
WORDS = {"own": " · own shape", "same": " · class", "other": ""}


class Clouds:
  """The clouds that the page shows, each once."""

  def __init__(self):
    self._records: dict[tuple[Path, str, int], Any] = {}

  def number(self, asked: Retrieval, shape: int) -> int:
    """Returns where the page's script finds a shape's cloud."""
    key = (asked.run.data_dir.resolve(), asked.split, shape)
    if key not in self._records:
      self._records[key] = asked.source[shape]
    return list(self._records).index(key)

  def encode(self) -> list[str]:
    """Writes every cloud in base64, all of them within `MOST_BYTES`.

    A cloud of N points is 6 N bytes of int16 coordinates (little-endian,
    centred, the farthest point at 32,767) and 3 N bytes of colours.
    """
    share = MOST_BYTES // max(len(self._records), 1) // POINT_BYTES
    most = min(MOST_POINTS, max(share, 1))
    encoded = []
    for record in self._records.values():
      kept = spaced(len(record["xyz"]), most)
      xyz_N3 = record["xyz"][kept].astype(np.float64)
      xyz_N3 -= (xyz_N3.min(axis=0) + xyz_N3.max(axis=0)) / 2
      radius = np.linalg.norm(xyz_N3, axis=1).max() or 1  # may be one point
      levels_N3 = np.rint(xyz_N3 / radius * XYZ_LEVELS).astype("<i2")
      content = levels_N3.tobytes() + record["rgb"][kept].tobytes()
      encoded.append(base64.b64encode(content).decode("ascii"))
    return encoded


def section(folders: Folders) -> list[Markup]:
  """Makes the blocks of the page, runs on the same data side by side."""
  groups: dict[tuple[Path, str], dict[str, Retrieval]] = {}
  for name, run in folders.runs.items():
    if run.finetuned:
      continue
    try:
      asked = open_retrieval(run)
    except BadInput as error:
      folders.missing.append(f"Retrieval of {name}: {error}.")
      continue
    if not asked.has("image").any():
      folders.missing.append(
        f"Image to shape of {name}: its embeddings hold no image features."
      )
    key = (run.data_dir.resolve(), asked.split)
    groups.setdefault(key, {})[name] = asked
  blocks, clouds = [], Clouds()
  for (_, split), group in groups.items():
    for way, title in WAYS.items():
      able = {
        name: asked for name, asked in group.items() if asked.has(way).any()
      }
      if not able:
        continue
      first = next(iter(able.values()))
      count = int(first.has(way).sum())
      blocks.append(tag("h3", f"{title}, split “{split}”, {count:,} shapes"))
      if way == "image":
        blocks.append(
          tag(
            "p",
            "The query is the feature of one image of the shape; a dataset "
            "holds no images, so the shape itself stands for it.",
            class_="note",
          )
        )
      blocks += [_query(able, way, q, clouds) for q in first.queries(way)]
  return [*blocks, json_block("clouds", clouds.encode())] if blocks else []


def _query(
  runs: Mapping[str, Retrieval], way: str, query: int, clouds: Clouds
) -> Markup:
  first = next(iter(runs.values()))
  texts = first.source[query]["texts"]
  if way == "text":
    question = [tag("p", f"“{texts[0]}”", class_="asked")]
  else:
    described = [first.class_of(query), *texts, "a shape without a name"]
    text = next(filter(None, described))
    question = [
      tag("p", f"an image of: {text}", class_="asked"),
      _tile(clouds.number(first, query), "example", "query", text, ""),
    ]
  answers = []
  for i, (run_name, asked) in enumerate(runs.items()):
    rank, hits = asked.ask(way, query)
    tiles = []
    for place, hit in enumerate(hits, start=1):
      texts = asked.source[hit.shape]["texts"]
      tile = _tile(
        clouds.number(asked, hit.shape),
        hit.kind,
        f"{place}{WORDS[hit.kind]}",
        asked.class_of(hit.shape) or next(iter(texts), ""),
        f"{hit.score:.3f}",
      )
      tiles.append(tag("li", tile))
    swatch = None
    if len(runs) > 1:
      swatch = tag("span", tag("i"), run_name, class_=f"swatch c{i % 8}")
    answers.append(
      tag(
        "div",
        tag("p", swatch, f" {rank}", class_="rank"),
        tag("ol", *tiles, class_="tiles"),
        class_="answer",
      )
    )
  return tag(
    "article",
    tag("div", *question, class_="question"),
    tag("div", *answers, class_="answers"),
    class_="query",
  )


def _tile(
  cloud: int, kind: str, place: str, name: str, similarity: str
) -> Markup:
  """Makes a cloud that opens the viewer, what is known about it below."""
  parts = [place, name, similarity and f"similarity {similarity}"]
  known = ", ".join(filter(None, parts))
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
