"""Reads a mesh from any of the usual files."""

import contextlib
import dataclasses
import functools
import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io import meshes
from mrd_jax.io.formats import chosen, find_formats
from mrd_jax.io.meshes.mesh import MAX_FACES, Mesh, Part, join
from mrd_jax.io.meshes.polygons import check_range
from mrd_jax.io.meshes.references import read_reference
from mrd_jax.io.notes import Note

# A format is a module that has its SUFFIXES and read(data, read_reference,
# notes); one that says so is SPECIFIED: with y up, and linear colours.
_FORMATS = find_formats(meshes)
SUFFIXES = tuple(_FORMATS)
# Further from the origin than so many of its sizes, a shape is moved there:
# float32 would no longer hold it to a hundred-thousandth of its size.
_FAR = 100


def read_mesh(
  path: str | os.PathLike[str],
  *,
  up: str = "y",
  root: str | os.PathLike[str] | None = None,
) -> Mesh:
  """Reads the surfaces of one file, in one piece.

  .glb, .gltf: glTF 2.0; every instance of every mesh of the default scene in
    its place, base colours (factor x texture x colours of the vertices), and
    alpha.  Animations, skins and morph targets are not applied.
  .obj: with .mtl and textures; texture where a face has coordinates for it,
    else colours of the vertices, else Kd.
  .ply: texture, else colours of the vertices, else of the faces.
  .off: colours of the vertices, else of the faces.
  .stl: no colours.

  What the file names is read from below `root` only.  A texture that is missing
  or damaged is noted, and the shape kept: in grey, where it has no other colour.

  Args:
    path: The file; its suffix, in any case, says the format.
    up: Axis that points up in formats that do not say: "y" or "z".  A glTF is
      y up by its specification, whatever is asked for.
    root: The folder that the user gave, the file's own or one above it; None
      is the file's own.

  Returns:
    The mesh, y up, in the unit of the file: glTF's is the metre, the others
    have none, and the encoder normalises the size away.

  Raises:
    BadInput: naming the file and the field, if it is missing, of another
      format, damaged, cut off, without faces, with coordinates that are not
      finite, or beyond what memory should be spent on.
  """
  path = Path(path)
  if up not in ("y", "z"):
    raise BadInput(f"up is {up!r}, must be 'y' or 'z'")
  notes: list[Note] = []
  refer = functools.partial(
    read_reference,
    path.parent,
    root=path.parent if root is None else Path(root),
  )
  with chosen(_FORMATS, path) as format, _overhear_trimesh() as said:
    try:
      data = path.read_bytes()
      parts = format.read(data, refer, notes)
      if any("extension" in line for line in said):
        raise BadInput("its compressed geometry is damaged, export it anew")
      mesh = _check(parts, getattr(format, "SPECIFIED", False), up, notes)
      return dataclasses.replace(mesh, checksum=zlib.crc32(data))
    except MemoryError:
      raise BadInput(
        "needs more memory than there is: decimate the mesh"
      ) from None


def _check(
  parts: list[Part], specified: bool, up: str, notes: list[Note]
) -> Mesh:
  parts = [part for part in parts if len(part.faces)]
  count = sum(len(part.faces) for part in parts)
  if not count:
    raise BadInput(
      "has no triangles: it is empty or cut off; if it is a point cloud, "
      "python -m mrd_jax.embed reads it as .ply"
    )
  if count > MAX_FACES:
    raise BadInput(
      f"has {count:,} triangles, at most {MAX_FACES:,} are read: decimate it"
    )
  checked = []
  for part in parts:
    check_range("faces", part.faces, 0, len(part.vertices), "vertices")
    uv = part.uv
    if uv is not None and not np.isfinite(uv).all():
      kind = "texture coordinates that are not finite are set to 0"
      notes.append(Note(kind, f"{(~np.isfinite(uv)).sum()} of them"))
      uv = np.nan_to_num(uv, nan=0, posinf=0, neginf=0)
    xyz_V3 = part.vertices.astype(np.float64)
    if up == "z" and not specified:
      xyz_V3 = xyz_V3[:, [0, 2, 1]] * [1, 1, -1]
    checked.append(Part(xyz_V3, part.faces, part.material, uv, part.color))
  mesh = join(checked, linear=specified, notes=notes)
  if not np.isfinite(mesh.vertices).all():
    raise BadInput(
      "vertices hold NaN or infinite values: clean the mesh and export it anew"
    )
  low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
  size, center = (high - low).max(), (low + high) / 2
  if not 1e-18 < size < 1e18 or np.abs(center).max() > 1e18:
    raise BadInput(
      f"the shape is {size:.3g} large, must be between 1e-18 and 1e18: scale it"
    )
  if np.abs(center).max() > _FAR * size:
    mesh.vertices[:] -= center
    detail = f"moved to the origin from {center.tolist()}"
    note = Note("shapes far from the origin are moved there", detail)
    mesh = dataclasses.replace(mesh, notes=(*mesh.notes, note))
  return mesh


@contextlib.contextmanager
def _overhear_trimesh() -> Iterator[list[str]]:
  """Keeps warnings off the user's screen; gives trimesh's as a list."""
  import trimesh

  said: list[str] = []

  def keep(record: logging.LogRecord) -> bool:
    said.append(record.getMessage())
    return False

  logger = trimesh.util.log
  logger.addFilter(keep)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      # Of text that is no number, older NumPy says no more than that.
      warnings.filterwarnings("error", "string or file", DeprecationWarning)
      yield said
  finally:
    logger.removeFilter(keep)
