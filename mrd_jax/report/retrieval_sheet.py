"""A sheet of text queries and the shapes that were retrieved for them."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from mrd_jax.data import dataset
from mrd_jax.draw.sheet import cloud_image, drawable
from mrd_jax.draw.style import BLUE, GREY, HEADER, INK, MARGIN, WIDTH, sheet
from mrd_jax.encoder.embed_split import (
  SplitEmbeddings,
  read_embeddings,
)
from mrd_jax.errors import BadInput
from mrd_jax.report.run_folder import RunFolder

ROWS = 8
COLUMNS = 5
TILE = 1.42  # inches
TEXT_WIDTH = WIDTH - 2 * MARGIN - COLUMNS * (TILE + 0.08)  # inches
ROW_HEIGHT = TILE + 0.36

OWN, SAME, OTHER = BLUE, "#8fc1e3", "#dfe3e8"


def open_retrieval(
  run: RunFolder,
) -> tuple[str, SplitEmbeddings, dataset.RecordSource]:
  """The run's first retrieval split: its name, embeddings and records.

  Raises:
    BadInput: if the run has none, is not finished, or its data is not there.
  """
  splits = run.config.get("eval", {}).get("retrieval", ())
  if not splits:
    raise BadInput(
      "config.json names no split in eval.retrieval; train with one to see "
      "what is retrieved"
    )
  split = splits[0]
  found = read_embeddings(run.workdir / "embeddings" / f"{split}.npz")
  source = dataset.open_split(run.data_dir, split)
  if len(source) != len(found.label):
    raise BadInput(
      f"embeddings/{split}.npz has {len(found.label)} rows, split {split!r} "
      f"of {run.data_dir} has {len(source)} records; name the dataset of the "
      "run with --data"
    )
  return split, found, source


def draw_retrieval(run: RunFolder, path: Path) -> None:
  """Draws the sheet of the run's first retrieval split.

  Raises:
    BadInput: if the run has none, is not finished, or its data is not there.
  """
  split, found, source = open_retrieval(run)
  queries = choose_queries(found.has_text, found.label, ROWS)
  if not len(queries):
    raise BadInput(
      f"split {split!r} of {run.data_dir} has no texts to retrieve with; name "
      "a split with texts in eval.retrieval"
    )
  names = run.meta.class_names.get(split, ()) if run.meta else ()
  gallery = np.flatnonzero(found.has_text)  # as the recall is computed
  height = HEADER + 0.4 + len(queries) * ROW_HEIGHT
  recalls = [
    f"R@{k} {run.results['metrics'][key]:.1%}"
    for k in (1, 5)
    if run.results
    and (key := f"{split}/text_to_shape_r{k}") in run.results["metrics"]
  ]
  notes = [
    *run.describe(),
    ", ".join([f"split “{split}”, {len(gallery):,} shapes", *recalls]),
    "queries spread over the classes, not picked by result",
    "numbers: cosine similarity",
  ]
  with sheet(
    path, "Text to shape: what each query retrieves", notes, height
  ) as figure:
    _legend(figure, 1 - (HEADER + 0.2) / height, bool(len(names)))
    for row, query in enumerate(queries):
      top = height - HEADER - 0.4 - row * ROW_HEIGHT
      scores = found.point[gallery] @ found.text[query]
      order = np.argsort(-scores, kind="stable")
      # Its place among the tiles: equal scores must not all rank first.
      rank = 1 + int(np.flatnonzero(gallery[order] == query)[0])
      _write_query(
        figure,
        top,
        source[query]["texts"][0],
        f"its own shape ranks {rank:,} of {len(gallery):,}",
      )
      for column, i in enumerate(order[:COLUMNS]):
        shape = gallery[i]
        record = source[shape]
        label = int(found.label[shape])
        kind = OTHER
        if shape == query:
          kind = OWN
        elif label >= 0 and label == found.label[query]:
          kind = SAME
        _tile(
          figure,
          MARGIN + TEXT_WIDTH + column * (TILE + 0.08),
          top,
          cloud_image(record),
          f"{scores[i]:.3f}",
          names[label] if 0 <= label < len(names) else "",
          kind,
        )


def choose_queries(
  has_text_N: np.ndarray, label_N: np.ndarray, count: int
) -> np.ndarray:
  """Chooses records to query with, evenly over classes, blind to results.

  Args:
    has_text_N: (N,) bool; the others are never chosen.
    label_N: (N,) class indices, or -1: such a record is a class of its own.
    count: How many, at most.

  Returns:
    Record numbers: the first of evenly spaced classes, or with fewer classes
    than `count` their first, second, ... records in turn.
  """
  candidates = np.flatnonzero(has_text_N)
  label = label_N[candidates]
  group = np.where(label >= 0, label, label_N.max(initial=0) + 1 + candidates)
  seen: dict[int, int] = {}
  turn = np.zeros(len(candidates), int)
  for i, g in enumerate(group.tolist()):
    turn[i] = seen.get(g, 0)
    seen[g] = turn[i] + 1
  ordered = candidates[np.lexsort((group, turn))]
  if len(seen) <= count:
    return ordered[:count]
  spaced = np.linspace(0, len(seen) - 1, count).round().astype(int)
  return ordered[spaced]


def _legend(figure: Figure, y: float, has_labels: bool) -> None:
  kinds = [(OWN, 2.6, "the query's own shape")]
  if has_labels:
    kinds.append((SAME, 1.8, "another of its class"))
  kinds.append((OTHER, 1.0, "another shape"))
  height = figure.get_figheight()
  x = MARGIN + TEXT_WIDTH
  for color, width, text in kinds:
    figure.add_artist(
      FancyBboxPatch(
        (x / WIDTH, y - 0.05 / height),
        0.14 / WIDTH,
        0.12 / height,
        boxstyle="square,pad=0",
        facecolor="white",
        edgecolor=color,
        linewidth=width,
      )
    )
    figure.text((x + 0.24) / WIDTH, y, text, va="center", color=GREY)
    x += 0.75 + 0.078 * len(text)


def _write_query(figure: Figure, top: float, text: str, note: str) -> None:
  height = figure.get_figheight()
  lines = textwrap.wrap(
    drawable(f"“{text}”"), 24, max_lines=5, placeholder=" …”"
  )
  figure.text(
    MARGIN / WIDTH,
    (top - 0.12) / height,
    "\n".join(lines),
    va="top",
    fontsize=10,
    linespacing=1.35,
  )
  figure.text(
    MARGIN / WIDTH,
    (top - TILE) / height,
    note,
    va="bottom",
    fontsize=8,
    color=GREY,
  )


def _tile(
  figure: Figure,
  left: float,
  top: float,
  image: np.ndarray,
  score: str,
  name: str,
  kind: str,
) -> None:
  """A picture in its frame, with score and class name below."""
  height = figure.get_figheight()
  axes = figure.add_axes(
    (left / WIDTH, (top - TILE) / height, TILE / WIDTH, TILE / height)
  )
  axes.imshow(image, interpolation="antialiased")
  axes.set(xticks=[], yticks=[])
  axes.grid(False)
  for spine in axes.spines.values():
    spine.set(
      visible=True,
      color=kind,
      linewidth={OWN: 3.2, SAME: 2.2, OTHER: 0.9}[kind],
    )
  y = (top - TILE - 0.06) / height
  figure.text(
    left / WIDTH,
    y,
    score,
    va="top",
    fontsize=8.5,
    color=OWN if kind == OWN else INK,
    weight="bold" if kind == OWN else "normal",
  )
  figure.text(
    (left + TILE) / WIDTH,
    y,
    drawable(textwrap.shorten(name, 14, placeholder="…")),
    va="top",
    ha="right",
    fontsize=8.5,
    color=GREY,
  )
