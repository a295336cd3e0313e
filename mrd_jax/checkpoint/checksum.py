"""Sums up a state so that damage shows, the same on any devices.

Orbax keeps no checksum of array data: a bit that flips in a file loads as
another number (in a small checkpoint three of four flips did).  Those here
are of the values, not of the files, so they cost no second reading, and they
do not depend on how a state is split: each is a sum of integers, which is
exact in any order.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio, spreads the indices


def checksums(tree: Any) -> dict[str, int]:
  """Returns a checksum of every array, by its path in the tree.

  With several processes all must call it, for their part of the arrays.

  Args:
    tree: Any tree of `jax.Array`: numbers, booleans or typed random keys.

  Returns:
    Integers below 2^32 by path.  The names are those of the fields and keys,
    whatever the containers' types.
  """
  # In one program: on virtual CPU devices, many small ones that each talk
  # across devices can keep each other from a thread for ever.
  sums = jax.device_get(on_devices(by_path(tree)))
  return {name: int(value) for name, value in sums.items()}


def of_scores(scores: dict[str, float]) -> int:
  """Returns the CRC-32 of the scores, as JSON in the order of their names."""
  return zlib.crc32(json.dumps(scores, sort_keys=True).encode())


def by_path(tree: Any) -> dict[str, Any]:
  """Lists the leaves of a tree: "params/encoder/proj/kernel" and its array."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def difference(tree: Any, saved: dict[str, int]) -> str:
  """Names the arrays that are not what was saved; "" if there are none.

  Args:
    tree: Some of the arrays that were saved; see `checksums`.
    saved: The checksums of all.
  """
  found = checksums(tree)
  wrong = [name for name in found if saved.get(name) != found[name]]
  if not wrong:
    return ""
  more = f" and of {len(wrong) - 1} other arrays" if len(wrong) > 1 else ""
  return f"the checksum of {wrong[0]}{more} is not what was saved"


@jax.jit
def on_devices(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Computes the checksum of every array, () uint32, where it lies."""
  return {name: _checksum(leaf) for name, leaf in leaves.items()}


def _checksum(x: jax.Array) -> jax.Array:
  """Computes sum_i mix(word_i + i * golden ratio) mod 2^32, () uint32.

  `mix` is a bijection, so that any change within one word changes the sum, and
  one of several words goes unnoticed once in 2^32.  The index i is made by
  axis: reshaping to one axis would gather what is split.
  """
  words = _words(x)
  index, stride = jnp.uint32(0), 1
  for axis in reversed(range(words.ndim)):
    place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    index += place * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  return jnp.sum(mix(words + index * _GOLDEN), dtype=jnp.uint32)


def _words(x: jax.Array) -> jax.Array:
  """Takes the bits as uint32; 64-bit numbers get a last axis of two."""
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if x.dtype == bool:
    return x.astype(jnp.uint32)
  if x.dtype.itemsize >= 4:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)
  bits = jnp.uint16 if x.dtype.itemsize == 2 else jnp.uint8
  return jax.lax.bitcast_convert_type(x, bits).astype(jnp.uint32)


def mix(h: Any) -> Any:
  """Maps uint32 by the finaliser of the hash Murmur3, in NumPy or in JAX."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
  return h ^ (h >> np.uint32(16))
