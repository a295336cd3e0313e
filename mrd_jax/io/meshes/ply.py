"""Reads meshes from .ply files."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.images import decode_texture
from mrd_jax.io.meshes.mesh import Material, Part
from mrd_jax.io.meshes.polygons import check_range, fan, unit_colors
from mrd_jax.io.meshes.references import read_reference
from mrd_jax.io.ply import read_elements, read_header

SUFFIXES = (".ply",)


def read(data: bytes, folder: Path, notes: list[str]) -> list[Part]:
  """Reads a .ply file: texture, else colours of vertices, else of faces."""
  header, has_faces = read_header(data)
  if not has_faces:
    raise BadInput(
      "holds points and no faces: it is a point cloud, which "
      "python -m mrd_jax.embed reads"
    )
  try:
    ply = read_elements(data)
  except ValueError as error:
    raise BadInput(
      f"cannot be read as .ply ({error}); it is damaged or cut off, or mixes "
      "triangles with larger polygons: triangulate it and write it anew"
    ) from None
  if ply.faces is None:
    raise BadInput("has a header and no faces: it is cut off, write it anew")
  faces = np.asarray(ply.faces, np.int64)
  cut, whole = fan([faces.shape[1]] * len(faces))
  corner_T3 = cut - whole[:, None] * faces.shape[1]
  uv_FC2 = _read_uv(ply.elements, faces)
  image = re.search(rb"^comment\s+texturefile\s+(.+?)\s*$", header, re.I | re.M)
  material, uv, color = Material(), None, None
  if image and uv_FC2 is not None:
    file = image[1].decode("utf-8", "replace")
    try:
      texture = decode_texture(read_reference(folder, file), alpha=False)
      material = Material(texture=texture)
      uv = uv_FC2[whole[:, None], corner_T3]
      uv[..., 1] = 1 - uv[..., 1]  # v runs up in the file
    except OSError as error:
      notes.append(f"TextureFile {file}: {error}")
  triangles = faces[whole[:, None], corner_T3]
  of_faces = ply.face_colors
  if uv is not None:
    pass  # a texture alone colours a face
  elif ply.colors is not None:
    check_range("faces", faces, 0, len(ply.vertices), "vertices")
    color = unit_colors(ply.colors)[triangles]
  elif of_faces is not None and len(of_faces) == len(faces):
    color = np.repeat(unit_colors(of_faces)[whole][:, None], 3, axis=1)
  elif of_faces is not None:
    notes.append("colours of faces of several sizes are not read")
  return [Part(ply.vertices, triangles, material, uv, color)]


def _read_uv(elements: dict[str, Any], faces: np.ndarray) -> np.ndarray | None:
  """Reads texture coordinates (F, corners, 2), of faces or of vertices."""
  try:
    field = elements["face"]["data"]["texcoord"]
    texcoord = field if isinstance(field, np.ndarray) else np.array(field)
    if texcoord.dtype.names:
      texcoord = texcoord["f1"]
    return texcoord.reshape(*faces.shape, 2).astype(np.float32)
  except (KeyError, ValueError, IndexError):
    pass
  vertex = elements["vertex"]["data"]
  for u, v in (("texture_u", "texture_v"), ("u", "v"), ("s", "t")):
    if {u, v} <= elements["vertex"]["properties"].keys():
      uv_V2 = np.stack([np.ravel(vertex[u]), np.ravel(vertex[v])], axis=1)
      return uv_V2.astype(np.float32)[faces]
  return None
