"""The sheet: where pictures and words lie, and what is cut."""

import numpy as np
import pytest
from matplotlib.image import imread

from mrd_jax.draw.sheet import (
  GAP,
  Frame,
  Line,
  Tile,
  draw_sheet,
  drawable,
  fit,
  in_rows,
)
from mrd_jax.draw.style import DPI, HEADER, MARGIN, WIDTH

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
LONG = "begin " + "middle " * 30 + "end"


def picture(*rgb, shape=(20, 20)):
  return np.full((*shape, 3), rgb, np.uint8)


def draw(path, rows, **options):
  """The drawn pixels as (H, W, 3) integers."""
  draw_sheet(path, "", [""], rows, **{"columns": 3} | options)
  return (imread(path)[..., :3] * 255).round().astype(int)


def box(mask):
  """First and last row and column of a mask, in inches."""
  rows, columns = np.nonzero(mask)
  return np.array([rows.min(), rows.max(), columns.min(), columns.max()]) / DPI


def test_pictures_lie_in_rows(tmp_path):
  tiles = [Tile(picture(*color)) for color in COLORS]
  tiles[4] = tiles[4]._replace(picture=picture(*COLORS[4], shape=(10, 40)))
  sheet = draw(tmp_path / "sheet.png", in_rows(tiles, 3))
  assert sheet.shape[1] == WIDTH * DPI
  side = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
  places = []
  for i, color in enumerate(COLORS):
    top, bottom, left, right = box((abs(sheet - color) < 3).all(axis=-1))
    assert left == pytest.approx(MARGIN + i % 3 * (side + GAP), abs=0.02)
    assert right - left == pytest.approx(side, abs=0.03)
    # Another proportion is kept.
    assert bottom - top == pytest.approx(side * [1, 0.25][i == 4], abs=0.03)
    places.append(top)
  assert places[0] == places[2] == pytest.approx(HEADER, abs=0.02)
  assert places[3] > HEADER + side
  assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_a_column_for_what_was_asked(tmp_path):
  frame = Frame("#ff0000", 4)
  rows = [
    [Tile(None, [Line("asked")]), Tile("words", frame=frame)],
    [Tile(picture(0, 0, 255))],
  ]
  sheet = draw(tmp_path / "s.png", rows, left=3.0, legend=[(frame, "a frame")])
  red = (sheet[..., 0] > 250) & (sheet[..., 1:].max(axis=-1) < 5)
  blue = (sheet == (0, 0, 255)).all(axis=-1)
  assert box(red)[2] == pytest.approx(MARGIN + 3, abs=0.05)
  assert box(blue)[2] == pytest.approx(MARGIN, abs=0.05)
  assert red[: int((HEADER + 0.35) * DPI)].any()  # in the legend, too


@pytest.mark.parametrize(
  "text",
  ["one two three " * 30, "größer наблюдатель 椅子 🪑 $_{" * 20,
   "\t\n\0 ", "W" * 5000, "a\u0301" * 3000],
)  # fmt: skip
def test_words_stay_below_their_picture(tmp_path, text):
  line = Line(text, most=2, middle=True)
  sheet = draw(
    tmp_path / "s.png", [[Tile(picture(255, 255, 255), [line])]], columns=6
  )
  side = (WIDTH - 2 * MARGIN - 5 * GAP) / 6
  dark = sheet.min(axis=-1) < 128
  assert dark.any() == bool(text.strip("\t\n\0 "))
  if dark.any():
    top, bottom, left, right = box(dark)
    assert top > HEADER + side and bottom < HEADER + side + 0.4
    assert left > MARGIN - 0.02 and right < MARGIN + side + 0.02


def test_what_is_too_long_is_cut():
  for middle in (False, True):
    lines = fit(Line(LONG, most=2, middle=middle), 1.2)
    assert len(lines) == 2 and "…" in "".join(lines)
    assert lines[0].startswith("begin")
    assert lines[1].endswith("end" if middle else "…")
    # As much is kept as two lines hold.
    assert len("".join(lines)) > 2 * 0.7 * len(fit(Line("e" * 99), 1.2)[0])
  assert fit(Line("a short one", most=2), 1.2) == ["a short one"]
  text = "two lines are just enough here"
  lines = fit(Line(text, most=2), 1.4)
  assert len(lines) == 2 and " ".join(lines) == text
  assert fit(Line(""), 1.2) == []


def test_texts_that_the_font_cannot_draw():
  assert drawable("a\n 椅子 $5") == "a □□ $5"
  assert drawable("aößжя") == "aößжя"
