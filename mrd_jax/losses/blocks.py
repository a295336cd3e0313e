"""Sums over all pairs of a global batch, tile by tile over the devices.

Every loss of `losses/mrd.py` is a small formula of sums over the columns of a
(B, B) matrix.  Here those sums are made without the matrix: each device keeps
its rows, and all columns pass by in tiles.

* gather: each device gets all columns once (all_gather) and walks them.
* ring: each device walks its own columns and hands them on (ppermute) until
  all have been everywhere; no device ever has all columns.
* without a mesh, one device walks its own.

A softmax needs its row's largest logit.  The walk carries the largest so far,
the *shift*, and rescales the sums when it grows.  With the last shift fixed,
all sums are plain sums over tiles, so the backward walk takes each tile again
and pulls the sums' cotangents through it: what is kept between the two walks
is linear in B, and so is what either needs.

What is summed, a `Kernel` says (`losses/kernels.py`).  The formulas of its sums
(`losses/block_terms.py`) must not depend on the shifts; then these are constants to
the gradient.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mrd_jax.losses.tiles import Blocks, Devices, Kernel, Samples, Sums, Walk
from mrd_jax.parallel.sharding import BATCH


def pair_sums(
  kernel: Kernel,
  blocks: Blocks,
  features: dict[str, jax.Array],
  has_text_B: jax.Array,
  draws: dict[str, jax.Array],
  scales: dict[str, Any],
) -> tuple[Sums, Sums, Sums, Sums]:
  """All sums of a global batch.

  Args:
    kernel: What is summed.
    blocks: How the tiles are walked.
    features: {"P", "I", "T"}: (B, D) unit vectors; I and T are constants.
    has_text_B: (B,) bool.
    draws: {name: (B, 2, S)} int, as the kernel wants them.
    scales: What the kernel multiplies with: () "contrast", and constants.

  Returns:
    Shifts and sums by row, shifts and sums by column, trees of (B,).
    Differentiable with respect to P and the contrast's scale as far as
    nothing that is made of them depends on the shifts.
  """
  found: Any = _sums(kernel, blocks, features, has_text_B, draws, scales)
  return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(kernel, blocks, features, has_text_B, draws, scales):
  return _sums_forward(kernel, blocks, features, has_text_B, draws, scales)[0]


def _sums_forward(kernel, blocks, features, has_text_B, draws, scales):
  outputs, columns = _on_devices(
    functools.partial(_forward, kernel, blocks),
    blocks.mesh,
    in_specs=(P(BATCH), P(BATCH), P(BATCH), P()),
    # Gathered columns are the same on all devices and serve both walks.
    out_specs=(P(BATCH), P()),
  )(features, has_text_B, draws, scales)
  row_shift, _, column_shift, _ = outputs
  inputs = (features, has_text_B, draws, scales)
  return outputs, (inputs, columns, row_shift, column_shift)


def _sums_backward(kernel, blocks, residuals, cotangents):
  inputs, columns, row_shift, column_shift = residuals
  _, of_rows, _, of_columns = cotangents
  gradient_P, gradient_contrast = _on_devices(
    functools.partial(_backward, kernel, blocks),
    blocks.mesh,
    in_specs=(
      (P(BATCH), P(BATCH), P(BATCH), P()),
      P(),
      (P(BATCH), P(BATCH)),
      (P(BATCH), P(BATCH)),
    ),
    out_specs=(P(BATCH), P()),
  )(inputs, columns, (row_shift, column_shift), (of_rows, of_columns))
  features, _, _, scales = jax.tree.map(jnp.zeros_like, inputs)
  features |= {"P": gradient_P}
  return features, None, None, scales | {"contrast": gradient_contrast}


_sums.defvjp(_sums_forward, _sums_backward)


def _on_devices(function: Callable, mesh: Mesh | None, **specs) -> Callable:
  if mesh is None:
    return function
  return jax.shard_map(function, mesh=mesh, check_vma=False, **specs)


# What follows runs on one device, on its n rows.


def _forward(kernel, blocks, features, has_text, draws, scales):
  """Shifts and sums of this device's rows, and columns to keep, if any."""
  devices = Devices(blocks.mesh)
  rows = _rows(devices, features, has_text, draws)
  columns = _columns(kernel, blocks, rows)
  kept = columns if blocks.form == "gather" and blocks.mesh else None
  walk = Walk(kernel, blocks, rows, columns)

  def first_tile():
    row, column = walk.cut_rows(0), walk.cut_columns(columns, 0)
    products = walk.multiply(row, column)
    maxima = kernel.maxima(products, row, column, scales)
    return maxima, kernel.sums(products, row, column, scales, maxima)

  lowest = jnp.finfo(features["P"].dtype).min / 2

  def full(tree, size, value):
    return jax.tree.map(lambda x: jnp.full(size, value, x.dtype), tree)

  (row_shift, column_shift), (of_rows, of_columns) = jax.eval_shape(first_tile)
  row_state = (full(row_shift, walk.rows, lowest), full(of_rows, walk.rows, 0))
  column_state = (
    full(column_shift, walk.columns, lowest),
    full(of_columns, walk.columns, 0),
  )

  def tile(columns, i, j, states):
    row, column = walk.cut_rows(i), walk.cut_columns(columns, j)
    products = walk.multiply(row, column)
    found = kernel.maxima(products, row, column, scales)
    part = walk.cut_state(states, i, j)
    new = tuple(
      jax.tree.map(jnp.maximum, shift, maxima)
      for (shift, _), maxima in zip(part, found, strict=True)
    )
    added = kernel.sums(products, row, column, scales, new)
    part = tuple(
      (shift, jax.tree.map(jnp.add, kernel.rescale(sums, old, shift), more))
      for (old, sums), shift, more in zip(part, new, added, strict=True)
    )
    return walk.put_state(states, part, i, j)

  def hop(carry, _):
    columns, row_state, column_state = carry
    row_state, column_state = walk.over_tiles(
      functools.partial(tile, columns), (row_state, column_state)
    )
    if walk.hops > 1:
      columns, column_state = devices.pass_on((columns, column_state))
    return (columns, row_state, column_state), None

  (_, row_state, column_state), _ = jax.lax.scan(
    hop, (columns, row_state, column_state), length=walk.hops
  )
  if kept is not None and column_state[0]:
    # Every device has all columns' sums over its own rows.
    shift, sums = column_state
    top = devices.max(shift)
    sums = devices.scatter_sum(kernel.rescale(sums, shift, top))
    column_state = devices.own(top, walk.rows), sums
  return (*row_state, *column_state), kept


def _backward(kernel, blocks, inputs, columns, shifts, cotangents):
  """Gradients by this device's P, and by the scale (over all devices)."""
  devices = Devices(blocks.mesh)
  features, has_text, draws, scales = inputs
  rows = _rows(devices, features, has_text, draws)
  if columns is None:
    columns = _columns(kernel, blocks, rows)
  walk = Walk(kernel, blocks, rows, columns)
  # The columns' share of it travels with them, like their gradient.
  row_side, column_side = zip(shifts, cotangents, strict=True)
  if blocks.form == "gather":
    column_side = devices.gather(column_side)
  column_gradient = jnp.zeros_like(columns.features["P"])
  row_gradient = jnp.zeros_like(rows.features["P"])
  scale_gradient = jnp.zeros_like(scales["contrast"])

  def tile(columns, column_side, i, j, gradients):
    of_rows, of_columns, of_scale = gradients
    row, column = walk.cut_rows(i), walk.cut_columns(columns, j)
    (row_shift, row_ct), (column_shift, column_ct) = walk.cut_state(
      (row_side, column_side), i, j
    )
    products = walk.multiply(row, column)
    student = {pair: x for pair, x in products.items() if "P" in pair}
    _, pull = jax.vjp(
      lambda student, scale: kernel.sums(
        products | student,
        row,
        column,
        scales | {"contrast": scale},
        (row_shift, column_shift),
      ),
      student,
      scales["contrast"],
    )
    product_ct, scale_ct = pull((row_ct, column_ct))
    of_scale = of_scale + scale_ct
    row_part, column_part = walk.cut_state((of_rows, of_columns), i, j)
    row_part, column_part = walk.pull(
      product_ct, row, column, row_part, column_part
    )
    of_rows, of_columns = walk.put_state(
      (of_rows, of_columns), (row_part, column_part), i, j
    )
    return of_rows, of_columns, of_scale

  def hop(carry, _):
    columns, column_side, of_rows, of_columns, of_scale = carry
    of_rows, of_columns, of_scale = walk.over_tiles(
      functools.partial(tile, columns, column_side),
      (of_rows, of_columns, of_scale),
    )
    if walk.hops > 1:
      columns, column_side, of_columns = devices.pass_on(
        (columns, column_side, of_columns)
      )
    return (columns, column_side, of_rows, of_columns, of_scale), None

  (_, _, of_rows, of_columns, of_scale), _ = jax.lax.scan(
    hop,
    (columns, column_side, row_gradient, column_gradient, scale_gradient),
    length=walk.hops,
  )
  if blocks.form == "gather":
    of_columns = devices.scatter_sum(of_columns)
  return of_rows + of_columns, devices.sum(of_scale)


def _rows(devices: Devices, features, has_text, draws) -> Samples:
  (n,) = has_text.shape
  return Samples(
    features=features,
    norm2={name: jnp.sum(x**2, axis=-1) for name, x in features.items()},
    index=devices.index() * n + jnp.arange(n, dtype=jnp.int32),
    valid=jnp.ones_like(has_text),
    has_text=has_text,
    draws=draws,
  )


def _columns(kernel: Kernel, blocks: Blocks, rows: Samples) -> Samples:
  """The columns that a device starts with; a ring's whole rows lack theirs."""
  devices = Devices(blocks.mesh)
  columns = rows._replace(draws={})
  if blocks.form == "gather":
    return devices.gather(columns)
  if kernel.whole_rows:  # all of them, but for their features
    gathered = devices.gather(columns._replace(features={}))
    return gathered._replace(features=columns.features)
  return columns
