"""Tables an ablation: mean and deviation over seeds, as the paper's."""

import statistics
from collections.abc import Sequence
from typing import Any

from mrd_jax.ablate.suite import Cell, Suite
from mrd_jax.evaluate import published
from mrd_jax.metrics import table


def as_json(cells: Sequence[Cell]) -> dict[str, Any]:
  """Collects every row's finished runs and metrics.

  Returns:
    By row its folders, "runs", by which metrics their checkpoints were
    "selected_by", and "metrics", of each the "mean", the sample standard
    deviation "std" (None of a single value) and the value "by_seed".
  """
  rows: dict[str, Any] = {
    cell.row: {"runs": [], "selected_by": [], "metrics": {}} for cell in cells
  }
  for cell in cells:
    if results := cell.results:
      row = rows[cell.row]
      row["runs"].append(str(cell.workdir))
      if results["selected_by"] not in (None, *row["selected_by"]):
        row["selected_by"].append(results["selected_by"])
      for name, value in results["metrics"].items():
        found = row["metrics"].setdefault(name, {"by_seed": {}})
        found["by_seed"][cell.seed] = value
  for row in rows.values():
    for found in row["metrics"].values():
      values = list(found["by_seed"].values())
      found["mean"] = statistics.fmean(values)
      found["std"] = statistics.stdev(values) if len(values) > 1 else None
  return rows


def tabulate(suite: Suite, cells: Sequence[Cell]) -> str:
  """Makes the suite's tables in Markdown, one a split and kind of metric.

  Shares are in percent.  A row that the paper reports has its figures below,
  where the split has as many shapes as the paper's.
  """
  rows = as_json(cells)
  shapes: dict[str, int] = {}
  for cell in cells:
    shapes |= (cell.results or {}).get("shapes", {})
  text = [f"# {suite.title}", ""]
  for split in shapes:
    comparable = shapes[split] == published.SHAPES.get(split)
    names = dict.fromkeys(
      name
      for row in rows.values()
      for name in row["metrics"]
      if name.startswith(f"{split}/") and "class_mean" not in name
    )
    for title, columns, percent in table.group_metrics(names):
      header = [f"{split}: {title}", "seeds"]
      header += [table.label(x.removeprefix(f"{split}/")) for x in columns]
      lines = []
      for row, found in rows.items():
        values = [found["metrics"].get(x) for x in columns]
        seeds = max((len(v["by_seed"]) for v in values if v), default=0)
        means = [
          table.number(v["mean"], percent, v["std"]) if v else ""
          for v in values
        ]
        lines.append([row, str(seeds), *means])
        paper = suite.published.get(row, {}) if comparable else {}
        figures = [table.published_cell(paper, x, percent) for x in columns]
        if any(figures):
          lines.append([f"{row} (published)", "", *figures])
      text += [table.render(header, lines), ""]
    if not comparable:
      text += [f"{split}: {shapes[split]:,} shapes, not the paper's.", ""]
  text.append("Mean ± standard deviation over seeds; shares in percent.")
  for metric in dict.fromkeys(
    m for r in rows.values() for m in r["selected_by"]
  ):
    text.append(
      f"Of every run, the checkpoint with the best {metric}: the figures of "
      f"{metric.partition('/')[0]} were selected on, they are not held out."
    )
  return "\n".join(text) + "\n"
