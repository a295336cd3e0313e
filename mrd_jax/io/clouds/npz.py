"""Reads point clouds from .npz files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.arrays import open_npz
from mrd_jax.io.clouds.columns import Cloud, split_columns
from mrd_jax.io.colors import find_colors
from mrd_jax.io.notes import Note

SUFFIXES = (".npz",)
# Of others, of Point-E (coords; R, G, B) and Pointcept (coord, color), and what
# NumPy calls an array that nobody named.
XYZ_KEYS = ("points", "xyz", "pos", "pc", "coords", "coord", "arr_0")
RGB_KEYS = ("rgb", "color", "colors")


def read(path: Path, notes: list[Note], columns: Sequence[str] | None) -> Cloud:
  """Reads one or two arrays by their names, or one for each channel."""
  with open_npz(path) as arrays:
    keys = list(arrays)
    xyz_key = next((key for key in XYZ_KEYS if key in keys), None)
    if xyz_key is None:
      raise BadInput(
        f"holds {keys or 'no arrays'}, must hold one of {list(XYZ_KEYS)}: "
        "rename the array of the points"
      )
    xyz, rgb = split_columns(xyz_key, arrays[xyz_key], columns, notes)
    rgb_key = next((key for key in RGB_KEYS if key in keys), None)
    if rgb is not None and rgb_key is not None:
      raise BadInput(
        f"{xyz_key} has 6 columns and {rgb_key} is there too: save the "
        "colours once"
      )
    if rgb_key is not None:
      return xyz, arrays[rgb_key]
    lower = {key.lower(): key for key in keys if key != xyz_key}
    if rgb is None and (channels := find_colors(lower, notes)):
      rgb = np.stack([arrays[lower[name]] for name in channels], axis=-1)
    return xyz, rgb
