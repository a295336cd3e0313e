"""Says what a published system is to the rest of the program.

A file of `zoo/` is a `System`; `registry.py` lists them.
"""

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
    sampled_points: With the order "farthest", of how many that sampling finds
      the `num_points` are drawn, in the order of `shuffled`; 0: of no more.
  """

  num_points: int
  up_axis: UpAxis = "y"
  order: Order = "stored"
  normalized: bool = True
  colour_fill: float = 0.4
  sampled_points: int = 0


class Hub(NamedTuple):
  """A file on the Hugging Face hub.

  Attributes:
    repository: "user/name".
    file: Its path there.
    kind: Of the repository.
  """

  repository: str
  file: str
  kind: Literal["model", "dataset"] = "model"


class Page(NamedTuple):
  """A file that a page links to, which its reader has to fetch.

  Attributes:
    address: Of the page.
    file: What the link is called.
  """

  address: str
  file: str


class Texts(NamedTuple):
  """How a system makes the features of classes, by its own protocol.

  Attributes:
    templates: Each with a "{}"; none where the authors publish features, which
      come with the test sets.
    tower: The text tower: a `CLIPModel` of transformers, by its name on the
      hub; a file with OpenAI's names of tensors; or None, the encoder's own
      file.
    raw_names: Whether names keep their underscores.
    pooling: "mean": normalised, averaged, normalised; "sum": summed as they
      are, so that a class's length counts.
  """

  templates: tuple[str, ...]
  tower: str | Hub | Page | None
  raw_names: bool = True
  pooling: Literal["mean", "sum"] = "mean"


class Release(NamedTuple):
  """A published model that has a name.

  Attributes:
    size: Its `Size`, with what no file says.
    parameters: How many of its file embed clouds.
    weights: Where the file is.
    license: Of the weights, as their page states it; None if it does not.
    texts: How classes are made for it.
    row: Of the paper's Table 1, which has the figures of OpenShape's and
      Uni3D's authors; None if it has none.
    source: Whose `figures` are.
    figures: Its authors' own, in percent, by "SPLIT/topK"; those of other
      shapes than the paper's by another name of the split.
    on: By the beginning of a split's name, what of `Size` and `Preparation`
      its authors set otherwise there, and "drawn", how many points they draw
      of each cloud, with replacement, before; "colour", the grey of all points.
    differs: What of their protocol is not followed, in words.
  """

  size: Any
  parameters: int
  weights: Hub | Page
  license: str | None
  texts: Texts
  row: tuple[str, str] | None = None
  source: str = ""
  figures: Mapping[str, float] = {}
  on: Mapping[str, Mapping[str, Any]] = {}
  differs: str = ""

  def set_on(self, split: str) -> Mapping[str, Any]:
    """Finds what is set otherwise on a split: by the longest name that fits."""
    fitting = [name for name in self.on if split.startswith(name)]
    return self.on[max(fitting, key=len)] if fitting else {}


def figures(**of_split: tuple[float, ...]) -> dict[str, float]:
  """Names figures in percent: of each split top 1, or top 1 and top 5."""
  return {
    f"{split}/top{k}": value
    for split, values in of_split.items()
    for k, value in zip((1, 5), values, strict=False)
  }


class System(Protocol):
  """A file of `zoo/`: what it has to have."""

  @property
  def NAME(self) -> str:
    """Names the system, for messages."""
    ...

  @property
  def Size(self) -> Any:
    """Gives the architecture, a frozen dataclass with `embed_dim`."""
    ...

  @property
  def UNSAID(self) -> tuple[str, ...]:
    """Lists the fields of `Size` that no file says."""
    ...

  @property
  def RELEASES(self) -> Mapping[str, Release]:
    """Lists the published models, by name."""
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
