"""Which records make up a batch, on any number of processes and workers."""

import dataclasses

import numpy as np
import pytest
from shapes import DIM, random_shape

from mrd_jax.data.batches import eval_batches, pad_records, train_batches
from mrd_jax.data.examples import Batch
from mrd_jax.data.order import TrainOrder
from mrd_jax.data.records import DatasetMeta, encode

SIZES = {"max_points": 7, "max_images": 3, "max_texts": 2}
META = DatasetMeta("test", "nobody", DIM, **SIZES, class_names={})


def record_of(index: int) -> dict:
  """A record whose sizes differ from those of its neighbours."""
  shape = random_shape(index, label=index % 2)
  sizes = {
    **dict.fromkeys(("xyz", "rgb"), 3 + index % 5),
    **dict.fromkeys(("image_feat", "image_kind"), 1 + index % 3),
    **dict.fromkeys(("texts", "text_feat", "text_kind"), index % 3),
  }
  cut = {field: getattr(shape, field)[:size] for field, size in sizes.items()}
  return encode(dataclasses.replace(shape, **cut))


class Records:
  """A split in memory; at the module's top so that workers can unpickle it."""

  def __init__(self, size: int):
    self._size = size

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int, /) -> dict:
    assert 0 <= index < self._size
    return record_of(index)


def read(size=23, batch_size=4, seed=0, **changes):
  arguments = {
    "start_step": 0,
    "num_steps": 12,
    "process_index": 0,
    "process_count": 1,
    "threads": 2,
    "workers": 0,
  }
  order = TrainOrder(size, batch_size, seed)
  return list(train_batches(Records(size), META, order, **arguments | changes))


def assert_same(actual, expected):
  assert len(actual) == len(expected)
  for one, other in zip(actual, expected, strict=True):
    for field, a, b in zip(one._fields, one, other, strict=True):
      np.testing.assert_array_equal(a, b, err_msg=field)
      assert a.dtype == b.dtype, field


def test_batches_hold_the_records_of_the_order():
  order = TrainOrder(23, 4, 0)
  of_steps = [order.rows(step).tolist() for step in range(12)]
  assert_same(
    read(), [pad_records(map(record_of, rows), rows, META) for rows in of_steps]
  )


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_the_global_batch_in_order(processes):
  parts = [
    read(process_index=p, process_count=processes) for p in range(processes)
  ]
  assert all(len(b.row) == 4 // processes for part in parts for b in part)
  joined = [
    type(of_step[0])(*map(np.concatenate, zip(*of_step, strict=True)))
    for of_step in zip(*parts, strict=True)
  ]
  assert_same(joined, read())


# Steps 5 and 10 begin epochs of 23 // 4 steps.
@pytest.mark.parametrize("start", [1, 4, 5, 10, 11, 12])
def test_a_run_resumes_at_any_step_on_the_same_batches(start):
  assert_same(read(start_step=start), read()[start:])
  half = {"process_index": 1, "process_count": 2}
  assert_same(read(start_step=start, **half), read(**half)[start:])


@pytest.mark.parametrize(
  "changes", [{"num_steps": 7}, {"threads": 1}, {"threads": 8}, {"workers": 2}]
)
def test_length_threads_and_worker_processes_have_no_say(changes):
  assert_same(read(**changes), read()[: changes.get("num_steps")])


def only(batch: Batch) -> Batch:
  assert all(len(field) == 1 for field in batch)
  return Batch(*(field[0] for field in batch))


def test_records_are_padded_to_the_sizes_of_the_dataset():
  record = record_of(0)  # 3 points, 1 image, no text
  batch = only(pad_records([record], [0], META))
  assert batch.xyz.shape == batch.rgb.shape == (7, 3)
  assert batch.image_feat.shape == (3, DIM) and batch.image_kind.shape == (3,)
  assert batch.text_feat.shape == (2, DIM) and batch.text_kind.shape == (2,)
  assert (batch.num_points, batch.label) == (3, record["label"])
  for field, count in (("xyz", 3), ("rgb", 3), ("image_feat", 1)):
    values = getattr(batch, field)
    np.testing.assert_array_equal(values[:count], record[field])
    assert not values[count:].any()
  # 0 is the kind of what is not there.
  np.testing.assert_array_equal(batch.image_kind, [1, 0, 0])
  assert not batch.text_feat.any() and not batch.text_kind.any()
  dtypes = {field: str(x.dtype) for field, x in batch._asdict().items()}
  assert dtypes == {
    "row": "int32",
    "xyz": "int16",
    "rgb": "uint8",
    "num_points": "int32",
    "image_feat": "float16",
    "image_kind": "uint8",
    "text_feat": "float16",
    "text_kind": "uint8",
    "label": "int32",
  }


def test_a_dataset_without_images_or_texts_still_has_a_first_slot():
  record = record_of(0) | {
    "image_feat": np.zeros((0, DIM), np.float16),
    "image_kind": np.zeros(0, np.uint8),
  }
  meta = dataclasses.replace(META, max_images=0, max_texts=0)
  batch = only(pad_records([record], [5], meta))
  assert batch.image_feat.shape == batch.text_feat.shape == (1, DIM)
  np.testing.assert_array_equal(batch.image_kind, [0])
  np.testing.assert_array_equal(batch.text_kind, [0])
  assert batch.row == 5


@pytest.mark.parametrize(
  ("size", "expected"),
  [
    (8, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    (9, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 8, 8]]),
    (7, [[0, 1, 2, 3], [4, 5, 6, 6]]),
    (1, [[0, 0, 0, 0]]),
  ],
)
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_goes_once_through_the_split_in_order(
  size, expected, processes
):
  parts = [
    list(
      eval_batches(
        Records(size),
        META,
        pad=pad_records,
        batch_size=4,
        process_index=process,
        process_count=processes,
        threads=2,
      )
    )
    for process in range(processes)
  ]
  rows = [
    np.concatenate([batch.row for batch in of_step]).tolist()
    for of_step in zip(*parts, strict=True)
  ]
  assert rows == expected
  for batch in (batch for part in parts for batch in part):
    records = [record_of(row) for row in batch.row]
    assert_same([batch], [pad_records(records, batch.row, META)])
