"""Presents the clouds of a test set, in which published systems differ.

ModelNet40 and ScanObjectNN have no colours: OpenShape's ModelNet40 file says
100/255 = .392, ULIP-2 takes .4.  ScanObjectNN has 2,048 points: Uni3D and MRD
take them as stored, OpenShape draws 10,000 of them with replacement.
"""

import dataclasses
from typing import Any

import numpy as np

from mrd_jax.data.batches import Source
from mrd_jax.data.records import DatasetMeta
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.zoo.system import Preparation


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What is done to every cloud before the encoder's own preparation.

  Attributes:
    points: How many are drawn, with replacement where fewer are stored; None
      takes them as stored, at most the encoder's `num_points`.
    colour: A grey in [0, 1] instead of the stored colours; None keeps them.
  """

  points: int | None = None
  colour: float | None = None

  def preparation(self, config: EncoderConfig) -> Preparation:
    """Says how an encoder takes the clouds that `ProtocolSource` yields."""
    points = self.points or config.num_points
    return config.preparation._replace(num_points=points)

  def meta(self, meta: DatasetMeta) -> DatasetMeta:
    """Says the padded sizes of the clouds that `ProtocolSource` yields."""
    return dataclasses.replace(
      meta, max_points=max(meta.max_points, self.points or 0)
    )


class ProtocolSource:
  """A split under a protocol.

  Which points are drawn depends on how many are stored alone, so a shape has
  one embedding, in whichever row it stands.
  """

  def __init__(self, source: Source, protocol: Protocol):
    self._source, self._protocol = source, protocol

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    record = dict(self._source[index])
    points, stored = self._protocol.points, len(record["xyz"])
    if points is not None and stored < points:
      draw = np.random.default_rng(stored).integers(stored, size=points)
      record |= {"xyz": record["xyz"][draw], "rgb": record["rgb"][draw]}
    if self._protocol.colour is not None:
      grey = np.uint8(round(255 * self._protocol.colour))
      record["rgb"] = np.full_like(record["rgb"], grey)
    return record
