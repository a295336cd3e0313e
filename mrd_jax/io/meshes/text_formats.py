"""Meshes written as text: Wavefront .obj with its .mtl, and .off.

Read here rather than by trimesh, which takes indices that count backwards for
others, drops an .off file's colours and, silently, textures that it does not
find.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.images import decode_texture
from mrd_jax.io.meshes.references import read_reference
from mrd_jax.io.meshes.surface import Material, Part

_OFF = re.compile(r"(ST)?(C)?(N)?OFF(?![A-Za-z])(.*)")


def read_obj(data: bytes, folder: Path, notes: list[str]) -> list[Part]:
  """Reads an .obj file and what it refers to in `folder`.

  A texture (map_Kd) alone colours a face, since many files have Kd 0 beside
  it; without one the colours of the vertices do, without these Kd.  Opacity
  is not read: programs disagree on the meaning of d and Tr.
  """
  text = data.decode("utf-8", "replace").replace("\\\r\n", " ")
  vertices: list[list[str]] = []
  uvs: list[list[str]] = []
  corners: list[tuple[int, int]] = []
  sizes: list[int] = []
  names: list[str] = []
  libraries: list[str] = []
  name = ""
  for line in text.replace("\\\n", " ").splitlines():
    fields = line.split()
    key = fields[0] if fields else "#"
    if key == "v":
      vertices.append(fields[1:])
    elif key == "vt":
      uvs.append([*fields[1:3], "0"][:2])
    elif key == "f":
      sizes.append(len(fields) - 1)
      names.append(name)
      for field in fields[1:]:
        v, _, rest = field.partition("/")
        vt = rest.partition("/")[0]
        corners.append((_row(v, vertices), _row(vt, uvs) if vt else -1))
    elif key == "usemtl":
      name = line.split(maxsplit=1)[1].strip() if len(fields) > 1 else ""
    elif key == "mtllib" and len(fields) > 1:
      libraries.append(line.split(maxsplit=1)[1].strip())
  xyz_V3 = np.array([row[:3] for row in vertices], float).reshape(-1, 3)
  color_V4 = None
  if vertices and min(map(len, vertices)) >= 6:
    color_V4 = unit_colors(np.array([row[3:6] for row in vertices], float))
  uv_T2 = np.array(uvs, np.float32).reshape(-1, 2)
  uv_T2[:, 1] = 1 - uv_T2[:, 1]  # v runs up in the file
  corner_C2 = np.array(corners, np.int64).reshape(-1, 2)
  check_range("f", corner_C2[:, 0], 0, len(xyz_V3), "v lines")
  check_range("f", corner_C2[:, 1], -1, len(uv_T2), "vt lines")
  triangle_T3, face_T = fan(sizes)
  found = _read_libraries(libraries, folder, notes)
  unknown = sorted(set(names) - set(found) - {""})
  if unknown and found:
    notes.append(f"usemtl: the .mtl has no material {', '.join(unknown)}")
  material_rows: dict[str, list[int]] = {}
  for row, face in enumerate(face_T.tolist()):
    material_rows.setdefault(names[face], []).append(row)
  parts = []
  for name, rows in material_rows.items():
    material = found.get(name, Material())
    corner_F32 = corner_C2[triangle_T3[rows]]
    faces = corner_F32[..., 0]
    uv = color = None
    if material.texture is not None and (corner_F32[..., 1] >= 0).all():
      uv = uv_T2[corner_F32[..., 1]]
      material = Material(texture=material.texture, wrap=material.wrap)
    elif color_V4 is not None:
      color, material = color_V4[faces], Material()
    else:
      material = Material(factor=material.factor)
    parts.append(Part(xyz_V3, faces, material, uv, color))
  return parts


def _row(number: str, lines: Sequence) -> int:
  """Rows count from 1, or backwards from the last one so far."""
  row = int(number)
  if not 0 < row <= 2**31 and not -len(lines) <= row < 0:
    raise BadInput(f"f refers to {row}, which is no line of the file")
  return row - 1 if row > 0 else row + len(lines)


def _read_libraries(
  names: Sequence[str], folder: Path, notes: list[str]
) -> dict[str, Material]:
  """The materials by name, with both texture and factor, where they are."""
  materials: dict[str, Material] = {}
  for library in dict.fromkeys(names):
    try:
      text = read_reference(folder, library).decode("utf-8", "replace")
    except OSError as error:
      notes.append(f"mtllib: {error}")
      continue
    name, factor, texture, wrap = "", None, None, ("repeat", "repeat")
    for line in text.splitlines():
      key, _, value = line.strip().partition(" ")
      key, value = key.lower(), value.strip()
      try:
        if key == "newmtl":
          name, factor, texture = value, None, None
          wrap = ("repeat", "repeat")
        elif key == "kd":
          rgb = [min(max(float(x), 0), 1) for x in value.split()[:3]]
          # One number is for all three.
          factor = np.array([*(rgb * 3)[:3], 1], np.float32)
        elif key == "map_kd":
          options = value.lower()
          if "-clamp on" in options:
            wrap = ("clamp", "clamp")
          # Options come first: a dash, a word, and numbers or on/off.
          file = re.sub(r"^(-\w+\s+((on|off|[-+.\d]\S*)\s+)*)+", "", value)
          texture = decode_texture(read_reference(folder, file), alpha=False)
        else:
          continue
      except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
          raise
        notes.append(f"{library}, {line.strip()!r}: {error}")
      materials[name] = Material(factor, texture, wrap)
  return materials


def read_off(data: bytes) -> list[Part]:
  """Reads an .off file: colours of its vertices, else of its faces."""
  text = re.sub(r"#.*", "", data.decode("utf-8", "replace"))
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
  if min(num_vertices, num_faces) < 0 or len(rows) < (
    1 + num_vertices + num_faces
  ):
    raise BadInput(
      f"{len(rows) - 1} lines follow the counts, but {num_vertices} vertices "
      f"and {num_faces} faces must: the file is cut off"
    )
  vertex_rows = rows[1 : 1 + num_vertices]
  face_rows = rows[1 + num_vertices : 1 + num_vertices + num_faces]
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
  first = 6 if has_normal else 3
  colors = [
    row[first : len(row) - 2 if has_uv else None] for row in vertex_rows
  ]
  # Some files have colours without saying COFF.
  if {len(row) for row in colors} in ({3}, {4}) and (
    has_color or not has_normal
  ):
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


def fan(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Cuts polygons into fans of triangles.

  Args:
    sizes: Corners of each of P polygons, which follow each other in a list.

  Returns:
    (T, 3) places in that list, and (T,) the polygon of each triangle.
  """
  size_P = np.asarray(sizes, np.int64)
  count_P = np.maximum(size_P - 2, 0)
  polygon_T = np.repeat(np.arange(len(size_P)), count_P)
  start_T = (np.cumsum(size_P) - size_P)[polygon_T]
  k_T = np.arange(len(polygon_T)) - (np.cumsum(count_P) - count_P)[polygon_T]
  return (
    np.stack([start_T, start_T + k_T + 1, start_T + k_T + 2], axis=1),
    polygon_T,
  )


def check_range(
  field: str, rows: np.ndarray, low: int, high: int, of: str
) -> None:
  """Raises BadInput unless low <= rows < high."""
  if rows.size and (rows.min() < low or rows.max() >= high):
    raise BadInput(
      f"{field} refers to row {rows.max()} of {high} {of}: the file is cut off "
      "or damaged, write it anew"
    )


def unit_colors(colors: np.ndarray) -> np.ndarray:
  """(N, 3 or more) colours as (N, 4) float32 in [0, 1] with alpha 1.

  Integers of 16 bits are on the scale 0 to 65535, other integers, and floats
  of which one is above 1, on the scale 0 to 255.
  """
  rgb_N3 = colors[:, :3].astype(np.float64)
  if colors.dtype.kind in "iu":
    wide = colors.dtype.itemsize == 2 and colors.max(initial=0) > 255
    rgb_N3 /= 65535 if wide else 255
  elif rgb_N3.max(initial=0) > 1:
    rgb_N3 /= 255
  rgb_N3 = np.nan_to_num(rgb_N3).clip(0, 1)
  return np.concatenate([rgb_N3, np.ones((len(rgb_N3), 1))], axis=1).astype(
    np.float32
  )
