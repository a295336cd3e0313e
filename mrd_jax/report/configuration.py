"""Shows the configurations of runs."""

import json

from mrd_jax.config.fields import flatten
from mrd_jax.draw.markup import Markup, table, tag
from mrd_jax.report.run_folder import Folders


def section(folders: Folders) -> list[Markup]:
  """Shows what differs between the runs, and each configuration whole."""
  flat = {
    name: {
      field: value
      if isinstance(value, str) and value
      else json.dumps(value, ensure_ascii=False)
      for field, value in flatten(run.config).items()
    }
    for name, run in folders.runs.items()
  }
  parts = []
  if len(flat) > 1:
    rows = [
      [field, *(values.get(field, "—") for values in flat.values())]
      for field in dict.fromkeys(f for values in flat.values() for f in values)
    ]
    differ = [row for row in rows if len(set(row[1:])) > 1]
    if differ:
      title, head = "Fields that differ", ["Field", *flat]
      parts.append(table(title, head, differ, class_="config", id="diff"))
    else:
      parts.append(tag("p", "The configurations are the same."))
  for name, values in flat.items():
    title = f"Configuration of {name}"
    whole = table(title, ["Field", name], list(values.items()), class_="config")
    summary = tag("summary", f"The whole configuration of {name}")
    parts.append(tag("details", summary, whole))
  return parts
