"""Tiles of rows and columns, and how they move between devices.

Parts of `losses/blocks.py`: a device's `Walk` over the tiles of its rows and the
columns that it has, the inner products of a tile and their transposes, and the
collectives.  All of it runs on one device, inside shard_map.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrd_jax.losses import relations
from mrd_jax.parallel.sharding import BATCH

# Rows of a tile for each of its columns: tall tiles write the gradient of the
# columns less often.
ASPECT = 8


class Samples(NamedTuple):
  """Rows or columns: n samples of the global batch.

  Attributes:
    features: {"P", "I", "T"}: (n, D) unit vectors.
    norm2: {"P", "I", "T"}: (n,) their squared norms, 1 or 0.
    index: (n,) int32 which samples of the batch.
    valid: (n,) bool; False was already there in the tile before.
    has_text: (n,) bool, of the valid ones.
    draws: {name: (n, 2, S)} int, random columns for each row; {} in columns.
  """

  features: dict[str, jax.Array]
  norm2: dict[str, jax.Array]
  index: jax.Array
  valid: jax.Array
  has_text: jax.Array
  draws: dict[str, jax.Array]


Products = dict[str, jax.Array]  # "PI": (A, B), entry ij is P_i . I_j


Sums = dict[Any, Any]  # any tree of arrays with one entry a row (a column)


class Kernel(Protocol):
  """What is summed over the pairs.

  Attributes:
    pairs: Which inner products it reads, "PI".
    whole_rows: Whether a tile must have all columns.
  """

  @property
  def pairs(self) -> tuple[str, ...]: ...

  @property
  def whole_rows(self) -> bool: ...

  def maxima(
    self, products: Products, row: Samples, column: Samples, scales: Any
  ) -> tuple[Sums, Sums]:
    """The tile's largest logits by row and by column."""
    ...

  def sums(
    self,
    products: Products,
    row: Samples,
    column: Samples,
    scales: Any,
    shifts: tuple[Sums, Sums],
  ) -> tuple[Sums, Sums]:
    """The tile's sums by row and by column."""
    ...

  def rescale(self, sums: Sums, old: Sums, new: Sums) -> Sums:
    """Sums of the rows (or columns) after their shifts have grown."""
    ...


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How sums are walked.

  Attributes:
    form: "gather" or "ring".
    stripe: Columns of a tile.
    mesh: Devices that hold the batch's rows; None: one device holds all.
  """

  form: Literal["gather", "ring"]
  stripe: int
  mesh: Mesh | None


@dataclasses.dataclass(frozen=True)
class Devices:
  """The collectives of a mesh, inside shard_map; nothing without a mesh."""

  mesh: Mesh | None

  @property
  def size(self) -> int:
    return self.mesh.size if self.mesh else 1

  def index(self) -> jax.Array:
    return jax.lax.axis_index(BATCH) if self.mesh else jnp.int32(0)

  def gather(self, tree):
    """All rows of all devices, in order."""
    if not self.mesh:
      return tree
    return jax.tree.map(
      lambda x: jax.lax.all_gather(x, BATCH, tiled=True), tree
    )

  def scatter_sum(self, tree):
    """The reverse of `gather`: the sum over devices, each its own rows."""
    if not self.mesh:
      return tree
    return jax.tree.map(
      lambda x: jax.lax.psum_scatter(x, BATCH, tiled=True), tree
    )

  def sum(self, x):
    return jax.lax.psum(x, BATCH) if self.mesh else x

  def max(self, tree):
    return jax.lax.pmax(tree, BATCH) if self.mesh and tree else tree

  def own(self, tree, rows: int):
    """This device's rows of what all devices have whole."""
    start = self.index() * rows
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, start, rows), tree
    )

  def pass_on(self, tree):
    """Hands a tree to the next device and takes that of the one before."""
    if not self.mesh:
      return tree
    to_next = [(i, (i + 1) % self.size) for i in range(self.size)]
    return jax.lax.ppermute(tree, BATCH, to_next)


class Walk:
  """The tiles of a device's rows and the columns that it has."""

  def __init__(
    self, kernel: Kernel, blocks: Blocks, rows: Samples, columns: Samples
  ):
    self.kernel, self.devices = kernel, Devices(blocks.mesh)
    self.samples = rows
    self.rows, self.columns = len(rows.valid), len(columns.valid)
    area = ASPECT * blocks.stripe**2
    stripe = self.columns if kernel.whole_rows else blocks.stripe
    self.row_tiles, self.tile_rows = _even(self.rows, max(area // stripe, 1))
    self.column_tiles, self.tile_columns = _even(self.columns, stripe)
    ring = blocks.form == "ring" and blocks.mesh is not None
    self.hops = self.devices.size if ring and not kernel.whole_rows else 1
    self.rotates = ring and kernel.whole_rows

  def over_tiles(self, tile: Callable, carry):
    count = self.row_tiles * self.column_tiles
    if count == 1:
      return tile(0, 0, carry)
    return jax.lax.fori_loop(
      0,
      count,
      lambda t, carry: tile(
        t // self.column_tiles, t % self.column_tiles, carry
      ),
      carry,
    )

  def cut_rows(self, i) -> Samples:
    return _cut(self.samples, i, self.row_tiles, self.tile_rows)

  def cut_columns(self, columns: Samples, j) -> Samples:
    return _cut(columns, j, self.column_tiles, self.tile_columns)

  def cut_state(self, states, i, j):
    row, column = states
    return (
      _slice(row, i, self.row_tiles, self.tile_rows),
      _slice(column, j, self.column_tiles, self.tile_columns),
    )

  def put_state(self, states, parts, i, j):
    (row, column), (row_part, column_part) = states, parts
    return (
      _put(row, row_part, i, self.row_tiles, self.tile_rows),
      _put(column, column_part, j, self.column_tiles, self.tile_columns),
    )

  def multiply(self, row: Samples, column: Samples) -> Products:
    """The tile's inner products."""

    def dots(features) -> Products:
      return {
        pair: relations.dot(row.features[pair[0]], features[pair[1]])
        for pair in self.kernel.pairs
      }

    if not self.rotates:
      return dots(column.features)
    width = self.columns // self.devices.size

    def hop(h, carry):
      features, products = carry
      start = self.owner(h) * width
      products = jax.tree.map(
        lambda whole, part: jax.lax.dynamic_update_slice_in_dim(
          whole, part, start, axis=1
        ),
        products,
        dots(features),
      )
      return self.devices.pass_on(features), products

    empty = jax.tree.map(
      lambda x: jnp.zeros((x.shape[0], self.columns), x.dtype),
      jax.eval_shape(dots, column.features),
    )
    _, products = jax.lax.fori_loop(
      0, self.devices.size, hop, (column.features, empty)
    )
    return products

  def pull(
    self,
    cotangents: Products,
    row: Samples,
    column: Samples,
    of_rows,
    of_columns,
  ):
    """Adds what the cotangents of products with P say about P."""

    def pulled(cotangents, features, of_rows, of_columns):
      for pair, ct_AB in cotangents.items():
        if pair[0] == "P":
          of_rows = of_rows + _matmul(ct_AB, features[pair[1]])
        if pair[1] == "P":
          of_columns = of_columns + _matmul(ct_AB.T, row.features[pair[0]])
      return of_rows, of_columns

    if not self.rotates:
      return pulled(cotangents, column.features, of_rows, of_columns)
    width = self.columns // self.devices.size

    def hop(h, carry):
      features, of_rows, of_columns = carry
      part = jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(
          x, self.owner(h) * width, width, axis=1
        ),
        cotangents,
      )
      of_rows, of_columns = pulled(part, features, of_rows, of_columns)
      features, of_columns = self.devices.pass_on((features, of_columns))
      return features, of_rows, of_columns

    _, of_rows, of_columns = jax.lax.fori_loop(
      0, self.devices.size, hop, (column.features, of_rows, of_columns)
    )
    return of_rows, of_columns

  def owner(self, hop):
    """Whose columns are here after so many hops."""
    return (self.devices.index() - hop) % self.devices.size


def _matmul(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _even(total: int, largest: int) -> tuple[int, int]:
  """How many tiles of at most `largest`, and how many each must have."""
  count = -(-total // largest)
  return count, -(-total // count)


def _start(tile, size: int, total: int):
  return jnp.minimum(tile * size, total - size)


def _slice(tree, tile, count: int, size: int):
  """Tile number `tile` of all leaves; the last may begin in the one before."""
  if count == 1:
    return tree
  return jax.tree.map(
    lambda x: jax.lax.dynamic_slice_in_dim(x, _start(tile, size, len(x)), size),
    tree,
  )


def _put(tree, part, tile, count: int, size: int):
  """Writes what `_slice` has cut."""
  if count == 1:
    return part
  return jax.tree.map(
    lambda x, part: jax.lax.dynamic_update_slice_in_dim(
      x, part, _start(tile, size, len(x)), axis=0
    ),
    tree,
    part,
  )


def _cut(samples: Samples, tile, count: int, size: int) -> Samples:
  """`_slice`, without what the tile before had already."""
  if count == 1:
    return samples
  total = len(samples.valid)
  part = _slice(samples, tile, count, size)
  fresh = _start(tile, size, total) + jnp.arange(size) >= tile * size
  return part._replace(valid=part.valid & fresh, has_text=part.has_text & fresh)
