"""Checksums: which changes they see, and that the layout is none of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrd_jax.checkpoint import checksum
from mrd_jax.checkpoint.checksum import checksums, difference


def expected(words: np.ndarray) -> int:
  """The definition in Python's integers, one word after the other."""
  total, mask = 0, 2**32 - 1
  for i, word in enumerate(words.ravel().tolist()):
    h = (word + i * 0x9E3779B9) & mask
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
      h = ((h ^ (h >> shift)) * factor) & mask
    total += h ^ (h >> 16)
  return total & mask


VALUES = np.random.default_rng(0).normal(size=(8, 3, 16))


@pytest.mark.parametrize(
  ("dtype", "bits"),
  [
    ("float32", np.uint32),
    ("bfloat16", np.uint16),
    ("float16", np.uint16),
    ("int32", np.uint32),
    ("int8", np.uint8),
    ("bool", np.uint8),
  ],
)
def test_agrees_with_the_definition(dtype, bits):
  x = jnp.asarray(VALUES, dtype)
  assert checksums({"x": x}) == {"x": expected(np.asarray(x).view(bits))}


def test_doubles_and_scalars_and_keys_and_nothing(x64):
  x = jnp.asarray(VALUES, "float64")
  key = jax.random.key(7)
  tree = {"x": x, "n": jnp.int32(5), "key": key, "none": jnp.zeros((0, 3))}
  assert checksums(tree) == {
    "x": expected(np.asarray(x).view(np.uint32)),
    "n": expected(np.uint32([5])),
    "key": expected(np.asarray(jax.random.key_data(key))),
    "none": 0,
  }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_flipped_bit_changes_it(dtype):
  x = np.asarray(jnp.asarray(VALUES[0], dtype))
  before = checksums({"x": jnp.asarray(x)})["x"]
  sums = set()
  for bit in range(x.nbytes * 8):
    damaged = bytearray(x.tobytes())
    damaged[bit // 8] ^= 1 << bit % 8
    y = np.frombuffer(bytes(damaged), x.dtype).reshape(x.shape)
    sums.add(checksums({"x": jnp.asarray(y)})["x"])
  assert before not in sums and len(sums) == x.nbytes * 8


def test_exchanged_values_and_two_signs_change_it():
  """What a plain sum, or one with odd weights, would not see."""
  x = VALUES[0].astype(np.float32)
  signs = x.copy()
  signs[0, :2] *= -1
  rows = x[[1, 0, 2]]
  found = {checksums({"x": jnp.asarray(v)})["x"] for v in (x, signs, rows)}
  assert len(found) == 3


@pytest.mark.parametrize("spec", [("a",), (None, "b"), ("a", None, "b"), ()])
def test_any_layout_has_the_same_and_is_not_gathered(spec):
  x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 4, 6)), "float32")
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
  split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
  assert checksums({"x": split}) == checksums({"x": x})
  program = checksum.on_devices.lower({"x": split}).compile()
  assert "all-gather" not in program.as_text()


def test_difference_names_what_differs():
  tree = {"a": {"b": jnp.arange(3)}, "c": [jnp.ones(2), jnp.zeros(2)]}
  saved = checksums(tree)
  assert saved.keys() == {"a/b", "c/0", "c/1"}
  assert difference(tree, saved) == ""
  assert difference({"a": tree["a"]}, saved) == ""  # a part of it
  other = tree | {"c": [jnp.ones(2), jnp.ones(2)]}
  assert "checksum of c/1 is not" in difference(other, saved)
  other["a"] = {"b": jnp.arange(3) + 1}
  assert "checksum of a/b and of 1 other" in difference(other, saved)
  assert "a/b" in difference(tree, saved | {"a/b": saved["a/b"] ^ 1})
  del saved["c/0"]
  assert "c/0" in difference(tree, saved)
