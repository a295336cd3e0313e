"""Files that a mesh refers to: found only in its folder, decoded with care.

A mesh file is untrusted input.  What it names is read from beside it or not at
all, and an image is refused before it can fill the memory.
"""

import base64
import binascii
import io
import re
import urllib.parse
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput

MAX_SIDE = 1024  # larger textures are reduced: finer than samples and pixels
MAX_PIXELS = 2**26  # 8192 x 8192
# Not those that start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "GIF", "DDS")


def read_reference(
  folder: Path, reference: str, *, escaped: bool = False
) -> bytes:
  """Reads what a mesh file in `folder` refers to: a file, or data in itself.

  Of an absolute path, as many programs write it, a file of that name beside
  the mesh is taken.

  Args:
    folder: Where the mesh lies.
    reference: A relative path, or a data: URI.
    escaped: Whether it is a URI, in which %20 is a blank.

  Raises:
    OSError: in words, if it lies outside of the folder or is not there.
  """
  if reference.startswith("data:"):
    kind, _, body = reference.partition(",")
    if not kind.endswith(";base64"):
      return urllib.parse.unquote_to_bytes(body)
    try:
      return base64.b64decode(body, validate=True)
    except binascii.Error as error:
      raise OSError(f"the data: URI is damaged ({error})") from None
  name = urllib.parse.unquote(reference) if escaped else reference
  name = name.replace("\\", "/")
  if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:", name):
    raise OSError(f"{reference!r} is not a file beside the mesh, put it there")
  if re.match(r"/|[a-zA-Z]:", name):
    name = name.rpartition("/")[2]
  root = folder.resolve()
  path = (root / name).resolve()
  if not path.is_relative_to(root):
    raise OSError(
      f"{reference!r} lies outside of the mesh's folder, put it beside the mesh"
    )
  if not path.is_file():
    raise OSError(f"{reference!r} is missing beside the mesh")
  return path.read_bytes()


def decode_texture(data: bytes, *, alpha: bool) -> np.ndarray:
  """Decodes an image, reduced to sides of at most `MAX_SIDE`.

  Args:
    data: An image file.
    alpha: Whether to keep its alpha, 1 where it has none.

  Returns:
    (H, W, 4) uint8 with alpha, (H, W, 3) without.

  Raises:
    BadInput: if it has more than `MAX_PIXELS`.
    OSError: in words, if it is damaged or of an unknown kind.
  """
  from PIL import Image

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
