"""Groups points as Point-BERT and its descendants do: by nearest neighbours.

Uni3D, ULIP, ReCon and CG3D sample centres with pointnet2_ops' kernel and take
the K nearest points of each.  A maximum over the group follows, so that the
order of the neighbours means nothing.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mrd_jax.models.point_ops import farthest_point_sample
from mrd_jax.parallel import sharding

# Clouds that are queried at a time: bounds the memory to 8 G N distances.
_CLOUDS = 8


class Groups(NamedTuple):
  """Local neighbourhoods of a batch of clouds.

  Attributes:
    center_xyz: (B, G, 3) the group centres, points of the cloud.
    features: (B, G, K, 6) per neighbour: offset from the centre, rgb.
  """

  center_xyz: jax.Array
  features: jax.Array


def sample_centers(
  xyz_N3: jax.Array, num_points: jax.Array, num_samples: int
) -> jax.Array:
  """Samples farthest points exactly as pointnet2_ops does.

  It starts at point 0 and never chooses another point within .0316 of the
  origin.

  Args:
    xyz_N3: (N, 3) float32.
    num_points: () int32, how many leading rows exist.
    num_samples: G, how many indices to return.

  Returns:
    (G,) int32 indices in order of choice.
  """
  # A block of threads, the largest power of two within the cloud up to 512,
  # shares the points in turn.  Among equally far ones the lowest thread's wins,
  # and of its own the first.  So the points are put in this order, those that
  # do not exist behind them.
  index_N = jnp.arange(len(xyz_N3), dtype=jnp.int32)
  powers = 2 ** jnp.arange(10, dtype=jnp.int32)
  threads = jnp.where(powers <= num_points, powers, 1).max()
  order_N = jnp.lexsort((index_N, index_N % threads, index_N >= num_points))
  return order_N[
    farthest_point_sample(
      xyz_N3[order_N], num_points, num_samples, skip_origin=True
    )
  ]


def nearest_neighbours(
  xyz_N3: jax.Array,
  centers_G3: jax.Array,
  num_points: jax.Array,
  group_size: int,
) -> jax.Array:
  """Finds the `group_size` points of a cloud that are nearest to each centre.

  When fewer points exist, the nearest one fills the group up.

  Args:
    xyz_N3: (N, 3) float32.
    centers_G3: (G, 3) float32.
    num_points: () int32, how many leading rows of `xyz_N3` exist.
    group_size: K.

  Returns:
    (G, K) int32 indices into the cloud, the nearest first.
  """
  # The direct difference: the expansion -2xy + x^2 + y^2 cancels.
  d2_GN = sum(
    (centers_G3[:, axis, None] - xyz_N3[:, axis]) ** 2 for axis in range(3)
  )
  exists_N = jnp.arange(len(xyz_N3)) < num_points
  negative_GK, index_GK = jax.lax.top_k(
    jnp.where(exists_N, -d2_GN, -jnp.inf), min(group_size, len(xyz_N3))
  )
  nearest_G1 = index_GK[:, :1]
  index_GK = jnp.where(jnp.isfinite(negative_GK), index_GK, nearest_G1)
  missing = group_size - index_GK.shape[1]
  return jnp.concatenate([index_GK, jnp.tile(nearest_G1, missing)], axis=1)


def gather_groups(
  points_N6: jax.Array,
  num_points: jax.Array,
  center_index_G: jax.Array,
  group_size: int,
) -> Groups:
  """Gathers the neighbourhoods of one cloud: `Groups` without a batch axis."""
  xyz_N3 = points_N6[:, :3]
  centers_G3 = xyz_N3[center_index_G]
  index_GK = nearest_neighbours(xyz_N3, centers_G3, num_points, group_size)
  neighbours_GK6 = points_N6[index_GK]
  offset_GK3 = neighbours_GK6[..., :3] - centers_G3[:, None]
  return Groups(
    centers_G3, jnp.concatenate([offset_GK3, neighbours_GK6[..., 3:]], -1)
  )


def group_points(
  points_BN6: jax.Array,
  num_points_B: jax.Array,
  *,
  groups: int,
  group_size: int,
  batch_sharding: NamedSharding | None = None,
) -> Groups:
  """Groups a batch of clouds, each device only its own.

  Args:
    points_BN6: (B, N, 6) float32, xyz then rgb.
    num_points_B: (B,) int32, how many leading points of each cloud exist.
    groups: G.
    group_size: K.
    batch_sharding: How the batch axis is laid out over devices; see
      `point_ops.group_points`.

  Returns:
    `Groups`, without gradient: the clouds are data.
  """
  chex.assert_shape(points_BN6, (None, None, 6))
  chex.assert_shape(num_points_B, (points_BN6.shape[0],))

  def sample(xyz_BN3: jax.Array, num_points_B: jax.Array, chunk: int):
    return jax.lax.map(
      lambda cloud: sample_centers(cloud[0], cloud[1], groups),
      (xyz_BN3, num_points_B),
      batch_size=chunk,
    )

  def local(points_BN6: jax.Array, num_points_B: jax.Array) -> Groups:
    # Sampling is G short steps one after the other: a CPU wants the one cloud
    # that fits its cache, accelerators the whole batch in each step.
    center_index_BG = jax.lax.platform_dependent(
      points_BN6[..., :3],
      num_points_B,
      cpu=functools.partial(sample, chunk=1),
      default=functools.partial(sample, chunk=len(points_BN6)),
    )
    return jax.lax.map(
      lambda cloud: gather_groups(cloud[0], cloud[1], cloud[2], group_size),
      (points_BN6, num_points_B, center_index_BG),
      batch_size=min(_CLOUDS, len(points_BN6)),
    )

  group = sharding.on_own_share(local, batch_sharding)
  with jax.named_scope("tokenizer"):
    return jax.lax.stop_gradient(group(points_BN6, num_points_B))
