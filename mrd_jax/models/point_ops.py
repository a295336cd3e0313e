"""Groups points: farthest point sampling, ball query, gathering.

The operations work on one cloud; `group_points` maps them over the batch a
few clouds at a time, so that no (batch, groups, points) array ever exists.
The forms are chosen for XLA: on CPU an `argmax` is not vectorised, while a
maximum followed by a search for the index that attains it is fast; a `top_k`
is a sort on GPUs (`docs/design-notes.md`).

A cloud may be padded to the batch's fixed size: only its first `num_points`
rows exist.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mrd_jax.config.shared import Form
from mrd_jax.models import sampling_kernel
from mrd_jax.parallel import devices, sharding

_WORD = 32  # consecutive points: their membership in a ball is one integer


class Groups(NamedTuple):
  """Local neighbourhoods of a batch of clouds.

  Attributes:
    center_xyz: (B, G, 3) the group centres, points of the cloud.
    features: (B, G, K, 9) per neighbour: offset from the centre, absolute
      xyz, rgb.
  """

  center_xyz: jax.Array
  features: jax.Array


# In float32 a little above .001: "below it" is "at most .001".
_ORIGIN = 1e-3


def farthest_point_sample(
  xyz_N3: jax.Array,
  num_points: jax.Array,
  num_samples: int,
  *,
  skip_origin: bool = False,
) -> jax.Array:
  """Samples greedily the farthest points, starting at point 0.

  Each step takes the point whose distance to the chosen set is largest, the
  lowest index among equals.  When fewer than `num_samples` points exist, the
  remaining steps repeat a point that is already chosen.

  Args:
    xyz_N3: (N, 3) float32.
    num_points: () int32, how many leading rows exist.
    num_samples: G, how many indices to return.
    skip_origin: Whether points with x^2 + y^2 + z^2 <= .001 are never chosen,
      besides point 0 as the first, as in pointnet2_ops.

  Returns:
    (G,) int32 indices in order of choice.
  """
  xyz_3PW, index_PW = _in_words(xyz_N3)
  x, y, z = xyz_3PW
  words = jnp.arange(x.shape[1], dtype=jnp.int32)
  bits = jnp.arange(_WORD, dtype=jnp.int32)

  def step(i, carry):
    distance_PW, chosen_G = carry
    last = chosen_G[i - 1]
    word, bit = last // _WORD, last % _WORD
    distance_PW = jnp.minimum(
      distance_PW,
      (x - x[bit, word]) ** 2
      + (y - y[bit, word]) ** 2
      + (z - z[bit, word]) ** 2,
    )
    # The lowest index that attains the maximum: first its word, then its bit.
    farthest_W = distance_PW.max(axis=0)
    farthest = farthest_W.max()
    word = jnp.where(farthest_W == farthest, words, len(words)).min()
    column_P = jax.lax.dynamic_index_in_dim(distance_PW, word, 1, False)
    bit = jnp.where(column_P == farthest, bits, _WORD).min()
    return distance_PW, chosen_G.at[i].set(word * _WORD + bit)

  # Derived from the input, so that the carry varies over the mesh under
  # shard_map exactly as the loop body's result does.
  zero = (x[0, 0] * 0).astype(jnp.int32)
  choosable_PW = index_PW < num_points
  if skip_origin:
    choosable_PW &= x * x + y * y + z * z >= _ORIGIN
  distance_PW = jnp.where(choosable_PW, jnp.inf, -jnp.inf) + x * 0
  chosen_G = jnp.zeros(num_samples, jnp.int32) + zero
  return jax.lax.fori_loop(1, num_samples, step, (distance_PW, chosen_G))[1]


def _in_words(xyz_N3: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The three planes of a cloud with 32 consecutive points in a column.

  Three planes vectorise, rows of three do not; reductions are fast over a
  major axis, and a column of a few consecutive points is quickly searched.

  Returns:
    (3, 32, W), padded with zeros, and (32, W) int32, the index of each.
  """
  words = -(-len(xyz_N3) // _WORD)
  padded = jnp.pad(xyz_N3, ((0, words * _WORD - len(xyz_N3)), (0, 0)))
  xyz_3PW = padded.T.reshape(3, words, _WORD).swapaxes(1, 2)
  index_PW = jnp.arange(_WORD, dtype=jnp.int32)[:, None] + _WORD * jnp.arange(
    words, dtype=jnp.int32
  )
  return xyz_3PW, index_PW


def ball_query(
  xyz_N3: jax.Array,
  centers_G3: jax.Array,
  num_points: jax.Array,
  *,
  radius: float,
  group_size: int,
) -> jax.Array:
  """Finds the first `group_size` points, by index, within each ball.

  A ball with fewer points is filled up with its first one.  A ball is never
  empty as long as its centre is a point of the cloud.

  Membership is a bit for each point; the bits before a point are its rank, so
  nothing is sorted and no (G, N) array of distances or keys is written.

  Args:
    xyz_N3: (N, 3) float32.
    centers_G3: (G, 3) float32.
    num_points: () int32, how many leading rows of `xyz_N3` exist.
    radius: Radius of the closed ball.
    group_size: K.

  Returns:
    (G, K) int32 indices into the cloud.
  """
  xyz_3PW, index_PW = _in_words(xyz_N3)
  # The direct difference: the expansion -2xy + x^2 + y^2 loses the boundary.
  d2_GPW = sum(
    (centers_G3[:, axis, None, None] - xyz_3PW[axis]) ** 2 for axis in range(3)
  )
  inside_GPW = (d2_GPW <= radius**2) & (index_PW < num_points)
  bit_P1 = jnp.arange(_WORD, dtype=jnp.uint32)[:, None]
  bits_GW = (inside_GPW.astype(jnp.uint32) << bit_P1).sum(1, dtype=jnp.uint32)

  counts_GW = jax.lax.population_count(bits_GW).astype(jnp.int32)
  ends_GW = jnp.cumsum(counts_GW, axis=1)
  # The slot's word is the first that ends behind it, its point the word's bit
  # with as many before it as slots of the word are before this one.
  slot_K = jnp.arange(group_size, dtype=jnp.int32)

  def words(ends_GW: jax.Array, method: str) -> jax.Array:
    return jax.vmap(
      lambda ends_W: jnp.searchsorted(ends_W, slot_K, "right", method=method)
    )(ends_GW)

  # By bisection a CPU compares least; elsewhere each of its turns is a launch
  # of its own, and comparing all is one.
  word_GK = jax.lax.platform_dependent(
    ends_GW,
    cpu=functools.partial(words, method="scan"),
    default=functools.partial(words, method="compare_all"),
  )
  word_GK = jnp.minimum(word_GK, bits_GW.shape[1] - 1)  # of empty slots
  take = jnp.take_along_axis
  before_GK = take(ends_GW - counts_GW, word_GK, axis=1)
  place_GK = _set_bit(take(bits_GW, word_GK, axis=1), slot_K - before_GK)
  index_GK = _WORD * word_GK + place_GK
  return jnp.where(slot_K < ends_GW[:, -1:], index_GK, index_GK[:, :1])


def _set_bit(bits: jax.Array, rank: jax.Array) -> jax.Array:
  """The place of the set bit that has `rank` set bits below it."""
  place = jnp.zeros_like(rank)
  width = _WORD // 2
  while width:
    low = (bits >> place.astype(jnp.uint32)) & jnp.uint32(2**width - 1)
    count = jax.lax.population_count(low).astype(rank.dtype)
    above = rank >= count
    rank = jnp.where(above, rank - count, rank)
    place = jnp.where(above, place + width, place)
    width //= 2
  return place


def gather_groups(
  points_N6: jax.Array,
  num_points: jax.Array,
  center_index_G: jax.Array,
  *,
  radius: float,
  group_size: int,
) -> Groups:
  """Gathers the neighbourhoods of one cloud: `Groups` without a batch axis."""
  xyz_N3 = points_N6[:, :3]
  centers_G3 = xyz_N3[center_index_G]
  index_GK = ball_query(
    xyz_N3, centers_G3, num_points, radius=radius, group_size=group_size
  )
  neighbours_GK6 = points_N6[index_GK]
  offset_GK3 = neighbours_GK6[..., :3] - centers_G3[:, None]
  return Groups(centers_G3, jnp.concatenate([offset_GK3, neighbours_GK6], -1))


def sample_clouds(
  xyz_BN3: jax.Array,
  num_points_B: jax.Array,
  num_samples: int,
  *,
  sampling: Form = "auto",
  chunk: int,
) -> jax.Array:
  """Samples every cloud, all of them on one device.

  Args:
    xyz_BN3: (B, N, 3) float32.
    num_points_B: (B,) int32, how many leading points of each cloud exist.
    num_samples: G.
    sampling: "kernel" samples all clouds at once in `sampling_kernel.py`, "xla"
      in the portable form; "auto" takes the kernel where it can.  Lowered for
      another platform than CUDA, a program has the portable form always.
    chunk: How many clouds the portable form samples at a time.

  Returns:
    (B, G) int32 indices in order of choice.

  Raises:
    BadInput: if the kernel is asked for and cannot run.
  """
  most = sampling_kernel.MAX_POINTS
  with_kernel = devices.takes(
    "model.sampling",
    sampling,
    runs=sampling_kernel.is_supported() and xyz_BN3.shape[1] <= most,
    needs="an NVIDIA GPU of compute capability 9.0 (Hopper) or newer, and "
    f"clouds of at most {most:,} points",
  )

  def portable(xyz_BN3: jax.Array, num_points_B: jax.Array) -> jax.Array:
    return jax.lax.map(
      lambda cloud: farthest_point_sample(cloud[0], cloud[1], num_samples),
      (xyz_BN3, num_points_B),
      batch_size=min(chunk, len(xyz_BN3)),
    )

  def kernel(xyz_BN3: jax.Array, num_points_B: jax.Array) -> jax.Array:
    chosen_BG = sampling_kernel.farthest_point_sample_batch(
      xyz_BN3, num_points_B, num_samples
    )
    return chosen_BG + 0 * num_points_B[:, None]  # varies over the mesh, too

  return jax.lax.platform_dependent(
    xyz_BN3,
    num_points_B,
    cuda=kernel if with_kernel else portable,
    default=portable,
  )


def group_points(
  points_BN6: jax.Array,
  num_points_B: jax.Array,
  *,
  groups: int,
  radius: float,
  group_size: int,
  fps_chunk: int,
  query_chunk: int,
  sampling: Form = "auto",
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
      the memory to `query_chunk * G * N` bits.
    sampling: See `sample_clouds`.
    batch_sharding: How the batch axis is laid out over devices.  The
      partitioner would gather the whole batch for `top_k`; with the layout
      given, each device works on its shard and nothing is exchanged.

  Returns:
    `Groups`, without gradient: the clouds are data.

  Raises:
    BadInput: if the kernel is asked for and cannot run.
  """
  chex.assert_shape(points_BN6, (None, None, 6))
  chex.assert_shape(num_points_B, (points_BN6.shape[0],))

  def local(points_BN6: jax.Array, num_points_B: jax.Array) -> Groups:
    center_index_BG = sample_clouds(
      points_BN6[..., :3],
      num_points_B,
      groups,
      sampling=sampling,
      chunk=fps_chunk,
    )
    return jax.lax.map(
      lambda cloud: gather_groups(*cloud, radius=radius, group_size=group_size),
      (points_BN6, num_points_B, center_index_BG),
      batch_size=min(query_chunk, len(points_BN6)),
    )

  group = sharding.on_own_share(local, batch_sharding)
  with jax.named_scope("tokenizer"):
    return jax.lax.stop_gradient(group(points_BN6, num_points_B))
