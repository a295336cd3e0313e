"""Resizes images as PyTorch's `interpolate` with align_corners does."""

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(images_HW: jax.Array, side: int) -> jax.Array:
  """Resizes images bilinearly, corner pixels upon corner pixels.

  `jax.image.resize` aligns the corners of the pixels, not their centres.
  Places are float32 as PyTorch's are: exact ones differ by 1e-5 of a pixel.

  Args:
    images_HW: (..., H, W) float32.
    side: S, the new height and width, at least 2.

  Returns:
    (..., S, S) float32.
  """
  for axis in (-1, -2):  # in the order of PyTorch
    length = images_HW.shape[axis]
    scale = np.float32(length - 1) / np.float32(side - 1)
    place_S = np.arange(side, dtype=np.float32) * scale
    low_S = np.minimum(place_S.astype(np.int32), length - 1)
    high_S = np.minimum(low_S + 1, length - 1)
    weight_S = place_S - low_S.astype(np.float32)
    if axis == -2:
      weight_S = weight_S[:, None]
    images_HW = jnp.take(images_HW, low_S, axis) * (1 - weight_S) + (
      jnp.take(images_HW, high_S, axis) * weight_S
    )
  return images_HW
