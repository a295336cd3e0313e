"""ULIP's PointBERT against the original's outputs and files."""

import jax.numpy as jnp
import numpy as np
import pytest
import zoo_cases

from mrd_jax.zoo import ulip


@pytest.fixture(scope="module")
def case():
  return zoo_cases.load(ulip, "ulip1")


def test_the_embedding_and_its_stages_equal_the_originals(case):
  assert case.embedding.dtype == jnp.float32
  zoo_cases.check_embedding(case)
  case.check_stages(
    mini_pointnet="tokenizer/patches",
    position="tokenizer/position",
    block_0="block_0",
    blocks="block_11",
    norm="norm",
  )


def test_centres_and_neighbours_equal_the_originals(case):
  zoo_cases.check_groups(case)


@pytest.mark.slow
def test_neither_padding_nor_a_batch_changes_an_embedding(case):
  zoo_cases.check_alone_and_padded(case)


def test_sampling_from_another_point_shows(case):
  points = zoo_cases.last_point_first(case.arrays["points"])
  zoo_cases.check_mistake(case, "FPS starts at the last point", case(points)[0])


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("ulip1-pointbert", 22_252_032),
    ("ulip2-pointbert-10k-colored", 33_482_112),
  ],
)
def test_every_release_has_the_names_and_sizes(name, count):
  assert zoo_cases.parameters(ulip, zoo_cases.key_list(name)) == count


@pytest.mark.parametrize("name", ["ulip1-pointmlp", "uni3d-ti"])
def test_other_systems_are_not_taken(name):
  keys = zoo_cases.key_list(name)
  assert ulip.infer({k: np.zeros(s) for k, s in keys.items()}) is None


@pytest.mark.parametrize("shape", [(384,), (0, 256), (100, 256)])
def test_shapes_of_no_transformer_are_not_taken(shape):
  keys = zoo_cases.key_list("ulip1-pointbert")
  keys["point_encoder.reduce_dim.weight"] = shape
  assert ulip.infer({k: np.zeros(s) for k, s in keys.items()}) is None
