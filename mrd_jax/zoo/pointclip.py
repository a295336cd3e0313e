"""PointCLIP and PointCLIP V2: depth maps of a cloud for a CLIP of images.

Zhang et al. (CVPR 2022) and Zhu et al. (ICCV 2023).  Neither trains anything
for zero-shot: the file is CLIP's own.  V2's prompts, one sentence a class, and
its view weights were searched on the labels of the test sets: its published
figures are tuned on test.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.plain_values import read_items
from mrd_jax.models.clip import ImageTowerSize
from mrd_jax.models.clip_resnet import ResNetSize
from mrd_jax.models.resize import resize_bilinear
from mrd_jax.models.view_system import ViewEncoder, divide, rounded, turn
from mrd_jax.zoo import openai_clip
from mrd_jax.zoo.system import Hub, Preparation, Release, Texts, figures
from mrd_jax.zoo.tensors import Row

NAME = "PointCLIP"

UNSAID = ("version", "view_weights")

_AXES = [(0, 0, 90), (90, 0, 90), (180, 0, 90), (270, 0, 90)]
_ENDS = [(0, -90, 90), (0, 90, 90)]
_DIAGONALS = [(45, 0, 90), (135, 0, 90), (225, 0, 90), (315, 0, 90)]
_SIDE_1, _SIDE_2 = 128, 112  # pixels
_SLICES = 8  # of V2's grid


def _rotations(degrees: list[tuple[int, int, int]]) -> np.ndarray:
  """Makes rotations (Rx Ry Rz)', (V, 3, 3) float32.

  The cosine of a right angle is not 0 but that of the nearest float32: a point
  on an edge between pixels falls where it does for the authors.
  """
  angles_V3 = np.deg2rad(degrees).astype(np.float32)
  sine_V3 = np.sin(angles_V3, dtype=np.float64).astype(np.float32)
  cosine_V3 = np.cos(angles_V3, dtype=np.float64).astype(np.float32)
  product_V33 = np.eye(3, dtype=np.float32)
  # Of each axis, the two that are turned, the first towards the second.
  for axis, (i, j) in enumerate([(1, 2), (2, 0), (0, 1)]):
    turn_V33 = np.tile(np.eye(3, dtype=np.float32), (len(degrees), 1, 1))
    turn_V33[:, i, i] = turn_V33[:, j, j] = cosine_V3[:, axis]
    turn_V33[:, i, j] = -sine_V3[:, axis]
    turn_V33[:, j, i] = sine_V3[:, axis]
    product_V33 = product_V33 @ turn_V33
  return product_V33.swapaxes(1, 2)


_ROTATIONS_1 = _rotations(_AXES + _ENDS)
_ROTATIONS_2 = _rotations(_DIAGONALS + _AXES + _ENDS)
# V2 turns each view a little further, to show more of the surface.
_TILTS_2 = _rotations([(0, 20, 0)] * 8 + [(0, 12, 0)] * 2)


def depth_maps(
  points_N3: jax.Array, version: int = 1, num_points: jax.Array | None = None
) -> jax.Array:
  """Draws the depth maps of a cloud, before they are resized.

  Args:
    points_N3: (N, 3) float32, y up, in the unit sphere.
    version: 1: six views in perspective, each pixel the harmonic mean of its
      points' distances, 0 without any.  2: ten views in parallel, solid and
      smooth, from 0, the nearest, to 1, the background.
    num_points: () int32, how many leading points exist; None: all.

  Returns:
    (6, 128, 128) or (10, 110, 110) float32.

  Raises:
    ValueError: if there is no such version.
  """
  if version not in (1, 2):
    raise ValueError(f"version is {version}, must be 1 or 2")
  exists_N = jnp.arange(len(points_N3)) < (
    len(points_N3) if num_points is None else num_points
  )
  if version == 1:
    views_VN3 = turn(points_N3, _ROTATIONS_1)
    return jax.vmap(_perspective, (0, None))(views_VN3, exists_N)
  views_VN3 = turn(points_N3, _ROTATIONS_2)
  views_VN3 = jax.vmap(
    lambda view_N3, tilt_33: turn(view_N3, tilt_33[None])[0]
  )(views_VN3, _TILTS_2)
  return jax.vmap(_solid, (0, None))(views_VN3, exists_N)


def _perspective(view_N3: jax.Array, exists_N: jax.Array) -> jax.Array:
  """Draws one of version 1's views, (128, 128)."""
  depth_N = view_N3[:, 2] + 1.6
  place_N2 = (view_N3[:, :2] / depth_N[:, None] + 1) * (_SIDE_1 / 2) - 0.5
  pixel_N2 = jnp.ceil(place_N2)
  shown_N = exists_N & (depth_N >= 0)
  shown_N &= ((pixel_N2 >= 0) & (pixel_N2 < _SIDE_1)).all(axis=1)
  row_N, column_N = jnp.where(shown_N[:, None], pixel_N2, _SIDE_1).astype(int).T
  empty = jnp.zeros((_SIDE_1, _SIDE_1))
  count = empty.at[row_N, column_N].add(1.0)
  inverse = empty.at[row_N, column_N].add(1 / depth_N)
  return jnp.where(count > 0, count / inverse, 0)


def _solid(view_N3: jax.Array, exists_N: jax.Array) -> jax.Array:
  """Draws one of version 2's views, (110, 110)."""
  # The authors move it, and centre it again; only the rounding stays.
  view_N3 += jnp.array([0.5, 0.5, 1.5])
  exists_N1 = exists_N[:, None]
  low_3 = jnp.where(exists_N1, view_N3, jnp.inf).min(axis=0)
  high_3 = jnp.where(exists_N1, view_N3, -jnp.inf).max(axis=0)
  longest = (high_3 - low_3).max()
  # All points may be one.
  longest = jnp.where(longest > 0, longest, 1)
  view_N3 = divide(view_N3 - (high_3 + low_3) / 2, longest) * 2
  place_N2 = (rounded(view_N3[:, :2] * 0.8) + 1) / 2 * _SIDE_2
  row_N, column_N = jnp.clip(jnp.ceil(place_N2), 1, _SIDE_2 - 2).astype(int).T
  depth_N = divide((view_N3[:, 2] + 1) / 2 + 0.2, 1.2) * (_SLICES - 2)
  slice_N = jnp.ceil(depth_N).astype(int)
  depth_N = jnp.clip(depth_N, 1, _SLICES - 2)
  grid_SHW = jnp.zeros((_SLICES, _SIDE_2, _SIDE_2))
  grid_SHW = grid_SHW.at[slice_N, row_N, column_N].max(
    jnp.where(exists_N, depth_N, 0)
  )
  # What is near grows over 7 x 7 pixels, then is smoothed over 3 x 3.
  beside = math.exp(-1 / (2 * 3**2))
  for axis in (1, 2):
    window, pad = [1, 1, 1], [(0, 0)] * 3
    window[axis], pad[axis] = 7, (2, 2)
    grid_SHW = jax.lax.reduce_window(
      grid_SHW, -jnp.inf, jax.lax.max, window, (1, 1, 1), pad
    )
  for axis in (1, 2):
    pad = [(0, 0)] * 3
    pad[axis] = (1, 1)
    length = grid_SHW.shape[axis]
    before, here, after = (
      jax.lax.slice_in_dim(jnp.pad(grid_SHW, pad), i, i + length, axis=axis)
      for i in range(3)
    )
    grid_SHW = (beside * (before + after) + here) / (1 + 2 * beside)
  image_HW = grid_SHW.max(axis=0)
  return 1 - image_HW / image_HW.max()


@dataclasses.dataclass(frozen=True)
class Size:
  """The system.

  Attributes:
    tower: The image tower of any CLIP; a file does not say its activation,
      which is taken for OpenAI's.
    version: 1 or 2; the file is the same.
    view_weights: One a view; empty: all 1, as version 1's.  Version 2's were
      searched on test labels, for one set and one CLIP.
  """

  tower: ImageTowerSize | ResNetSize
  version: int = 1
  view_weights: tuple[float, ...] = ()

  @property
  def embed_dim(self) -> int:
    """D, width of the tower's embedding space."""
    return self.tower.embed_dim


_TEXTS = Texts(("point cloud depth map of a {}.",), None, raw_names=False)
RELEASES = {
  "pointclip": Release(
    Size(openai_clip.RN50),
    38_316_896,
    Hub("timm/resnet50_clip.openai", "open_clip_model.safetensors"),
    "mit",
    _TEXTS,
    ("PointCLIP", "images only"),
    "PointCLIP's paper",
    figures(modelnet40=(20.18,), scanobjectnn_theirs=(15.38,)),
  ),
  "pointclip-v2": Release(
    Size(openai_clip.VIT_B_16, version=2),
    86_192_640,
    Hub("timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors"),
    "apache-2.0",
    _TEXTS,
    ("PointCLIP v2", "images only"),
    "PointCLIP V2's README",
    figures(modelnet40=(64.26,), scanobjectnn_theirs=(35.66,)),
    # Of ViT-B/16, searched on the test labels; there are none for other sets.
    on={
      "modelnet40": {
        "view_weights": (
          *(0.75, 0.75, 0.75, 0.25, 0.75, 1.0, 0.25, 1.0, 0.75, 0.25),
        )
      },
      "scanobjectnn": {
        "view_weights": (
          *(0.75, 0.75, 0.75, 0.5, 0.5, 1.0, 0.75, 1.0, 0.25, 0.25),
        )
      },
    },
    differs="its prompts and view weights were searched on the test labels; "
    "without --prompts the template is the first version's",
  ),
}


# As the authors name the CLIPs in `best_param.py`.
CLIPS = {
  openai_clip.RN50: "rn50",
  openai_clip.RN101: "rn101",
  openai_clip.VIT_B_32: "vit_b32",
  openai_clip.VIT_B_16: "vit_b16",
}


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the size of CLIP's state dict; None if it is another system's."""
  tower = openai_clip.image_size(state)
  known = "visual.", *openai_clip.TEXTS
  if tower is None or not all(key.startswith(known) for key in state):
    return None
  return Size(tower)


def table(size: Size) -> list[Row]:
  """Lists the names of all tensors."""
  return openai_clip.image_table(size.tower, path="views/")


def preparation(size: Size) -> Preparation:
  """Says how the system takes a cloud."""
  del size
  return Preparation(1024, normalized=False)  # as stored, in the unit sphere


def teacher(size: Size) -> str:
  """Names the embedding space, by its teacher."""
  name = CLIPS.get(size.tower)
  return f"the CLIP of the file, {name}" if name else "the CLIP of the file"


def is_unused(key: str) -> bool:
  """Says whether a tensor is of the text tower."""
  return key.startswith(openai_clip.TEXTS)


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """Makes the encoder of a size."""
  return PointCLIP(size, dtype)


class PointCLIP(nn.Module):
  """The encoder: depth maps, CLIP's image tower, the sum over views.

  CLIP's mean and deviation of images are not used.

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
      train: Is ignored: nothing is trained, statistics are the running ones.

    Returns:
      (B, D) float32, sum_v w_v e_v / |e_v|, not of unit length.
    """
    del train
    size = self.size
    draw = functools.partial(depth_maps, version=size.version)
    views_BVHW = jax.vmap(
      lambda points_N6, num_points: draw(
        points_N6[:, :3], num_points=num_points
      )
    )(points_BN6, num_points_B)
    views_BVHW = resize_bilinear(views_BVHW, size.tower.image_size)
    views = views_BVHW.shape[1]
    pixels_BVCHW = jnp.broadcast_to(
      views_BVHW[:, :, None],
      (len(views_BVHW), views, 3, *views_BVHW.shape[2:]),
    )
    weights_V = jnp.array(size.view_weights or [1.0] * views)
    encoder = ViewEncoder(size.tower, self.dtype, name="views")
    return encoder(pixels_BVCHW, weights_V)


class Prompts(NamedTuple):
  """What V2 searched on the test labels of one set, for one CLIP.

  Attributes:
    sentences: One a class, in the order of the classes.
    view_weights: See `Size`.
  """

  sentences: tuple[str, ...]
  view_weights: tuple[float, ...]


def read_prompts(path: Path) -> dict[str, Prompts]:
  """Reads the authors' `best_param.py` as data; nothing of it is run.

  Its lines are `best_prompt_weight['SET_CLIP_test_prompts'] = [...]` and
  likewise `..._test_weights`.

  Args:
    path: The file; none is shipped.

  Returns:
    By "SET_CLIP", such as "modelnet40_vit_b16".

  Raises:
    BadInput: naming the file, and the line or name that cannot be used.
  """
  remedy = "give PointCLIP V2's best_param.py"
  found = read_items(path, "best_prompt_weight", remedy)
  for key in found:
    if not re.fullmatch(r".+_test_(prompts|weights)", str(key)):
      raise BadInput(f"{path}: {key!r} is no name of prompts or weights")
  prompts = {}
  for key in sorted({key.rpartition("_test_")[0] for key in found}):
    sentences, weights = (
      found.get(f"{key}_test_{kind}") for kind in ("prompts", "weights")
    )
    if not (
      isinstance(sentences, list)
      and sentences
      and all(isinstance(x, str) and x.strip() for x in sentences)
    ):
      raise BadInput(
        f"{path}: {key}_test_prompts must be a list with a sentence a class"
      )
    if not (
      isinstance(weights, list)
      and len(weights) == len(_ROTATIONS_2)
      and all(type(x) in (int, float) and abs(x) < 1e6 for x in weights)
    ):
      raise BadInput(
        f"{path}: {key}_test_weights must be a list of {len(_ROTATIONS_2)} "
        "numbers, one a view"
      )
    prompts[key] = Prompts(tuple(sentences), tuple(map(float, weights)))
  if not prompts:
    raise BadInput(f"{path}: holds no prompts; {remedy}")
  return prompts
