"""Prints tables as text, and says how metrics stand in them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mrd_jax.io.terminal import printable

WAYS = {
  "text_to_shape": "text→3D",
  "shape_to_text": "3D→text",
  "image_to_shape": "image→3D",
}


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Makes a Markdown table whose columns line up, the first to the left."""
  first, *others = _padded([header, *rows], "<>")
  rule = ["-" * (len(cell) + 1) + ":" for cell in first]
  rule[0] = rule[0][:-1] + "-"
  lines = [f"| {' | '.join(cells)} |" for cells in (first, *others)]
  return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def columns(rows: Sequence[Sequence[str]], align: str) -> list[str]:
  """Lines up columns for a terminal, two spaces apart.

  Args:
    rows: The cells of each line, the header first if there is one.
    align: "<" or ">" for each column; the last sign holds for all that follow.

  Returns:
    A line a row.
  """
  return ["  ".join(cells).rstrip() for cells in _padded(rows, align)]


def _padded(rows: Sequence[Sequence[str]], align: str) -> list[list[str]]:
  rows = [[printable(cell) for cell in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  signs = align.ljust(len(widths), align[-1])[: len(widths)]
  return [
    [f"{x:{s}{w}}" for x, s, w in zip(row, signs, widths, strict=True)]
    for row in rows
  ]


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
  for title, members in groups.items():
    yield title, members, title != "relation gap"


def label(metric: str) -> str:
  """Names a metric's column: "category R@1", "P2P/I2I", "top-1"."""
  if metric.startswith("gap_"):
    return metric.removeprefix("gap_").upper().replace("_", "/")
  for way in WAYS:
    metric = metric.removeprefix(f"{way}_")
  metric = re.sub(r"\br(\d)$|_r(\d)$", r" R@\1\2", metric).strip()
  return re.sub(r"top(\d)", r"top-\1", metric).replace("_", " ")


def number(mean: float, percent: bool, deviation: float | None = None) -> str:
  """Prints a share in percent with one decimal, anything else with three."""
  factor, digits = (100, 1) if percent else (1, 3)
  text = f"{factor * mean:.{digits}f}"
  if deviation is not None:
    text += f" ± {factor * deviation:.{digits}f}"
  return text


def cell(metrics: Mapping[str, float], name: str, percent: bool) -> str:
  """Prints a metric and, if there is "NAME_std", its deviation; "" without."""
  if name not in metrics:
    return ""
  return number(metrics[name], percent, metrics.get(f"{name}_std"))


def published_cell(
  metrics: Mapping[str, float], name: str, percent: bool
) -> str:
  """Prints a figure of a publication, in percent as it stands; "" without."""
  return f"{metrics[name]:.{1 if percent else 2}f}" if name in metrics else ""
