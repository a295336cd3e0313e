"""Reads point clouds from text."""

from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.columns import split_columns

SUFFIXES = (".xyz",)


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads 3 or 6 columns."""
  # Not trimesh, which turns float colours into 0 and miscounts commas.
  lines = [
    line
    for line in path.read_text(encoding="utf-8-sig").splitlines()
    if line.strip() and not line.lstrip().startswith(("#", "//"))
  ]
  if not lines:
    raise BadInput("has no points")
  delimiter = "," if "," in lines[0] else None
  table = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
  return split_columns("the table", table)
