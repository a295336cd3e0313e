"""Whether a run may go on: the config and the data must be what they were."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrd_jax.errors import BadInput

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

# What may differ when a run goes on: it changes nothing that is learned, but
# for rounding.
MAY_CHANGE = (
  "data.dir",
  "data.made_from",
  "data.threads",
  "data.workers",
  "model.remat",
  "model.attention",
  "model.fps_chunk",
  "model.query_chunk",
  "mesh.fsdp",
  "checkpoint.",
  "eval.",
  "log.",
)


def check_resumable(config: "DataclassInstance", saved: Path) -> None:
  """Refuses to go on with a run under another config.

  Args:
    config: The config asked for, of any kind of run.
    saved: The config.json of the run.

  Raises:
    BadInput: listing every field that differs and may not.
  """
  before = flatten(json.loads(saved.read_text()))
  # Through JSON, so that tuples compare as lists.
  now = flatten(json.loads(json.dumps(dataclasses.asdict(config))))
  differences = [
    f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
    for name in sorted(before.keys() | now.keys())
    if before.get(name) != now.get(name) and not name.startswith(MAY_CHANGE)
  ]
  if differences:
    raise BadInput(
      f"{saved} belongs to a run with another config; use another --workdir, "
      "or take back the change: " + "; ".join(differences)
    )


def check_same_data(data: dict[str, Any], saved: Path) -> None:
  """Refuses to go on with a run on other data; see `check_resumable`.

  Another number of records would change the order of all of them.

  Args:
    data: What identifies the training data now.
    saved: The data.json of the run.
  """
  before = json.loads(saved.read_text())
  if before != data:
    raise BadInput(
      f"data.dir holds {data}, but {saved} says that this run was trained on "
      f"{before}; name that dataset or another --workdir"
    )


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
  """Nested fields by their dotted names."""
  flat = {}
  for name, value in values.items():
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat
