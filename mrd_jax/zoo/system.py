"""Says what a published system is to the rest of the program."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mrd_jax.config.pretraining import UpAxis
from mrd_jax.zoo.tensors import Row

Order = Literal["shuffled", "stored", "farthest"]


class Preparation(NamedTuple):
  """How a system takes a cloud, by its own protocol.

  Attributes:
    num_points: How many points of a larger cloud enter.
    up_axis: The axis that is up in the clouds that it sees.
    order: Which they are: the first in the order of `shuffled`, the first as
      stored, or the farthest from each other, as pointnet2_ops samples them.
    normalized: Whether the cloud is centred and scaled into the unit ball.
    colour_fill: The grey of a cloud without colours.
  """

  num_points: int
  up_axis: UpAxis = "y"
  order: Order = "stored"
  normalized: bool = True
  colour_fill: float = 0.4


class System(Protocol):
  """A file of `zoo/`: what it has to have."""

  @property
  def NAME(self) -> str:
    """Names the system, for messages."""
    ...

  @property
  def Size(self) -> Any:
    """Gives the architecture, a frozen dataclass with `embed_dim`.

    What no file says has a default.
    """
    ...

  def infer(self, state: Mapping[str, np.ndarray], /) -> Any | None:
    """Reads the size of a state dict; None if it is another system's."""
    ...

  def table(self, size: Any, /) -> list[Row]:
    """Lists the names of all tensors."""
    ...

  def is_unused(self, key: str, /) -> bool:
    """Says whether a file may hold a tensor that does not embed clouds."""
    ...

  def make(self, size: Any, /, dtype: jnp.dtype = ...) -> nn.Module:
    """Makes the encoder: (points (B, N, 6), num_points (B,)) -> (B, D)."""
    ...

  def preparation(self, size: Any, /) -> Preparation:
    """Says how the system takes a cloud."""
    ...

  def teacher(self, size: Any, /) -> str:
    """Names the embedding space, by its teacher."""
    ...
