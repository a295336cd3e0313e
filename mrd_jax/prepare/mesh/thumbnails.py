"""A contact sheet: pictures of shapes with their names, to look at."""

import bisect
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput

_MARGIN = 12  # pixels
_FONT_SIZE = 12
_LINE = 17
_LINES = 2  # of a caption
_INK = (40, 44, 52)
_FRAME = (223, 227, 232)


def write_sheet(
  path: str | os.PathLike[str],
  items: Sequence[tuple[np.ndarray, str]],
  *,
  columns: int = 8,
  tile: int = 160,
) -> None:
  """Writes pictures in rows, each above its caption, as one PNG.

  A caption that is too long for two lines loses its middle, since names begin
  and end with what tells them apart; a character that the font, Matplotlib's
  DejaVu Sans, lacks is drawn as a box.  The file appears whole or not at all.

  Args:
    path: The PNG to write.
    items: Pictures (H, W, 3) uint8, of any size, with captions.
    columns: Pictures a row, at most.
    tile: Side in pixels of the square that each picture is fitted into.

  Raises:
    BadInput: if there are no items.
  """
  import matplotlib
  from PIL import Image, ImageDraw, ImageFont

  if not items:
    raise BadInput("there is no picture to put on the sheet")
  columns = min(columns, len(items))
  rows = math.ceil(len(items) / columns)
  step_x, step_y = tile + _MARGIN, tile + _LINES * _LINE + _MARGIN
  sheet = Image.new(
    "RGB", (_MARGIN + columns * step_x, _MARGIN + rows * step_y), "white"
  )
  draw = ImageDraw.Draw(sheet)
  # Pillow's own font has no letters beyond ASCII.
  folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
  font = ImageFont.truetype(str(folder / "DejaVuSans.ttf"), _FONT_SIZE)
  for index, (pixels, caption) in enumerate(items):
    left = _MARGIN + index % columns * step_x
    top = _MARGIN + index // columns * step_y
    picture = Image.fromarray(pixels)
    scale = tile / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    sheet.paste(
      picture.resize((width, height), Image.Resampling.LANCZOS),
      (left + (tile - width) // 2, top + (tile - height) // 2),
    )
    draw.rectangle((left - 1, top - 1, left + tile, top + tile), None, _FRAME)
    for row, line in enumerate(_lines(caption, font, tile)):
      y = top + tile + 3 + row * _LINE
      draw.text((left, y), line, fill=_INK, font=font)
  path = Path(path)
  temporary = path.with_name(path.name + ".tmp")
  sheet.save(temporary, "PNG")
  os.replace(temporary, path)


def _lines(caption: str, font, width: int) -> list[str]:
  """The caption in at most `_LINES` lines, each at most `width` wide."""
  printable = "".join(c if c.isprintable() else " " for c in caption)
  text = " ".join(printable[:1000].split())

  def lines(kept: int) -> list[str]:
    if kept == len(text):
      return _wrap(text, font, width)
    head = (kept + 1) // 2
    return _wrap(
      f"{text[:head]}…{text[len(text) - kept + head :]}", font, width
    )

  def is_too_long(kept: int) -> bool:
    return len(lines(kept)) > _LINES

  return lines(bisect.bisect(range(1, len(text) + 1), False, key=is_too_long))


def _wrap(text: str, font, width: int) -> list[str]:
  """Lines broken at blanks, or where a word is wider than a line, inside."""
  lines = []
  while text:
    ends = range(2, len(text) + 1)
    end = 1 + bisect.bisect(
      ends, width, key=lambda end, text=text: font.getlength(text[:end])
    )
    blank = text.rfind(" ", 0, end + 1)
    if end < len(text) and blank > 0:
      end = blank
    lines.append(text[:end])
    text = text[end:].lstrip()
  return lines
