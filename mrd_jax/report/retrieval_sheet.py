"""Draws the sheet of text queries and the shapes that they retrieve."""

from pathlib import Path

from mrd_jax.data.records import record_cloud
from mrd_jax.draw import cloud
from mrd_jax.draw.sheet import Frame, Line, Tile, draw_sheet
from mrd_jax.draw.style import BLUE, GREY, INK
from mrd_jax.errors import BadInput
from mrd_jax.report.retrieval import TOP, open_retrieval
from mrd_jax.report.run_folder import RunFolder

FRAMES = {
  "own": (Frame(BLUE, 3.2), "the query's own shape"),
  "same": (Frame("#8fc1e3", 2.2), "another of its class"),
  "other": (Frame(), "another shape"),
}


def draw(run: RunFolder, path: Path) -> None:
  """Draws the PNG of the run's first retrieval split.

  Raises:
    BadInput: if the run has none, is not finished, or its data is not there.
  """
  asked = open_retrieval(run)
  split, queries = asked.split, asked.queries("text")
  if not queries:
    raise BadInput(
      f"split {split!r} of {run.data_dir} has no texts to retrieve with; name "
      "a split with texts in eval.retrieval"
    )
  metrics = run.results["metrics"] if run.results else {}
  recalls = [
    f"R@{k} {metrics[key]:.1%}"
    for k in (1, 5)
    if (key := f"{split}/text_to_shape_r{k}") in metrics
  ]
  notes = [
    *run.describe(),
    ", ".join(
      [f"split “{split}”, {asked.has('text').sum():,} shapes", *recalls]
    ),
    "queries spread over the classes, not picked by result",
    "numbers: cosine similarity",
  ]
  rows = []
  for query in queries:
    text = asked.source[query]["texts"][0]
    rank, hits = asked.ask("text", query)
    row = [
      Tile(None, [Line(f"“{text}”", size=10, most=5), Line(rank, GREY, 8)])
    ]
    for hit in hits:
      own = hit.kind == "own"
      score = Line(f"{hit.score:.3f}", BLUE if own else INK, bold=own)
      name = Line(asked.class_of(hit.shape), GREY)
      picture = cloud.picture(record_cloud(asked.source[hit.shape]))
      row.append(Tile(picture, [score, name], FRAMES[hit.kind][0]))
    rows.append(row)
  legend = list(FRAMES.values())
  if not run.class_names(split):
    del legend[1]
  title = "Text to shape: what each query retrieves"
  draw_sheet(path, title, notes, rows, columns=TOP, left=1.9, legend=legend)
