"""What preparation left on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.data.records import XYZ_LEVELS


def contents(folder: Path) -> dict[str, bytes]:
  """Every file below a folder."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
  """By which one sees that no file was touched."""
  found = {path: path.stat() for path in folder.rglob("*")}
  return {path: (s.st_mtime_ns, s.st_size) for path, s in found.items()}


def rejects_of(output: Path) -> dict[str, dict[str, Any]]:
  """The rows of rejects.jsonl, by id."""
  lines = (output / "rejects.jsonl").read_text().splitlines()
  return {row["id"]: row for row in map(json.loads, lines)}


def report_of(output: Path) -> dict[str, Any]:
  return json.loads((output / "report.json").read_text())


def assert_cloud(record: dict[str, Any], xyz: np.ndarray) -> None:
  """The record has these points, up to their quantisation."""
  found = record["center"] + record["xyz"] / XYZ_LEVELS * record["scale"]
  step = 1.01 * float(record["scale"]) / (2 * XYZ_LEVELS)
  np.testing.assert_allclose(found, xyz, rtol=0, atol=step + 1e-6)
