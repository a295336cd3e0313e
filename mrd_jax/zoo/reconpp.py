"""ReCon++ of ShapeLLM (Zekun Qi et al., ECCV 2024), sizes B and L.

Point-BERT's tokenizer, a transformer over the patches, and queries that look at
them after each block.
"""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mrd_jax.models.layers import EPSILON, Linear
from mrd_jax.models.point_transformer import (
  HEAD_DIM,
  MLP,
  TOKEN_INIT,
  Attention,
  Block,
  LayerNorm,
  Tokenizer,
)
from mrd_jax.zoo import point_bert, prompts
from mrd_jax.zoo.system import Hub, Preparation, Release, Texts, figures
from mrd_jax.zoo.tensors import Row, count, linear, norm, shapes

NAME = "ReCon++"

UNSAID = ("image_queries", "groups", "group_size", "ratio")

_BLOCKS = "model.encoder.blocks"
_UNUSED = (
  "logit_scale",
  "model.decoder.",
  "model.decoder_pos_embed.",
  "model.norm.",
  "model.encoder.ln_f1.",  # of the patches, which are not pooled
)


@dataclasses.dataclass(frozen=True)
class Size:
  """The architecture.

  Attributes:
    width: Of a token; heads are 64 wide.
    depth: Blocks.
    mlp_dim: Hidden width of their MLPs.
    channels: 6, or 3 if it sees no colours.
    queries: Of image and text together.
    embed_dim: D, of the teacher's embedding space.
    image_queries: The first of them; no file says how many.
    groups, group_size: G tokens a cloud of K points; no file says it.
    ratio: Weight of the text queries' embedding; no file says it.
  """

  width: int
  depth: int
  mlp_dim: int
  channels: int
  queries: int
  embed_dim: int
  image_queries: int = 13
  groups: int = 512
  group_size: int = 32
  ratio: float = 0.5


def _release(
  name: str, size: Size, parameters: int, **found: tuple[float]
) -> Release:
  return Release(
    size,
    parameters,
    Hub("qizekun/ReConV2", f"zeroshot/{name}/best_lvis.pth"),
    None,
    Texts((), prompts.BIG_G),
    source="ShapeLLM's README",
    figures=figures(**found),
    on={"scanobjectnn": {"ratio": 0.3}},
    differs="its authors have a file for each test set, the best on it, of "
    "which this is Objaverse-LVIS's, and draw points in random order",
  )


RELEASES = {
  "reconpp-b": _release(
    "base",
    Size(768, 12, 3072, 6, 16, 1280),
    172_882_816,
    lvis=(53.2,),
    modelnet40=(86.5,),
    scanobjectnn=(63.6,),
  ),
  "reconpp-l": _release(
    "large",
    Size(1024, 24, 4096, 6, 16, 1280),
    608_216_960,
    lvis=(53.7,),
    modelnet40=(87.3,),
    scanobjectnn=(65.4,),
  ),
}


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the size of a state dict; None if it is another system's."""
  found = shapes(
    state,
    {
      "model.embed.first_conv.0.weight": 3,
      f"{_BLOCKS}.global_blocks.0.mlp.fc1.weight": 2,
      "model.global_query": 3,
      "img_proj.weight": 2,
    },
  )
  if found is None:
    return None
  (_, channels, _), (mlp_dim, width), (_, queries, _), (embed_dim, _) = found
  if width % HEAD_DIM or queries <= Size.image_queries:
    return None
  return Size(
    width=width,
    depth=count(state, f"{_BLOCKS}.local_blocks"),
    mlp_dim=mlp_dim,
    channels=channels,
    queries=queries,
    embed_dim=embed_dim,
  )


def table(size: Size) -> list[Row]:
  """Lists the names of all tensors."""
  rows = [
    Row("model.global_query", "params/queries"),
    *point_bert.tokenizer_rows("model.embed", "model.pos_embed"),
    *norm("model.encoder.ln_f2", "norm"),
    *linear("img_proj", "image_projection"),
    *linear("text_proj", "text_projection"),
  ]
  for i in range(size.depth):
    rows += point_bert.block_rows(
      f"{_BLOCKS}.local_blocks.{i}", f"block_{i}", qkv_bias=True
    )
    key, path = f"{_BLOCKS}.global_blocks.{i}", f"query_block_{i}"
    rows += norm(f"{key}.norm1", f"{path}/attention_norm")
    rows += linear(f"{key}.attn.q", f"{path}/attention/q")
    rows += linear(f"{key}.attn.kv", f"{path}/attention/kv")
    rows += linear(f"{key}.attn.proj", f"{path}/attention/out")
    rows += norm(f"{key}.norm2", f"{path}/mlp_norm")
    rows += point_bert.mlp_rows(f"{key}.mlp", f"{path}/mlp")
  return rows


def preparation(size: Size) -> Preparation:
  """Says how the system takes a cloud."""
  del size
  # Its own evaluation draws a random order.  In training clouds were turned by
  # (0, 0, -90) degrees, in evaluation they are not.
  return Preparation(10_000)


def teacher(size: Size) -> str:
  """Names the embedding space, by its teacher."""
  del size
  return prompts.BIG_G_SPACE


def is_unused(key: str) -> bool:
  """Says whether a file may hold a tensor that does not embed clouds."""
  return key.startswith(_UNUSED)


class QueryBlock(nn.Module):
  """A pre-norm block of queries that attend to the patches.

  The same norm is that of the queries and of the patches.

  Attributes:
    heads: Of 64 channels.
    mlp_dim: Hidden width of the MLP.
    dtype: Compute type.
  """

  heads: int
  mlp_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, query_BQD: jax.Array, x_BGD: jax.Array) -> jax.Array:
    norm = functools.partial(LayerNorm, EPSILON, dtype=self.dtype)
    shared_norm = norm(name="attention_norm")
    query_BQD = query_BQD + Attention(
      self.heads,
      layout="q_kv",
      biased="qkv",
      dtype=self.dtype,
      name="attention",
    )(shared_norm(query_BQD), shared_norm(x_BGD))
    mlp = MLP(self.mlp_dim, dtype=self.dtype, name="mlp")
    return query_BQD + mlp(norm(name="mlp_norm")(query_BQD))


class ReConPP(nn.Module):
  """Embeds clouds.

  Attributes:
    size: The architecture.
    dtype: Compute type.
    batch_sharding: Layout of the batch over devices; None on a single one.
  """

  size: Size
  dtype: jnp.dtype = jnp.float32
  batch_sharding: NamedSharding | None = None

  @nn.compact
  def __call__(
    self, points_BN6: jax.Array, num_points_B: jax.Array, *, train: bool
  ) -> jax.Array:
    """Embeds a batch of clouds: (B, D) float32, not normalised.

    Arguments are those of `point_bert.PointBERT`.
    """
    size = self.size
    heads = size.width // HEAD_DIM
    x_BGD, position_BGD = Tokenizer(
      size.groups,
      size.group_size,
      size.channels,
      size.width,
      size.width,
      self.dtype,
      self.batch_sharding,
      name="tokenizer",
    )(points_BN6, num_points_B, train=train)
    shape = (1, size.queries, size.width)
    query_1QD = self.param("queries", TOKEN_INIT, shape)
    query_BQD = jnp.broadcast_to(query_1QD, (len(x_BGD), *shape[1:]))
    query_BQD = query_BQD.astype(self.dtype)
    for i in range(size.depth):
      block = Block(
        heads,
        size.mlp_dim,
        biased="qkv",
        dtype=self.dtype,
        name=f"block_{i}",
      )
      query_block = QueryBlock(
        heads, size.mlp_dim, self.dtype, name=f"query_block_{i}"
      )
      x_BGD = block(x_BGD + position_BGD)
      query_BQD = query_block(query_BQD, x_BGD)
    query_BQD = LayerNorm(EPSILON, dtype=self.dtype, name="norm")(query_BQD)

    wide = jnp.promote_types(self.dtype, jnp.float32)
    project = functools.partial(Linear, size.embed_dim, dtype=wide)
    image_BQD = project(name="image_projection")(
      query_BQD[:, : size.image_queries]
    )
    text_BQD = project(name="text_projection")(
      query_BQD[:, size.image_queries :]
    )
    image_BD, text_BD = (
      (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).mean(axis=1)
      for x in (image_BQD, text_BQD)
    )
    return image_BD + size.ratio * text_BD


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """Makes the encoder of a size."""
  return ReConPP(size, dtype)
