"""Reads Wavefront .obj files with their .mtl.

Read here rather than by trimesh, which takes indices that count backwards for
others and drops, silently, textures that it does not find.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import UNCOLORED, Material, Part
from mrd_jax.io.meshes.polygons import check_range, fan, unit_colors
from mrd_jax.io.meshes.references import NO_TEXTURE, NO_UV, ReadReference
from mrd_jax.io.meshes.textures import Textures
from mrd_jax.io.notes import Note

SUFFIXES = (".obj",)
_NO_MATERIAL = "materials that are not there are left out"
_NO_NUMBER = "colours of materials that are no numbers are left out"


def read(
  data: bytes, read_reference: ReadReference, notes: list[Note]
) -> list[Part]:
  """Reads an .obj file and what it refers to.

  A texture (map_Kd) alone colours a face that has coordinates for it, since
  many files have Kd 0 beside it; other faces the colours of their vertices do,
  and where there are none Kd does.  Opacity is not read: programs disagree on
  the meaning of d and Tr.
  """
  text = data.decode("utf-8-sig", "replace").replace("\\\r\n", " ")
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
  color_V4 = _read_colors(vertices, notes)
  uv_T2 = np.array(uvs, np.float32).reshape(-1, 2)
  uv_T2[:, 1] = 1 - uv_T2[:, 1]  # v runs up in the file
  corner_C2 = np.array(corners, np.int64).reshape(-1, 2)
  check_range("f", corner_C2[:, 0], 0, len(xyz_V3), "v lines")
  check_range("f", corner_C2[:, 1], -1, len(uv_T2), "vt lines")
  triangle_T3, face_T = fan(sizes)
  found = _read_libraries(libraries, set(names), read_reference, notes)
  if len(found) == 1 and not any(names):  # no usemtl: the only one is meant
    found[""] = next(iter(found.values()))
  unknown = sorted(set(names) - set(found) - {""})
  if unknown and found:
    detail = f"usemtl: the .mtl has no material {', '.join(unknown)}"
    notes.append(Note(_NO_MATERIAL, detail))
  material_rows: dict[str, list[int]] = {}
  for row, face in enumerate(face_T.tolist()):
    material_rows.setdefault(names[face], []).append(row)
  parts = []
  for name, rows in material_rows.items():
    material = found.get(name, Material())
    corner_T32 = corner_C2[triangle_T3[rows]]
    faces, uv_row_T3 = corner_T32[..., 0], corner_T32[..., 1]
    has_uv_T = (uv_row_T3 >= 0).all(axis=1) & (material.texture is not None)
    if has_uv_T.any():
      look = Material(texture=material.texture, wrap=material.wrap)
      uv = uv_T2[uv_row_T3[has_uv_T]]
      parts.append(Part(xyz_V3, faces[has_uv_T], look, uv))
    if material.texture is not None and not has_uv_T.all():
      count = (~has_uv_T).sum()
      notes.append(Note(NO_UV, f"usemtl {name}: {count} of {len(faces)} faces"))
    factor = material.factor
    if material.texture is not None and factor is not None:
      # Black stands beside many textures, and is not meant.
      factor = factor if factor[:3].any() else None
    faces, color = faces[~has_uv_T], None
    if color_V4 is not None:
      color = color_V4[faces]
      bare_T3 = np.isnan(color).any(axis=-1)
      grey = np.array([UNCOLORED] * 3 + [1], np.float32)
      color[bare_T3] = grey if factor is None else factor
      factor = None
    parts.append(Part(xyz_V3, faces, Material(factor=factor), color=color))
  return parts


def _read_colors(
  vertices: Sequence[Sequence[str]], notes: list[Note]
) -> np.ndarray | None:
  """The colours (V, 4) of the vertices, NaN where one has none; or None."""
  has_color_V = np.array([len(row) >= 6 for row in vertices], bool)
  if not has_color_V.any():
    return None
  color_V4 = np.full((len(vertices), 4), np.nan, np.float32)
  rows = [row[3:6] for row in vertices if len(row) >= 6]
  color_V4[has_color_V] = unit_colors(np.array(rows, float))
  if not has_color_V.all():
    detail = f"{(~has_color_V).sum()} of {len(vertices)} v lines"
    notes.append(Note("vertices without a colour are grey", detail))
  return color_V4


def _row(number: str, lines: Sequence) -> int:
  """Rows count from 1, or backwards from the last one so far."""
  row = int(number)
  if not 0 < row <= 2**31 and not -len(lines) <= row < 0:
    raise BadInput(f"f refers to {row}, which is no line of the file")
  return row - 1 if row > 0 else row + len(lines)


def _read_libraries(
  lines: Sequence[str],
  used: set[str],
  read_reference: ReadReference,
  notes: list[Note],
) -> dict[str, Material]:
  """The materials by name; those in use with texture and factor, if any.

  Where the texture of one cannot be read, its Kd is kept if it has a hue: black,
  white and greys stand beside many textures, and are not meant.
  """
  materials: dict[str, Material] = {}
  textures = Textures()

  @functools.cache
  def read_texture(file: str) -> np.ndarray | OSError:
    try:
      return textures.decode(read_reference(file), alpha=False)
    except OSError as error:  # not looked for again
      return error

  for library, text in _libraries(lines, read_reference, notes):
    name, material = "", Material()
    without_texture = set()
    for line in text.splitlines():
      key, value = [*line.split(maxsplit=1), "", ""][:2]
      key, value = key.lower(), value.strip()
      try:
        if key == "newmtl":
          name, material = value, Material()
        elif key == "kd":
          rgb = [min(max(float(x), 0), 1) for x in value.split()[:3]]
          if not rgb or np.isnan(rgb).any():
            raise ValueError("no number")
          # One number is for all three.
          factor = np.array([*(rgb * 3)[:3], 1], np.float32)
          material = dataclasses.replace(material, factor=factor)
        elif key == "map_kd" and (name in used or used == {""}):
          wrap = "clamp" if "-clamp on" in value.lower() else "repeat"
          # Options come first: a dash, a word, and numbers or on/off.
          file = re.sub(r"^(-\w+\s+((on|off|[-+.\d]\S*)\s+)*)+", "", value)
          without_texture.add(name)
          texture = read_texture(file)
          if isinstance(texture, OSError):
            raise texture
          without_texture.remove(name)
          material = dataclasses.replace(
            material, texture=texture, wrap=(wrap, wrap)
          )
        else:
          continue
      except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
          raise
        kind = NO_TEXTURE if key == "map_kd" else _NO_NUMBER
        notes.append(Note(kind, f"{library}, {line.strip()!r}: {error}"))
      materials[name] = material
    for name in without_texture:
      factor = materials[name].factor
      if factor is not None and np.ptp(factor[:3]) == 0:
        materials[name] = Material()
  return materials


def _libraries(
  lines: Sequence[str], read_reference: ReadReference, notes: list[Note]
) -> Iterator[tuple[str, str]]:
  """Reads the .mtl files that lines name: one, blanks and all, or several."""
  for line in dict.fromkeys(lines):
    # Split, since a search for all would take time by the square of the line.
    several = re.split(r"(?<=\.mtl)\s+", line, flags=re.I)
    several = [name for name in several if name.lower().endswith(".mtl")]
    for library in [line, *(several if len(several) > 1 else ())]:
      try:
        text = read_reference(library).decode("utf-8-sig", "replace")
      except OSError as error:
        if library != line or len(several) < 2:
          notes.append(Note(_NO_MATERIAL, f"mtllib: {error}"))
        continue
      yield library, text
      if library == line:
        break
