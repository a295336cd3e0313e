"""The original Point-BERT, whose transformer ULIP and CG3D train further.

Xumin Yu et al., "Point-BERT", CVPR 2022.  Its tokenizer's names are also
Uni3D's and ReCon's.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mrd_jax.models.layers import EPSILON, Linear
from mrd_jax.models.point_transformer import (
  HEAD_DIM,
  TOKEN_INIT,
  Block,
  LayerNorm,
  Tokenizer,
  with_tokens,
)
from mrd_jax.zoo.tensors import Row, batch_norm, count, linear, norm


@dataclasses.dataclass(frozen=True)
class Size:
  """The architecture.

  Attributes:
    width: Of a token; heads are 64 wide.
    depth: Blocks.
    mlp_dim: Hidden width of their MLPs.
    patch_dim: Output width of the mini-PointNet.
    channels: 6, or 3 if it sees no colours.
    embed_dim: D, of the teacher's embedding space.
    groups: G, tokens a cloud; no file says it.
    group_size: K, points a group; no file says it.
  """

  width: int
  depth: int
  mlp_dim: int
  patch_dim: int
  channels: int
  embed_dim: int
  groups: int
  group_size: int


def tokenizer_rows(encoder: str, position: str) -> list[Row]:
  """Lists the rows of a `Tokenizer` named "tokenizer".

  Args:
    encoder: Published prefix of the mini-PointNet.
    position: Published prefix of the position's MLP.
  """
  rows = []
  for stage in ("first", "second"):
    key, path = f"{encoder}.{stage}_conv", f"tokenizer/patches/{stage}"
    rows += linear(f"{key}.0", f"{path}_in", rank=3)
    rows += batch_norm(f"{key}.1", f"{path}_norm")
    rows += linear(f"{key}.3", f"{path}_out", rank=3)
  rows += linear(f"{position}.0", "tokenizer/position/in")
  return rows + linear(f"{position}.2", "tokenizer/position/out")


def block_rows(key: str, path: str, *, qkv_bias: bool = False) -> list[Row]:
  """Lists the rows of a `Block` with one qkv matrix and a GELU MLP."""
  return [
    *norm(f"{key}.norm1", f"{path}/attention_norm"),
    *linear(f"{key}.attn.qkv", f"{path}/attention/qkv", bias=qkv_bias),
    *linear(f"{key}.attn.proj", f"{path}/attention/out"),
    *norm(f"{key}.norm2", f"{path}/mlp_norm"),
    *mlp_rows(f"{key}.mlp", f"{path}/mlp"),
  ]


def mlp_rows(key: str, path: str) -> list[Row]:
  """Lists the rows of an `MLP` of kind "gelu"."""
  return linear(f"{key}.fc1", f"{path}/in") + linear(
    f"{key}.fc2", f"{path}/out"
  )


def rows(size: Size, prefix: str) -> list[Row]:
  """Lists the rows of `PointBERT`, all but its projection."""
  found = [
    Row(f"{prefix}cls_token", "params/cls_token"),
    Row(f"{prefix}cls_pos", "params/cls_position"),
    *tokenizer_rows(f"{prefix}encoder", f"{prefix}pos_embed"),
    *linear(f"{prefix}reduce_dim", "lift"),
    *norm(f"{prefix}norm", "norm"),
  ]
  for i in range(size.depth):
    found += block_rows(f"{prefix}blocks.blocks.{i}", f"block_{i}")
  return found


def shapes(
  state: Mapping[str, np.ndarray], axes: Mapping[str, int]
) -> list[tuple[int, ...]] | None:
  """Looks up the shapes of the tensors that tell a system and its size.

  Args:
    state: A state dict.
    axes: How many axes each of the tensors has, by its key.

  Returns:
    Their shapes, in order; None if one is absent, has other axes or is empty.
  """
  found = [state[key].shape for key in axes if key in state]
  if [len(shape) for shape in found] != list(axes.values()):
    return None
  return None if any(0 in shape for shape in found) else found


def read_size(
  state: Mapping[str, np.ndarray], prefix: str
) -> dict[str, int] | None:
  """Reads the sizes that a state dict holds, all but `embed_dim`.

  Returns:
    Arguments of `Size`; None if it is not this transformer's.
  """
  found = shapes(
    state,
    {
      f"{prefix}encoder.first_conv.0.weight": 3,
      f"{prefix}reduce_dim.weight": 2,
      f"{prefix}blocks.blocks.0.mlp.fc1.weight": 2,
      f"{prefix}cls_pos": 3,
    },
  )
  if found is None:
    return None
  (_, channels, _), (width, patch_dim), (mlp_dim, _), _ = found
  if width % HEAD_DIM:
    return None
  return {
    "width": width,
    "depth": count(state, f"{prefix}blocks.blocks"),
    "mlp_dim": mlp_dim,
    "patch_dim": patch_dim,
    "channels": channels,
  }


class PointBERT(nn.Module):
  """Embeds clouds: the transformer, and a projection of [cls, maximum].

  The positions are added before every block.

  Attributes:
    size: The architecture.
    projection_bias: Whether the projection has one.
    dtype: Compute type.
    batch_sharding: Layout of the batch over devices; None on a single one.
  """

  size: Size
  projection_bias: bool
  dtype: jnp.dtype = jnp.float32
  batch_sharding: NamedSharding | None = None

  @nn.compact
  def __call__(
    self, points_BN6: jax.Array, num_points_B: jax.Array, *, train: bool
  ) -> jax.Array:
    """Embeds a batch of clouds.

    Args:
      points_BN6: (B, N, 6) float32: xyz (y up, unit ball) and rgb in [0, 1].
        Sampling starts at the first point, so the order of points matters.
      num_points_B: (B,) int32, how many leading points of a cloud exist.
      train: Whether BatchNorm uses (and records) the batch's statistics.

    Returns:
      (B, D) float32 embeddings, not normalised.
    """
    size = self.size
    patches_BGE, position_BGD = Tokenizer(
      size.groups,
      size.group_size,
      size.channels,
      size.patch_dim,
      size.width,
      self.dtype,
      self.batch_sharding,
      name="tokenizer",
    )(points_BN6, num_points_B, train=train)
    cls_11D, cls_position_11D = (
      self.param(name, TOKEN_INIT, (1, 1, size.width))
      for name in ("cls_token", "cls_position")
    )
    lift = Linear(size.width, dtype=self.dtype, name="lift")
    x_BLD = with_tokens(cls_11D, lift(patches_BGE))
    position_BLD = with_tokens(cls_position_11D, position_BGD)
    for i in range(size.depth):
      block = Block(
        size.width // HEAD_DIM,
        size.mlp_dim,
        dtype=self.dtype,
        name=f"block_{i}",
      )
      x_BLD = block(x_BLD + position_BLD)
    x_BLD = LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x_BLD)
    pooled_BD = jnp.concatenate([x_BLD[:, 0], x_BLD[:, 1:].max(1)], axis=-1)
    wide = jnp.promote_types(self.dtype, jnp.float32)
    return Linear(
      size.embed_dim, self.projection_bias, wide, name="projection"
    )(pooled_BD)
