"""Reads point clouds from .npy files."""

from pathlib import Path

import numpy as np

from mrd_jax.io.clouds.columns import split_columns

SUFFIXES = (".npy",)


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads an array (N, 3) or (N, 6)."""
  with path.open("rb") as file:
    points = np.lib.format.read_array(file, allow_pickle=False)
  return split_columns("the array", points)
