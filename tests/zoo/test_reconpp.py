"""ReCon++ against the original's outputs and files.

The case's tokens vary so little that the first norms' epsilon decides.
"""

import math

import flax.linen as nn
import pytest
import zoo_cases

from mrd_jax.models import point_transformer
from mrd_jax.zoo import reconpp

NAME = "reconpp-b-depth2-quiet"


@pytest.fixture(scope="module")
def case():
  return zoo_cases.load(reconpp, NAME)


def test_the_embedding_and_its_stages_equal_the_originals(case):
  zoo_cases.check_embedding(case)
  case.check_stages(
    mini_pointnet="tokenizer/patches",
    position="tokenizer/position",
    block_0="block_0",
    query_0="query_block_0",
    blocks="block_1",
    queries="query_block_1",
    image_tokens="image_projection",
    text_tokens="text_projection",
  )


def test_centres_and_neighbours_equal_the_originals(case):
  zoo_cases.check_groups(case)


@pytest.mark.slow
def test_neither_padding_nor_a_batch_changes_an_embedding(case):
  zoo_cases.check_alone_and_padded(case)


@pytest.mark.slow
def test_another_epsilon_shows(case, monkeypatch):
  def norm(epsilon, **options):
    return nn.LayerNorm(epsilon / 10, **options)

  monkeypatch.setattr(point_transformer, "LayerNorm", norm)
  monkeypatch.setattr(reconpp, "LayerNorm", norm)
  wrong = zoo_cases.Case(
    case.meta, case.arrays, case.size, reconpp.make(case.size), case.variables
  )
  zoo_cases.check_mistake(
    wrong, "LayerNorm epsilon 1e-6 instead of 1e-5", wrong.embedding
  )


@pytest.mark.parametrize(
  ("name", "count"),
  [("reconpp-base", 201_486_912), ("reconpp-large", 658_938_432)],
)
def test_every_release_has_the_names_and_sizes(name, count):
  keys = zoo_cases.key_list(name)
  unused = sum(math.prod(keys[key]) for key in keys if reconpp.is_unused(key))
  assert zoo_cases.parameters(reconpp, keys) == count - unused
