"""Uni3D against the original's outputs and files."""

import dataclasses

import jax
import numpy as np
import pytest
import zoo_cases

from mrd_jax.zoo import uni3d


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
def test_exchanged_axis_show(case, mistake, path, axis):
  def exchanged(path_of_leaf, leaf):
    name = jax.tree_util.keystr(path_of_leaf, simple=True, separator="/")
    return np.roll(leaf, leaf.shape[axis] // 2, axis) if path in name else leaf

  variables = jax.tree_util.tree_map_with_path(exchanged, case.variables)
  wrong = dataclasses.replace(case, variables=variables)
  wrong.embed = case.embed  # compiled already
  zoo_cases.check_mistake(wrong, mistake, wrong.embedding)


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
  assert zoo_cases.parameters(uni3d, zoo_cases.key_list(name)) == count
