"""Depth maps against their formulas in NumPy's float64, without the authors'.

A point on the edge between pixels falls to either side by its last bit: a few
pixels may differ.
"""

import jax
import numpy as np
import pytest
import zoo_b_weights

from mrd_jax.zoo import clip2point, pointclip

AXES = [(0, 0, 90), (90, 0, 90), (180, 0, 90), (270, 0, 90)]
ENDS = [(0, -90, 90), (0, 90, 90)]
DIAGONALS = [(45, 0, 90), (135, 0, 90), (225, 0, 90), (315, 0, 90)]


def cloud(kind, n):
  if kind != "ball":
    return zoo_b_weights.cloud(kind, n)
  points = np.random.default_rng(n).normal(size=(n, 3))
  points -= points.mean(axis=0)
  return np.float32(points / np.linalg.norm(points, axis=1).max())


def rotation(degrees):
  """Rx(a) Ry(b) Rz(c)."""
  product = np.eye(3)
  for axis, angle in enumerate(np.deg2rad(degrees)):
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    product = product @ turn
  return product


def perspective(points, degrees):
  """A view of PointCLIP's first version."""
  x, y, z = rotation(degrees) @ points.T
  z = z + 1.6
  row, column = (np.ceil((q / z + 1) * 64 - 0.5).astype(int) for q in (x, y))
  keep = (np.minimum(row, column) >= 0) & (np.maximum(row, column) < 128)
  count, inverse = np.zeros((2, 128, 128))
  np.add.at(count, (row[keep], column[keep]), 1)
  np.add.at(inverse, (row[keep], column[keep]), 1 / z[keep])
  return count / np.where(count > 0, inverse, 1)


def solid(points, degrees, tilt):
  """A view of the second version."""
  q = points @ rotation(degrees).T @ rotation((0, tilt, 0)).T
  low, high = q.min(axis=0), q.max(axis=0)
  q = (q - (low + high) / 2) / (high - low).max() * 2
  place = np.clip(np.ceil((q[:, :2] * 0.8 + 1) / 2 * 112), 1, 110).astype(int)
  depth = ((q[:, 2] + 1) / 2 + 0.2) / 1.2 * 6
  grid = np.zeros((8, 112, 112))
  where = np.ceil(depth).astype(int), *place.T
  np.maximum.at(grid, where, np.clip(depth, 1, 6))
  around = ((0, 0), (2, 2), (2, 2))
  grid = np.pad(grid, around, constant_values=-np.inf)
  grid = np.lib.stride_tricks.sliding_window_view(grid, (7, 7), (1, 2))
  grid = np.pad(grid.max(axis=(3, 4)), ((0, 0), (1, 1), (1, 1)))
  gauss = np.exp(-(np.arange(-1, 2) ** 2) / (2 * 3**2))
  weights = np.outer(gauss, gauss) / gauss.sum() ** 2
  windows = np.lib.stride_tricks.sliding_window_view(grid, (3, 3), (1, 2))
  image = np.einsum("shwij,ij->shw", windows, weights).max(axis=0)
  return 1 - image / image.max()


def camera(points, turn):
  """A view of CLIP2Point's, pixel by pixel of each point."""
  x, y, depth = (points @ turn + (0, 0, 1)).T
  center = 1 - (2 * np.arange(224) + 1) / 224
  image = np.full((224, 224), np.inf)
  for i in range(len(points)):
    row, column = (center - y[i]) ** 2, (center - x[i]) ** 2
    rows, columns = np.where(row < 4e-4)[0], np.where(column < 4e-4)[0]
    part = image[np.ix_(rows, columns)]
    near = row[rows, None] + column[columns] < 4e-4
    part[near] = np.minimum(part[near], depth[i])
    image[np.ix_(rows, columns)] = part
  return np.where(np.isinf(image), -1, image)


def check(found, expected):
  differing = abs(np.asarray(found) - expected) > 1e-6
  assert differing.sum() < 5


@pytest.mark.parametrize(
  ("kind", "n"), [("chair", 2048), ("torus", 10_000), ("ball", 10_000)]
)
def test_pointclip(kind, n):
  points = cloud(kind, n)
  draw = jax.jit(pointclip.depth_maps, static_argnums=1)
  whole = points.astype(np.float64)
  check(draw(points, 1), [perspective(whole, x) for x in AXES + ENDS])
  views = [(x, 20) for x in DIAGONALS + AXES] + [(x, 12) for x in ENDS]
  check(draw(points, 2), [solid(whole, *view) for view in views])


@pytest.mark.parametrize(("kind", "n"), [("chair", 1024), ("ball", 10_000)])
def test_six_views_of_clip2point(kind, n):
  points = cloud(kind, n)
  # Sideways the camera goes round the vertical axis: 0, 90, 180, 270 degrees.
  sides = [
    np.array([[-c, 0, -s], [0, 1, 0], [s, 0, -c]])
    for s, c in ((0, 1), (1, 0), (0, -1), (-1, 0))
  ]
  np.testing.assert_allclose(clip2point._ROTATIONS[6][:4], sides, atol=3e-7)
  found = jax.jit(lambda x: clip2point.depth_maps(x, 6))(points)
  turns = clip2point._ROTATIONS[6].astype(np.float64)
  check(found, [camera(points.astype(np.float64), turn) for turn in turns])


RANDOM = np.random.default_rng(0).uniform(-0.7, 0.7, (200, 3))
DEGENERATE = {
  "one": [[0.3, 0.2, 0.1]],
  "at the origin": [[0, 0, 0]],
  "two": [[0, 0, 1], [0, 0, -1]],
  "at the camera": [[0, 0, -1.6], [0, 0, -1], [0, 0, 1]],
  **{
    f"plane {axis}": np.delete(RANDOM, axis, 1) @ np.delete(np.eye(3), axis, 0)
    for axis in range(3)
  },
  "nearest depth": RANDOM * (1, 1, 0) - (0, 0, 1),
  "line": RANDOM * (1, 0, 0),
}


def test_degenerate_clouds_are_drawn():
  draw = {
    "v1": jax.jit(lambda x, n: pointclip.depth_maps(x, 1, n)),
    "v2": jax.jit(lambda x, n: pointclip.depth_maps(x, 2, n)),
    "six": jax.jit(
      lambda x, n: clip2point._to_pixels(clip2point.depth_maps(x, 6, n))
    ),
    "ten": jax.jit(
      lambda x, n: clip2point._to_pixels(clip2point.depth_maps(x, 10, n))
    ),
  }
  for name, points in DEGENERATE.items():
    padded = np.full((200, 3), np.nan, np.float32)
    padded[: len(points)] = points
    for views, function in draw.items():
      images = np.asarray(function(padded, np.int32(len(points))))
      assert np.isfinite(images).all(), (name, views)
