"""The mini-PointNet's statistics where rounding would drown them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.models.mini_pointnet import MiniPointNet


def grey_groups(grey: float) -> np.ndarray:
  """(B, G, K, 9) points of one colour."""
  xyz = np.random.default_rng(0).normal(size=(2, 8, 16, 3))
  colour = np.full_like(xyz, grey)
  x_BGKC = np.concatenate([0.03 * xyz, 0.2 * xyz, colour], axis=-1)
  return x_BGKC.astype(np.float32)


@pytest.mark.parametrize("grey", [0.4, 0.9])
def test_statistics_of_grey_clouds_are_those_of_float64(grey):
  """There the squares of the means are large beside the variances."""
  x_BGKC = grey_groups(grey)
  model = MiniPointNet(8, jnp.float32)
  variables = model.init(jax.random.key(0), x_BGKC[:1, :1], train=False)
  _, updates = jax.jit(
    lambda variables: model.apply(
      variables, x_BGKC, train=True, mutable=["intermediates", "batch_stats"]
    )
  )(variables)
  ((mean_O, variance_O),) = updates["intermediates"]["into_norm_0"]
  first = jax.tree.map(np.float64, variables["params"]["linear_0"])
  exact = x_BGKC.reshape(-1, 9).astype(np.float64) @ first["kernel"]
  exact += first["bias"]
  np.testing.assert_allclose(variance_O, exact.var(axis=0), rtol=1e-6)
  size = np.abs(exact.mean(axis=0)).max()
  np.testing.assert_allclose(
    mean_O, exact.mean(axis=0), rtol=0, atol=1e-6 * size
  )


def test_the_variances_gradient_is_that_of_float64():
  """By way of the products; none is lost by way of the mean."""
  x_BGKC = grey_groups(0.4)
  model = MiniPointNet(8, jnp.float32)
  variables = model.init(jax.random.key(0), x_BGKC[:1, :1], train=False)

  def variances(variables, x):
    model = MiniPointNet(8, x.dtype)
    _, seen = model.apply(
      variables, x, train=True, mutable=["intermediates", "batch_stats"]
    )
    return sum(v.sum() for ((_, v),) in seen["intermediates"].values())

  found = jax.jit(jax.grad(variances))(variables, x_BGKC)
  with jax.enable_x64(True):
    exact = jax.jit(jax.grad(variances))(
      jax.tree.map(np.float64, variables), x_BGKC.astype(np.float64)
    )
  largest = max(np.abs(x).max() for x in jax.tree.leaves(exact["params"]))
  for i in range(3):
    for name in ("kernel", "bias"):
      a, b = (x["params"][f"linear_{i}"][name] for x in (found, exact))
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest)
