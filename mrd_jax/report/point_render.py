"""Renders a coloured point cloud as a small picture, with NumPy alone.

Points are drawn as discs, far ones first, in perspective from a three-quarter
view; they are lit by a lamp, darkened where something near stands before
something far ("eye-dome lighting"), and throw a soft shadow on the floor.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

BACKGROUND = (0.965, 0.97, 0.976)
AZIMUTH, ELEVATION = np.deg2rad(38), np.deg2rad(22)
CAMERA = 4.0  # distance of the camera, in radii of the cloud
OVERSAMPLING = 2
_LAMP = np.array([-0.45, 0.75, 0.5]) / np.linalg.norm([-0.45, 0.75, 0.5])


def render(xyz_N3: np.ndarray, rgb_N3: np.ndarray, size: int) -> np.ndarray:
  """Draws a cloud.

  Args:
    xyz_N3: (N, 3) coordinates, y up, any unit; not all equal.
    rgb_N3: (N, 3) colours in [0, 1].
    size: Pixels of a side.

  Returns:
    (size, size, 3) float32 colours in [0, 1], on `BACKGROUND`.
  """
  xyz_N3 = xyz_N3.astype(np.float64)
  xyz_N3 = xyz_N3 - (xyz_N3.min(axis=0) + xyz_N3.max(axis=0)) / 2
  xyz_N3 = _turn(xyz_N3 / np.linalg.norm(xyz_N3, axis=1).max())
  floor_N3 = _turn_floor(xyz_N3)
  spacing, normal_N3 = _surface(xyz_N3)
  # 1 where the surface faces the lamp; never quite dark.
  light_N = 0.62 + 0.46 * np.clip(normal_N3 @ _LAMP, 0, 1)
  color_N3 = np.clip(rgb_N3 * light_N[:, None], 0, 1)

  side = size * OVERSAMPLING
  plane_N2 = xyz_N3[:, :2] / (CAMERA - xyz_N3[:, 2:])
  low, high = plane_N2.min(axis=0), plane_N2.max(axis=0)
  zoom = 0.84 * side / (high - low).max()

  def to_pixels(points_N3: np.ndarray) -> np.ndarray:
    """Rows and columns, (N, 2) int."""
    on_plane_N2 = points_N3[:, :2] / (CAMERA - points_N3[:, 2:])
    x, y = ((on_plane_N2 - (low + high) / 2) * zoom).T
    return np.rint(np.stack([side / 2 - y, side / 2 + x], axis=1)).astype(int)

  image = np.broadcast_to(np.float64(BACKGROUND), (side, side, 3)).copy()
  image *= 1 - _shadow(to_pixels(floor_N3), side)[..., None]
  depth_N = CAMERA - xyz_N3[:, 2]
  depth = np.full((side, side), depth_N.max() + 0.3)
  radius = np.clip(0.8 * spacing * zoom / CAMERA, 1.5, side / 50)
  order = np.argsort(-depth_N)
  disc_K2 = _disc(radius)
  pixels = (to_pixels(xyz_N3)[order][:, None] + disc_K2).reshape(-1, 2)
  rows, columns = np.clip(pixels, 0, side - 1).T
  # Of repeated indices NumPy keeps the last: the nearest point.
  image[rows, columns] = np.repeat(color_N3[order], len(disc_K2), axis=0)
  depth[rows, columns] = np.repeat(depth_N[order], len(disc_K2))
  image *= _eye_dome(depth, round(side / 150))[..., None]
  blocks = image.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3)
  return blocks.mean(axis=(1, 3)).astype(np.float32)


def _turn(xyz_N3: np.ndarray) -> np.ndarray:
  """To the camera's axes: x right, y up in the picture, z towards it."""
  sin, cos = np.sin(AZIMUTH), np.cos(AZIMUTH)
  about_y = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
  return xyz_N3 @ about_y.T @ _TILT.T


_TILT = np.array(
  [
    [1, 0, 0],
    [0, np.cos(ELEVATION), -np.sin(ELEVATION)],
    [0, np.sin(ELEVATION), np.cos(ELEVATION)],
  ]
)


def _turn_floor(turned_N3: np.ndarray) -> np.ndarray:
  """The points' feet on the floor below the lowest one, turned likewise."""
  upright_N3 = turned_N3 @ _TILT
  upright_N3[:, 1] = upright_N3[:, 1].min()
  return upright_N3 @ _TILT.T


def _surface(xyz_N3: np.ndarray) -> tuple[float, np.ndarray]:
  """The typical distance of neighbours, and (N, 3) normals to the camera."""
  count = min(12, len(xyz_N3))
  distance_NK, index_NK = cKDTree(xyz_N3).query(xyz_N3, count)
  near_NK3 = xyz_N3[index_NK]
  near_NK3 = near_NK3 - near_NK3.mean(axis=1, keepdims=True)
  _, axes_N33 = np.linalg.eigh(near_NK3.transpose(0, 2, 1) @ near_NK3)
  normal_N3 = axes_N33[:, :, 0]  # the direction of least extent
  facing_N1 = np.where(normal_N3[:, 2:] < 0, -1, 1)
  return float(np.median(distance_NK[:, count // 3])), normal_N3 * facing_N1


def _disc(radius: float) -> np.ndarray:
  """(K, 2) offsets of the pixels of a disc."""
  reach = np.arange(-int(radius), int(radius) + 1)
  offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
  return offsets[(offsets**2).sum(axis=1) <= radius**2]


def _shadow(pixels_N2: np.ndarray, side: int) -> np.ndarray:
  """(side, side) share of light that is missing on the floor."""
  inside_N = ((pixels_N2 >= 0) & (pixels_N2 < side)).all(axis=1)
  density = np.zeros((side, side))
  np.add.at(density, tuple(pixels_N2[inside_N].T), 1 / len(pixels_N2))
  density = ndimage.gaussian_filter(density, side / 40) * side**2
  return 0.2 * (1 - np.exp(-density / 4))


def _eye_dome(depth: np.ndarray, reach: int) -> np.ndarray:
  """(side, side) factor below 1 where a neighbour is nearer."""
  steps = [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
  nearer = np.zeros_like(depth)
  for dy, dx in steps:
    shifted = ndimage.shift(
      depth, (dy * reach, dx * reach), order=0, mode="nearest"
    )
    nearer += np.clip(depth - shifted, 0, 0.25)
  return np.exp(-0.9 * nearer / len(steps) / 0.25)
