"""Reads and writes files."""

import json
import os
from pathlib import Path
from typing import Any

from mrd_jax.errors import BadInput


def read_metrics(path: Path) -> list[dict]:
  """The lines of a metrics.jsonl; a torn last line (a kill) is left out."""
  lines = []
  for line in path.read_text().splitlines():
    try:
      lines.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return lines


def write_json(path: Path, value) -> None:
  """Writes a JSON file in one rename: it is whole or it is not there."""
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_text(json.dumps(value, indent=2) + "\n")
  os.replace(temporary, path)


def read_json(path: Path) -> Any:
  """Returns the content of a JSON file, or raises BadInput naming it."""
  try:
    return json.loads(path.read_text())
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  except (ValueError, RecursionError) as error:
    raise BadInput(f"{path}: is not JSON ({error}); fetch it again") from error
