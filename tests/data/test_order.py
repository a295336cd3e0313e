"""The order of a run's records follows from its seed and the step alone."""

import itertools

import numpy as np
import pytest

from mrd_jax.data.order import TrainOrder, permutation
from mrd_jax.errors import BadInput


def epoch_of(order: TrainOrder, epoch: int) -> list[np.ndarray]:
  """The batches of an epoch."""
  first = epoch * order.steps_per_epoch
  return [order.rows(first + i) for i in range(order.steps_per_epoch)]


# 65,537 is one more than a power of 4, where Grain's shuffle repeats a record.
@pytest.mark.parametrize(
  ("size", "batch"),
  [(23, 4), (24, 4), (5, 5), (2, 2), (1, 1), (1000, 64), (65_537, 5041)],
)
def test_every_epoch_is_a_permutation_less_the_last_few(size, batch):
  order = TrainOrder(size, batch, seed=0)
  assert order.steps_per_epoch == size // batch
  for epoch in range(3):
    batches = epoch_of(order, epoch)
    assert all(len(rows) == batch for rows in batches)
    rows = set(np.concatenate(batches).tolist())
    assert len(rows) == size - size % batch and rows <= set(range(size))


def test_epochs_and_seeds_have_orders_of_their_own():
  orders = [
    tuple(np.concatenate(epoch_of(TrainOrder(50, 5, seed), epoch)))
    for epoch, seed in itertools.product(range(4), range(4))
  ]
  assert len(set(orders)) == len(orders)
  # 50 points fixed in 16 orders: about one each.
  fixed = [sum(row == i for i, row in enumerate(rows)) for rows in orders]
  assert np.mean(fixed) < 3


def test_other_records_are_left_out_in_every_epoch():
  order = TrainOrder(23, 4, 0)
  read = {frozenset(np.concatenate(epoch_of(order, i))) for i in range(6)}
  assert len(read) > 1


def test_records_meet_others_in_every_epoch():
  batches = [frozenset(TrainOrder(40, 4, 0).rows(step)) for step in range(50)]
  assert len(set(batches)) == len(batches)


def test_the_order_is_the_same_in_every_version_and_whatever_came_before():
  """A run goes on in the order in which it began."""
  first = [328757, 562290, 699059, 60107, 12250, 832877, 560556, 258195]
  order = TrainOrder(874_402, 512, seed=0)
  assert order.rows(2000)[:8].tolist() == first
  order.rows(0)  # of another epoch
  permutation.cache_clear()
  assert order.rows(2000)[:8].tolist() == first


def test_a_batch_larger_than_the_split_is_refused_by_field():
  with pytest.raises(BadInput, match=r"train\.batch_size is 8 .*only 7 rec"):
    TrainOrder(7, 8, seed=0)
