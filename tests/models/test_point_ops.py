"""Sampling and grouping against the twin, index for index.

Coordinates are multiples of 2^-10, so that every squared distance is exact in
float32: an index can then only differ because the rule differs, and ties and
points exactly on a ball's boundary are real.
"""

import pytest

pytest.importorskip("torch", reason="parity tests need the torch extra")

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from clouds import lattice
from weights import surface_clouds

from mrd_jax.convert import pointbert_modules as twin
from mrd_jax.models import point_ops

REPEATED = np.full((2, 64, 3), 0.25, np.float32)
CLOUDS = {
  # name: (xyz, counts, groups, radius, group_size)
  "dense": (lattice(0, 3, 2000), [2000] * 3, 64, 0.25, 32),
  "ten_thousand": (lattice(1, 2, 10_000), [10_000] * 2, 384, 0.25, 64),
  # Few levels: many equal distances, duplicates, points on the boundary.
  "ties": (lattice(2, 4, 300, levels=4), [300] * 4, 48, 0.5, 16),
  "padded": (lattice(3, 4, 256), [256, 200, 64, 31], 32, 0.5, 16),
  "fewer_points_than_groups": (lattice(4, 3, 40), [40, 10, 1], 24, 0.5, 8),
  "fewer_points_than_group_size": (lattice(5, 2, 20), [20, 7], 8, 1.0, 32),
  "one_repeated_point": (REPEATED, [64, 64], 8, 0.25, 16),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_indices_equal_the_twin(name):
  xyz, counts, groups, radius, group_size = CLOUDS[name]

  @jax.jit
  @jax.vmap
  def sample_and_query(xyz, count):
    index = point_ops.farthest_point_sample(xyz, count, groups)
    neighbours = point_ops.ball_query(
      xyz, xyz[index], count, radius=radius, group_size=group_size
    )
    return index, neighbours

  index, neighbours = sample_and_query(xyz, np.array(counts))

  points = torch.tensor(xyz)
  num_points = torch.tensor(counts)
  twin_index = twin.farthest_point_sample(points, groups, num_points)
  centers = torch.stack([x[i] for x, i in zip(points, twin_index, strict=True)])
  twin_neighbours = twin.ball_query(
    points, centers, radius, group_size, num_points
  )
  np.testing.assert_array_equal(index, twin_index)
  np.testing.assert_array_equal(neighbours, twin_neighbours)


def grouping(**changes):
  sizes = {"groups": 16, "radius": 0.5, "group_size": 8}
  options = sizes | {"fps_chunk": 3, "query_chunk": 3} | changes
  return jax.jit(functools.partial(point_ops.group_points, **options))


def test_chunks_change_nothing():
  """Chunks of one, of a part, with a rest, and of more than there are."""
  points = jnp.concatenate([lattice(6, 8, 90)] * 2, axis=-1)
  counts = jnp.arange(20, 84, 8)
  expected = grouping()(points, counts)
  for fps, query in ((1, 2), (100, 100)):
    found = grouping(fps_chunk=fps, query_chunk=query)(points, counts)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_groups_hold_offset_position_and_colour():
  points = np.concatenate([lattice(7, 2, 50), lattice(8, 2, 50)], -1)
  groups = grouping()(jnp.asarray(points), jnp.full(2, 50))
  assert groups.center_xyz.shape == (2, 16, 3)
  assert groups.features.shape == (2, 16, 8, 9)
  np.testing.assert_array_equal(groups.center_xyz[:, 0], points[:, 0, :3])
  offset, absolute = groups.features[..., :3], groups.features[..., 3:6]
  np.testing.assert_array_equal(
    absolute - groups.center_xyz[:, :, None], offset
  )
  # Every neighbour is a point of its own cloud, colour included.
  for cloud, features in zip(points, groups.features, strict=True):
    drawn = features[..., 3:].reshape(-1, 6).tolist()
    assert set(map(tuple, drawn)) <= set(map(tuple, cloud.tolist()))


def test_padding_is_never_read():
  points = np.concatenate([lattice(9, 4, 64)] * 2, axis=-1)
  padded = np.concatenate([points, np.zeros((4, 36, 6), np.float32)], axis=1)
  poisoned = padded.copy()
  poisoned[:, 64:] = 1e3
  counts = jnp.full(4, 64)
  group = grouping()
  expected = group(jnp.asarray(points), counts)
  for cloud in (padded, poisoned):
    found = group(jnp.asarray(cloud), counts)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_no_batch_sized_distance_matrix_is_held():
  b, n = 64, 2000
  compiled = (
    grouping(groups=64, fps_chunk=4, query_chunk=4)
    .lower(
      jax.ShapeDtypeStruct((b, n, 6), jnp.float32),
      jax.ShapeDtypeStruct((b,), jnp.int32),
    )
    .compile()
  )
  assert compiled.memory_analysis().temp_size_in_bytes < b * 64 * n * 4 / 4


def test_clouds_get_no_gradient():
  points = jnp.asarray(np.concatenate([lattice(10, 2, 50)] * 2, -1))
  group = grouping()
  gradient = jax.grad(lambda p: group(p, jnp.full(2, 50)).features.sum())
  assert not gradient(points).any()


@pytest.mark.gpu
def test_a_ball_has_the_members_that_it_has_on_a_cpu():
  """But for members on its surface, whose rounding depends on fused products.

  Squared distances of both differ by 2^-24 of themselves at most twice.  About
  200 of a surface's points are in a ball of M, their number grows with the
  squared radius, and a cloud has 384 balls: 200 * 384 * 2^-24 = .005 members
  of a cloud change for each rounding, so for 512 clouds 5 are expected.  The
  member that takes such a one's place is the second of a pair.
  """
  xyz_BN3 = surface_clouds(0, 512, 10_000)[..., :3]

  def query(device):
    @jax.jit
    def one(xyz_N3, centers_G3):
      return point_ops.ball_query(
        xyz_N3, centers_G3, 10_000, radius=0.2, group_size=64
      )

    # Not sampled, which could fall differently: a cloud's order is random.
    clouds = jax.device_put(xyz_BN3, device)
    return np.asarray(
      jax.lax.map(lambda xyz: one(xyz, xyz[:384]), clouds, batch_size=8)
    )

  found, expected = query(jax.devices()[0]), query(jax.devices("cpu")[0])
  changed = sum(
    len(np.setxor1d(found[ball], expected[ball]))
    for ball in zip(*np.nonzero((found != expected).any(-1)), strict=True)
  )
  assert changed <= 2 * 20, f"{changed} members of {found.size}"
