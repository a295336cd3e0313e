"""Random keys by purpose: each draw has its own, the same everywhere."""

import re
import zlib

import jax
import numpy as np
from runs import REPOSITORY

from mrd_jax.keys import named


def data_of(key) -> tuple[int, ...]:
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_a_key_is_that_of_the_purpose_and_the_numbers():
  key = jax.random.key(3)
  expected = jax.random.fold_in(key, zlib.crc32(b"loss"))  # of any process
  assert data_of(named(key, "loss")) == data_of(expected)
  expected = jax.random.fold_in(jax.random.fold_in(expected, 7), 2)
  assert data_of(jax.jit(lambda n: named(key, "loss", n, 2))(7)) == data_of(
    expected
  )


def test_no_two_draws_share_a_key():
  """Of two purposes, seeds or steps; a seed's loss had the next's samples'."""
  keys = {
    data_of(named(jax.random.key(seed), purpose, step))
    for seed in range(3)
    for purpose in ("samples", "loss", "regularisation", "test", "votes")
    for step in range(4)
  }
  assert len(keys) == 3 * 5 * 4


def test_draws_have_names_and_no_numbers():
  """A split or a number says not what for, and a new draw would move others."""
  for path in (REPOSITORY / "mrd_jax").rglob("*.py"):
    assert not re.search(r"random\.split|seed \+ \d", path.read_text()), path


def test_the_docstring_lists_every_purpose():
  page = (REPOSITORY / "mrd_jax" / "keys.py").read_text()
  for path in (REPOSITORY / "mrd_jax").rglob("*.py"):
    for purpose in re.findall(r'\bnamed\([\w.()]+, "(\w+)"', path.read_text()):
      assert re.search(rf"\b{purpose}\b", page), (path, purpose)
