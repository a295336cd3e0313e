"""Prepares images for a teacher: pixels of the size that it takes."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.images import AnyImage, to_rgb

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
      made = self(np.zeros((2 * side, side, 3), np.uint8))
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
  """Normalises (..., 3, S, S) uint8 to float32, of numpy or of jax."""
  pixels = pixels.astype(np.float32) * np.float32(scale)
  return (pixels - mean[:, None, None]) / std[:, None, None]
