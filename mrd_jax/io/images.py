"""Decodes and encodes pictures: the one place that knows Pillow."""

import contextlib
import io
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mrd_jax.errors import BadInput

AnyImage = Image.Image | np.ndarray | bytes | str | os.PathLike[str]
MAX_SIDE = 1024  # larger textures are reduced: finer than samples and pixels
_MEMORY = 2**28  # bytes that decoding may take: 8192 x 8192 pixels of a PNG
_SCANS = 100  # of a progressive JPEG; programs write ten
_STRIP = 2**21  # pixels that are converted at a time
# What is read, and how many bytes a pixel takes while it is decoded.  Pillow
# knows more formats, of which some start other programs.
_FORMATS = {
  "PNG": 4,
  "JPEG": 4,
  "WEBP": 16,
  "BMP": 4,
  "TGA": 4,
  "TIFF": 8,
  "GIF": 4,
  "DDS": 4,
}


def to_rgb(image: AnyImage) -> Image.Image:
  """Converts any image to 8-bit RGB.

  Args:
    image: Of PIL, an array (H, W, 3 or 4) uint8, the bytes of a PNG, JPEG,
      WebP, BMP, TGA, TIFF, GIF or DDS file, or the path of one.  What is
      transparent is laid over white; a file's EXIF orientation is followed, as
      Hugging Face's reader does.

  Raises:
    BadInput: if it is no image, or too large; a path is named.
  """
  name = "image"
  try:
    if isinstance(image, np.ndarray):
      is_rgb = image.ndim == 3 and image.shape[2] in (3, 4)
      if image.dtype != np.uint8 or not is_rgb:
        raise BadInput(
          f"array is {image.dtype} {image.shape}, must be uint8 (H, W, 3 or 4)"
        )
      return _flatten(Image.fromarray(image), name)
    if isinstance(image, Image.Image):
      return _flatten(image, name)
    if isinstance(image, bytes | bytearray | memoryview):
      file: Any = io.BytesIO(image)
    elif isinstance(image, str | os.PathLike):
      file, name = image, os.fspath(image)
    else:
      raise BadInput(
        f"{type(image).__name__} is no image: give one of PIL, an array "
        "(H, W, 3) uint8, the bytes of a file, or its path"
      )
    with _opened(file, name, copies=2) as opened:
      ImageOps.exif_transpose(opened, in_place=True)
      return _flatten(opened, name)
  except BadInput:
    raise
  except Exception as error:  # a damaged file can raise anything at all
    raise BadInput(
      f"{name} cannot be read ({type(error).__name__}: {error}); it is damaged "
      "or not a PNG, JPEG or WebP file"
    ) from error


@contextlib.contextmanager
def _opened(
  file: Any, what: str, *, copies: int, side: int | None = None
) -> Iterator[Image.Image]:
  """Opens a picture of `_FORMATS` that can be decoded within `_MEMORY`.

  Args:
    file: Its path, or a file object.
    what: What messages call it.
    copies: How many times its pixels are held in the end.
    side: To which a JPEG may be reduced, which is faster; without it one is
      only halved, and only if it would be too large otherwise.

  Raises:
    BadInput: if it has too many pixels; not one was decoded.
    Exception: of other kinds, if it is damaged or of an unknown kind.
  """
  too_large = f"is larger than {_MEMORY >> 20} MB can decode: reduce it"
  try:
    image = Image.open(file, formats=tuple(_FORMATS))
  except (Image.DecompressionBombError, Image.DecompressionBombWarning):
    raise BadInput(f"{what} of far more pixels {too_large}") from None
  except UnidentifiedImageError:
    kinds = ", ".join(_FORMATS)
    raise UnidentifiedImageError(f"it is none of {kinds}") from None
  with image:
    width, height = image.size
    taken = max(_FORMATS[image.format or ""], 4 * copies)
    coefficients = 0  # bytes a pixel, held until the file's last is read
    if image.info.get("progressive"):  # of a JPEG: every channel at its size
      sizes = [h * v for _, h, v, _ in image.layer]  # type: ignore
      coefficients = 2 * sum(sizes) / max(sizes)
      # A scan of a few bytes goes over all of them.
      image.fp.seek(0)  # type: ignore
      if image.fp.read().count(b"\xff\xda") > _SCANS:  # type: ignore
        raise BadInput(f"{what} has more than {_SCANS} scans: save it anew")
    if side:
      image.draft(None, (side, side))
    elif taken * width * height > _MEMORY:
      image.draft(None, (width // 2, height // 2))
    needed = coefficients * width * height + taken * image.width * image.height
    if max(needed, 4 * width * height) > _MEMORY:
      raise BadInput(f"{what} of {width} x {height} pixels {too_large}")
    yield image


def _flatten(image: Image.Image, name: str) -> Image.Image:
  """Makes RGB of any mode, over white."""
  if 0 in image.size:
    raise BadInput(f"{name} has no pixels")
  if image.mode == "F":
    raise BadInput(f"{name} has float pixels; save it with 8 bits")
  flat = Image.new("RGB", image.size)
  rows = max(1, _STRIP // image.width)  # at a time, to spare memory
  for top in range(0, image.height, rows):
    bottom = min(top + rows, image.height)
    strip = image.crop((0, top, image.width, bottom))
    if strip.mode in ("I", "I;16", "I;16B", "I;16L"):  # grey, 16 bits
      grey = np.asarray(strip).astype(np.int64)
      if grey.min() < 0 or grey.max() > 65535:
        raise BadInput(f"{name} has grey values beyond 16 bits")
      strip = Image.fromarray((grey // 257).astype(np.uint8))
    elif strip.has_transparency_data:
      white = Image.new("RGBA", strip.size, "white")
      strip = Image.alpha_composite(white, strip.convert("RGBA"))
    flat.paste(strip.convert("RGB"), (0, top))
  return flat


def decode_texture(
  data: bytes, *, alpha: bool, side: int | None = None
) -> np.ndarray:
  """Decodes a mesh's image, reduced to sides of at most `MAX_SIDE`.

  Args:
    data: An image file.
    alpha: Whether to keep its alpha, 1 where it has none.
    side: Another size of the largest side.

  Returns:
    (H, W, 4) uint8 with alpha, (H, W, 3) without.

  Raises:
    BadInput: if it has too many pixels.
    OSError: in words, if it is damaged or of an unknown kind.
  """
  try:
    texture, side = io.BytesIO(data), side or MAX_SIDE
    with _opened(texture, "a texture", copies=1, side=side) as image:
      return _reduce(image, "RGBA" if alpha else "RGB", side)
  except BadInput:
    raise
  except Exception as error:  # Pillow has many for damaged files
    reason = str(error).partition("\n")[0]
    raise OSError(
      f"cannot be read as an image ({type(error).__name__}: {reason})"
    ) from None


def _reduce(image: Image.Image, mode: str, side: int) -> np.ndarray:
  """Averages an image to sides of at most `side`, strip by strip."""
  scale = max(1, max(image.size) / side)
  width, height = (max(1, round(length / scale)) for length in image.size)
  if image.mode == mode == "RGB":  # needs no copies
    return np.array(image.resize((width, height), Image.Resampling.BOX))
  high = image.height / height  # rows of the file in one that is left
  rows = max(1, int(_STRIP / image.width / high))
  reduced = []
  for first in range(0, height, rows):
    count = min(rows, height - first)
    above, below = first * high, (first + count) * high
    top = int(above)
    strip = image.crop((0, top, image.width, math.ceil(below)))
    if strip.mode.startswith("I"):  # 16 bits; Pillow would clip them
      pixels = np.asarray(strip).astype(np.uint32) >> 8
      strip = Image.fromarray(pixels.clip(max=255).astype(np.uint8))
    strip = strip.convert(mode)
    if scale > 1:
      box = (0, above - top, image.width, min(below - top, strip.height))
      strip = strip.resize((width, count), Image.Resampling.BOX, box=box)
    reduced.append(np.array(strip))
  return np.concatenate(reduced)


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes (H, W, 3) uint8 pixels as a PNG file, quickly."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG", compress_level=1)
  return file.getvalue()
