"""CLIP2Point: depth maps of a cloud for an image tower trained on such.

Huang et al. (ICCV 2023).  OpenAI's ViT-B/32, whose image tower was trained on
depth maps beside the text tower that stayed; PyTorch3D's rasteriser of points.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.models.clip import ImageTowerSize
from mrd_jax.models.view_system import ViewEncoder, rounded, turn
from mrd_jax.zoo import openai_clip, prompts
from mrd_jax.zoo.system import Page, Preparation, Release, Texts, figures
from mrd_jax.zoo.tensors import Row

NAME = "CLIP2Point"

UNSAID = ("views",)

# Elevation and azimuth in degrees, by the number of views.
_CAMERAS = {
  10: (
    (0, 90, 180, 270, 225, 225, 315, 315, 0, 0),
    (0, 0, 0, 0, -45, 45, -45, 45, -90, 90),
  ),
  6: ((0, 0, 0, 0, 90, -90), (0, 90, 180, 270, 0, 180)),
}
_SIDE = 224  # pixels, of 2 units
_RADIUS = 0.02  # of a point
# Where pixels have their centres: y of rows and x of columns, both falling.
_CENTER_S = (
  (2 * np.arange(_SIDE, dtype=np.float32) + 1) / np.float32(_SIDE) - 1
)[::-1]
_REACH = 5  # pixels in a row that can be within the radius


def _unit(x_V3: np.ndarray) -> np.ndarray:
  return x_V3 / np.sqrt((x_V3 * x_V3).sum(axis=-1, keepdims=True))


def _rotations(
  elevation_V: tuple[int, ...], azimuth_V: tuple[int, ...]
) -> np.ndarray:
  """Makes the rotations of cameras that look at the origin, (V, 3, 3).

  At the top and the bottom "up" and the line of sight are parallel but for the
  rounding of cos 90 degrees, whose sign says which side is left: all is in
  float32, as it is for the authors.
  """
  degree = np.float32(np.pi / 180)
  angles_2V = degree * np.array([elevation_V, azimuth_V], np.float32)
  sine_2V = np.sin(angles_2V, dtype=np.float64).astype(np.float32)
  cosine_2V = np.cos(angles_2V, dtype=np.float64).astype(np.float32)
  camera_V3 = np.stack(
    [cosine_2V[0] * sine_2V[1], sine_2V[0], cosine_2V[0] * cosine_2V[1]], -1
  )
  z_V3 = _unit(-camera_V3)
  x_V3 = _unit(np.cross(np.array([0, 1, 0], np.float32), z_V3))
  y_V3 = _unit(np.cross(z_V3, x_V3))
  return np.stack([x_V3, y_V3, z_V3], axis=-1)


_ROTATIONS = {views: _rotations(*angles) for views, angles in _CAMERAS.items()}


def depth_maps(
  points_N3: jax.Array, views: int = 10, num_points: jax.Array | None = None
) -> jax.Array:
  """Draws the depth maps of a cloud.

  Args:
    points_N3: (N, 3) float32, y up, mean at the origin, within radius 1.
    views: 10, of pre-training, or 6, which zero-shot takes by default.
    num_points: () int32, how many leading points exist; None: all.

  Returns:
    (views, 224, 224) float32: distance of the nearest point, from a camera at
    distance 1 of the origin, that is less than 0.02 beside the pixel's centre;
    -1 where there is none.

  Raises:
    ValueError: for another number of views.
  """
  if views not in _ROTATIONS:
    raise ValueError(f"views is {views}, must be 10 or 6")
  exists_N = jnp.arange(len(points_N3)) < (
    len(points_N3) if num_points is None else num_points
  )
  views_VN3 = turn(points_N3, _ROTATIONS[views])
  return jax.vmap(_nearest, (0, None))(views_VN3, exists_N)


def _nearest(view_N3: jax.Array, exists_N: jax.Array) -> jax.Array:
  """Draws one view, (224, 224)."""
  depth_N = view_N3[:, 2] + 1
  # The first pixel of a row, and of a column, that a point may reach, a little
  # farther than it does; beyond the border the last one again.
  place_N2 = (1 - view_N3[:, :2]) * (_SIDE / 2) - 0.5
  first_N2 = jnp.ceil(place_N2 - 1.001 * _RADIUS * _SIDE / 2).astype(int)
  pixel_N2K = jnp.clip(first_N2[:, :, None] + jnp.arange(_REACH), 0, _SIDE - 1)
  offset_N2K = jnp.asarray(_CENTER_S)[pixel_N2K] - view_N3[:, :2, None]
  square_N2K = rounded(offset_N2K**2)
  square_NRC = square_N2K[:, 1, :, None] + square_N2K[:, 0, None, :]
  near_NRC = square_NRC < np.float32(_RADIUS) ** 2
  near_NRC &= (exists_N & (depth_N >= 0))[:, None, None]
  image_HW = jnp.full((_SIDE, _SIDE), jnp.inf)
  image_HW = image_HW.at[
    pixel_N2K[:, 1, :, None], pixel_N2K[:, 0, None, :]
  ].min(jnp.where(near_NRC, depth_N[:, None, None], jnp.inf))
  return jnp.where(jnp.isinf(image_HW), -1, image_HW)


def _to_pixels(depth_VHW: jax.Array) -> jax.Array:
  """Turns depth maps into what the tower takes, (V, 3, 224, 224)."""
  hit_VHW = depth_VHW > 0
  farthest_V11 = depth_VHW.max(axis=(1, 2), keepdims=True)
  nearest_V11 = jnp.where(hit_VHW, depth_VHW, 1).min((1, 2), keepdims=True)
  grey_VHW = (depth_VHW - nearest_V11) / farthest_V11 * 200 / 255
  grey_VHW = jnp.where(hit_VHW, grey_VHW, 1)
  mean, std = (x[:, None, None] for x in (openai_clip.MEAN, openai_clip.STD))
  return (grey_VHW[:, None] - mean) / std


@dataclasses.dataclass(frozen=True)
class Size:
  """The system.

  Attributes:
    tower: The image tower.
    views: 6, the default of zero-shot, or 10.
    prefix: Of the tensors' names: "point_model." in the file of pre-training,
      empty in the tower's own state dict, "visual." in a whole CLIP's.
  """

  tower: ImageTowerSize
  views: int = 6
  prefix: str = dataclasses.field(default="", compare=False)

  @property
  def embed_dim(self) -> int:
    """D, width of the tower's embedding space."""
    return self.tower.embed_dim


RELEASES = {
  "clip2point": Release(
    Size(openai_clip.VIT_B_32, prefix="point_model."),
    87_849_216,
    Page("https://github.com/tyhuang0428/CLIP2Point", "best_eval.pth"),
    None,
    Texts(("image of a {}",), prompts.VIT_B_32, raw_names=False),
    ("CLIP2Point", "ShapeNet"),
    "CLIP2Point's paper",
    figures(
      modelnet40=(49.38,), modelnet10=(66.63,), scanobjectnn_theirs=(35.46,)
    ),
    differs="its authors draw 1,024 points of ModelNet40 of their own, of "
    "z-up files, which they turn so that (x, y, z) is (-y, z, -x)",
  )
}


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the size of a state dict; None if it is another system's."""
  prefixes = ["point_model.", ""]
  if all(key.startswith(("visual.", *openai_clip.TEXTS)) for key in state):
    prefixes.append("visual.")
  for prefix in prefixes:
    tower = openai_clip.image_size(state, prefix)
    if isinstance(tower, ImageTowerSize) and tower.image_size == _SIDE:
      return Size(tower, prefix=prefix)
  return None


def table(size: Size) -> list[Row]:
  """Lists the names of all tensors."""
  return openai_clip.image_table(size.tower, size.prefix, "views/")


def preparation(size: Size) -> Preparation:
  """Says how the system takes a cloud."""
  del size
  # Of the z-up ModelNet40 it reads (x, y, z) as (-y, z, -x).
  return Preparation(1024)


def teacher(size: Size) -> str:
  """Names the embedding space, by its teacher."""
  del size
  return "OpenAI CLIP ViT-B/32"


def is_unused(key: str) -> bool:
  """Says whether a tensor serves pre-training only, or a CLIP's texts."""
  of_training = "image_model.", "selector."
  return key == "weights" or key.startswith((*of_training, *openai_clip.TEXTS))


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """Makes the encoder of a size."""
  return CLIP2Point(size, dtype)


class CLIP2Point(nn.Module):
  """The encoder: depth maps, their image tower, the sum over views.

  Attributes:
    size: The system.
    dtype: Compute type of the tower.
  """

  size: Size
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, points_BN6: jax.Array, num_points_B: jax.Array, train: bool = False
  ) -> jax.Array:
    """Embeds a batch of clouds.

    Args:
      points_BN6: (B, N, 6) float32, xyz as `depth_maps` takes it; the rest is
        not looked at.
      num_points_B: (B,) int32, how many leading points of a cloud exist.
      train: Is ignored: nothing here depends on it.

    Returns:
      (B, D) float32, the sum of the views' unit embeddings, not of unit length.
    """
    del train
    views = self.size.views
    pixels_BVCHW = jax.vmap(
      lambda points_N6, num_points: _to_pixels(
        depth_maps(points_N6[:, :3], views, num_points)
      )
    )(points_BN6, num_points_B)
    encoder = ViewEncoder(self.size.tower, self.dtype, name="views")
    return encoder(pixels_BVCHW, jnp.ones(views))
