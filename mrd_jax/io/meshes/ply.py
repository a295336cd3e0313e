"""Reads meshes from .ply files."""

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io import ply
from mrd_jax.io.images import decode_texture
from mrd_jax.io.meshes.mesh import Material, Part
from mrd_jax.io.meshes.polygons import check_range, fan, unit_colors
from mrd_jax.io.meshes.references import NO_TEXTURE, ReadReference
from mrd_jax.io.notes import Note

SUFFIXES = (".ply",)
_INDICES = ("vertex_indices", "vertex_index")


def read(
  data: bytes, read_reference: ReadReference, notes: list[Note]
) -> list[Part]:
  """Reads a .ply file: texture, else colours of vertices, else of faces."""
  header = ply.read_header(data)
  if not header.has_faces:
    raise BadInput(
      "holds points and no faces: it is a point cloud, which "
      "python -m mrd_jax.embed reads"
    )
  elements = ply.read_elements(data, header)
  xyz_V3 = ply.vertices(elements.get("vertex", {}))
  faces = elements.get("face", {})
  polygons = next((faces[k] for k in _INDICES if k in faces), None)
  if isinstance(polygons, ply.Ragged):
    corner_C = polygons.values.astype(np.int64)
    place_T3, face_T = fan(polygons.lengths)
    triangles = corner_C[place_T3]
  elif "tristrips" in elements:
    strips = elements["tristrips"]
    found = next((strips[k] for k in _INDICES if k in strips), None)
    if not isinstance(found, ply.Ragged):
      raise BadInput("tristrips have no list vertex_indices: write it anew")
    triangles, place_T3, face_T, faces = _strips(found), None, None, {}
  else:
    raise BadInput("faces have no list vertex_indices: write it anew")
  check_range("faces", triangles, 0, len(xyz_V3), "vertices")
  uv = _read_uv(elements, triangles, place_T3)
  material, color = Material(), None
  if header.texture and uv is not None:
    try:
      texture = decode_texture(read_reference(header.texture), alpha=False)
      material = Material(texture=texture)
      uv[..., 1] = 1 - uv[..., 1]  # v runs up in the file
    except OSError as error:
      notes.append(Note(NO_TEXTURE, f"TextureFile {header.texture}: {error}"))
  if material.texture is not None:
    return [Part(xyz_V3, triangles, material, uv)]
  rgb_V3 = ply.colors(elements["vertex"], notes)
  rgb_F3 = ply.colors(faces, notes)
  if rgb_V3 is not None:
    color = unit_colors(rgb_V3)[triangles]
  elif rgb_F3 is not None:
    color = np.repeat(unit_colors(rgb_F3)[face_T][:, None], 3, axis=1)
  return [Part(xyz_V3, triangles, material, color=color)]


def _strips(strips: ply.Ragged) -> np.ndarray:
  """Returns the triangles (T, 3) of strips, each of which -1 ends.

  Of a strip's triangles every second runs the other way round.
  """
  ends = np.cumsum(strips.lengths)
  row_C = strips.values.astype(np.int64).astype(np.int32)
  # An end of a list ends a strip, too.
  row_C = np.insert(row_C, ends, -1)
  place_C = np.arange(len(row_C))
  start_C = np.maximum.accumulate(np.where(row_C < 0, place_C + 1, 0))
  triangle_T3 = np.stack([row_C[:-2], row_C[1:-1], row_C[2:]], axis=1)
  turned_T = (place_C - start_C)[: len(triangle_T3)] % 2 == 1
  triangle_T3[turned_T] = triangle_T3[turned_T][:, [1, 0, 2]]
  whole_T = (row_C[:-2] >= 0) & (row_C[1:-1] >= 0) & (row_C[2:] >= 0)
  return triangle_T3[whole_T].astype(np.int64)


def _read_uv(
  elements: dict[str, ply.Columns],
  triangles: np.ndarray,
  place_T3: np.ndarray | None,
) -> np.ndarray | None:
  """Reads texture coordinates (T, 3, 2), of faces or of vertices."""
  of_faces = elements.get("face", {}).get("texcoord")
  if isinstance(of_faces, ply.Ragged) and place_T3 is not None:
    uv_C2 = of_faces.values[: len(of_faces.values) // 2 * 2].reshape(-1, 2)
    if place_T3.size and len(uv_C2) > place_T3.max():
      return uv_C2[place_T3].astype(np.float32)
  vertex = elements["vertex"]
  for u, v in (("texture_u", "texture_v"), ("u", "v"), ("s", "t")):
    if {u, v} <= vertex.keys():
      uv_V2 = np.stack([vertex[u], vertex[v]], axis=1)
      return uv_V2[triangles].astype(np.float32)
  return None
