"""Holds a coloured triangle mesh in memory.

A glTF's factors and vertex colours are linear, as that format defines; the
other formats define nothing, and their colours are taken for sRGB, as viewers
do.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mrd_jax.io.notes import Note

UNCOLORED = 0.4  # grey of a part without any colour, as in OpenShape's data
MAX_FACES = 10_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
  """What a part of a surface looks like.

  Attributes:
    factor: (4,) float32 rgb and alpha that multiply everything else, or None
      if the file gives none; in a `Mesh` never None.
    texture: (H, W, 3) or (H, W, 4) uint8 sRGB, first row at v = 0; or None.
    wrap: What happens outside of [0, 1], along u and along v.
    alpha: What a glTF's alphaMode says; "opaque" ignores alpha.
    cutoff: Alpha from which on a "mask" is opaque.
  """

  factor: np.ndarray | None = None
  texture: np.ndarray | None = None
  wrap: tuple[str, str] = ("repeat", "repeat")
  alpha: Literal["opaque", "mask", "blend"] = "opaque"
  cutoff: float = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
  """Triangles of one material.

  Attributes:
    vertices: (V, 3) float64.
    faces: (F, 3) int64 rows of `vertices`.
    material: Of all its faces.
    uv: (F, 3, 2) float32 texture coordinates of each face's corners, v
      running down as the rows of an image do; or None.
    color: (F, 3, 4) float32 colours of the corners, to multiply; or None.
  """

  vertices: np.ndarray
  faces: np.ndarray
  material: Material
  uv: np.ndarray | None = None
  color: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Mesh:
  """A surface, y up, in the unit of its file.

  Attributes:
    vertices: (V, 3) float64, finite, each used by a face.
    faces: (F, 3) int64.
    materials: The materials in use.
    face_material: (F,) int32 rows of `materials`.
    uv: As in `Part`, or None where no face has a texture.
    color: As in `Part`, or None where no face has colours of its own.
    linear: Whether factors and `color` are linear instead of sRGB.
    colored: Whether the file gives a colour to any face.
    notes: What was lost on reading.
    checksum: CRC-32 of the file; seeds what is drawn from the surface.
  """

  vertices: np.ndarray
  faces: np.ndarray
  materials: tuple[Material, ...]
  face_material: np.ndarray
  uv: np.ndarray | None
  color: np.ndarray | None
  linear: bool
  colored: bool
  notes: tuple[Note, ...]
  checksum: int = 0

  @property
  def opaque(self) -> bool:
    """Says whether no part of the surface lets anything through."""
    return all(material.alpha == "opaque" for material in self.materials)


def join(parts: Sequence[Part], *, linear: bool, notes: Sequence[Note]) -> Mesh:
  """Joins parts, at least one, to a mesh; unused vertices are dropped."""
  looks = [(part.material, part.color is not None) for part in parts]
  row = {look: index for index, look in enumerate(dict.fromkeys(looks))}
  vertices, faces, first = [], [], 0
  for part in parts:
    used, local = np.unique(part.faces, return_inverse=True)
    vertices.append(part.vertices[used])
    faces.append(local.reshape(-1, 3) + first)
    first += len(used)
  lengths = [len(part.faces) for part in parts]
  part_material = np.array([row[look] for look in looks], np.int32)
  return Mesh(
    vertices=np.concatenate(vertices),
    faces=np.concatenate(faces).astype(np.int64),
    materials=tuple(_ready(*look, linear) for look in row),
    face_material=np.repeat(part_material, lengths),
    uv=_corners([part.uv for part in parts], lengths, (3, 2), 0),
    color=_corners([part.color for part in parts], lengths, (3, 4), 1),
    linear=linear,
    colored=any(
      part.color is not None
      or part.material.factor is not None
      or part.material.texture is not None
      for part in parts
    ),
    notes=tuple(notes),
  )


def _ready(material: Material, has_own: bool, linear: bool) -> Material:
  """The material with its factor: 1, or grey where nothing has a colour."""
  if material.factor is not None:
    return material
  rgb = np.ones(3)
  if material.texture is None and not has_own:
    rgb *= UNCOLORED
    rgb = to_linear(rgb) if linear else rgb
  factor = np.array([*rgb, 1], np.float32)
  return dataclasses.replace(material, factor=factor)


def _corners(
  values: Sequence[np.ndarray | None],
  lengths: Sequence[int],
  shape: tuple[int, int],
  missing: float,
) -> np.ndarray | None:
  if all(value is None for value in values):
    return None
  filled = [
    np.full((length, *shape), missing, np.float32) if value is None else value
    for value, length in zip(values, lengths, strict=True)
  ]
  return np.concatenate(filled).astype(np.float32, copy=False)


def to_linear(srgb: np.ndarray) -> np.ndarray:
  """Decodes sRGB in [0, 1] (IEC 61966-2-1)."""
  return np.where(
    srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4
  )


def to_srgb(linear: np.ndarray) -> np.ndarray:
  """Encodes linear values in [0, 1] as sRGB (IEC 61966-2-1)."""
  return np.where(
    linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055
  )
