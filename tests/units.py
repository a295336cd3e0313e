"""Units of preparation jobs whose items are numbers."""

import dataclasses
import functools
import time

import numpy as np

from mrd_jax.data.records import ImageKind, Shape, TextKind, encode
from mrd_jax.prepare.job.shards import Reject, serialize_record

DIM = 4
serialize = functools.partial(serialize_record, embed_dim=DIM)


def record(index: int):
  """A record that depends on nothing but its index; odd ones have a text."""
  rng = np.random.default_rng(index)
  shape = Shape(
    id=f"shape{index}",
    xyz=rng.normal(size=(50, 3)).astype(np.float32),
    rgb=rng.uniform(size=(50, 3)).astype(np.float32),
    image_feat=rng.normal(size=(2, DIM)).astype(np.float32),
    image_kind=[ImageKind.VIEW] * 2,
    texts=["a"] * (index % 2),
    text_feat=np.ones((index % 2, DIM), np.float32),
    text_kind=[TextKind.RAW] * (index % 2),
  )
  return encode(shape)


class Crash(Exception):
  pass


@dataclasses.dataclass(frozen=True)
class Count:
  """Items first .. first + count - 1; every fifth is refused."""

  name: str
  first: int
  count: int
  crash_at: int = -1
  seconds: float = 0

  def items(self):
    for index in range(self.first, self.first + self.count):
      yield functools.partial(self.item, index)
    yield functools.partial(list, [f"{self.name} is through"])

  def item(self, index):
    time.sleep(self.seconds)
    if index == self.crash_at:
      raise Crash(f"item {index}")
    if index % 5 == 4:
      return [Reject("a", "file", str(index), None, "fifth", "of five")]
    return [("a", record(index)), ("b", record(index))]
