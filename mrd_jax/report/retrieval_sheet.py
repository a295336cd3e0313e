"""A sheet of text queries and the shapes that were retrieved for them."""

from pathlib import Path

import numpy as np

from mrd_jax.data import dataset
from mrd_jax.data.records import record_cloud
from mrd_jax.draw import cloud
from mrd_jax.draw.sheet import Frame, Line, Tile, draw_sheet
from mrd_jax.draw.style import BLUE, GREY, INK
from mrd_jax.encoder.embed_split import SplitEmbeddings, read_embeddings
from mrd_jax.errors import BadInput
from mrd_jax.report.run_folder import RunFolder

ROWS = 8
COLUMNS = 5
OWN, SAME, OTHER = Frame(BLUE, 3.2), Frame("#8fc1e3", 2.2), Frame()


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
  legend = [(OWN, "the query's own shape")]
  if names:
    legend.append((SAME, "another of its class"))
  legend.append((OTHER, "another shape"))
  rows = []
  for query in queries:
    scores = found.point[gallery] @ found.text[query]
    order = np.argsort(-scores, kind="stable")
    # Its place among the tiles: equal scores must not all rank first.
    rank = 1 + int(np.flatnonzero(gallery[order] == query)[0])
    asked = [
      Line(f"“{source[query]['texts'][0]}”", size=10, most=5),
      Line(f"its own shape ranks {rank:,} of {len(gallery):,}", GREY, 8),
    ]
    row = [Tile(None, asked)]
    for i in order[:COLUMNS]:
      shape, label = gallery[i], int(found.label[gallery[i]])
      frame = OTHER
      if shape == query:
        frame = OWN
      elif label >= 0 and label == found.label[query]:
        frame = SAME
      own = frame == OWN
      lines = [Line(f"{scores[i]:.3f}", OWN.color if own else INK, bold=own)]
      if 0 <= label < len(names):
        lines.append(Line(names[label], GREY))
      picture = cloud.picture(record_cloud(source[shape]))
      row.append(Tile(picture, lines, frame))
    rows.append(row)
  title = "Text to shape: what each query retrieves"
  draw_sheet(path, title, notes, rows, columns=COLUMNS, left=1.9, legend=legend)


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
