"""Which record comes when: Grain's `index_shuffle`, many indices at once.

The order of an epoch is a permutation that no one has to store: a block cipher
of so many bits as an index has, applied again as long as it leads outside the
split ("cycle walking", Black and Rogaway 2002).  The cipher is four rounds of
Simon (eprint.iacr.org/2013/404) under keys of C++'s `std::seed_seq`.  Grain
(`grain.experimental.index_shuffle`) computes one index a call and makes the
keys each time, 4 us an index of a large split and 55 of one of 512, whose
values are walked to from 65,536.  Here a batch is computed in NumPy; the values
are the same, for a run must go on in the order in which it began.
"""

import functools

import numpy as np

ROUNDS = 4
_SMALLEST = 16  # bits of a block
_MASK = 2**32 - 1


def shuffled(index: np.ndarray, size: int, seed: int) -> np.ndarray:
  """Where a permutation of range(size) puts some indices.

  Args:
    index: (B,) integers in [0, size).
    size: Length of the split, at most 2^32.
    seed: Of the permutation, in [0, 2^32).

  Returns:
    (B,) int64, equal to `index_shuffle(i, size - 1, seed, rounds=4)` of each,
    also where that is no permutation: of 4^k + 1 values, k > 7, the last index
    has the value of the first.
  """
  if size == 1:
    return np.zeros(len(index), np.int64)
  # An even number of bits, two words.
  bits = max(_SMALLEST, (size - 2).bit_length() + 1 & ~1)
  index = np.asarray(index, np.uint32) & np.uint32(2**bits - 1)
  if bits == _SMALLEST:
    return _small(size, seed)[index]
  keys = _keys(seed)
  value = _encrypt(index, keys, bits)
  outside = np.flatnonzero(value >= size)
  while len(outside):
    value[outside] = _encrypt(value[outside], keys, bits)
    outside = outside[value[outside] >= size]
  return value.astype(np.int64)


@functools.lru_cache(maxsize=32)  # epochs; threads read ahead in several
def _small(size: int, seed: int) -> np.ndarray:
  """The whole permutation of at most 2^16 records; all walks together."""
  start = np.arange(2**_SMALLEST, dtype=np.uint32)
  table = _encrypt(start, _keys(seed), _SMALLEST)
  first = table[:size]
  walked = np.where(start < size, start, table)
  while (walked[first] >= size).any():
    walked = walked[walked]  # twice as many steps
  return walked[first].astype(np.int64)


def _keys(seed: int) -> list[int]:
  """`std::seed_seq{seed}.generate` of four words (C++23, rand.util.seedseq)."""
  n = ROUNDS
  b = [0x8B8B8B8B] * n
  for k in range(2 * n):
    a, c, d = k % n, (k + 1) % n, (k + 2) % n
    if k < n:
      mixed = b[a] ^ b[c] ^ b[a - 1]
      first = 1664525 * (mixed ^ mixed >> 27) & _MASK
      second = first + (1 if k == 0 else k + seed * (k == 1)) & _MASK
      b[c] = b[c] + first & _MASK
      b[d] = b[d] + second & _MASK
    else:
      mixed = b[a] + b[c] + b[a - 1] & _MASK
      first = 1566083941 * (mixed ^ mixed >> 27) & _MASK
      second = first - a & _MASK
      b[c] ^= first
      b[d] ^= second
    b[a] = second
  return b


def _encrypt(value: np.ndarray, keys: list[int], bits: int) -> np.ndarray:
  """Simon's rounds on the two words of each value.

  Args:
    value: (B,) uint32 below 2^bits.
    keys: One for each round, of which the lowest bits are used.
    bits: Even, from 16 to 32.

  Returns:
    (B,) uint32 below 2^bits.
  """
  w = bits // 2
  mask = np.uint32(2**w - 1)

  def rotated(x: np.ndarray, by: int) -> np.ndarray:
    return (x << np.uint32(by) | x >> np.uint32(w - by)) & mask

  left, right = value >> np.uint32(w), value & mask
  for key in keys:
    mixed = rotated(right, 1) & rotated(right, 8) ^ rotated(right, 2)
    left, right = right, left ^ mixed ^ np.uint32(key) & mask
  return left << np.uint32(w) | right
