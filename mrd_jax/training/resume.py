"""Refuses to go on with a run whose config or data are no longer the same."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from mrd_jax.config.fields import flatten, may_change
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_fields, read_json

_REMEDY = "name another --workdir"


def check_resumable(config: Any, saved: Path) -> None:
  """Refuses to go on with a run under another config.

  Args:
    config: The config asked for, of any kind of run; its fields declare
      whether they may change.
    saved: The config.json of the run.

  Raises:
    BadInput: listing every field that differs and may not.
  """
  # Through JSON, so that tuples compare as lists.
  now = _texts(json.loads(json.dumps(dataclasses.asdict(config))))
  before = _texts(read_fields(saved, _REMEDY))
  differences = [
    f"{name}: {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
    for name in sorted((before.keys() | now.keys()) - may_change(type(config)))
    if before.get(name) != now.get(name)
  ]
  if differences:
    raise BadInput(
      f"{saved} belongs to a run with another config; use another --workdir, "
      "or take back the change: " + "; ".join(differences)
    )


def _texts(values: dict[str, Any]) -> dict[str, str]:
  return {name: repr(value) for name, value in flatten(values).items()}


def check_same_data(data: dict[str, Any], saved: Path) -> None:
  """Refuses to go on with a run on other data; see `check_resumable`.

  Another number of records would change the order of all of them.

  Args:
    data: What identifies the training data now.
    saved: The data.json of the run.
  """
  before = read_json(saved, _REMEDY)
  if before != data:
    raise BadInput(
      f"data.dir holds {data}, but {saved} says that this run was trained on "
      f"{before}; name that dataset or another --workdir"
    )
