"""Sparse voxels against dictionaries of coordinates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.models import site_pooling, sparse_conv

VOXEL = 0.05
N = 160
# Points of each cloud that exist: all, some, a single one.
COUNTS = np.array([N, 90, 1], np.int32)


def clouds():
  """A dense lump, points scattered far apart, and one point; all off 0."""
  rng = np.random.default_rng(0)
  xyz = rng.normal(size=(3, N, 3)) * np.array([0.2, 6.0, 1.0])[:, None, None]
  return (xyz + [0.3, -7, 90.0]).astype(np.float32)


@pytest.fixture(scope="module")
def levels():
  """Sites of strides 1 to 16, where the finer are among them, points' rows."""

  @jax.jit
  def make(xyz_BN3, num_points_B):
    sites, row_BN, fits_B = sparse_conv.voxelize(xyz_BN3, num_points_B, VOXEL)
    levels, parents = [sites], []
    for _ in range(4):
      coarse, parent_R = sparse_conv.coarsen(levels[-1])
      levels.append(coarse)
      parents.append(parent_R)
    return levels, parents, row_BN, fits_B

  return jax.tree.map(np.asarray, make(clouds(), COUNTS))


def voxels(cloud: int) -> np.ndarray:
  xyz = clouds()[cloud, : COUNTS[cloud]]
  return np.floor(xyz / np.float32(VOXEL)).astype(int)


def rows(sites, stride: int) -> dict[tuple[int, ...], int]:
  """The row of every site by cloud and absolute coordinates."""
  found = {}
  for row in range(sites.start_A[-1]):
    cloud = int(sites.cloud_R[row])
    origin = (voxels(cloud).min(0) // 16 - 1) * 16
    xyz = np.asarray(sparse_conv.coordinates(sites.key_R[row])) * stride
    found[cloud, *(xyz + origin).tolist()] = row
  assert len(found) == sites.start_A[-1]
  return found


@pytest.mark.parametrize("level", range(5))
def test_sites_are_the_occupied_voxels(levels, level):
  stride = 2**level
  found = rows(levels[0][level], stride)
  expected = {
    (cloud, *voxel.tolist())
    for cloud in range(3)
    for voxel in voxels(cloud) // stride * stride
  }
  assert found.keys() == expected


def test_points_and_sites_know_their_coarser_site(levels):
  sites, parents, row_BN, fits_B = levels
  assert fits_B.all()
  row_BN = np.array(row_BN)
  for level in range(5):
    known = rows(sites[level], 2**level)
    for cloud, points in enumerate(COUNTS):
      for voxel, row in zip(voxels(cloud), row_BN[cloud], strict=False):
        place = voxel // 2**level * 2**level
        assert row == known[cloud, *place.tolist()]
      assert (row_BN[cloud, points:] == row_BN.size).all()
    if level < 4:
      row_BN = np.append(parents[level], row_BN.size)[row_BN]


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_no_neighbour_is_wrong(levels, size, stride):
  find = jax.jit(lambda to, of: sparse_conv.neighbours(to, of, size, stride))
  first = 0 if size == 2 else -(size // 2)
  for level in range(4):
    of = levels[0][level]
    to = levels[0][level + stride - 1]
    near_RK = np.asarray(find(to, of))
    into = rows(of, 2**level)
    hits = 0
    for (cloud, *xyz), row in rows(to, 2**level * stride).items():
      for k, (z, y, x) in enumerate(itertools.product(range(size), repeat=3)):
        offset = (np.array([x, y, z]) + first) * 2**level
        expected = into.get((cloud, *(np.array(xyz) + offset).tolist()), 3 * N)
        assert near_RK[row, k] == expected
        hits += expected < 3 * N
    assert hits > len(into) // 2


def test_it_convolves(levels):
  rng = np.random.default_rng(1)
  x_RI = rng.normal(size=(3 * N, 5)).astype(np.float32)
  kernel_KIO = rng.normal(size=(27, 5, 4)).astype(np.float32)
  of, to = levels[0][0], levels[0][1]
  near_RK = np.asarray(
    jax.jit(sparse_conv.neighbours, static_argnums=(2, 3))(to, of, 3, 2)
  )
  y_RO = jax.jit(sparse_conv.convolve)(
    x_RI, near_RK, kernel_KIO, to.start_A[-1]
  )
  with_zero = np.append(x_RI, np.zeros((1, 5)), 0)
  expected = np.einsum("rki,kio->ro", with_zero[near_RK], kernel_KIO)
  exist = slice(to.start_A[-1])
  np.testing.assert_allclose(y_RO[exist], expected[exist], atol=1e-5)


@pytest.mark.parametrize("tile", [7, 64, 1000])
@pytest.mark.parametrize("count", [0, 1, 64, 99, 100])
def test_tiles_hold_every_row(tile, count):
  x = np.arange(100.0)[:, None]
  double = jax.jit(
    lambda x, n: sparse_conv.map_rows(lambda x: 2 * x, (x,), n, tile)
  )
  np.testing.assert_array_equal(double(x, count)[:count], 2 * x[:count])


def test_features_are_means_over_points_and_sites(levels):
  sites, _, row_BN, _ = levels
  x_BNC = np.random.default_rng(2).normal(size=(3, N, 4)).astype(np.float32)
  means = np.asarray(site_pooling.point_means(x_BNC, row_BN))
  pooled = site_pooling.max_and_mean(means, jax.tree.map(jnp.asarray, sites[0]))
  for (cloud, *xyz), row in rows(sites[0], 1).items():
    inside = (voxels(cloud) == xyz).all(1).nonzero()[0]
    np.testing.assert_allclose(
      means[row], x_BNC[cloud, inside].mean(0), atol=1e-6
    )
  for cloud in range(3):
    of_cloud = means[sites[0].cloud_R == cloud]
    np.testing.assert_allclose(pooled[cloud, :4], of_cloud.max(0))
    np.testing.assert_allclose(pooled[cloud, 4:], of_cloud.mean(0), atol=1e-6)


@pytest.mark.parametrize("voxel_size", [0.02, 0.08, 1 / 3])
def test_points_on_faces_are_divided_as_float32_is(voxel_size):
  """Also of rows of points that are a little to either side."""
  faces = (np.arange(-460, 460) * voxel_size).astype(np.float32)
  x = [faces, np.linspace(-9, 9, 920, dtype=np.float32)]
  for direction in (-np.inf, np.inf):
    x.append(np.nextafter(faces, np.float32(direction)))
    x.append(np.nextafter(x[-1], np.float32(direction)))
  for x_N in x:
    x_N = x_N[abs(x_N) > 1e-30]
    xyz_N3 = np.stack([x_N, 0 * x_N, 0 * x_N], 1)
    sites, row_BN, _ = jax.jit(sparse_conv.voxelize, static_argnums=2)(
      xyz_N3[None], jnp.array([len(x_N)]), voxel_size
    )
    expected = np.floor(x_N / np.float32(voxel_size))
    found = sparse_conv.coordinates(sites.key_R[row_BN[0]])[:, 0]
    origin = (expected.min() // 16 - 1) * 16
    np.testing.assert_array_equal(found + origin, expected)


def test_the_grid_goes_through_the_origin():
  """A cloud moved by 16 voxels keeps its voxels at every stride, by 1 not."""
  xyz = clouds()[:1]
  counts = []
  for moved in (0, 1, 16):
    sites, *_ = sparse_conv.voxelize(
      np.floor(xyz / VOXEL) + moved + 0.5, COUNTS[:1], 1.0
    )
    for _ in range(4):
      sites, _ = sparse_conv.coarsen(sites)
    counts.append(int(sites.start_A[-1]))
  assert counts[0] == counts[2] != counts[1]


@pytest.mark.parametrize(
  ("x", "fits"),
  [
    (sparse_conv.EXTENT - 1, True),
    (sparse_conv.EXTENT, False),
    (1e30, False),
    (np.nan, False),
    (np.inf, False),
    (-np.inf, False),
  ],
)
def test_what_is_too_wide_has_no_sites(x, fits):
  xyz = np.zeros((2, 3, 3), np.float32)
  xyz[0, 1, 2] = x
  sites, _, fits_B = sparse_conv.voxelize(xyz, jnp.array([2, 2]), 1.0)
  assert fits_B.tolist() == [fits, True]
  assert int(sites.start_A[-1]) == (3 if fits else 1)
