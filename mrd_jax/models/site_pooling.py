"""Pools features of points at the sites of `sparse_conv`, and those of clouds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.models.sparse_conv import Sites


def point_means(x_BNC: jax.Array, row_BN: jax.Array) -> jax.Array:
  """Averages the features of the points of each site.

  Args:
    x_BNC: (B, N, C) features of points.
    row_BN: (B, N) int32, the row of each, see `voxelize`.

  Returns:
    (R, C) with R = B N; NaN behind the sites.
  """
  rows = row_BN.size
  x_RC = x_BNC.reshape(rows, -1)
  with_ones = jnp.concatenate([x_RC, jnp.ones_like(x_RC[:, :1])], axis=1)
  sums = jax.ops.segment_sum(with_ones, row_BN.reshape(-1), rows)
  return sums[:, :-1] / sums[:, -1:]


def max_and_mean(x_RC: jax.Array, sites: Sites) -> jax.Array:
  """Pools the sites of each cloud: (B, 2 C), the maxima before the means."""
  batch = len(sites.start_A) - 1
  top_BC: Any = _maxima(batch, x_RC, sites.cloud_R)
  sum_BC = jax.ops.segment_sum(x_RC, sites.cloud_R, batch)
  count_B1 = jnp.diff(sites.start_A)[:, None]
  return jnp.concatenate([top_BC, sum_BC / count_B1], axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _maxima(batch: int, x_RC: jax.Array, cloud_R: jax.Array) -> jax.Array:
  """The maxima of each cloud; equal ones share the gradient, as in `jnp.max`.

  XLA's own has none.
  """
  return jax.ops.segment_max(x_RC, cloud_R, batch)


def _maxima_forward(batch, x_RC, cloud_R):
  top_BC = _maxima(batch, x_RC, cloud_R)
  return top_BC, (x_RC, cloud_R, top_BC)


def _maxima_backward(batch, kept, dtop_BC):
  x_RC, cloud_R, top_BC = kept

  def of_site(x_BC: jax.Array) -> jax.Array:
    return x_BC.at[cloud_R].get(mode="fill", fill_value=0)

  is_top_RC = (x_RC == of_site(top_BC)) & (cloud_R < batch)[:, None]
  count_BC = jax.ops.segment_sum(is_top_RC.astype(x_RC.dtype), cloud_R, batch)
  return jnp.where(is_top_RC, of_site(dtop_BC / count_BC), 0), None


_maxima.defvjp(_maxima_forward, _maxima_backward)
