"""Tables of metrics as text: Markdown that also lines up in a terminal."""

import re
from collections.abc import Iterable, Iterator, Sequence


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table with aligned columns, the first to the left."""
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

  def line(cells: Sequence[str]) -> str:
    first, *others = (
      f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}"
      for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join([first, *others])} |"

  rule = "|".join(
    "-" * (width + 2) if i == 0 else "-" * (width + 1) + ":"
    for i, width in enumerate(widths)
  )
  return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


WAYS = {
  "text_to_shape": "text→3D",
  "shape_to_text": "3D→text",
  "image_to_shape": "image→3D",
}


def label(metric: str) -> str:
  """A metric's name for a column: "category R@1", "P2P/I2I", "top-1"."""
  if metric.startswith("gap_"):
    return metric.removeprefix("gap_").upper().replace("_", "/")
  for way in WAYS:
    if metric.startswith(way):
      metric = metric.removeprefix(way + "_")
  metric = re.sub(r"\br(\d)$|_r(\d)$", r" R@\1\2", metric).strip()
  return re.sub(r"top(\d)", r"top-\1", metric).replace("_", " ")


def group_metrics(
  names: Iterable[str],
) -> Iterator[tuple[str, list[str], bool]]:
  """Sorts metrics, "top1" or "SPLIT/top1", into tables.

  Yields:
    Title, the metrics of its columns, and whether they are shares (printed in
    percent); a standard deviation, "METRIC_std", is no column of its own.
  """
  groups: dict[str, list[str]] = {}
  for name in names:
    metric = name.rpartition("/")[2]
    if metric.endswith("_std"):
      continue
    title = "relation gap" if metric.startswith("gap_") else "accuracy"
    for way, words in WAYS.items():
      if metric.startswith(way):
        title = words
    groups.setdefault(title, []).append(name)
  for title, columns in groups.items():
    yield title, columns, title != "relation gap"


def number(mean: float, percent: bool, deviation: float | None = None) -> str:
  """A share in percent with one decimal, anything else with three."""
  factor, digits = (100, 1) if percent else (1, 3)
  text = f"{factor * mean:.{digits}f}"
  if deviation is not None:
    text += f" ± {factor * deviation:.{digits}f}"
  return text
