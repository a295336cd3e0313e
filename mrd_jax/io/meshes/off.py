"""Reads .off files.

Read here rather than by trimesh, which drops their colours.
"""

import re

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import Material, Part
from mrd_jax.io.meshes.polygons import check_range, fan, unit_colors
from mrd_jax.io.meshes.references import ReadReference
from mrd_jax.io.notes import Note

SUFFIXES = (".off",)
_OFF = re.compile(r"(ST)?(C)?(N)?OFF(?![A-Za-z])(.*)", re.I)


def read(
  data: bytes, read_reference: ReadReference, notes: list[Note]
) -> list[Part]:
  """Reads an .off file: colours of its vertices, else of its faces."""
  text = re.sub(r"#.*", "", data.decode("utf-8-sig", "replace"))
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  match = _OFF.match(lines[0]) if lines else None
  if not match:
    raise BadInput("does not begin with OFF, it is not a mesh of this kind")
  if "BINARY" in lines[0].upper():
    raise BadInput("is a binary .off, write it as text")
  has_uv, has_color, has_normal, rest = match.groups()
  # Some files, ModelNet's for example, have the counts behind the word.
  rows = [line.split() for line in ([rest] if rest else []) + lines[1:]]
  num_vertices, num_faces = int(rows[0][0]), int(rows[0][1])
  end = 1 + num_vertices + num_faces
  if min(num_vertices, num_faces) < 0 or len(rows) < end:
    raise BadInput(
      f"{len(rows) - 1} lines follow the counts, but {num_vertices} vertices "
      f"and {num_faces} faces must: the file is cut off"
    )
  vertex_rows = rows[1 : 1 + num_vertices]
  face_rows = rows[1 + num_vertices : end]
  xyz_V3 = np.array([row[:3] for row in vertex_rows], float).reshape(-1, 3)
  sizes = [int(row[0]) for row in face_rows]
  corners = [
    int(field)
    for row, size in zip(face_rows, sizes, strict=True)
    for field in row[1 : 1 + size]
  ]
  if len(corners) != sum(sizes):
    raise BadInput("a face has fewer vertices than it says, write it anew")
  corner_C = np.array(corners, np.int64)
  check_range("faces", corner_C, 0, num_vertices, "vertices")
  triangle_T3, face_T = fan(sizes)
  faces = corner_C[triangle_T3]
  color = None
  first, last = 6 if has_normal else 3, -2 if has_uv else None
  colors = [row[first:last] for row in vertex_rows]
  channels = {len(row) for row in colors}
  # Some files have colours without saying COFF.
  if channels in ({3}, {4}) and (has_color or not has_normal):
    color = unit_colors(np.array(colors, float))[faces]
  else:
    colors = [
      row[1 + size : 4 + size]
      for row, size in zip(face_rows, sizes, strict=True)
    ]
    # A single number is a row of a table that the file does not have.
    if colors and all(len(row) == 3 for row in colors):
      color_F4 = unit_colors(np.array(colors, float))
      color = np.repeat(color_F4[face_T][:, None], 3, axis=1)
  return [Part(xyz_V3, faces, Material(), color=color)]
