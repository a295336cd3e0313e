"""OpenShape's SparseConv: a residual network over sparse voxels.

Liu et al., "OpenShape" (2023).  Layers, voxels and kernels are those of its
three classes: MinkResNet34, whose weights are released, MinkResNet, which is
Table 1's, and MinkResNet11.  They run on MinkowskiEngine, whose meaning
`models/sparse_conv.py` keeps; its numbers are those of its CUDA code.  (On
CPUs version 0.5.4 takes strided features from wrong voxels.)
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.models import site_pooling, sparse_conv
from mrd_jax.models.layers import EPSILON, Linear, matmul
from mrd_jax.zoo import prompts
from mrd_jax.zoo.system import Hub, Preparation, Release, Texts, figures
from mrd_jax.zoo.tensors import Row, batch_norm, count, linear, shapes

NAME = "OpenShape's SparseConv"

UNSAID = ("voxel_size",)

CLOUDS = 4  # that make one sparse tensor; 0.25 GB each at 10,000 points
STEM = 32
WIDTHS = (32, 64, 128, 256)  # of the stages of stride 2, 4, 8, 16
HEAD = (512, 1024)


@dataclasses.dataclass(frozen=True)
class Size:
  """The architecture.

  Attributes:
    layers: Residual blocks of the four stages.
    channels: Features of a point: 6 are xyz and rgb, 3 xyz alone.
    embed_dim: D, width of the embedding.
    voxel_size: Side of a voxel where the cloud has radius 1; no file says it.
  """

  layers: tuple[int, int, int, int] = (3, 4, 6, 3)
  channels: int = 6
  embed_dim: int = 1280
  voxel_size: float = 0.02


SIZES = {
  "MinkResNet34": Size(),
  "MinkResNet": Size((2, 2, 2, 2)),
  "MinkResNet11": Size((1, 1, 1, 1)),
}


def _release(
  repository: str,
  data: str,
  license: str | None = None,
  **found: tuple[float, float],
) -> Release:
  return Release(
    SIZES["MinkResNet34"],
    41_327_104,
    Hub(f"OpenShape/{repository}", "model.pt"),
    license,
    Texts((), prompts.BIG_G),
    ("OpenShape+SparseConv", data),
    "OpenShape's README",
    figures(**found),
    on={"scanobjectnn": {"drawn": 10_000}},
    differs="the paper's row is of MinkResNet, 33.7M, the published files are "
    "of MinkResNet34, 41.3M",
  )


RELEASES = {
  "openshape-spconv": _release(
    "openshape-spconv-all",
    "ensembled",
    "openrail",
    lvis=(42.7, 72.8),
    modelnet40=(83.7, 98.4),
  ),
  "openshape-spconv-no-lvis": _release(
    "openshape-all-no-lvis",
    "no LVIS",
    lvis=(38.1, 68.2),
    modelnet40=(84.0, 97.3),
  ),
  "openshape-spconv-shapenet": _release(
    "openshape-spconv-shapenet-only",
    "ShapeNet",
    lvis=(12.1, 27.1),
    modelnet40=(74.1, 89.5),
  ),
}


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the sizes of a state dict; None if it is another system's."""
  found = shapes(state, {"conv0p1s1.kernel": 3, "final.3.linear.weight": 2})
  if found is None:
    return None
  (_, channels, _), (embed_dim, _) = found
  return Size(
    (
      count(state, "block1"),
      count(state, "block2"),
      count(state, "block3"),
      count(state, "block4"),
    ),
    channels,
    embed_dim,
  )


def table(size: Size) -> list[Row]:
  """Lists the tensors of an architecture under both names."""

  def convolution(key: str, norm: str, path: str) -> list[Row]:
    row = Row(f"{key}.kernel", f"params/{path}/kernel")
    return [row, *batch_norm(f"{norm}.bn", f"{path}/norm")]

  rows = convolution("conv0p1s1", "bn0", "stem")
  for stage, layers in enumerate(size.layers):
    key = f"conv{stage + 1}p{2**stage}s2"
    rows += convolution(key, f"bn{stage + 1}", f"down_{stage}")
    for i in range(layers):
      key, path = f"block{stage + 1}.{i}", f"block_{stage}_{i}"
      for j in (1, 2):
        rows += convolution(f"{key}.conv{j}", f"{key}.norm{j}", f"{path}/{j}")
      if stage and not i:
        key += ".downsample"
        rows += convolution(f"{key}.0", f"{key}.1", f"{path}/residual")
  for i in range(2):
    rows += convolution(f"conv5.{i}.0", f"conv5.{i}.1", f"head_{i}")
    key = f"final.{2 * i}"
    rows += linear(f"{key}.0.linear", f"final_{i}", bias=False)
    rows += batch_norm(f"{key}.1.bn", f"final_{i}/norm")
  return rows + linear("final.3.linear", "proj")


def preparation(size: Size) -> Preparation:
  """Says how the system takes a cloud."""
  del size
  # The order means nothing.  Of ScanObjectNN's 2,048 points OpenShape draws
  # 10,000 with replacement.
  return Preparation(10_000, "z")


def teacher(size: Size) -> str:
  """Names the embedding space, by its teacher."""
  del size
  return prompts.BIG_G_SPACE


def is_unused(key: str) -> bool:
  """Says whether a file may hold a tensor that does not embed clouds."""
  del key
  return False


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """Makes the encoder of an architecture, with products in `dtype`."""
  return SparseConv(size, dtype)


class _ConvNorm(nn.Module):
  """A convolution without bias and a BatchNorm.

  It is a dense layer where no neighbours are given.
  """

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    x_RI: jax.Array,
    neighbours_RK: jax.Array | None = None,
    count: jax.Array | None = None,
  ) -> jax.Array:
    shape = (x_RI.shape[-1], self.features)
    init = nn.initializers.variance_scaling(2, "fan_out", "normal")
    x_RI = x_RI.astype(self.dtype)
    if neighbours_RK is None or count is None:
      y_RO = matmul(x_RI, self.param("kernel", init, shape))
    else:
      shape = (neighbours_RK.shape[1], *shape)
      kernel_KIO = self.param("kernel", init, shape)
      y_RO = sparse_conv.convolve(x_RI, neighbours_RK, kernel_KIO, count)
    return nn.BatchNorm(
      use_running_average=True, epsilon=EPSILON, dtype=self.dtype, name="norm"
    )(y_RO)


class _Block(nn.Module):
  """Two convolutions and what they are added to."""

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    x_RI: jax.Array,
    neighbours_RK: jax.Array,
    count: jax.Array,
  ) -> jax.Array:
    layer = functools.partial(_ConvNorm, self.features, self.dtype)
    y_RO = nn.relu(layer(name="1")(x_RI, neighbours_RK, count))
    y_RO = layer(name="2")(y_RO, neighbours_RK, count)
    if x_RI.shape[-1] != self.features:
      x_RI = layer(name="residual")(x_RI)
    return nn.relu(x_RI + y_RO)


class SparseConv(nn.Module):
  """The encoder.

  Voxels stand on a grid through the origin: a moved cloud has other ones, and
  another embedding.  A cloud is refused with an embedding of NaN where it has
  no points, a point that is not finite, or is wider than
  `sparse_conv.EXTENT` voxels (9 times the unit ball); every other embedding is
  exact, however many voxels there are.

  Attributes:
    size: The architecture.
    dtype: Compute type of matrix work.
  """

  size: Size
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, points_BN6: jax.Array, num_points_B: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Embeds a batch of clouds.

    Args:
      points_BN6: (B, N, 6) float32: xyz (z up, unit ball) and rgb in [0, 1].
        Their order means nothing.
      num_points_B: (B,) int32, how many leading points of a cloud exist.
      train: Must be False: BatchNorm has the running statistics always.

    Returns:
      (B, D) float32 embeddings, not normalised.

    Raises:
      ValueError: if `train` is asked for.
    """
    chex.assert_shape(points_BN6, (None, None, 6))
    chex.assert_shape(num_points_B, points_BN6.shape[:1])
    if train:
      raise ValueError("SparseConv keeps its statistics: train must be False")
    # The memory of one sparse tensor grows with its clouds.
    clouds = math.gcd(len(points_BN6), CLOUDS)
    embed = nn.scan(
      lambda self, carry, some: (carry, self.embed(*some)),
      variable_broadcast=("params", "batch_stats"),
      variable_axes={"intermediates": 0},
      split_rngs={"params": False},
    )
    some = jax.tree.map(
      lambda x: x.reshape(-1, clouds, *x.shape[1:]), (points_BN6, num_points_B)
    )
    return embed(self, None, some)[1].reshape(len(points_BN6), -1)

  @nn.compact
  def embed(self, points_BN6: jax.Array, num_points_B: jax.Array) -> jax.Array:
    """Embeds clouds as one sparse tensor; arguments are those of a call."""
    size = self.size
    layer = functools.partial(_ConvNorm, dtype=self.dtype)
    sites, row_BN, fits_B = sparse_conv.voxelize(
      points_BN6[..., :3], num_points_B, size.voxel_size
    )
    x_RC = site_pooling.point_means(points_BN6[..., : size.channels], row_BN)
    near_RK = sparse_conv.neighbours(sites, sites, 5, 1)
    x_RC = nn.relu(layer(STEM, name="stem")(x_RC, near_RK, sites.count))

    levels, at_points = [sites], []
    # Where a site of stride 1 is among those of the stage.
    row_R = jnp.arange(row_BN.size)
    for stage, (layers, width) in enumerate(
      zip(size.layers, WIDTHS, strict=True)
    ):
      coarse, parent_R = sparse_conv.coarsen(levels[-1])
      near_RK = sparse_conv.neighbours(coarse, levels[-1], 2, 2)
      down = layer(x_RC.shape[-1], name=f"down_{stage}")
      x_RC = nn.relu(down(x_RC, near_RK, coarse.count))
      near_RK = sparse_conv.neighbours(coarse, coarse, 3, 1)
      for i in range(layers):
        block = _Block(width, self.dtype, name=f"block_{stage}_{i}")
        x_RC = block(x_RC, near_RK, coarse.count)
      levels.append(coarse)
      row_R = parent_R.at[row_R].get(mode="fill", fill_value=row_BN.size)
      at_points.append(x_RC[row_R])

    # Every point of a voxel has the same of them: their mean is that.
    x_RC = jnp.concatenate(at_points, axis=1)
    for i, width in enumerate(HEAD):
      near_RK = sparse_conv.neighbours(levels[i + 1], levels[i], 3, 2)
      head = layer(width, name=f"head_{i}")
      x_RC = nn.leaky_relu(head(x_RC, near_RK, levels[i + 1].count))
    x_BC = site_pooling.max_and_mean(x_RC.astype(jnp.float32), levels[2])
    for i in range(2):
      x_BC = nn.leaky_relu(layer(HEAD[-1], name=f"final_{i}")(x_BC))
    y_BD = Linear(size.embed_dim, name="proj")(x_BC)
    return jnp.where(fits_B[:, None], y_BD, jnp.nan)
