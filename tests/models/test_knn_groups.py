"""Grouping by nearest neighbours against pointnet2_ops' rules, index for index.

Coordinates are multiples of 2^-10, so that every squared distance is exact in
float32: ties are real, and an index differs only because the rule differs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clouds import lattice

from mrd_jax.models import knn_groups

CLOUDS = {
  # name: (xyz, counts, groups, group_size)
  "dense": (lattice(0, 2, 1500), [1500] * 2, 64, 32),
  "ties": (lattice(2, 3, 700, levels=4), [700] * 3, 48, 16),
  "core": (lattice(1, 3, 300) / 16, [300, 200, 64], 128, 16),
  "padded": (lattice(3, 4, 256), [256, 200, 64, 31], 32, 16),
  "fewer_points_than_groups": (lattice(4, 3, 40), [40, 10, 1], 24, 8),
  "fewer_points_than_group_size": (lattice(5, 2, 20), [20, 7], 8, 32),
  "at_the_origin": (np.zeros((1, 40, 3), np.float32), [40], 8, 4),
}


def sampled(xyz: np.ndarray, samples: int) -> list[int]:
  """pointnet2_ops' choice, thread by thread."""
  threads = min(512, 2 ** int(np.log2(len(xyz))))
  choosable = (xyz.astype(np.float64) ** 2).sum(1) > 1e-3
  distance = np.full(len(xyz), 1e10)
  chosen = [0]
  while len(chosen) < samples:
    new = ((xyz - xyz[chosen[-1]]).astype(np.float64) ** 2).sum(1)
    distance = np.minimum(distance, new)
    best, winner = -1.0, 0
    for thread in range(threads):
      own = np.arange(thread, len(xyz), threads)
      own = own[choosable[own]]
      if len(own) and distance[own].max() > best:
        best, winner = distance[own].max(), own[distance[own].argmax()]
    chosen.append(int(winner))
  return chosen


@pytest.mark.parametrize("name", CLOUDS)
def test_indices_equal_the_rules(name):
  xyz, counts, groups, group_size = CLOUDS[name]

  @jax.jit
  @jax.vmap
  def sample_and_query(xyz, count):
    index = knn_groups.sample_centers(xyz, count, groups)
    return index, knn_groups.nearest_neighbours(
      xyz, xyz[index], count, group_size
    )

  index, neighbours = sample_and_query(xyz, np.array(counts, np.int32))
  for cloud, count, centers, of_cloud in zip(
    xyz, counts, np.asarray(index), np.asarray(neighbours), strict=True
  ):
    cloud = cloud[:count]
    assert centers.tolist() == sampled(cloud, groups)
    d2 = ((cloud[centers][:, None] - cloud) ** 2).sum(-1)
    expected = np.sort(d2, axis=1)[:, :group_size]
    found = np.sort(np.take_along_axis(d2, of_cloud, axis=1), axis=1)
    missing = group_size - expected.shape[1]
    np.testing.assert_array_equal(found[:, missing:], expected)
    for row in of_cloud:
      assert len(set(row)) == min(group_size, count)


def test_a_group_holds_offsets_and_colours_and_padding_is_not_seen():
  rng = np.random.default_rng(0)
  points = np.concatenate(
    [lattice(6, 3, 128), rng.random((3, 128, 3), np.float32)], axis=-1
  )
  counts = jnp.array([128, 100, 60], jnp.int32)
  group = jax.jit(
    functools.partial(knn_groups.group_points, groups=16, group_size=8)
  )
  found = group(points, counts)
  assert found.features.shape == (3, 16, 8, 6)
  xyz = found.features[..., :3] + found.center_xyz[:, :, None]
  neighbours = np.concatenate([xyz, found.features[..., 3:]], -1)
  for cloud, of_cloud in zip(points, neighbours.reshape(3, -1, 6), strict=True):
    assert {tuple(point) for point in of_cloud} <= {
      tuple(point) for point in cloud
    }
  padding = np.arange(128) >= np.asarray(counts)[:, None]
  other = np.where(padding[..., None], np.float32(0.125), points)
  jax.tree.map(np.testing.assert_array_equal, found, group(other, counts))
