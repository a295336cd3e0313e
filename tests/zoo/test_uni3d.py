"""Uni3D against the original's outputs and files."""

import jax
import numpy as np
import pytest
import zoo_cases

from mrd_jax.zoo import uni3d

COUNTS = np.full(3, 1024, np.int32)


@pytest.fixture(scope="module")
def case():
  return zoo_cases.load(uni3d, "uni3d-ti")


def test_the_embedding_and_its_stages_equal_the_originals(case):
  zoo_cases.check_embedding(case)
  case.check_stages(
    mini_pointnet="tokenizer/patches",
    position="tokenizer/position",
    block_0="block_0",
    blocks="block_11",
    fc_norm="norm",
  )


def test_weights_in_half_precision_as_the_released_give_the_originals(case):
  halves = jax.tree.map(
    lambda leaf: leaf.astype(np.float16).astype(np.float32), case.variables
  )
  found, _ = case.embed(halves, case.arrays["points"], COUNTS)
  for row, expected in zip(
    found, case.arrays["embedding_float16_weights"], strict=True
  ):
    error = zoo_cases.relative_error(
      zoo_cases.unit(row), zoo_cases.unit(expected)
    )
    assert error < zoo_cases.TOLERANCE


def test_centres_and_neighbours_equal_the_originals(case):
  zoo_cases.check_groups(case)


def test_neither_padding_nor_a_batch_changes_an_embedding(case):
  zoo_cases.check_alone_and_padded(case)


@pytest.mark.parametrize(
  ("mistake", "path", "axis"),
  [
    (
      "mini-PointNet concatenates [local, global]",
      "tokenizer/patches/second_in/kernel",
      0,
    ),
    ("gate is the second half of fc1", "mlp/in", -1),
  ],
)
def test_exchanged_halves_show(case, mistake, path, axis):
  def exchanged(path_of_leaf, leaf):
    name = jax.tree_util.keystr(path_of_leaf, simple=True, separator="/")
    return np.roll(leaf, leaf.shape[axis] // 2, axis) if path in name else leaf

  variables = jax.tree_util.tree_map_with_path(exchanged, case.variables)
  embedding, _ = case.embed(variables, case.arrays["points"], COUNTS)
  zoo_cases.check_mistake(case, mistake, embedding)


def test_other_colours_show(case):
  points = case.arrays["points"].copy()
  points[..., 3:] = 0.4
  zoo_cases.check_mistake(case, "colours all 0.4", case(points)[0])


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("uni3d-ti", 6_221_825),
    ("uni3d-s", 22_498_433),
    ("uni3d-b", 86_951_297),
    ("uni3d-l", 304_671_553),
    ("uni3d-g", 1_012_864_129),
  ],
)
def test_every_release_has_the_names_and_sizes(name, count):
  # Of the used ones the logit scale, which the loss has, is one.
  assert zoo_cases.parameters(uni3d, zoo_cases.key_list(name)) == count - 1
