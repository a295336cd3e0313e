"""Tells coordinates from colours."""

import numpy as np

from mrd_jax.errors import BadInput


def split_columns(
  field: str, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
  """Splits (N, 3) or (N, 6) into xyz and rgb, which may be None."""
  if points.ndim != 2 or points.shape[1] not in (3, 6):
    raise BadInput(
      f"{field} has shape {points.shape}, must be (N, 3): xyz, or (N, 6): xyz "
      "and rgb"
    )
  return points[:, :3], points[:, 3:] if points.shape[1] == 6 else None
