"""Cuts polygons into triangles, and checks rows and colours."""

from collections.abc import Sequence

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.colors import color_scale


def fan(sizes: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
  """Converts (N, 3 or more) colours to (N, 4) float32 in [0, 1], alpha 1.

  Their scale is found by `color_scale`.
  """
  rgb_N3 = colors[:, :3].astype(np.float64) / color_scale(colors[:, :3])
  rgb_N3 = np.nan_to_num(rgb_N3).clip(0, 1)
  alpha_N1 = np.ones((len(rgb_N3), 1))
  return np.concatenate([rgb_N3, alpha_N1], axis=1).astype(np.float32)
