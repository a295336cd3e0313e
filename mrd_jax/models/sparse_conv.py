"""Convolves sparse voxels as MinkowskiEngine does, in programs of static shape.

A batch of clouds is one sparse tensor: a row for each site, which is a voxel
that a point occupies.  Rows are sorted by cloud and within it in Morton order,
by keys that interleave the bits of x, y and z.  A key without its last three
bits is that of the voxel twice as wide, and dropping them keeps the order: one
sort of the points gives the sites of all strides.

There are never more sites than points, at any stride.  So every array has a
row for each point of the batch and none can overflow, while loops over rows
end behind the last site (`map_rows`): absent rows take memory, not time.
Such a loop has no gradient, so that `convolve` brings its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.models.layers import matmul, precision_of

BITS = 10  # of a coordinate; three are a key
MARGIN = 16  # voxels around a cloud that a kernel may reach, and the alignment
EXTENT = 2**BITS - 3 * MARGIN  # widest cloud, in voxels, wherever it lies
TILE = 2**20  # numbers that a convolution gathers at a time


class Sites(NamedTuple):
  """The occupied voxels of a batch of B clouds at one stride, in R rows.

  Attributes:
    key_R: (R,) int32 Morton keys, ascending within a cloud.
    cloud_R: (R,) int32 the cloud of each row; B where no site is.
    start_A: (B + 1,) int32 the first row of each cloud, then how many sites
      there are in all.
  """

  key_R: jax.Array
  cloud_R: jax.Array
  start_A: jax.Array

  @property
  def count(self) -> jax.Array:
    return self.start_A[-1]


def voxelize(
  xyz_BN3: jax.Array, num_points_B: jax.Array, voxel_size: float
) -> tuple[Sites, jax.Array, jax.Array]:
  """Finds the sites of clouds: floor(xyz / voxel_size), on a grid through 0.

  Args:
    xyz_BN3: (B, N, 3) float32.
    num_points_B: (B,) int32, how many leading points of each cloud exist.
    voxel_size: Side of a voxel, in the unit of xyz.

  Returns:
    The sites of stride 1 in B N rows; (B, N) int32, the row of each point, B N
    for those that do not exist; (B,) bool, whether a cloud has points, all of
    them finite and within `EXTENT` voxels.  One that is not so has no sites.
  """
  batch, points, _ = xyz_BN3.shape
  xyz_BN3 = jax.lax.stop_gradient(xyz_BN3)
  voxel_BN3 = _floor_divide(xyz_BN3.astype(jnp.float32), voxel_size)
  exists_BN = jnp.arange(points) < num_points_B[:, None]
  exists_BN1 = exists_BN[..., None]
  low_B3 = jnp.where(exists_BN1, voxel_BN3, jnp.inf).min(1)
  high_B3 = jnp.where(exists_BN1, voxel_BN3, -jnp.inf).max(1)
  fits_B = (high_B3 - low_B3 < EXTENT).all(1)  # never so with NaN

  # From an origin before the cloud, so that keys are small wherever it lies;
  # a multiple of the largest stride, so that the coarse voxels stay what they
  # are.  Whole floats this near to each other have an exact difference.
  origin_B3 = jnp.floor(low_B3 / MARGIN) * MARGIN - MARGIN
  inside_BN = exists_BN & fits_B[:, None]
  relative_BN3 = jnp.where(
    inside_BN[..., None], voxel_BN3 - origin_B3[:, None], 0
  ).astype(jnp.int32)
  x, y, z = (_spread(relative_BN3[..., axis]) for axis in range(3))
  key_BN = x | y << 1 | z << 2
  cloud_BN = jnp.where(inside_BN, jnp.arange(batch)[:, None], batch)

  rows = batch * points
  cloud_R, key_R, order_R = jax.lax.sort(
    (cloud_BN.reshape(-1), key_BN.reshape(-1), jnp.arange(rows)), num_keys=2
  )
  sites, row_R = _distinct(key_R, cloud_R, batch)
  row_BN = jnp.zeros_like(row_R).at[order_R].set(row_R).reshape(batch, points)
  return sites, row_BN, fits_B


def _floor_divide(x: jax.Array, by: float) -> jax.Array:
  """floor(x / by) of the float32 quotient, to the last bit.

  XLA does not divide so: on CPUs it multiplies by 1 / by, GPUs are off by two
  units in the last place, and either puts points on a voxel's face, such as
  those of a box, into another voxel.  But the nearest integer n is right, and
  the remainder x - n by is exact in two steps, as n times either half of by's
  bits is (up to 2**12).  The quotient rounds to n or above if it is not more
  than half a unit in the last place below it.
  """
  side = np.float32(by)
  high = (side.view(np.int32) & ~np.int32(0xFFF)).view(np.float32)
  n = jnp.round(x / side)
  remainder = (x - n * high) - n * (side - high)
  half_unit = (n - jnp.nextafter(n, -jnp.inf)) / 2
  return jnp.where(remainder >= -half_unit * side, n, n - 1)


def coarsen(sites: Sites) -> tuple[Sites, jax.Array]:
  """Doubles the stride: floor(coordinate / stride) of every site.

  Returns:
    The coarser sites, and (R,) int32, the row among them of each finer one.
  """
  return _distinct(sites.key_R >> 3, sites.cloud_R, len(sites.start_A) - 1)


def _distinct(
  key_R: jax.Array, cloud_R: jax.Array, batch: int
) -> tuple[Sites, jax.Array]:
  """Leaves one row of each key of sorted ones, and says which is whose."""
  rows = len(key_R)
  changes_R = (jnp.diff(key_R) != 0) | (jnp.diff(cloud_R) != 0)
  first_R = jnp.concatenate([jnp.ones(1, bool), changes_R]) & (cloud_R < batch)
  row_R = jnp.where(cloud_R < batch, jnp.cumsum(first_R) - 1, rows)
  to_R = jnp.where(first_R, row_R, rows)
  cloud_R = jnp.full(rows, batch).at[to_R].set(cloud_R, mode="drop")
  key_R = jnp.zeros(rows, jnp.int32).at[to_R].set(key_R, mode="drop")
  start_A = jnp.searchsorted(cloud_R, jnp.arange(batch + 1))
  return Sites(key_R, cloud_R, start_A), row_R


def _spread(x: jax.Array) -> jax.Array:
  """Puts two zeros between the bits of integers below 2**BITS."""
  for shift, mask in (
    (16, 0b11_00000000_00000000_11111111),
    (8, 0b11_00000000_11110000_00001111),
    (4, 0b11_00001100_00110000_11000011),
    (2, 0b1001_00100100_10010010_01001001),
  ):
    x = (x | x << shift) & mask
  return x


def coordinates(key: jax.Array) -> jax.Array:
  """Takes x, y and z out of Morton keys, in units of their level's voxels.

  They count from an origin of the cloud's own, see `voxelize`.

  Returns:
    (..., 3) int32.
  """
  x = jnp.stack([key, key >> 1, key >> 2], axis=-1)
  for shift, mask in (
    (0, 0b1001_00100100_10010010_01001001),
    (2, 0b11_00001100_00110000_11000011),
    (4, 0b11_00000000_11110000_00001111),
    (8, 0b11_00000000_00000000_11111111),
    (16, 2**BITS - 1),
  ):
    x = (x | x >> shift) & mask
  return x


def map_rows(
  function: Callable[..., jax.Array],
  arrays: tuple[jax.Array, ...],
  count: jax.Array,
  tile: int,
) -> jax.Array:
  """Applies a function to the first rows of arrays, some at a time.

  Args:
    function: Of (T, ...) arrays; gives (T, ...), row by row.
    arrays: Of R rows each.
    count: () int32, how many rows count.
    tile: T, rows at a time; all R if that is less.

  Returns:
    (R, ...); what is in the other rows means nothing.
  """
  rows = len(arrays[0])
  tile = min(tile, rows)

  def step(i: jax.Array, out: jax.Array) -> jax.Array:
    # The last tile is moved back where it would end behind the last row.
    start = jnp.minimum(i * tile, rows - tile)
    part = (jax.lax.dynamic_slice_in_dim(x, start, tile) for x in arrays)
    return jax.lax.dynamic_update_slice_in_dim(out, function(*part), start, 0)

  like = jax.eval_shape(function, *(x[:tile] for x in arrays))
  out = jnp.zeros((rows, *like.shape[1:]), like.dtype)
  return jax.lax.fori_loop(0, (count + tile - 1) // tile, step, out)


def neighbours(to: Sites, of: Sites, size: int, stride: int) -> jax.Array:
  """Finds the sites under a kernel that is laid on every output site.

  An odd kernel has its centre there, an even one its first element; x runs
  fastest among its elements, then y, then z.

  Args:
    to: Output sites.
    of: Input sites, of the same batch.
    size: Side of the kernel; K = size**3.
    stride: Of the output's voxels in the input's, 1 or 2.

  Returns:
    (R, K) int32 rows among the input sites; R where there is none.
  """
  rows, batch = len(of.key_R), len(of.start_A) - 1
  offset_E = jnp.arange(size) - (size // 2 if size % 2 else 0)

  def find(key_T: jax.Array, cloud_T: jax.Array) -> jax.Array:
    corner_T3 = coordinates(key_T) * stride
    x, y, z = _spread(corner_T3[..., None] + offset_E).swapaxes(0, 1)
    key_TK = (
      x[:, None, None, :] | y[:, None, :, None] << 1 | z[:, :, None, None] << 2
    ).reshape(len(key_T), size**3)

    # The first row of the cloud whose key is not below the one looked for.
    def halve(_, bounds):
      low_TK, high_TK = bounds
      middle_TK = (low_TK + high_TK) // 2
      below_TK = (low_TK < high_TK) & (of.key_R[middle_TK] < key_TK)
      return (
        jnp.where(below_TK, middle_TK + 1, low_TK),
        jnp.where(below_TK, high_TK, middle_TK),
      )

    low_TK = jnp.broadcast_to(of.start_A[cloud_T, None], key_TK.shape)
    end_TK = jnp.broadcast_to(of.start_A[cloud_T + 1, None], key_TK.shape)
    steps = (
      rows // batch
    ).bit_length()  # a cloud has no more sites than points
    row_TK, _ = jax.lax.fori_loop(0, steps, halve, (low_TK, end_TK))
    found_TK = (row_TK < end_TK) & (of.key_R[row_TK] == key_TK)
    return jnp.where(found_TK, row_TK, rows)

  return map_rows(find, (to.key_R, to.cloud_R), to.count, TILE // size**3)


@jax.custom_vjp
def convolve(
  x_RI: jax.Array,
  neighbours_RK: jax.Array,
  kernel_KIO: jax.Array,
  count: jax.Array,
) -> jax.Array:
  """Convolves: out[r] = sum over k of x[neighbours[r, k]] kernel[k].

  Args:
    x_RI: (R, I) features of the input sites.
    neighbours_RK: (R, K) int32, see `neighbours`; one that is absent adds
      nothing.  No two in a column are the same, which the gradient takes for
      granted.
    kernel_KIO: (K, I, O) weights.
    count: () int32, how many output sites exist.

  Returns:
    (R, O), of x's type; rows behind the sites mean nothing.
  """
  fan_in = kernel_KIO.shape[0] * kernel_KIO.shape[1]
  kernel_FO = kernel_KIO.reshape(fan_in, -1)

  def product(neighbours_TK: jax.Array) -> jax.Array:
    x_TKI = x_RI.at[neighbours_TK].get(mode="fill", fill_value=0)
    return matmul(x_TKI.reshape(-1, fan_in), kernel_FO)

  return map_rows(product, (neighbours_RK,), count, max(1, TILE // fan_in))


def _convolve_backward(kept, dy_RO: jax.Array):
  x_RI, neighbours_RK, kernel_KIO, count = kept
  rows, taps = neighbours_RK.shape
  row_R1 = jnp.arange(rows, dtype=neighbours_RK.dtype)[:, None]
  exists_R1 = row_R1 < count
  near_RK = jnp.where(exists_R1, neighbours_RK, rows)
  dy_RO = jnp.where(exists_R1, dy_RO, 0)

  # Under an element of the kernel lies one input site of each output site, and
  # it is no other's: seen from the input sites this is a convolution again.
  from_RK = jnp.full_like(near_RK, rows)
  from_RK = from_RK.at[near_RK, jnp.arange(taps)].set(row_R1, mode="drop")
  referenced = jnp.where(near_RK < rows, near_RK + 1, 0).max()
  dx_RI = convolve(dy_RO, from_RK, kernel_KIO.swapaxes(1, 2), referenced)

  fan_in = taps * x_RI.shape[1]
  tile = min(max(1, TILE // fan_in), rows)
  wide = jnp.promote_types(x_RI.dtype, jnp.float32)

  def add(i: jax.Array, sum_FO: jax.Array) -> jax.Array:
    # As in `map_rows`; rows that the tile before had add nothing here.
    start = jnp.minimum(i * tile, rows - tile)
    near_TK = jax.lax.dynamic_slice_in_dim(near_RK, start, tile)
    is_new_T1 = (start + jnp.arange(tile) >= i * tile)[:, None]
    x_TKI = x_RI.at[jnp.where(is_new_T1, near_TK, rows)].get(
      mode="fill", fill_value=0
    )
    return sum_FO + jnp.matmul(
      x_TKI.reshape(tile, fan_in).T,
      jax.lax.dynamic_slice_in_dim(dy_RO, start, tile),
      precision=precision_of(x_RI.dtype),
      preferred_element_type=wide,
    )

  dkernel_FO = jnp.zeros((fan_in, kernel_KIO.shape[2]), wide)
  tiles = (count + tile - 1) // tile
  dkernel_FO = jax.lax.fori_loop(0, tiles, add, dkernel_FO)
  dkernel_KIO = dkernel_FO.reshape(kernel_KIO.shape).astype(kernel_KIO.dtype)
  return dx_RI, None, dkernel_KIO, None


convolve.defvjp(lambda *x: (convolve(*x), x), _convolve_backward)
