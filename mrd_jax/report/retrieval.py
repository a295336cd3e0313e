"""Asks a run's stored embeddings, as the gallery and the sheet show them."""

from typing import NamedTuple

import numpy as np

from mrd_jax.data import dataset
from mrd_jax.encoder.embed_split import SplitEmbeddings, read_embeddings
from mrd_jax.errors import BadInput
from mrd_jax.report.run_folder import RunFolder

QUERIES = 8
TOP = 5


class Hit(NamedTuple):
  """A shape that was found.

  Attributes:
    shape: Its record.
    score: Cosine similarity with the query.
    kind: "own", "same" (another of the query's class) or "other".
  """

  shape: int
  score: float
  kind: str


class Retrieval(NamedTuple):
  """A run whose shapes can be retrieved and shown."""

  run: RunFolder
  split: str
  found: SplitEmbeddings
  source: dataset.RecordSource

  def has(self, way: str) -> np.ndarray:
    """Returns which shapes have a "text" or an "image", (N,) bool."""
    return getattr(self.found, f"has_{way}")

  def class_of(self, shape: int) -> str:
    """Returns the name of a shape's class, empty if it is not known."""
    names, label = self.run.class_names(self.split), self.found.label[shape]
    return names[label] if 0 <= label < len(names) else ""

  def queries(self, way: str) -> list[int]:
    """Chooses shapes to search with; none if there is no "text" or "image"."""
    return choose_queries(self.has(way), self.found.label, QUERIES).tolist()

  def ask(self, way: str, query: int) -> tuple[str, list[Hit]]:
    """Searches with the "text" or the "image" of a shape.

    Returns:
      The place of its own shape, in words, and the first `TOP`, best first.
    """
    gallery = np.flatnonzero(self.has(way))  # as the recall is computed
    scores = self.found.point[gallery] @ getattr(self.found, way)[query]
    order = np.argsort(-scores, kind="stable")
    # Its place among the hits: equal scores, of a run that has collapsed, say,
    # must not all rank first.
    rank = 1 + int(np.flatnonzero(gallery[order] == query)[0])
    hits = []
    for i in order[:TOP].tolist():
      shape, label = int(gallery[i]), self.found.label[gallery[i]]
      kind = "other"
      if shape == query:
        kind = "own"
      elif label >= 0 and label == self.found.label[query]:
        kind = "same"
      hits.append(Hit(shape, float(scores[i]), kind))
    return f"its own shape ranks {rank:,} of {len(gallery):,}", hits


def open_retrieval(run: RunFolder) -> Retrieval:
  """Opens the first retrieval split of a run.

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
  return Retrieval(run, split, found, source)


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
  return ordered[spaced(len(seen), count)]


def spaced(count: int, most: int) -> np.ndarray:
  """Chooses at most so many of `count` numbers from 0 on, evenly."""
  return np.linspace(0, count - 1, min(count, most)).round().astype(int)
