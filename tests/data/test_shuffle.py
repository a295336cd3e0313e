"""The order of an epoch is Grain's, which runs have begun in."""

import grain
import numpy as np
import pytest

from mrd_jax.data.batches import TrainOrder
from mrd_jax.data.order import ROUNDS, shuffled

SEEDS = (0, 1, 2_654_435_769, 2**32 - 1)


def one_by_one(index, size: int, seed: int) -> list[int]:
  return [
    grain.experimental.index_shuffle(
      int(i), max_index=size - 1, seed=seed, rounds=ROUNDS
    )
    for i in index
  ]


# The number of bits changes after 2^16, 2^18, ...; there Grain's own count of
# them is one short for one size, and its last index takes the first's place.
@pytest.mark.parametrize(
  "size",
  [7, 512, 40_000, 65_535, 65_536, 65_537, 65_538, 100_000, 2**18 + 1]
  + [874_402, 2**20 + 2, 5_000_000, 2**31 - 1, 2**32 - 5],
)
def test_some_indices_of_any_size_go_where_grain_puts_them(size):
  rng = np.random.default_rng(size)
  index = np.r_[0, size - 1, rng.integers(0, size, 20)]
  for seed in SEEDS:
    found = shuffled(index, size, seed)
    assert found.dtype == np.int64
    assert found.tolist() == one_by_one(index, size, seed)


@pytest.mark.parametrize("size", [1, 2, 3, 64, 1000])
def test_whole_small_permutations(size):
  index = np.arange(size)
  for seed in SEEDS[: 1 if size < 4 else 4]:  # long walks, one index a call
    found = shuffled(index, size, seed)
    assert found.tolist() == one_by_one(index, size, seed)
    assert sorted(found) == index.tolist()


@pytest.mark.parametrize("size", [65_536, 65_538, 100_003])
def test_whole_large_ones_are_permutations(size):
  found = shuffled(np.arange(size), size, 3)
  assert len(np.unique(found)) == size and found.max() == size - 1


@pytest.mark.parametrize(("size", "batch"), [(108, 32), (70_000, 64)])
def test_the_order_of_a_run_is_that_of_version_0_1_0(size, batch):
  """Which asked Grain for every position."""
  order = TrainOrder(size, batch, seed=5)
  for step in (0, 1, 2, 3, 7, 1093, 1094):  # in several epochs
    epoch, number = divmod(step, size // batch)
    seed = np.random.SeedSequence((5, epoch)).generate_state(1)[0]
    index = number * batch + np.arange(batch)
    expected = one_by_one(index, size, int(seed))
    assert order.rows(step).tolist() == expected
    assert order.row(step, 3) == expected[3]


def test_the_first_rows_of_the_largest_data_set():
  """Whatever Grain does one day, runs go on with these."""
  rows = TrainOrder(874_402, 512, seed=0).rows(2000)
  first = [455632, 846974, 179480, 501521, 635808, 584317, 659624, 739661]
  assert rows[:8].tolist() == first


def test_no_indices():
  assert shuffled(np.zeros(0, np.int64), 100_000, 0).tolist() == []
  assert shuffled(np.zeros(0, np.int64), 10, 0).tolist() == []


def test_what_is_returned_may_be_written_to():
  shuffled(np.arange(5), 10, 0)[:] = 0
  assert sorted(shuffled(np.arange(10), 10, 0)) == list(range(10))
