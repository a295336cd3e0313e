"""Draws a sheet: rows of pictures in frames, with words below each."""

import bisect
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import font_manager
from matplotlib.patches import Rectangle

from mrd_jax.draw import style

GAP = 0.1  # inches between tiles
_SPACING = 1.35 / 72  # inches from line to line, per point of their size
_LEGEND = 0.4  # inches


class Line(NamedTuple):
  """A text of a tile; what does not fit into `most` lines becomes "…".

  Attributes:
    text: Any text.
    color: Of the letters.
    size: In points.
    most: Lines that it may be broken into.
    middle: Whether a text that is too long loses its middle (names begin and
      end with what tells them apart) or its end.
    bold: Whether the letters are.
  """

  text: str
  color: str = style.INK
  size: float = 8.5
  most: int = 1
  middle: bool = False
  bold: bool = False


class Frame(NamedTuple):
  """A border: its colour, and its width in points."""

  color: str = style.RULE
  width: float = 0.9


class Tile(NamedTuple):
  """A picture with words below it.

  Attributes:
    picture: (H, W, 3) uint8, or floats in [0, 1]; words instead of it, which
      say why there is none; or None: no frame, and the lines at its place.
    lines: What is written below.
    frame: The border.
  """

  picture: np.ndarray | str | None
  lines: Sequence[Line] = ()
  frame: Frame = Frame()


def draw_sheet(
  path: Path,
  title: str,
  notes: Sequence[str],
  rows: Sequence[Sequence[Tile]],
  *,
  columns: int,
  left: float = 0.0,
  legend: Sequence[tuple[Frame, str]] = (),
) -> None:
  """Draws rows of tiles as a PNG, which appears whole or not at all.

  Texts may hold anything: a character that the font lacks is drawn as a box.

  Args:
    path: The file to write.
    title: Of the sheet.
    notes: What to know about it, a phrase each.
    rows: Tiles; the height of a row is that of its highest.
    columns: Tiles that share the width.
    left: Inches on the left that the first tile of every row has for itself.
    legend: Frames and what they mean.
  """
  side = (style.WIDTH - 2 * style.MARGIN - left - (columns - 1) * GAP) / columns
  tiles: list[tuple[float, float, Tile]] = []
  words: list[tuple[float, float, str, Line]] = []
  top = style.HEADER + (_LEGEND if legend else 0)
  for row in rows:
    bottom = top + side
    for number, tile in enumerate(row):
      x, width, y = style.MARGIN, side, top + 0.1
      if not left or number:
        x += left + (number - bool(left)) * (side + GAP)
      elif tile.picture is None:
        width = left - GAP
      if tile.picture is not None:
        tiles.append((x, top, tile))
        y = top + side + 0.06
      for line in tile.lines:
        for text in fit(line, width):
          words.append((x, y, text, line))
          y += line.size * _SPACING
      bottom = max(bottom, y)
    top = bottom + 0.14
  height = top + 0.1
  with style.figure(
    path, drawable(title), [*map(drawable, notes)], height
  ) as page:
    axes = page.add_axes((0, 0, 1, 1))  # in inches, from the top
    for i, (frame, text) in enumerate(legend):
      x, y = style.MARGIN + left + 2.4 * i, style.HEADER + _LEGEND / 2
      axes.add_patch(_rectangle((x, y - 0.07), 0.14, 0.14, frame))
      axes.text(x + 0.24, y, text, va="center_baseline", color=style.GREY)
    for x, y, (picture, _, frame) in tiles:
      if isinstance(picture, str):
        centred: Any = {"ha": "center", "va": "center", "color": style.GREY}
        axes.text(x + side / 2, y + side / 2, picture, **centred)
      elif picture is not None:
        # Fitted into the square.
        high, wide = side * np.array(picture.shape[:2]) / max(picture.shape)
        x0, y0 = x + (side - wide) / 2, y + (side - high) / 2
        axes.imshow(
          picture,
          extent=(x0, x0 + wide, y0 + high, y0),
          interpolation="antialiased",
        )
      axes.add_patch(_rectangle((x, y), side, side, frame))
    for x, y, text, line in words:
      weight = "bold" if line.bold else "normal"
      letters: Any = {"color": line.color, "fontsize": line.size}
      axes.text(x, y, text, va="top", weight=weight, **letters)
    axes.set(xlim=(0, style.WIDTH), ylim=(height, 0), aspect="auto")
    axes.set_axis_off()


def _rectangle(
  corner: tuple[float, float], width: float, height: float, frame: Frame
) -> Rectangle:
  return Rectangle(
    corner,
    width,
    height,
    fill=False,
    edgecolor=frame.color,
    linewidth=frame.width,
  )


def in_rows(tiles: Sequence[Tile], columns: int) -> list[Sequence[Tile]]:
  """Cuts tiles into rows of so many."""
  return [tiles[i : i + columns] for i in range(0, len(tiles), columns)]


def drawable(text: str) -> str:
  """Returns one line of text, "□" for every character that the font lacks."""
  known = _font().get_charmap()
  line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
  return "".join(c if ord(c) in known else "□" for c in line)


def fit(line: Line, width: float) -> list[str]:
  """Breaks a text into at most `line.most` lines, each at most `width` inches.

  Lines end at blanks, or inside a word that is wider than a line.
  """
  text = drawable(line.text[:1000])
  font = _font(line.bold)
  font.set_size(line.size, style.DPI)

  def inches(part: str) -> float:
    font.set_text(part)
    return font.get_width_height()[0] / 64 / style.DPI  # of 26.6 fixed point

  def broken(kept: int) -> list[str]:
    rest = text
    if kept < len(text):
      head = (kept + 1) // 2 if line.middle else kept
      rest = f"{text[:head].rstrip()}…{text[len(text) - kept + head :]}"
    lines: list[str] = []
    while rest and len(lines) <= line.most:
      ends = range(2, len(rest) + 1)
      end = 1 + bisect.bisect(
        ends, width, key=lambda end, rest=rest: inches(rest[:end])
      )
      blank = rest.rfind(" ", 0, end + 1)
      if end < len(rest) and blank > 0:
        end = blank
      lines.append(rest[:end])
      rest = rest[end:].lstrip()
    return lines

  kept = bisect.bisect(
    range(1, len(text) + 1),
    False,
    key=lambda kept: len(broken(kept)) > line.most,
  )
  return broken(kept)


@functools.cache
def _font(bold: bool = False):
  weight = "bold" if bold else "normal"
  properties = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
  return font_manager.get_font(font_manager.findfont(properties))
