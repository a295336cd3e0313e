"""What the metrics share: checks, distinct embeddings, stripes over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.errors import BadInput
from mrd_jax.metrics import embeddings
from mrd_jax.metrics.embeddings import check_finite, distinct_rows, map_rows


@pytest.mark.parametrize(
  ("value", "dtype"),
  [(np.nan, np.float16), (np.inf, np.float32), (-np.inf, np.float64)],
)
def test_the_first_used_row_that_is_not_finite_is_named(value, dtype):
  x = np.ones((6, 4), dtype)
  x[1, 2] = np.nan
  x[1, 3] = np.inf
  x[0] = [np.inf, -np.inf, 0, 0]
  used = np.array([0, 0, 1, 1, 1, 1], bool)
  check_finite("shape", x, used)
  x[4, 3] = x[5, 3] = value
  with pytest.raises(BadInput, match="^shape 4 is not finite"):
    check_finite("shape", x, used)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distinct_rows_are_those_of_numpy(dtype):
  x = np.random.default_rng(0).integers(-1, 2, (200, 3)).astype(dtype)
  x[x == 0] *= np.random.default_rng(1).choice([-1, 1], (x == 0).sum())
  assert np.signbit(x[x == 0]).any()  # -0.0 is 0.0
  distinct, index = distinct_rows(x)
  np.testing.assert_array_equal(distinct[index], x)
  assert len(distinct) == len(np.unique(x, axis=0)) == 27
  assert index.dtype == np.int32


def test_distinct_rows_of_a_strided_view():
  x = np.arange(12.0).reshape(2, 6)[:, ::2][[0, 1, 0]]
  distinct, index = distinct_rows(x)
  np.testing.assert_array_equal(distinct[index], x)
  assert len(distinct) == 2


def scale_and_sum(x, whole):
  return {"scaled": x["a"] * whole, "sum": (x["b"] * x["a"][:, :1]).sum(axis=1)}


@pytest.mark.parametrize(
  ("count", "devices"), [(1, 1), (1, 3), (7, 3), (6, 3), (70, 3), (70, 1)]
)
def test_every_row_comes_back_in_order(monkeypatch, count, devices):
  local = jax.local_devices()
  monkeypatch.setattr(jax, "local_devices", lambda: local[:devices])
  monkeypatch.setattr(embeddings, "TILE", 2)
  rng = np.random.default_rng(0)
  given = {
    "a": rng.normal(size=(count, 2)).astype(np.float32),
    "b": rng.normal(size=(count, 3)).astype(np.float32),
  }
  got = map_rows(scale_and_sum, given, np.float32(3))
  np.testing.assert_allclose(got["scaled"], 3 * given["a"], rtol=1e-6)
  expected = given["b"].sum(axis=1) * given["a"][:, 0]
  np.testing.assert_allclose(got["sum"], expected, rtol=1e-5, atol=1e-6)


def test_all_devices_take_part_and_no_tile_is_larger(monkeypatch):
  monkeypatch.setattr(embeddings, "TILE", 4)
  traced = []

  def spy(x, whole):
    traced.append(x.shape)
    where = jax.lax.axis_index("rows")
    return jnp.full(len(x), where) + whole

  got = map_rows(spy, np.zeros((64, 5), np.float32), np.int32(0))
  np.testing.assert_array_equal(got, np.tile(np.repeat(np.arange(8), 4), 2))
  assert traced == [(4, 5)]  # compiled once, for all stripes
