"""Builds, moves and samples surfaces: triangle soups, with numpy alone.

Everything is a `Part`, a set of triangles with a colour role and perhaps a
name.  Triangles (and not one closed form per primitive) because any affine
map of them stays exact, the area-uniform draw is one vectorised pass over a
whole object, and the same objects can be written out as meshes.  y is up; the
unit is free, `objects.py` scales every object to about 1.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

SEGMENTS = 24  # sides of a round surface: 0.9 % of the radius off the circle
TUBE_SIDES = 10


@dataclasses.dataclass(frozen=True)
class Part:
  """A piece of surface.

  Attributes:
    triangles: (F, 3, 3) float32 corner coordinates; zero-area ones are allowed.
    role: How it is coloured: "main", "accent" or "dark".
    name: What a caption may call it ("armrests"), or "" if unremarkable.
  """

  triangles: np.ndarray
  role: str = "main"
  name: str = ""

  def at(self, x: float = 0, y: float = 0, z: float = 0) -> "Part":
    """Moves the part by (x, y, z)."""
    return self._with(self.triangles + np.array((x, y, z), np.float32))

  def scale(self, x: float = 1, y: float = 1, z: float = 1) -> "Part":
    """Stretches the part about the origin; negative values mirror."""
    return self._with(self.triangles * np.array((x, y, z), np.float32))

  def turn(self, axis: str, degrees: float) -> "Part":
    """Turns the part about the axis "x", "y" or "z", right-handed."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3, dtype=np.float32)
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return self._with(self.triangles @ matrix.T)

  def accent(self, name: str = "") -> "Part":
    """Gives the part the role "accent" and, if one is given, a name."""
    return Part(self.triangles, "accent", name or self.name)

  def dark(self, name: str = "") -> "Part":
    """Gives the part the role "dark" and, if one is given, a name."""
    return Part(self.triangles, "dark", name or self.name)

  def named(self, name: str) -> "Part":
    """Sets the name."""
    return Part(self.triangles, self.role, name)

  def pair(self, axis: str = "x") -> "Part":
    """Adds the part's mirror image across the origin along an axis."""
    return self._with(
      np.concatenate([self.triangles, self.scale(**{axis: -1}).triangles])
    )

  def corners(self, x: float, z: float) -> "Part":
    """Puts four mirrored copies of the part to (x, z)."""
    return self.at(x, 0, z).pair("z").pair()

  def around(self, count: int, start: float = 0) -> "Part":
    """Makes `count` copies, evenly turned about the y axis."""
    turned = [self.turn("y", start + 360 * i / count) for i in range(count)]
    return self._with(np.concatenate([part.triangles for part in turned]))

  def _with(self, triangles: np.ndarray) -> "Part":
    return Part(triangles, self.role, self.name)


# What the builder of a family yields, one piece of the object after the other.
Parts = Iterator[Part]


def triangle_areas(triangles: np.ndarray) -> np.ndarray:
  """Returns the areas (F,) of triangles (F, 3, 3)."""
  # The cross product by hand: np.cross takes five times as long.
  origin = triangles[:, 0]
  ax, ay, az = (triangles[:, 1] - origin).T
  bx, by, bz = (triangles[:, 2] - origin).T
  x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
  return np.sqrt(x * x + y * y + z * z) / 2


def sample_triangles(
  triangles: np.ndarray, rng: np.random.Generator, n: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws points independently and uniformly over a triangle soup.

  The points come in no order, so that any prefix is a fair sample too.

  Returns:
    Points (n, 3) float32 and the (n,) index of each point's triangle.
  """
  cumulative = np.cumsum(triangle_areas(triangles), dtype=np.float64)
  # side="right" steps over zero-area triangles; the clip is for rounding.
  face = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], "right")
  face = np.minimum(face, len(triangles) - 1)
  weights = rng.random((n, 2), np.float32)
  # The half of the unit square beyond the triangle folds back into it.
  fold = weights[:, 0] + weights[:, 1] > 1
  weights[fold] = 1 - weights[fold]
  corner = triangles[face]
  rest = 1 - weights[:, 0] - weights[:, 1]
  points = (
    rest[:, None] * corner[:, 0]
    + weights[:, :1] * corner[:, 1]
    + weights[:, 1:] * corner[:, 2]
  )
  return points.astype(np.float32, copy=False), face


def _strip(rings: np.ndarray) -> np.ndarray:
  """Joins K closed rings (K, S, 3) by triangles (2 (K-1) S, 3, 3)."""
  count, sides = rings.shape[:2]
  after = rings[:, np.arange(1, sides + 1) % sides]
  order = (rings[:-1], after[:-1], rings[1:], after[:-1], after[1:], rings[1:])
  quads = np.empty((count - 1, sides, 6, 3), np.float32)
  for i, corner in enumerate(order):
    quads[:, :, i] = corner
  return quads.reshape(-1, 3, 3)


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Scales vectors (K, 3) to length 1."""
  return vectors / np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))


def box(width: float, height: float, depth: float) -> Part:
  """Builds a box that stands on y=0: sizes along x, y and z."""
  half = width / 2
  outline = [(-half, 0), (half, 0), (half, height), (-half, height)]
  return extrude(outline, depth)


def extrude(outline: ArrayLike, depth: float) -> Part:
  """Thickens a flat outline (K, 2) in the xy plane by `depth` about z=0.

  The outline must be star-shaped about the mean of its corners.
  """
  flat = np.asarray(outline, np.float32)
  loops = np.zeros((4, len(flat), 3), np.float32)
  loops[:, :, :2] = flat
  loops[0, :, :2] = loops[3, :, :2] = flat.mean(axis=0)
  loops[:2, :, 2], loops[2:, :, 2] = -depth / 2, depth / 2
  return Part(_strip(loops))


def revolve(profile: ArrayLike, sides: int = SEGMENTS) -> Part:
  """Sweeps a profile (K, 2) of (radius, y) about the y axis.

  A profile that starts and ends at radius 0 is closed; one that turns back
  inside itself is a vessel with an inner wall.
  """
  radius, height = np.asarray(profile, np.float32).T
  angle = np.arange(sides) * (2 * np.pi / sides)
  rings = np.empty((len(radius), sides, 3), np.float32)
  rings[..., 0] = radius[:, None] * np.cos(angle)
  rings[..., 1] = height[:, None]
  rings[..., 2] = radius[:, None] * np.sin(angle)
  return Part(_strip(rings))


def cylinder(radius: float, height: float, top: float | None = None) -> Part:
  """Builds a cylinder on y=0, or a frustum when the `top` radius differs."""
  top = radius if top is None else top
  return revolve([(0, 0), (radius, 0), (top, height), (0, height)])


def cone(radius: float, height: float) -> Part:
  """Builds a cone that stands on y=0."""
  return cylinder(radius, height, 0)


def vessel(profile: ArrayLike, wall: float = 0.02) -> Part:
  """Builds an open container of its profile (radius, y), bottom up."""
  outside = np.asarray(profile, np.float32)
  inside = outside[::-1].copy()
  inside[:, 0] = np.maximum(inside[:, 0] - wall, 0)
  inside[-1, 1] += wall
  ends = np.array([(0, outside[0, 1]), (0, inside[-1, 1])])
  return revolve(np.concatenate([ends[:1], outside, inside, ends[1:]]))


def sphere(radius: float) -> Part:
  """Builds a sphere about the origin; `scale` makes it an ellipsoid."""
  return dome(radius, -90)


def dome(radius: float, from_degrees: float = 0) -> Part:
  """Builds what of a sphere lies above a latitude, open below."""
  # Small balls (eyes, dots) come by the dozen and can be coarser.
  coarse = radius < 0.1
  latitude = np.radians(np.linspace(from_degrees, 90, 7 if coarse else 11))
  profile = radius * np.stack([np.cos(latitude), np.sin(latitude)], axis=1)
  return revolve(profile, SEGMENTS // 2 if coarse else SEGMENTS)


def torus(radius: float, thickness: float) -> Part:
  """Builds a ring about the y axis; `thickness` is its tube's radius."""
  angle = np.linspace(0, 2 * np.pi, 13)
  out, up = radius + thickness * np.cos(angle), thickness * np.sin(angle)
  return revolve(np.stack([out, up], axis=1))


def tube(points: ArrayLike, radius: ArrayLike) -> Part:
  """Builds a closed tube along a polyline (K, 3), of one radius or one a point.

  The line may bend in a plane or gently in space, but not turn right round
  about an axis that it also runs along.
  """
  line = np.asarray(points, np.float64)
  radii = np.broadcast_to(np.asarray(radius, np.float64), len(line))
  step = line[1:] - line[:-1]
  tangent = _unit(np.concatenate([step[:1], step[1:] + step[:-1], step[-1:]]))
  # A fixed reference direction keeps neighbouring rings aligned.
  reference = np.eye(3)[np.argmin(np.abs(tangent).max(axis=0))]
  normal = _unit(reference - tangent * (tangent @ reference)[:, None])
  other = np.cross(tangent, normal)
  angle = np.arange(TUBE_SIDES)[:, None] * (2 * np.pi / TUBE_SIDES)
  circle = np.cos(angle) * normal[:, None] + np.sin(angle) * other[:, None]
  circle *= radii[:, None, None]
  # The ends are closed by rings of radius zero.
  ends = np.zeros_like(circle[:1])
  circle = np.concatenate([ends, circle, ends])
  return Part(_strip(line[[0, *range(len(line)), -1], None] + circle))


def rod(start: ArrayLike, stop: ArrayLike, radius: float) -> Part:
  """Builds a straight round bar between two points."""
  return tube(np.stack([start, stop]), radius)


def arc(
  radius: float, start: float, stop: float, *, tall: float = 1.0
) -> np.ndarray:
  """Returns points (13, 3) along a circle in the xy plane, degrees from +x.

  `tall` stretches it along y.
  """
  angle = np.radians(np.linspace(start, stop, 13))
  x, y = radius * np.cos(angle), tall * radius * np.sin(angle)
  return np.stack([x, y, np.zeros_like(angle)], axis=1)
