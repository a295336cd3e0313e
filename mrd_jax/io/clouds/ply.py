"""Reads point clouds from .ply files."""

from collections.abc import Sequence
from pathlib import Path

from mrd_jax.errors import BadInput
from mrd_jax.io import ply
from mrd_jax.io.clouds.columns import Cloud
from mrd_jax.io.notes import Note

SUFFIXES = (".ply",)


def read(path: Path, notes: list[Note], columns: Sequence[str] | None) -> Cloud:
  """Reads the vertices; refuses a mesh."""
  data = path.read_bytes()
  header = ply.read_header(data)
  if header.has_faces:
    raise BadInput(
      "is a mesh, not a point cloud: sample points from its surface first, for "
      "example with trimesh.sample.sample_surface"
    )
  vertex = ply.read_elements(data, header).get("vertex", {})
  return ply.vertices(vertex), ply.colors(vertex, notes)
