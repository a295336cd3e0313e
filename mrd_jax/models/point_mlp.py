"""Embeds clouds by PointMLP, which CG3D and ULIP train.

Ma et al., "Rethinking Network Design and Local Geometry in Point Cloud" (2022).
Each of its stages takes fewer points than the one before, describes each by its
nearest neighbours' features, and doubles their width.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models import knn_groups
from mrd_jax.models.layers import EPSILON, Linear
from mrd_jax.models.mini_pointnet import MOMENTUM

# Clouds that accelerators group at a time: bounds the memory to 32 G N distances.
_CLOUDS = 32


class _LinearNorm(nn.Module):
  """A convolution of size 1 without bias, and a BatchNorm."""

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = Linear(self.features, False, self.dtype, name="linear")(x)
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=MOMENTUM,
      epsilon=EPSILON,
      dtype=self.dtype,
      name="norm",
    )(x)


class _Residual(nn.Module):
  """Two layers and what they are added to."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    layer = functools.partial(_LinearNorm, x.shape[-1], self.dtype)
    y = nn.relu(layer(name="1")(x, train))
    return nn.relu(x + layer(name="2")(y, train))


class _Affine(nn.Module):
  """PointMLP's geometric affine: the neighbours less their centre, scaled."""

  @nn.compact
  def __call__(self, x_BGKC: jax.Array, center_BGC: jax.Array) -> jax.Array:
    shape = (1, 1, 1, x_BGKC.shape[-1])
    alpha = self.param("alpha", nn.initializers.ones, shape)
    beta = self.param("beta", nn.initializers.zeros, shape)
    wide = jnp.promote_types(x_BGKC.dtype, jnp.float32)
    offset_BGKC = x_BGKC.astype(wide) - center_BGC[:, :, None].astype(wide)
    # One number a cloud, over all its groups, neighbours and channels.
    std_B111 = offset_BGKC.std((1, 2, 3), ddof=1, keepdims=True)
    return (alpha * offset_BGKC / (std_B111 + EPSILON) + beta).astype(
      x_BGKC.dtype
    )


class PointMLP(nn.Module):
  """The encoder; it sees no colours.

  Attributes:
    width: Of a point's first features.
    groups: How many points each stage leaves.
    group_size: K, neighbours of each of them.
    before: Residual blocks of a stage before the maximum over the neighbours.
    after: Residual blocks after it.
    embed_dim: D.
    dtype: Compute type of matrix work.
  """

  width: int
  groups: tuple[int, ...]
  group_size: int
  before: int
  after: int
  embed_dim: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, points_BN6: jax.Array, num_points_B: jax.Array, *, train: bool
  ) -> jax.Array:
    """Embeds a batch of clouds.

    Args:
      points_BN6: (B, N, 6) float32, xyz in the unit ball, then what is
        ignored.  Sampling starts at the first point.
      num_points_B: (B,) int32, how many leading points of a cloud exist.
      train: Whether BatchNorm uses (and records) the batch's statistics.

    Returns:
      (B, D) float32 embeddings, not normalised.
    """
    chex.assert_shape(points_BN6, (None, None, 6))
    chex.assert_shape(num_points_B, points_BN6.shape[:1])
    xyz_BN3 = points_BN6[..., :3]
    embedding = _LinearNorm(self.width, self.dtype, name="embedding")
    x_BNC = nn.relu(embedding(xyz_BN3.astype(self.dtype), train))
    for stage, groups in enumerate(self.groups):
      center_BG, index_BGK = _group(
        xyz_BN3, num_points_B, groups, self.group_size
      )
      xyz_BN3, center_BGC, x_BGKC = jax.vmap(
        lambda xyz, x, center, index: (xyz[center], x[center], x[index])
      )(xyz_BN3, x_BNC, center_BG, index_BGK)
      num_points_B = jnp.full_like(num_points_B, groups)

      x_BGKC = jnp.concatenate(
        [
          _Affine(name=f"affine_{stage}")(x_BGKC, center_BGC),
          jnp.broadcast_to(center_BGC[:, :, None], x_BGKC.shape),
        ],
        axis=-1,
      )
      transfer = _LinearNorm(
        x_BGKC.shape[-1], self.dtype, name=f"transfer_{stage}"
      )
      x_BGKC = nn.relu(transfer(x_BGKC, train))
      for i in range(self.before):
        block = _Residual(self.dtype, name=f"before_{stage}_{i}")
        x_BGKC = block(x_BGKC, train)
      x_BNC = x_BGKC.max(axis=2)
      for i in range(self.after):
        block = _Residual(self.dtype, name=f"after_{stage}_{i}")
        x_BNC = block(x_BNC, train)
    x_BC = x_BNC.max(axis=1).astype(jnp.float32)
    return Linear(self.embed_dim, name="projection")(x_BC)


def _group(
  xyz_BN3: jax.Array, num_points_B: jax.Array, groups: int, group_size: int
) -> tuple[jax.Array, jax.Array]:
  """Finds (B, G) centres among points and (B, G, K) neighbours of each."""

  def of_cloud(
    cloud: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, jax.Array]:
    xyz_N3, num_points = cloud
    center_G = knn_groups.sample_centers(xyz_N3, num_points, groups)
    return center_G, knn_groups.nearest_neighbours(
      xyz_N3, xyz_N3[center_G], num_points, group_size
    )

  # As in `knn_groups`: a CPU wants one cloud at a time, accelerators many.
  in_turn = functools.partial(jax.lax.map, of_cloud)
  many = functools.partial(in_turn, batch_size=min(_CLOUDS, len(xyz_BN3)))
  return jax.lax.platform_dependent(
    (xyz_BN3, num_points_B), cpu=in_turn, default=many
  )
