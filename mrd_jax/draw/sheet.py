"""Draws a sheet of shapes."""

import numpy as np
from matplotlib import font_manager

from mrd_jax.data.records import XYZ_LEVELS
from mrd_jax.draw import cloud

PIXELS = 300  # of a rendered cloud


def cloud_image(record: dict) -> np.ndarray:
  """(PIXELS, PIXELS, 3) picture of a record's points."""
  xyz = record["xyz"] * (record["scale"] / XYZ_LEVELS)
  return cloud.render(xyz, record["rgb"] / 255, PIXELS)


def drawable(text: str) -> str:
  """One line of text, "□" for every character that the font lacks."""
  known = font_manager.get_font(
    font_manager.findfont("DejaVu Sans")
  ).get_charmap()
  line = " ".join(text.split())
  return "".join(c if ord(c) in known else "□" for c in line)
