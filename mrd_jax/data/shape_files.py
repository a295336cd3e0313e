"""Reads a shape from any file, a point cloud or a mesh, as points."""

import dataclasses
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from mrd_jax.data.surfaces import sample_mesh
from mrd_jax.errors import BadInput
from mrd_jax.io import ply
from mrd_jax.io.clouds.read import SUFFIXES as CLOUD_SUFFIXES
from mrd_jax.io.clouds.read import read_cloud
from mrd_jax.io.meshes.read import SUFFIXES as MESH_SUFFIXES
from mrd_jax.io.meshes.read import read_mesh
from mrd_jax.io.notes import Note

SUFFIXES = tuple(dict.fromkeys((*CLOUD_SUFFIXES, *MESH_SUFFIXES)))


def read_shape(
  path: str | os.PathLike[str],
  *,
  up: Literal["y", "z"] = "y",
  root: str | os.PathLike[str] | None = None,
  columns: Sequence[str] | None = None,
  notes: list[Note] | None = None,
) -> tuple[np.ndarray, Literal["y", "z"]]:
  """Reads one shape: a cloud as it is, of a mesh 10,000 points (`sample_mesh`).

  Args:
    path: The file; its suffix says the format, of a .ply whether it has faces.
    up: The axis that is up; a glTF's is y, whatever is asked for.
    root: Of a mesh, as in `read_mesh`.
    columns: Of a cloud, as in `read_cloud`.
    notes: What is left out is appended, with the file.

  Returns:
    (N, 3 or 6) xyz and, where there are colours, rgb in [0, 1]; and the axis of
    these points that is up.

  Raises:
    BadInput: naming the file and the field, as the readers do.
  """
  path, found = Path(path), []
  suffix = path.suffix.lower()
  if suffix not in SUFFIXES:
    raise BadInput(
      f"{path}: suffix {path.suffix!r} is unknown, must be one of "
      f"{', '.join(SUFFIXES)}"
    )
  if suffix in MESH_SUFFIXES and not (suffix == ".ply" and _is_cloud(path)):
    mesh = read_mesh(path, up=up, root=root)
    found, up = list(mesh.notes), "y"
    try:
      xyz, rgb = sample_mesh(mesh)
    except BadInput as error:
      raise BadInput(f"{path}: {error}") from None
    points = xyz if rgb is None else np.concatenate([xyz, rgb], axis=1)
  else:
    points = read_cloud(path, columns=columns, notes=found)
  if notes is not None:
    notes += [dataclasses.replace(note, file=os.fspath(path)) for note in found]
  return points, up


def _is_cloud(path: Path) -> bool:
  """Says whether a .ply has no faces; one that is damaged its reader refuses."""
  try:
    with (
      path.open("rb") as file,
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
      return not ply.read_header(data).has_faces
  except Exception:  # damaged files raise anything
    return True
