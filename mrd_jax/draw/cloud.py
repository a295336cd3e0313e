"""Renders a coloured point cloud as a small picture, with NumPy alone.

Every point is a disc that lies in the surface around it, seen in perspective
from a three-quarter view; discs are lit by a lamp, darkened where something
near stands before something far ("eye-dome lighting"), and throw a soft
shadow on the floor.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from mrd_jax.encoder.input import shuffled
from mrd_jax.errors import BadInput

BACKGROUND = (0.965, 0.97, 0.976)
AZIMUTH, ELEVATION = np.deg2rad(38), np.deg2rad(22)
CAMERA = 4.0  # distance of the camera, in radii of the cloud
OVERSAMPLING = 2
PIXELS = 300  # of a side of a picture on a sheet
MOST_POINTS = 10_000  # that are drawn of a cloud
PLAIN = 0.62  # grey of clouds without colours
_LAMP = np.array([-0.45, 0.75, 0.5]) / np.linalg.norm([-0.45, 0.75, 0.5])


def picture(cloud_NC: np.ndarray, *, up: str = "y") -> np.ndarray:
  """Draws a cloud for a sheet.

  Args:
    cloud_NC: (N, 3) coordinates, any unit, or (N, 6) with colours in [0, 1].
    up: "y" or "z", the axis that is up.

  Returns:
    (PIXELS, PIXELS, 3), see `render`.

  Raises:
    BadInput: if all points coincide.
  """
  cloud_NC = cloud_NC[shuffled(len(cloud_NC))[:MOST_POINTS]]
  xyz_N3, rgb_N3 = cloud_NC[:, :3], cloud_NC[:, 3:]
  if not rgb_N3.shape[1]:
    rgb_N3 = np.full_like(xyz_N3, PLAIN)
  if up == "z":
    xyz_N3 = xyz_N3[:, [0, 2, 1]] * [1, 1, -1]  # a rotation
  if (xyz_N3 == xyz_N3[0]).all():
    raise BadInput("all points coincide")
  return render(xyz_N3, rgb_N3, PIXELS)


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
  xyz_N3 = xyz_N3 / np.linalg.norm(xyz_N3, axis=1).max()
  # To the camera's axes: x right, y up in the picture, z towards it.  The
  # points' feet, on the floor below the lowest one, are tilted with them.
  xyz_N3 = Rotation.from_euler("y", AZIMUTH).apply(xyz_N3)
  floor_N3 = xyz_N3.copy()
  floor_N3[:, 1] = xyz_N3[:, 1].min()
  tilt = Rotation.from_euler("x", ELEVATION)
  xyz_N3, floor_N3 = tilt.apply(xyz_N3), tilt.apply(floor_N3)
  spacing, normal_N3, flat_N = _surface(xyz_N3)
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

  image = np.broadcast_to(np.array(BACKGROUND), (side, side, 3)).copy()
  # The shadow on the floor is the darker, the more points stand above.
  feet_N2 = to_pixels(floor_N3)
  feet_N2 = feet_N2[((feet_N2 >= 0) & (feet_N2 < side)).all(axis=1)]
  density = np.zeros((side, side))
  np.add.at(density, tuple(feet_N2.T), side**2 / len(xyz_N3))
  density = ndimage.gaussian_filter(density, side / 40)
  image *= 1 - 0.2 * (1 - np.exp(-density / 4))[..., None]
  unit = zoom / CAMERA  # pixels of a length of 1, about
  radius = np.clip(1.05 * spacing * unit, 1.5, side / 40)
  point_M, offset_M2, rise_M = _discs(normal_N3, flat_N, radius)
  depth_M = CAMERA - xyz_N3[point_M, 2] - rise_M / unit
  pixel_M2 = to_pixels(xyz_N3)[point_M] + offset_M2
  # Far ones first: of repeated indices NumPy keeps the last.
  order_M = np.argsort(-depth_M, kind="stable")
  rows, columns = np.clip(pixel_M2[order_M], 0, side - 1).T
  depth = np.full((side, side), depth_M.max() + 0.3)
  image[rows, columns] = color_N3[point_M[order_M]]
  depth[rows, columns] = depth_M[order_M]
  image *= _eye_dome(depth, round(side / 150))[..., None]
  blocks = image.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3)
  return blocks.mean(axis=(1, 3)).astype(np.float32)


def _surface(xyz_N3: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
  """Of the surface around every point, what its neighbours tell.

  Args:
    xyz_N3: (N, 3) coordinates, z to the camera.

  Returns:
    The typical distance of neighbours, the (N, 3) normals to the camera, and
    how flat the surface is there, (N,) in [0, 1].
  """
  count = min(12, len(xyz_N3))
  distance_NK, index_NK = KDTree(xyz_N3).query(xyz_N3, count)
  near_NK3 = xyz_N3[index_NK]
  near_NK3 = near_NK3 - near_NK3.mean(axis=1, keepdims=True)
  extent_N3, axes_N33 = np.linalg.eigh(near_NK3.transpose(0, 2, 1) @ near_NK3)
  normal_N3 = axes_N33[:, :, 0]  # the direction of least extent
  facing_N1 = np.where(normal_N3[:, 2:] < 0, -1, 1)
  spacing = float(np.median(distance_NK[:, count // 3]))
  thickness_N = extent_N3[:, 0] / np.maximum(extent_N3[:, 1], 1e-12)
  return spacing, normal_N3 * facing_N1, np.clip(1 - 6 * thickness_N, 0, 1)


def _discs(
  normal_N3: np.ndarray, flat_N: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The pixels of a tilted disc around every point.

  Args:
    normal_N3: (N, 3) unit normals to the camera.
    flat_N: (N,) in [0, 1]; where the surface is not flat its normal means
      little, and the disc faces the camera.
    radius: In pixels.

  Returns:
    For each of M pixels the number of its point, (M,); its offset in rows
    and columns, (M, 2); and how much nearer than the point the disc is
    there, in pixels, (M,).
  """
  reach = np.arange(-int(radius), int(radius) + 1)
  offset_K2 = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
  down_K, right_K = offset_K2.T
  # A disc seen from its edge would vanish, and leave gaps: tilt it less.
  toward_N = np.maximum(normal_N3[:, 2], 0.3)
  slope_N2 = normal_N3[:, :2] * (flat_N / toward_N)[:, None]
  rise_NK = slope_N2[:, 1:] * down_K - slope_N2[:, :1] * right_K
  inside_NK = right_K**2 + down_K**2 + rise_NK**2 <= radius**2
  point_M, k_M = np.nonzero(inside_NK)
  return point_M, offset_K2[k_M], rise_NK[inside_NK]


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
