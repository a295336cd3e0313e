"""Decodes and encodes pictures: the one place that knows Pillow."""

import io
import os

import numpy as np
from PIL import Image, ImageOps

from mrd_jax.errors import BadInput

AnyImage = Image.Image | np.ndarray | bytes | str | os.PathLike[str]
MAX_SIDE = 1024  # larger textures are reduced: finer than samples and pixels
MAX_PIXELS = 2**26  # 8192 x 8192
# Of a mesh's textures; not those that start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "GIF", "DDS")


def to_rgb(image: AnyImage) -> Image.Image:
  """Converts any image to 8-bit RGB.

  Args:
    image: Of PIL, an array (H, W, 3 or 4) uint8, the bytes of a PNG, JPEG or
      WebP file, or the path of one.  What is transparent is laid over white; a
      file's EXIF orientation is followed, as Hugging Face's reader does.

  Raises:
    BadInput: if it is no image; a path is named.
  """
  name = "image"
  try:
    if isinstance(image, np.ndarray):
      is_rgb = image.ndim == 3 and image.shape[2] in (3, 4)
      if image.dtype != np.uint8 or not is_rgb:
        raise BadInput(
          f"array is {image.dtype} {image.shape}, must be uint8 (H, W, 3 or 4)"
        )
      opened = Image.fromarray(image)
    elif isinstance(image, Image.Image):
      opened = image
    elif isinstance(image, bytes | bytearray | memoryview):
      opened = ImageOps.exif_transpose(Image.open(io.BytesIO(image)))
    elif isinstance(image, str | os.PathLike):
      name = os.fspath(image)
      with Image.open(image) as file:
        opened = ImageOps.exif_transpose(file)
    else:
      raise BadInput(
        f"{type(image).__name__} is no image: give one of PIL, an array "
        "(H, W, 3) uint8, the bytes of a file, or its path"
      )
    if 0 in opened.size:
      raise BadInput(f"{name} has no pixels")
    if opened.mode in ("I", "I;16", "I;16B", "I;16L"):  # grey, 16 bits
      grey = np.asarray(opened).astype(np.int64)
      if grey.min() < 0 or grey.max() > 65535:
        raise BadInput(f"{name} has grey values beyond 16 bits")
      return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if opened.mode == "F":
      raise BadInput(f"{name} has float pixels; save it with 8 bits")
    if opened.has_transparency_data:
      opened = opened.convert("RGBA")
      white = Image.new("RGBA", opened.size, "white")
      opened = Image.alpha_composite(white, opened)
    return opened.convert("RGB")
  except BadInput:
    raise
  except Exception as error:  # a damaged file can raise anything at all
    raise BadInput(
      f"{name} cannot be read ({type(error).__name__}: {error}); it is damaged "
      "or not a PNG, JPEG or WebP file"
    ) from error


def decode_texture(data: bytes, *, alpha: bool) -> np.ndarray:
  """Decodes a mesh's image, reduced to sides of at most `MAX_SIDE`.

  Args:
    data: An image file.
    alpha: Whether to keep its alpha, 1 where it has none.

  Returns:
    (H, W, 4) uint8 with alpha, (H, W, 3) without.

  Raises:
    BadInput: if it has more than `MAX_PIXELS`.
    OSError: in words, if it is damaged or of an unknown kind.
  """
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      width, height = image.size
      if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height}")
      # A JPEG is decoded at a fraction of its size, which is faster.
      image.draft(None, (MAX_SIDE, MAX_SIDE))
      if image.mode.startswith("I"):  # 16 bits; Pillow would clip them
        pixels = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(pixels.clip(max=255).astype(np.uint8))
      image = image.convert("RGBA" if alpha else "RGB")
      scale = MAX_SIDE / max(image.size)
      if scale < 1:
        size = [max(1, round(side * scale)) for side in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.BOX)
      return np.array(image)
  except BadInput:
    raise
  except Image.DecompressionBombError:
    raise _too_large("far more") from None
  except Exception as error:  # Pillow has many for damaged files
    reason = str(error).partition("\n")[0]
    raise OSError(
      f"cannot be read as an image ({type(error).__name__}: {reason})"
    ) from None


def _too_large(size: str) -> BadInput:
  return BadInput(
    f"a texture of {size} pixels is larger than {MAX_PIXELS:,}: reduce it"
  )


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes (H, W, 3) uint8 pixels as a PNG file, quickly."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG", compress_level=1)
  return file.getvalue()
