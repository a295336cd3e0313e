"""Draws coloured objects of a family, with descriptions that are true of them.

The description is the single source of what the captions say and of what the
teacher sees, so text, image and points of a shape agree.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from mrd_jax.procedural.families import FAMILIES, Family
from mrd_jax.procedural.geometry import sample_triangles

# Concept = (kind, name); kinds: "family", "color", "material", "size", "part".
Concept = tuple[str, str]

COLORS: Mapping[str, tuple[float, float, float]] = {
  "red": (0.82, 0.12, 0.10),
  "orange": (0.95, 0.52, 0.10),
  "yellow": (0.95, 0.85, 0.18),
  "green": (0.18, 0.58, 0.22),
  "blue": (0.14, 0.30, 0.78),
  "purple": (0.50, 0.20, 0.62),
  "pink": (0.95, 0.58, 0.72),
  "brown": (0.42, 0.26, 0.14),
  "gray": (0.50, 0.50, 0.50),
  "white": (0.93, 0.93, 0.93),
  "black": (0.08, 0.08, 0.08),
}
# The accent parts' material; the main parts take the colour.
MATERIALS: Mapping[str, tuple[float, float, float]] = {
  "wooden": (0.66, 0.47, 0.28),
  "metal": (0.68, 0.70, 0.74),
  "plastic": (0.86, 0.88, 0.84),
  "golden": (0.83, 0.66, 0.22),
}
DARK = (0.13, 0.13, 0.15)
# Stretch along x, y, z that a size word stands for.
SIZES: Mapping[str, tuple[float, float, float]] = {
  "tall": (1.0, 1.4, 1.0),
  "short": (1.0, 0.68, 1.0),
  "wide": (1.45, 1.0, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Description:
  """What is true of an object, in words.

  Attributes:
    family: Key of `FAMILIES`.
    color: Key of `COLORS`.
    material: Key of `MATERIALS`, or "" without accent parts.
    size: Key of `SIZES`, or "" for ordinary proportions.
    parts: Names of the optional parts that it has.
  """

  family: str
  color: str
  material: str = ""
  size: str = ""
  parts: tuple[str, ...] = ()

  def concepts(self) -> list[Concept]:
    """Lists all concepts of the object, the family first."""
    pairs = [
      ("family", self.family),
      ("color", self.color),
      ("material", self.material),
      ("size", self.size),
    ]
    pairs += [("part", name) for name in self.parts]
    return [(kind, name) for kind, name in pairs if name]


@dataclasses.dataclass(frozen=True)
class Object:
  """A coloured surface and its description.

  Attributes:
    description: What is true of it.
    triangles: (F, 3, 3) float32 corners, y up, largest extent about 1.
    colors: (F, 3) float32 colour of every triangle, in [0, 1].
  """

  description: Description
  triangles: np.ndarray
  colors: np.ndarray

  def sample(
    self, rng: np.random.Generator, n: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Draws (n, 3) float32 points, in no order, and colours in [0, 1]."""
    xyz, face = sample_triangles(self.triangles, rng, n)
    grain = rng.standard_normal((n, 3), np.float32) * np.float32(0.015)
    return xyz, np.clip(self.colors[face] + grain, 0, 1)


def draw_object(family: Family, rng: np.random.Generator) -> Object:
  """Draws one object of a family."""
  parts = list(family.build(rng))
  present = {part.name for part in parts} - {""}
  if unknown := present - set(family.parts):
    raise ValueError(
      f"family {family.name!r} builds parts {sorted(unknown)} that its "
      "decorator does not declare"
    )
  names = [name for name in family.parts if name in present]
  accented = any(part.role == "accent" for part in parts)
  description = _draw_words(family.name, names, accented, rng)
  base = {
    "main": COLORS[description.color],
    "accent": MATERIALS.get(description.material, DARK),
    "dark": DARK,
  }
  colors = {  # of each role, with the object's own shade
    role: np.clip(color + rng.normal(0, 0.03, 3), 0, 1).astype(np.float32)
    for role, color in base.items()
  }
  counts = [len(part.triangles) for part in parts]
  color_of_part = np.stack([colors[part.role] for part in parts])
  triangles = np.concatenate([part.triangles for part in parts])
  # Stretched by the size word, centred, and scaled to about 1.
  # Rows of 9, then 3: numpy reduces long rows much faster than short ones.
  rows = triangles.reshape(-1, 9)
  low = rows.min(axis=0).reshape(3, 3).min(axis=0)
  high = rows.max(axis=0).reshape(3, 3).max(axis=0)
  stretch = np.array(SIZES.get(description.size, (1, 1, 1)))
  scale = stretch * rng.uniform(0.92, 1.08) / ((high - low) * stretch).max()
  offset = rng.normal(0, 0.01, 3) - scale * (low + high) / 2
  return Object(
    description=description,
    triangles=triangles * scale.astype(np.float32) + offset.astype(np.float32),
    colors=np.repeat(color_of_part, counts, axis=0),
  )


def draw_similar(
  description: Description, rng: np.random.Generator
) -> Description:
  """Describes another object of the same family, without building it."""
  family = FAMILIES[description.family]
  parts = [name for name in family.parts if rng.random() < 0.4]
  return _draw_words(family.name, parts, bool(description.material), rng)


def _draw_words(
  family: str, parts: Iterable[str], accented: bool, rng: np.random.Generator
) -> Description:
  color = _pick(COLORS, rng)
  material = _pick(MATERIALS, rng)
  size = _pick(SIZES, rng) if rng.random() < 0.5 else ""
  return Description(
    family=family,
    color=color,
    material=material if accented else "",
    size=size,
    parts=tuple(parts),
  )


def _pick(words: Mapping[str, object], rng: np.random.Generator) -> str:
  return list(words)[rng.integers(len(words))]
