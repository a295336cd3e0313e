"""Point grouping: farthest point sampling, ball query, gathering.

The operations work on one cloud; `group_points` maps them over the batch a
few clouds at a time, so that no (batch, groups, points) array ever exists.
The forms are chosen for XLA: on CPU an `argmax` is not vectorised and a
`top_k` over integers falls back to a sort, while a maximum followed by a
search for the index that attains it, and a `top_k` over float32 keys, are
fast (`docs/design-notes.md`).

A cloud may be padded to the batch's fixed size: only its first `num_points`
rows exist.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


class Groups(NamedTuple):
  """Local neighbourhoods of a batch of clouds.

  Attributes:
    center_xyz: (B, G, 3) the group centres, points of the cloud.
    features: (B, G, K, 9) per neighbour: offset from the centre, absolute
      xyz, rgb.
  """

  center_xyz: jax.Array
  features: jax.Array


def farthest_point_sample(
  xyz_N3: jax.Array, num_points: jax.Array, num_samples: int
) -> jax.Array:
  """Greedy farthest point sampling, starting at point 0.

  Each step takes the point whose distance to the chosen set is largest, the
  lowest index among equals.  When fewer than `num_samples` points exist, the
  remaining steps repeat a point that is already chosen.

  Args:
    xyz_N3: (N, 3) float32.
    num_points: () int32, how many leading rows exist.
    num_samples: G, how many indices to return.

  Returns:
    (G,) int32 indices in order of choice.
  """
  n = xyz_N3.shape[0]
  x, y, z = xyz_N3.T  # three contiguous planes vectorise, (N, 3) rows do not
  indices_N = jnp.arange(n, dtype=jnp.int32)

  def step(i, carry):
    distance_N, chosen_G = carry
    last = chosen_G[i - 1]
    to_last_N = (x - x[last]) ** 2 + (y - y[last]) ** 2 + (z - z[last]) ** 2
    distance_N = jnp.minimum(distance_N, to_last_N)
    farthest = jnp.where(distance_N == distance_N.max(), indices_N, n).min()
    return distance_N, chosen_G.at[i].set(farthest)

  # Derived from the input, so that the carry varies over the mesh under
  # shard_map exactly as the loop body's result does.
  zero = (x[0] * 0).astype(jnp.int32)
  distance_N = jnp.where(indices_N < num_points, jnp.inf, -jnp.inf) + x * 0
  chosen_G = jnp.zeros(num_samples, jnp.int32) + zero
  return jax.lax.fori_loop(1, num_samples, step, (distance_N, chosen_G))[1]


def ball_query(
  xyz_N3: jax.Array,
  centers_G3: jax.Array,
  num_points: jax.Array,
  *,
  radius: float,
  group_size: int,
) -> jax.Array:
  """The first `group_size` points, in index order, within each ball.

  A ball with fewer points is filled up with its first one.  A ball is never
  empty as long as its centre is a point of the cloud.

  Args:
    xyz_N3: (N, 3) float32, N < 2**24 (indices are compared as float32).
    centers_G3: (G, 3) float32.
    num_points: () int32, how many leading rows of `xyz_N3` exist.
    radius: Radius of the closed ball.
    group_size: K.

  Returns:
    (G, K) int32 indices into the cloud.
  """
  n = xyz_N3.shape[0]
  if group_size > n:
    # A short cloud is a padded cloud: top_k needs at least K candidates.
    xyz_N3 = jnp.pad(xyz_N3, ((0, group_size - n), (0, 0)))
    num_points = jnp.minimum(num_points, n)
    n = group_size
  # The direct difference: the expansion -2xy + x^2 + y^2 loses the boundary.
  d2_GN = sum(
    (centers_G3[:, None, axis] - xyz_N3[None, :, axis]) ** 2
    for axis in range(3)
  )
  indices_N = jnp.arange(n, dtype=jnp.int32)
  inside_GN = (d2_GN <= radius**2) & (indices_N < num_points)
  key_GN = jnp.where(inside_GN, (n - indices_N).astype(jnp.float32), 0.0)
  first_GK = jax.lax.top_k(key_GN, group_size)[0]
  index_GK = n - first_GK.astype(jnp.int32)
  return jnp.where(index_GK < n, index_GK, index_GK[:, :1])


def gather_groups(
  points_N6: jax.Array,
  num_points: jax.Array,
  center_index_G: jax.Array,
  *,
  radius: float,
  group_size: int,
) -> Groups:
  """The neighbourhoods of one cloud: `Groups` without the batch axis."""
  xyz_N3 = points_N6[:, :3]
  centers_G3 = xyz_N3[center_index_G]
  index_GK = ball_query(
    xyz_N3, centers_G3, num_points, radius=radius, group_size=group_size
  )
  neighbours_GK6 = points_N6[index_GK]
  offset_GK3 = neighbours_GK6[..., :3] - centers_G3[:, None]
  return Groups(centers_G3, jnp.concatenate([offset_GK3, neighbours_GK6], -1))


def group_points(
  points_BN6: jax.Array,
  num_points_B: jax.Array,
  *,
  groups: int,
  radius: float,
  group_size: int,
  fps_chunk: int,
  query_chunk: int,
  batch_sharding: NamedSharding | None = None,
) -> Groups:
  """Groups a batch of clouds, each device only its own.

  Args:
    points_BN6: (B, N, 6) float32, xyz then rgb.
    num_points_B: (B,) int32, how many leading points of each cloud exist.
    groups: G.
    radius: Ball radius, in the unit of xyz.
    group_size: K.
    fps_chunk: How many clouds are sampled at a time.  Sampling is G short
      steps one after the other: accelerators want the whole batch in each,
      a CPU wants the one cloud that fits its cache.
    query_chunk: How many clouds are queried and gathered at a time; bounds
      the memory to `query_chunk * G * N` distances.
    batch_sharding: How the batch axis is laid out over devices.  The
      partitioner would gather the whole batch for `top_k`; with the layout
      given, each device works on its shard and nothing is exchanged.

  Returns:
    `Groups`, without gradient: the clouds are data.
  """
  chex.assert_shape(points_BN6, (None, None, 6))
  chex.assert_shape(num_points_B, (points_BN6.shape[0],))

  def local(points_BN6: jax.Array, num_points_B: jax.Array) -> Groups:
    center_index_BG = jax.lax.map(
      lambda cloud: farthest_point_sample(cloud[0][:, :3], cloud[1], groups),
      (points_BN6, num_points_B),
      batch_size=min(fps_chunk, len(points_BN6)),
    )
    return jax.lax.map(
      lambda cloud: gather_groups(*cloud, radius=radius, group_size=group_size),
      (points_BN6, num_points_B, center_index_BG),
      batch_size=min(query_chunk, len(points_BN6)),
    )

  if batch_sharding is not None:
    spec = PartitionSpec(*batch_sharding.spec[:1])
    local = jax.shard_map(
      local, mesh=batch_sharding.mesh, in_specs=(spec, spec), out_specs=spec
    )
  with jax.named_scope("tokenizer"):
    return jax.lax.stop_gradient(local(points_BN6, num_points_B))
