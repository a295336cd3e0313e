"""The contact sheet: where pictures and captions lie."""

import numpy as np
import pytest
from PIL import Image

from mrd_jax.errors import BadInput
from mrd_jax.prepare.mesh import thumbnails
from mrd_jax.prepare.mesh.thumbnails import write_sheet


def picture(*rgb, shape=(20, 20)):
  return np.full((*shape, 3), rgb, np.uint8)


def read(path):
  with Image.open(path) as image:
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def test_pictures_lie_in_rows(tmp_path):
  colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
  path = tmp_path / "sheet.png"
  write_sheet(path, [(picture(*c), "") for c in colors], columns=3, tile=40)
  sheet = read(path)
  assert sheet.shape == (12 + 2 * (40 + 34 + 12), 12 + 3 * (40 + 12), 3)
  for i, color in enumerate(colors):
    x, y = 12 + i % 3 * 52, 12 + i // 3 * 86
    assert (sheet[y : y + 40, x : x + 40] == color).all()
  # Nothing else has colour.
  assert ((np.ptp(sheet.astype(int), axis=2) > 20).sum()) == 5 * 40 * 40
  assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_other_proportions_are_kept(tmp_path):
  write_sheet(
    tmp_path / "s.png", [(picture(255, 0, 0, shape=(10, 40)), "")], tile=80
  )
  red = (read(tmp_path / "s.png") == (255, 0, 0)).all(axis=2)
  assert red.any(axis=1).sum() == 20 and red.any(axis=0).sum() == 80


def ink(path, tile=120):
  """Dark pixels below the picture, by row and by column."""
  dark = read(path).min(axis=2) < 128
  assert not dark[: 12 + tile].any()
  return dark[12 + tile :]


@pytest.mark.parametrize(
  "caption",
  [
    "one two three " * 30,
    "a_name_without_any_blank_" * 20,
    "größer наблюдатель 椅子 🪑 " * 20,
    "\t\n\0 ",
    "W" * 5000,
    "i" * 5000,
    "a\u0301" * 3000,
  ],
)
def test_captions_stay_below_their_picture(tmp_path, caption):
  path = tmp_path / "s.png"
  write_sheet(path, [(picture(255, 255, 255), caption)], tile=120)
  dark = ink(path)
  assert not dark[:, :12].any() and not dark[:, 12 + 121 :].any()
  assert dark.any() == bool(caption.strip("\t\n\0 "))
  assert not dark[34 + 6 :].any()


def test_captions_differ_and_keep_both_ends(tmp_path):
  from PIL import ImageFont

  font = ImageFont.load_default(12)
  long = "begin " + "middle " * 30 + "end"
  lines = thumbnails._lines(long, font, 120)
  assert len(lines) == 2 and "…" in "".join(lines)
  assert lines[0].startswith("begin") and lines[1].endswith("end")
  # As much is kept as two lines hold.
  assert sum(font.getlength(line) for line in lines) > 1.5 * 120
  assert thumbnails._lines("a short one", font, 120) == ["a short one"]
  text = "two lines are just enough here"
  lines = thumbnails._lines(text, font, 120)
  assert " ".join(lines) == text and len(lines) == 2
  assert max(font.getlength(line) for line in lines) <= 120
  assert thumbnails._lines("", font, 120) == []


def test_other_alphabets_are_letters(tmp_path):
  """No two letters look alike, as boxes would."""
  looks = set()
  for letter in "aößжя":
    path = tmp_path / "s.png"
    write_sheet(path, [(picture(255, 255, 255), letter)], tile=120)
    looks.add(ink(path).tobytes())
  assert len(looks) == 5


def test_a_failure_leaves_the_old_sheet(tmp_path, monkeypatch):
  path = tmp_path / "s.png"
  write_sheet(path, [(picture(255, 0, 0), "")])
  before = path.read_bytes()
  monkeypatch.setattr(
    thumbnails.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full"))
  )
  with pytest.raises(OSError, match="full"):
    write_sheet(path, [(picture(0, 255, 0), "")])
  assert path.read_bytes() == before


def test_no_items(tmp_path):
  with pytest.raises(BadInput, match="no picture"):
    write_sheet(tmp_path / "s.png", [])
