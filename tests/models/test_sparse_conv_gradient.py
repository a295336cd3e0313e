"""The gradient of sparse convolution, against what it is by definition."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.models import site_pooling, sparse_conv
from mrd_jax.zoo import spconv


@pytest.fixture(scope="module")
def levels():
  """Two clouds, one of them with padding, at strides 1 and 2."""
  rng = np.random.default_rng(0)
  xyz_BN3 = jnp.asarray(rng.uniform(-0.4, 0.4, (2, 40, 3)), jnp.float32)
  fine, row_BN, _ = sparse_conv.voxelize(xyz_BN3, jnp.array([40, 25]), 0.1)
  coarse, _ = sparse_conv.coarsen(fine)
  return fine, coarse, row_BN


def gathered(x_RI, neighbours_RK, kernel_KIO, count):
  """The convolution in words that JAX differentiates."""
  x_RI = jnp.concatenate([x_RI, jnp.zeros_like(x_RI[:1])])
  y_RO = jnp.einsum("rki,kio->ro", x_RI[neighbours_RK], kernel_KIO)
  return jnp.where((jnp.arange(len(y_RO)) < count)[:, None], y_RO, 0)


@pytest.mark.parametrize(
  ("size", "stride"), [(5, 1), (3, 1), (2, 2), (3, 2)], ids=str
)
def test_convolution_has_its_gradient(levels, x64, monkeypatch, size, stride):
  # Some tiles, of which the last is moved back.
  monkeypatch.setattr(sparse_conv, "TILE", 7 * 4 * size**3)
  of = levels[0]
  to = levels[stride - 1]
  near_RK = sparse_conv.neighbours(to, of, size, stride)
  exists_R1 = (jnp.arange(len(near_RK)) < to.count)[:, None]
  rng = np.random.default_rng(1)
  x_RI = rng.normal(size=(len(near_RK), 4))
  x_RI[int(of.count) :] = np.nan  # as `point_means` leaves them
  kernel_KIO = rng.normal(size=(size**3, 4, 3))
  weights_RO = rng.normal(size=(len(near_RK), 3))

  def gradient(convolve):
    def sum_of(x_RI, kernel_KIO):
      y_RO = convolve(x_RI, near_RK, kernel_KIO, to.count)
      return (jnp.where(exists_R1, y_RO, 0) * weights_RO).sum()

    return jax.grad(sum_of, (0, 1))(jnp.asarray(x_RI), kernel_KIO)

  found = gradient(sparse_conv.convolve)
  clean_RI = np.nan_to_num(x_RI)
  table_RK = jnp.where(exists_R1, near_RK, len(near_RK))
  expected = jax.grad(
    lambda x, kernel: (
      gathered(x, table_RK, kernel, to.count) * weights_RO
    ).sum(),
    (0, 1),
  )(clean_RI, kernel_KIO)
  for one, other in zip(found, expected, strict=True):
    assert np.abs(other).max() > 0.1
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_pooling_has_its_gradient(levels, x64):
  fine, _, row_BN = levels
  rng = np.random.default_rng(2)
  x_BNC = rng.normal(size=(*row_BN.shape, 3))
  weights_BC = rng.normal(size=(2, 6))

  def found(x_BNC):
    x_RC = site_pooling.point_means(x_BNC, row_BN)
    return (site_pooling.max_and_mean(x_RC, fine) * weights_BC).sum()

  # Which points are averaged at a site: only sites that there are have a row.
  is_of_SN = np.arange(int(fine.count))[:, None] == np.asarray(row_BN).ravel()
  mean_SN = is_of_SN / is_of_SN.sum(1, keepdims=True)
  cloud_S = np.asarray(fine.cloud_R)[: len(mean_SN)]

  def expected(x_BNC):
    x_SC = mean_SN @ x_BNC.reshape(-1, 3)
    clouds = [x_SC[np.flatnonzero(cloud_S == b)] for b in range(2)]
    pooled = [jnp.concatenate([x.max(0), x.mean(0)]) for x in clouds]
    return (jnp.stack(pooled) * weights_BC).sum()

  np.testing.assert_allclose(found(x_BNC), expected(x_BNC), rtol=1e-12)
  np.testing.assert_allclose(
    jax.grad(found)(x_BNC), jax.grad(expected)(x_BNC), rtol=1e-12, atol=1e-15
  )


def test_equal_maxima_share_the_gradient():
  sites = sparse_conv.Sites(
    jnp.zeros(4, jnp.int32), jnp.array([0, 0, 0, 1]), jnp.array([0, 3])
  )
  gradient = jax.grad(
    lambda x_RC: site_pooling.max_and_mean(x_RC, sites)[0, 0]
  )(jnp.array([[2.0], [1.0], [2.0], [9.0]]))
  np.testing.assert_array_equal(gradient[:, 0], [0.5, 0, 0.5, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
  "dtype",
  ["float32", pytest.param("bfloat16", marks=pytest.mark.long)],
)
def test_every_parameter_has_a_finite_gradient(dtype):
  size = dataclasses.replace(
    spconv.SIZES["MinkResNet11"], embed_dim=8, voxel_size=0.2
  )
  model = spconv.make(size, jnp.dtype(dtype))
  rng = np.random.default_rng(3)
  points = rng.uniform(-0.6, 0.6, (6, 60, 6)).astype(np.float32)
  counts = jnp.array([60, 60, 41, 60, 5, 60])
  variables: Any = model.init(jax.random.key(0), points, counts)

  @jax.jit
  @jax.grad
  def gradient(params, points):
    y_BD: Any = model.apply(variables | {"params": params}, points, counts)
    return (y_BD**2).sum()

  found = gradient(variables["params"], points)
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, name
  if dtype == "float32":
    # What a small step against it takes from the sum is its square.
    params = variables["params"]
    norm2 = sum((x**2).sum() for x in jax.tree.leaves(found))

    def value(scale):
      moved = jax.tree.map(lambda p, g: p - scale * g, params, found)
      y_BD = model.apply(variables | {"params": moved}, points, counts)
      return float((np.asarray(y_BD, np.float64) ** 2).sum())

    step = 1e-3 / float(norm2) * value(0.0)
    fall = (value(-step) - value(step)) / (2 * step)
    np.testing.assert_allclose(fall, norm2, rtol=2e-2)
