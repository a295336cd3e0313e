"""Clean shapes to plant defects in."""

import pytest
from planted import TRAIN, VAL, make_shapes


@pytest.fixture(scope="session")
def shapes():
  return make_shapes(TRAIN + VAL)


@pytest.fixture
def splits(shapes):
  """Lists that a test may spoil."""
  return {"train": shapes[:TRAIN], "val": shapes[TRAIN:]}
