"""Embeds clouds by images of them: what the view systems have in common.

clouds -> views (of the system) -> CLIP's image tower -> the weighted sum of
the views' unit embeddings.  A sum over views of w_v cos(e_v, t) is the product
of that one vector with a unit text t, so that it is scored as any other.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.models.clip import Dense, ImageTower, ImageTowerSize
from mrd_jax.models.clip_resnet import CLIPResNet, ResNetSize

_LARGEST = float(np.finfo(np.float32).max)


class ViewEncoder(nn.Module):
  """An image tower that embeds several views of each shape as one vector.

  With a transformer its variables are a part of `clip.CLIP`'s, "vision" and
  "visual_projection", so that a teacher's serve too.

  Attributes:
    tower: The image tower.
    dtype: See `clip.CLIP` and `CLIPResNet`.
  """

  tower: ImageTowerSize | ResNetSize
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, pixels_BVCHW: jax.Array, weights_V: jax.Array
  ) -> jax.Array:
    """Embeds shapes.

    Args:
      pixels_BVCHW: (B, V, 3, S, S), as the tower takes images.
      weights_V: (V,) of the views.

    Returns:
      (B, D) float32, sum_v w_v e_v / |e_v|, not of unit length.
    """
    size = self.tower
    batch, views = pixels_BVCHW.shape[:2]
    sides = (size.image_size, size.image_size)
    chex.assert_shape(pixels_BVCHW, (batch, views, 3, *sides))
    chex.assert_shape(weights_V, (views,))
    x = pixels_BVCHW.reshape(-1, 3, *sides)
    if isinstance(size, ResNetSize):
      x_MD = CLIPResNet(size, self.dtype, name="vision")(x)
    else:
      x_MD = ImageTower(size, "xla", self.dtype, name="vision")(x)
      x_MD = Dense(size.embed_dim, self.dtype, False, name="visual_projection")(
        x_MD
      )
    x_MD /= jnp.linalg.norm(x_MD, axis=-1, keepdims=True)
    x_BVD = x_MD.reshape(batch, views, -1)
    return (x_BVD * weights_V[:, None]).sum(axis=1)


def turn(points_N3: jax.Array, rotations_V33: np.ndarray) -> jax.Array:
  """Turns a cloud into each of V views, (V, N, 3): p R.

  Summed one by one instead of by a matrix product, whose order of sums may
  change with the batch and the device: a point on the edge of a pixel would
  fall to its one side or the other.
  """
  x, y, z = (
    rounded(points_N3[:, i, None] * rotations_V33[:, None, i]) for i in range(3)
  )
  return x + y + z


def rounded(product: jax.Array) -> jax.Array:
  """Keeps a product from being fused with the sum that it goes into.

  A fused multiply-add does not round the product, but PyTorch does, and pixels
  shall be the same.  XLA fuses across an `optimization_barrier`, but a limit
  that no finite number reaches stands between the two.
  """
  return jnp.clip(product, -_LARGEST, _LARGEST)


def divide(x: jax.Array, by: jax.Array | float) -> jax.Array:
  """Divides by one number; XLA would multiply with its rounded reciprocal.

  It does not know that 0 x is 0: x might be infinite.
  """
  return x / (by + 0 * x)
