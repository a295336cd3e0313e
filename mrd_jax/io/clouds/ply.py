"""Reads point clouds from .ply files."""

from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.ply import read_elements, read_header

SUFFIXES = (".ply",)


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads the vertices; refuses a mesh."""
  data = path.read_bytes()
  if read_header(data)[1]:
    raise BadInput(
      "is a mesh, not a point cloud: sample points from its surface first, for "
      "example with trimesh.sample.sample_surface"
    )
  ply = read_elements(data)
  return ply.vertices, ply.colors
