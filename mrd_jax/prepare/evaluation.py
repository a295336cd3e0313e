"""Turns labelled sets that serve evaluation alone into records."""

import dataclasses
import functools
from collections.abc import Iterator

from mrd_jax.data.records import Shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.engine import Item, Outcome
from mrd_jax.prepare.evaluation_sets import EvaluationSet, RefusedShape
from mrd_jax.prepare.shards import Reject


@dataclasses.dataclass(frozen=True)
class EvaluationUnit:
  """One set, read by one worker.

  Attributes:
    name: Of the unit.
    split: Split that it becomes.
    clouds: The set.
    count: So many of its first shapes.
  """

  name: str
  split: str
  clouds: EvaluationSet
  count: int

  def items(self) -> Iterator[Item]:
    done = 0
    try:
      for shape in self.clouds.shapes(range(self.count)):
        yield functools.partial(self._convert, shape)
        done += 1
    except BadInput as error:  # none of the rest can be read
      for index in range(done, self.count):
        yield functools.partial(list, [self._unreadable(index, str(error))])

  def _convert(self, shape: Shape | RefusedShape) -> list[Outcome]:
    if isinstance(shape, Shape):
      return [(self.split, encode(shape))]
    row = shape.file, shape.id, shape.field, shape.reason, shape.detail
    return [Reject(self.split, *row)]

  def _unreadable(self, index: int, detail: str) -> Reject:
    name, reason = f"{self.clouds.name}-{index}", "unreadable or unsafe file"
    return Reject(self.split, self.clouds.name, name, None, reason, detail)
