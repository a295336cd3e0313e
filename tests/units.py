"""Units of preparation jobs whose items are numbers."""

import dataclasses
import functools
import time

import numpy as np
from shapes import DIM, NO_TEXT, random_shape

from mrd_jax.data.records import encode
from mrd_jax.prepare.job.shards import Reject, serialize_record

serialize = functools.partial(serialize_record, embed_dim=DIM)


def record(index: int):
  """A record that depends on nothing but its index; odd ones have a text."""
  text = {"texts": ["a"], "text_feat": np.ones((1, DIM)), "text_kind": [1]}
  return encode(random_shape(index, **text if index % 2 else NO_TEXT))


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
