"""Whether a run may go on: the config and the data must be what they were."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrd_jax.config.pretraining import ADDED
from mrd_jax.errors import BadInput

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

# What may differ when a run goes on: it changes nothing that is learned, but
# for rounding.  A name with a dot at its end is a whole section.
MAY_CHANGE = (
  "profile",
  "compile_cache",
  "data.dir",
  "data.made_from",
  "data.threads",
  "data.workers",
  "model.remat",
  "model.attention",
  "model.sampling",
  "model.fps_chunk",
  "model.query_chunk",
  "loss.form",
  "loss.stripe",
  "train.accumulate",
  "mesh.fsdp",
  "checkpoint.",
  "eval.",
  "log.",
)


def check_resumable(config: "DataclassInstance", saved: Path) -> None:
  """Refuses to go on with a run under another config.

  Args:
    config: The config asked for, of any kind of run.
    saved: The config.json of the run, also of an older mrd_jax: what it could
      not know had the value under which it changes nothing.

  Raises:
    BadInput: listing every field that differs and may not.
  """
  # Through JSON, so that tuples compare as lists.
  now = _texts(dataclasses.asdict(config))
  unsaid = _texts({f"{a}.{b}".strip("."): value for a, b, value in ADDED})
  before = {name: unsaid[name] for name in unsaid.keys() & now.keys()}
  before |= _texts(json.loads(saved.read_text()))
  differences = [
    f"{name}: {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
    for name in sorted(before.keys() | now.keys())
    if before.get(name) != now.get(name) and not _may_change(name)
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


def _may_change(name: str) -> bool:
  return any(
    name.startswith(x) if x.endswith(".") else name == x for x in MAY_CHANGE
  )


def _texts(values: dict[str, Any]) -> dict[str, str]:
  return {
    name: repr(value)
    for name, value in flatten(json.loads(json.dumps(values))).items()
  }


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
  """Nested fields by their dotted names."""
  flat = {}
  for name, value in values.items():
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat
