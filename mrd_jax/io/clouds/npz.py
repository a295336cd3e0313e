"""Reads point clouds from .npz files."""

from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.arrays import open_npz
from mrd_jax.io.clouds.columns import split_columns

SUFFIXES = (".npz",)
XYZ_KEYS = ("points", "xyz", "pos", "pc")
RGB_KEYS = ("rgb", "color", "colors")


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads one or two arrays by their names."""
  with open_npz(path) as arrays:
    keys = list(arrays)
    xyz_key = next((key for key in XYZ_KEYS if key in keys), None)
    if xyz_key is None:
      raise BadInput(
        f"holds {keys or 'no arrays'}, must hold one of {list(XYZ_KEYS)}: "
        "rename the array of the points"
      )
    xyz, rgb = split_columns(xyz_key, arrays[xyz_key])
    rgb_key = next((key for key in RGB_KEYS if key in keys), None)
    if rgb_key is None:
      return xyz, rgb
    if rgb is not None:
      raise BadInput(
        f"{xyz_key} has 6 columns and {rgb_key} is there too: save the "
        "colours once"
      )
    return xyz, arrays[rgb_key]
