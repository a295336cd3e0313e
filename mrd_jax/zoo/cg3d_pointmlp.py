"""CG3D, "CLIP goes 3D" (Deepti Hegde et al., 2023), with PointMLP.

Its preparation and texts are those of the transformer, which has a file of its
own.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mrd_jax.models.point_mlp import PointMLP
from mrd_jax.zoo.cg3d import UNSAID, preparation, release, teacher
from mrd_jax.zoo.tensors import Row, batch_norm, count, linear, shapes

__all__ = [
  "NAME",
  "RELEASES",
  "UNSAID",
  "Size",
  "infer",
  "is_unused",
  "make",
  "preparation",
  "table",
  "teacher",
]

NAME = "CG3D's PointMLP"


@dataclasses.dataclass(frozen=True)
class Size:
  """The architecture.

  Attributes:
    width: Of a point's first features; each stage doubles it.
    before: Residual blocks of a stage before the maximum over neighbours.
    after: Residual blocks after it.
    embed_dim: D, width of the embedding.
    groups: Points that each stage leaves, whatever their number was; no file
      says it.
    group_size: K, neighbours of each; no file says it.
  """

  width: int = 64
  before: int = 2
  after: int = 2
  embed_dim: int = 512
  groups: tuple[int, ...] = (512, 256, 128, 64)
  group_size: int = 24


RELEASES = {"cg3d-pointmlp": release(Size(), 13_095_360, "PointMLP")}


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the size of a state dict; None if it is another system's."""
  found = shapes(state, {"embedding.net.0.weight": 3, "projection.weight": 3})
  if found is None:
    return None
  (width, *_), (embed_dim, *_) = found
  return Size(
    width,
    count(state, "pre_blocks_list.0.operation"),
    count(state, "pos_blocks_list.0.operation"),
    embed_dim,
  )


def table(size: Size) -> list[Row]:
  """Lists the names of all tensors."""

  def layer(key: str, path: str) -> list[Row]:
    weight = linear(f"{key}.0", f"{path}/linear", rank=3, bias=False)
    return weight + batch_norm(f"{key}.1", f"{path}/norm")

  rows = layer("embedding.net", "embedding")
  for stage in range(len(size.groups)):
    rows += [
      Row(
        f"local_grouper_list.{stage}.affine_{name}",
        f"params/affine_{stage}/{name}",
      )
      for name in ("alpha", "beta")
    ]
    rows += layer(f"pre_blocks_list.{stage}.transfer.net", f"transfer_{stage}")
    for key, path, blocks in (
      ("pre", "before", size.before),
      ("pos", "after", size.after),
    ):
      for i in range(blocks):
        block = f"{key}_blocks_list.{stage}.operation.{i}"
        for j in (1, 2):
          rows += layer(f"{block}.net{j}", f"{path}_{stage}_{i}/{j}")
  return rows + linear("projection", "projection", rank=3)


def is_unused(key: str) -> bool:
  """Says whether a file may hold a tensor that does not embed clouds."""
  return key.startswith("cls_head_finetune.")


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """Makes the encoder of a size."""
  return PointMLP(**dataclasses.asdict(size), dtype=dtype)
