"""Finds colours by the names of their columns, and the scale they are on."""

import re
from collections.abc import Collection

import numpy as np

from mrd_jax.io.notes import Note

NAMES = (
  ("red", "green", "blue"),
  ("diffuse_red", "diffuse_green", "diffuse_blue"),
  ("r", "g", "b"),
)
LIKE_COLORS = re.compile(r"colou?r|rgb|red$|green$|blue$|f_dc_")
SLACK = 1e-2  # by which colours may leave [0, 1]: rounding, resampling
UNKNOWN = "colours that are not understood are left out"


def find_colors(
  names: Collection[str], notes: list[Note]
) -> tuple[str, str, str] | None:
  """Finds the columns of red, green and blue.

  Args:
    names: Of all columns, in lower case.
    notes: Columns that look like colours under another name are appended.
  """
  for rgb in NAMES:
    if set(rgb) <= set(names):
      return rgb
  if like := [name for name in names if LIKE_COLORS.search(name)]:
    notes.append(
      Note(UNKNOWN, f"{', '.join(like)}: rename to red, green, blue")
    )
  return None


def color_scale(rgb: np.ndarray) -> float:
  """Returns what colours are to be divided by.

  Integers of 16 bits of which one is above 255 are on the scale 0 to 65535,
  other integers, and floats of which one is above 1 + `SLACK`, on the scale 0
  to 255.
  """
  high = rgb.max(initial=0)
  if rgb.dtype.kind in "iu" and rgb.dtype.itemsize == 2 and high > 255:
    return 65535
  return 255 if rgb.dtype.kind in "iu" or high > 1 + SLACK else 1
