"""Samples farthest points in a GPU kernel, for Hopper and newer.

`point_ops.farthest_point_sample` reads and writes every running distance in
device memory once per chosen point.  Here a cloud is loaded once and stays on
its multiprocessor: one block of 128 threads per cloud, the running distances
(and the x coordinates, where they fit) in registers, the other coordinates in
shared memory.  Written in Pallas for its Mosaic GPU backend, with what lowers
in jax 0.10.2 to 0.12; Pallas is imported only when the kernel is used.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from mrd_jax.parallel import devices

# At 12 bytes a point, 192 of the 227 KiB that a block may have.
MAX_POINTS = 16_384

# Points in a row of the kernel's arrays: 128 threads, two each, so that
# shared memory is read 8 bytes at a time.
_ROW = 256
# A row of distances or of x is two registers a thread.  With these many
# (12,288 points) all 255 are in use, and none is spilled.
_ROWS_WITH_X_IN_REGISTERS = 48
_THREADS = 128


def is_supported() -> bool:
  """Says whether the default device and this jax can run the kernel."""
  if devices.cuda_capability() < 9:
    return False
  try:
    from jax.experimental.pallas import mosaic_gpu  # noqa: F401
  except ImportError:
    return False
  return True


def farthest_point_sample_batch(
  xyz_BN3: jax.Array,
  num_points_B: jax.Array,
  num_samples: int,
  *,
  x_in_registers: bool | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Samples a batch like `point_ops.farthest_point_sample`, index for index.

  Where coordinates make squared distances inexact, a tie within rounding can
  fall differently if the two forms fuse multiply and add differently.

  Args:
    xyz_BN3: (B, N, 3) float32, finite, N <= `MAX_POINTS`.
    num_points_B: (B,) int32, how many leading rows of each cloud exist.
    num_samples: G, how many indices to return per cloud.
    x_in_registers: Whether x is kept in registers, so that two clouds share a
      multiprocessor and hide each other's waiting.  None decides by N.
    interpret: Runs on CPU in Pallas' Mosaic GPU interpreter, for tests.

  Returns:
    (B, G) int32 indices in order of choice, without gradient.

  Raises:
    ValueError: if a cloud has more than `MAX_POINTS` rows.
  """
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import mosaic_gpu as plgpu

  chex.assert_shape(xyz_BN3, (None, None, 3))
  batch, n, _ = xyz_BN3.shape
  chex.assert_shape(num_points_B, (batch,))
  if n > MAX_POINTS:
    raise ValueError(
      f"xyz has {n} points a cloud; this kernel holds at most {MAX_POINTS}: "
      "use point_ops.farthest_point_sample"
    )
  rows = pl.cdiv(n, _ROW)
  if x_in_registers is None:
    x_in_registers = rows <= _ROWS_WITH_X_IN_REGISTERS
  slots = pl.cdiv(num_samples, _THREADS) * _THREADS

  planes_B3N = lax.stop_gradient(xyz_BN3).transpose(0, 2, 1)
  planes_B3N = jnp.pad(planes_B3N, ((0, 0), (0, 0), (0, rows * _ROW - n)))
  planes_B3RL = planes_B3N.reshape(batch, 3, rows, _ROW)
  # An input rather than an iota: what is loaded has the loads' layout.
  index = jnp.arange(max(_ROW, slots), dtype=jnp.int32)
  shared_planes = 2 if x_in_registers else 3

  def farthest_point_sampling(
    planes_ref, num_points_ref, index_ref, chosen_ref, shared_ref, loaded
  ):
    cloud = lax.axis_index("cloud")
    axes = pl.ds(3 - shared_planes, shared_planes)
    plgpu.copy_gmem_to_smem(planes_ref.at[cloud, axes], shared_ref, loaded)
    plgpu.barrier_wait(loaded)
    *x_ref, y_ref, z_ref = (shared_ref.at[i] for i in range(shared_planes))
    chosen_ref[cloud] = _sample_cloud(
      (x_ref[0] if x_ref else planes_ref.at[cloud, 0], y_ref, z_ref),
      num_points_ref[cloud],
      lane_L=index_ref[pl.ds(0, _ROW)],
      slot_G=index_ref[pl.ds(0, slots)],
      rows=rows,
      num_samples=num_samples,
      x_in_registers=x_in_registers,
    )

  kernel = plgpu.kernel(
    farthest_point_sampling,
    out_type=jax.ShapeDtypeStruct((batch, slots), jnp.int32),
    scratch_types=[
      plgpu.SMEM((shared_planes, rows, _ROW), jnp.float32),
      plgpu.Barrier(),
    ],
    grid=(batch,),
    grid_names=("cloud",),
    # Lane is no default since jax 0.11, but lowers in half a second; with
    # Warpgroup, jax 0.10.2 took minutes over the layouts of so many rows.
    compiler_params=plgpu.CompilerParams(
      lowering_semantics=plgpu.LoweringSemantics.Lane
    ),
    interpret=interpreter() if interpret else False,
  )
  chosen_BG = kernel(planes_B3RL, num_points_B.astype(jnp.int32), index)
  return chosen_BG[:, :num_samples]


def _sample_cloud(
  xyz_refs: tuple[Any, Any, Any],
  num_points: jax.Array,
  *,
  lane_L: jax.Array,
  slot_G: jax.Array,
  rows: int,
  num_samples: int,
  x_in_registers: bool,
) -> jax.Array:
  """What one block does: (G,) indices of the cloud behind `xyz_refs`.

  Rows are separate arrays, so that a step down the rows is done by every
  thread for itself, and only the last, (L,) row is reduced across threads.
  """
  x_ref, y_ref, z_ref = xyz_refs
  held_x = [x_ref[row] for row in range(rows)] if x_in_registers else None
  distances = tuple(
    jnp.where(lane_L + row * _ROW < num_points, jnp.float32(jnp.inf), -jnp.inf)
    for row in range(rows)
  )

  def step(i, carry):
    distances, last, chosen_G = carry
    at = (lax.div(last, _ROW), lax.rem(last, _ROW))
    last_x, last_y, last_z = x_ref[at], y_ref[at], z_ref[at]

    def update(row):
      dx_L = (held_x[row] if held_x else x_ref[row]) - last_x
      dy_L, dz_L = y_ref[row] - last_y, z_ref[row] - last_z
      to_last_L = dx_L * dx_L + dy_L * dy_L + dz_L * dz_L
      return jnp.minimum(distances[row], to_last_L)

    updated = [update(0)]
    best_L, best_row_L = updated[0], lane_L * 0
    for row in range(1, rows):
      updated.append(update(row))
      # Rows ascend: among equals the first stays.  The array is the first
      # branch because Mosaic GPU takes the result's signedness from there.
      best_row_L = jnp.where(updated[row] <= best_L, best_row_L, row)
      best_L = jnp.maximum(best_L, updated[row])
    attained_L = best_L == best_L.max()
    index_L = best_row_L * _ROW + lane_L
    farthest = jnp.where(attained_L, index_L, rows * _ROW - 1).min()
    return (
      tuple(updated),
      farthest,
      jnp.where(slot_G != i, chosen_G, farthest),
    )

  start = (distances, jnp.int32(0), slot_G * 0)
  return lax.fori_loop(1, num_samples, step, start)[2]


def interpreter() -> Any:
  """Returns what runs a kernel on a CPU, for tests."""
  # Private only in jax 0.10; this path serves every version to 0.12.
  from jax._src.pallas.mosaic_gpu.interpret import params

  return params.InterpretGPUParams()
