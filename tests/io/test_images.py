"""Decodes pictures of any kind; refuses what would fill the memory."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from bounds import bounded
from clips import encoded
from meshes import CORNERS
from PIL import Image

from mrd_jax.errors import BadInput
from mrd_jax.io import images
from mrd_jax.io.images import encode_png, to_rgb


def test_transparency_is_white():
  alpha = np.zeros((4, 6, 4), np.uint8)
  alpha[..., 0] = 200
  alpha[:, 2:4, 3] = 102
  alpha[:, 4:, 3] = 255
  expected = np.full((4, 6, 3), 255, np.uint8)
  expected[:, 2:4] = (233, 153, 153)
  expected[:, 4:] = (200, 0, 0)
  image = Image.fromarray(alpha)
  for form in (alpha, image, encoded(image, "PNG")):
    np.testing.assert_array_equal(to_rgb(form), expected)

  grey = Image.merge("LA", [image.getchannel("R"), image.getchannel("A")])
  assert np.asarray(to_rgb(grey))[0].tolist() == (
    [[255] * 3] * 2 + [[233] * 3] * 2 + [[200] * 3] * 2
  )
  palette = Image.new("P", (2, 1))
  palette.putpalette([9, 8, 7, 30, 20, 10])
  palette.putpixel((1, 0), 1)
  assert np.asarray(to_rgb(palette)).tolist() == [[[9, 8, 7], [30, 20, 10]]]
  keyed = encoded(palette, "PNG", transparency=0)
  assert np.asarray(to_rgb(keyed)).tolist() == [[[255] * 3, [30, 20, 10]]]


def test_other_modes_and_rotation():
  grey = np.array([[0, 257 * 9, 51200, 65535]], np.uint16)
  expected = [[[0] * 3, [9] * 3, [199] * 3, [255] * 3]]
  image = Image.fromarray(grey)
  for form in (image, encoded(image, "PNG"), image.convert("I")):
    assert np.asarray(to_rgb(form)).tolist() == expected
  small = Image.fromarray((grey // 257).astype(np.uint8))
  assert np.asarray(to_rgb(small)).tolist() == expected
  turned = Image.new("RGB", (4, 2))
  exif = turned.getexif()
  exif[0x0112] = 6  # the camera was held upright
  assert to_rgb(encoded(turned, "JPEG", exif=exif)).size == (2, 4)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


def test_no_picture_starts_a_program(tmp_path, monkeypatch):
  """Pillow hands PostScript to Ghostscript, whatever the file is called."""
  started = []
  monkeypatch.setattr(
    "PIL.EpsImagePlugin.Ghostscript",
    lambda *_: started.append(1) or Image.core.new("RGB", (9, 9)),  # type: ignore
  )
  path = tmp_path / "cat.png"
  path.write_bytes(POSTSCRIPT)
  pictures: list[Any] = [path, str(path), POSTSCRIPT, bytearray(POSTSCRIPT)]
  for picture in pictures:
    with pytest.raises(BadInput, match="cannot be read .*not a PNG, JPEG or"):
      to_rgb(picture)
  with pytest.raises(OSError, match="cannot be read as an image"):
    images.decode_texture(POSTSCRIPT, alpha=False)
  assert not started
  with Image.open(path) as picture:
    picture.load()  # it would have worked
  assert started


def test_other_formats_are_not_opened():
  """Pillow knows 40; a stranger's file gets no further than ours."""
  for kind in ("PPM", "ICO", "PCX", "SGI"):
    with pytest.raises(BadInput, match="cannot be read"):
      to_rgb(encoded(Image.new("RGB", (16, 16)), kind))
  for kind in ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "GIF"):
    assert to_rgb(encoded(Image.new("RGB", (16, 8)), kind)).size == (16, 8)


@pytest.mark.parametrize(
  ("kind", "side", "options"),
  [
    ("PNG", 6000, {}),
    ("PNG", 20_000, {}),
    ("WEBP", 4200, {"quality": 1, "method": 0}),
    ("JPEG", 5200, {"progressive": True, "subsampling": 0}),
  ],
)
def test_pictures_too_large_are_refused(kind, side, options, tmp_path):
  path = tmp_path / "huge"
  if kind == "PNG":
    path.write_bytes(empty_png(side))
  else:
    Image.new("RGB", (side, side)).save(path, kind, **options)
  with (
    bounded(path),
    pytest.raises(
      BadInput,
      match=r"huge of .* pixels is larger than 256 MB can decode: reduce",
    ),
  ):
    to_rgb(path)


def test_a_progressive_picture_of_many_scans(tmp_path):
  """Each takes a few bytes, and as much time as all pixels."""
  good = encoded(Image.new("RGB", (64, 64), "red"), "JPEG", progressive=True)
  assert to_rgb(good).size == (64, 64)
  scan, end = good[good.rindex(b"\xff\xda") : -2], good[-2:]
  path = tmp_path / "slow.jpg"
  path.write_bytes(good[:-2] + scan * 100 + end)
  with pytest.raises(BadInput, match=r"slow\.jpg has more than 100 scans"):
    to_rgb(path)
  with pytest.raises(BadInput, match="a texture has more than 100 scans"):
    images.decode_texture(path.read_bytes(), alpha=False)


def test_large_photographs_are_halved(tmp_path):
  """A telephone's 50 million pixels are a JPEG, which can be."""
  path = tmp_path / "photo.jpg"
  Image.new("RGB", (8160, 6120), (200, 30, 60)).save(path, quality=50)
  with bounded(path):
    found = to_rgb(path)
    assert found.size == (4080, 3060)
  np.testing.assert_allclose(np.asarray(found)[9, 9], (200, 30, 60), atol=4)


def empty_png(side):
  def chunk(kind, body):
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc

  head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")


@pytest.mark.parametrize("side", [9000, 60_000])
def test_textures_too_large_are_refused(side):
  """Before they are decoded, whatever Pillow's own limit is."""
  bomb = empty_png(side)
  with pytest.raises(BadInput, match=r"a texture of .* is larger than"):
    images.decode_texture(bomb, alpha=False)


def test_large_textures_are_reduced(monkeypatch):
  monkeypatch.setattr(images, "MAX_SIDE", 4)
  big = np.kron(CORNERS, np.ones((5, 8, 1), np.uint8))
  found = images.decode_texture(encode_png(big), alpha=False)
  assert found.shape == (2, 4, 3)
  np.testing.assert_array_equal(found[:, ::2], CORNERS)
  # Where alpha is not asked for, the colour below it counts in full.
  clear = np.dstack([big, np.zeros(big.shape[:2], np.uint8)])
  found = images.decode_texture(encode_png(clear), alpha=False)
  np.testing.assert_array_equal(found[:, ::2], CORNERS)


def test_images_of_other_modes():
  grey = images.decode_texture(
    encode_png(np.array([[7, 200]], np.uint8)), alpha=True
  )
  np.testing.assert_array_equal(grey, [[[7, 7, 7, 255], [200, 200, 200, 255]]])
  deep = np.array([[0x1234, 0xFFFF]], np.uint16)
  found = images.decode_texture(encode_png(deep), alpha=False)
  np.testing.assert_array_equal(found[0, :, 0], [0x12, 0xFF])
  palette = encoded(Image.fromarray(CORNERS).convert("P"), "PNG")
  found = images.decode_texture(palette, alpha=False)
  np.testing.assert_array_equal(found, CORNERS)
  with pytest.raises(OSError, match="cannot be read as an image"):
    images.decode_texture(b"%!PS-Adobe-3.0 EPSF-3.0\n", alpha=False)
