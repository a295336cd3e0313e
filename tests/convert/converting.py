"""What tests of conversions share."""

import jax
import numpy as np
import torch
from weights import make_twin

from mrd_jax.convert.__main__ import main

LOGIT_SCALE = float(np.float32(2.65926))
FLAGS = ("--groups", 12, "--radius", 0.4, "--group-size", 8)


def run(*args) -> int:
  return main([str(arg) for arg in args])


def failed(capsys, *args) -> str:
  """The sentence that a command failed with."""
  assert run(*args) == 2
  captured = capsys.readouterr()
  assert captured.out == "" and captured.err.count("\n") == 1
  return captured.err


def save(path, arrays) -> None:
  torch.save(
    {k: torch.from_numpy(np.array(x)) for k, x in arrays.items()}, path
  )


def strictly_loaded(state, size, embed_dim):
  """OpenShape's module with a state dict's weights."""
  model = make_twin(size, embed_dim, seed=9).eval()
  model.load_state_dict(state, strict=True)
  return model


def assert_same_state(found, expected) -> None:
  assert found.keys() == expected.keys()
  for key, x in expected.items():
    assert found[key].dtype == x.dtype and torch.equal(found[key], x), key


def assert_same_variables(found, expected) -> None:
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  paths = jax.tree_util.tree_leaves_with_path(expected)
  for (path, x), y in zip(paths, jax.tree.leaves(found), strict=True):
    np.testing.assert_array_equal(y, x, err_msg=jax.tree_util.keystr(path))


def relative_error(found, expected) -> float:
  found, expected = np.asarray(found), np.asarray(expected)
  assert found.shape == expected.shape
  return np.abs(found - expected).max() / np.abs(expected).max()
