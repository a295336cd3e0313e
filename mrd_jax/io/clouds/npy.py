"""Reads point clouds from .npy files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.io.clouds.columns import Cloud, split_columns
from mrd_jax.io.notes import Note

SUFFIXES = (".npy",)


def read(path: Path, notes: list[Note], columns: Sequence[str] | None) -> Cloud:
  """Reads an array (N, 3) or (N, 6), or of other columns that have names."""
  with path.open("rb") as file:
    points = np.lib.format.read_array(file, allow_pickle=False)
  return split_columns("the array", points, columns, notes)
