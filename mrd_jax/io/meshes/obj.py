"""Reads Wavefront .obj files with their .mtl.

Read here rather than by trimesh, which takes indices that count backwards for
others and drops, silently, textures that it does not find.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import Material, Part
from mrd_jax.io.meshes.polygons import check_range, fan, unit_colors
from mrd_jax.io.meshes.references import read_reference
from mrd_jax.io.meshes.textures import Textures

SUFFIXES = (".obj",)


def read(data: bytes, folder: Path, notes: list[str]) -> list[Part]:
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
  found = _read_libraries(libraries, set(names), folder, notes)
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
  names: Sequence[str], used: set[str], folder: Path, notes: list[str]
) -> dict[str, Material]:
  """The materials by name; those in use with texture and factor, if any."""
  materials: dict[str, Material] = {}
  textures = Textures()

  @functools.cache
  def read_texture(file: str) -> np.ndarray:
    return textures.decode(read_reference(folder, file), alpha=False)

  for library in dict.fromkeys(names):
    try:
      text = read_reference(folder, library).decode("utf-8", "replace")
    except OSError as error:
      notes.append(f"mtllib: {error}")
      continue
    name, material = "", Material()
    for line in text.splitlines():
      key, _, value = line.strip().partition(" ")
      key, value = key.lower(), value.strip()
      try:
        if key == "newmtl":
          name, material = value, Material()
        elif key == "kd":
          rgb = [min(max(float(x), 0), 1) for x in value.split()[:3]]
          # One number is for all three.
          factor = np.array([*(rgb * 3)[:3], 1], np.float32)
          material = dataclasses.replace(material, factor=factor)
        elif key == "map_kd" and name in used:
          wrap = "clamp" if "-clamp on" in value.lower() else "repeat"
          # Options come first: a dash, a word, and numbers or on/off.
          file = re.sub(r"^(-\w+\s+((on|off|[-+.\d]\S*)\s+)*)+", "", value)
          material = dataclasses.replace(
            material, texture=read_texture(file), wrap=(wrap, wrap)
          )
        else:
          continue
      except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
          raise
        notes.append(f"{library}, {line.strip()!r}: {error}")
      materials[name] = material
  return materials
