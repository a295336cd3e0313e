"""Images of any kind, as pixels of the size that a teacher takes."""

import io
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from mrd_jax.errors import BadInput

AnyImage = Image.Image | np.ndarray | bytes | str | os.PathLike[str]
_Array = TypeVar("_Array", bound=Any)


class Preprocessor:
  """Resizes and crops as Hugging Face's `CLIPImageProcessor` does.

  Pixels stay uint8; `normalize`, elementwise, is left to the device.

  Attributes:
    side: S, in pixels.
    scale: Factor of the pixels before they are normalised.
    mean: (3,) float32.
    std: (3,) float32.
  """

  def __init__(self, config: Path, side: int):
    """Reads the processor's config.

    Args:
      config: `preprocessor_config.json`, or the `processor_config.json` that
        newer versions write.
      side: What the model takes.

    Raises:
      BadInput: if the file is unusable, or makes images of another size.
    """
    # The one that needs neither torchvision nor PyTorch.
    from transformers import CLIPImageProcessorPil

    self.side = side
    try:
      self._processor = CLIPImageProcessorPil.from_pretrained(config.parent)
      made = self(Image.new("RGB", (side, 2 * side)))
      mean_std = [[0.0] * 3, [1.0] * 3]
      if self._processor.do_normalize:
        mean_std = [self._processor.image_mean, self._processor.image_std]
      self.mean, self.std = np.array(mean_std, np.float32).reshape(2, 3)
      self.scale = 1.0
      if self._processor.do_rescale:
        self.scale = float(self._processor.rescale_factor)
    except Exception as error:  # the library's checks have types of their own
      words = " ".join(str(error).split())
      raise BadInput(f"{config} cannot be used: {words}") from error
    if not (np.isfinite(self.mean).all() and (self.std > 0).all()):
      raise BadInput(
        f"{config}: image_mean {self.mean} and image_std {self.std} must be "
        "numbers, the second above 0"
      )
    if made.shape != (3, side, side):
      raise BadInput(
        f"{config} makes images of shape {made.shape}, the config.json beside "
        f"it says image_size {side}: the two files do not belong together"
      )

  def __call__(self, image: AnyImage) -> np.ndarray:
    """One image as the model takes it, before it is normalised.

    Args:
      image: See `to_rgb`.

    Returns:
      (3, S, S) uint8.

    Raises:
      BadInput: if it is no image; a path is named.
    """
    made = self._processor(
      to_rgb(image), do_rescale=False, do_normalize=False, return_tensors="np"
    )
    return made["pixel_values"][0]


def normalize(
  pixels: _Array, scale: float, mean: np.ndarray, std: np.ndarray
) -> _Array:
  """(..., 3, S, S) uint8 -> float32 `pixel_values`, of numpy or of jax."""
  pixels = pixels.astype(np.float32) * np.float32(scale)
  return (pixels - mean[:, None, None]) / std[:, None, None]


def to_rgb(image: AnyImage) -> Image.Image:
  """Any image as 8-bit RGB.

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
      if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2]
        not in (
          3,
          4,
        )
      ):
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
