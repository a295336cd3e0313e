"""Shows the configurations of runs."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mrd_jax.draw.markup import Markup, table, tag
from mrd_jax.report.document import Section
from mrd_jax.report.run_folder import Folders

NOT_SET = "—"


def section(folders: Folders) -> list[Markup]:
  """Shows what differs between the runs, and each configuration whole."""
  flat = {
    name: {
      field: value
      if isinstance(value, str) and value
      else json.dumps(value, ensure_ascii=False)
      for field, value in flatten(run.config)
    }
    for name, run in folders.runs.items()
  }
  parts = []
  if len(flat) > 1:
    rows = [
      [field, *(values.get(field, NOT_SET) for values in flat.values())]
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


def flatten(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
  """Yields the leaves of nested sections, as ("loss.intra", False)."""
  if isinstance(value, Mapping) and value:
    for key, inner in value.items():
      yield from flatten(inner, f"{name}.{key}" if name else str(key))
  else:
    yield name, value


SECTION = Section("Configuration", "Configuration", section)
