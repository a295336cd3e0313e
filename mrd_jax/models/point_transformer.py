"""Parts of Point-BERT and the transformers that descend from it.

Uni3D, ULIP, ReCon, ReCon++ and CG3D share the tokenizer and differ in where
the position is added, in the block and in the head: their own files (`zoo/`)
put these parts together.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mrd_jax.models import attention, knn_groups
from mrd_jax.models.layers import EPSILON, Linear, matmul
from mrd_jax.models.mini_pointnet import MOMENTUM, Weights

HEAD_DIM = 64

# How the matrices of queries, keys and values are stored, "_" between two.
Layout = Literal["qkv", "q_kv", "q_k_v"]
# Which of them have a bias.
Biased = Literal["", "qv", "qkv"]
MLPKind = Literal["gelu", "swiglu", "swiglu_norm"]

# By differences from the mean: a token may vary little around a large one.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)
TOKEN_INIT = nn.initializers.normal(0.02)


class PatchEmbedding(nn.Module):
  """Embeds each group by Point-BERT's mini-PointNet of two stages.

  The first stage's maximum over the group goes into the second, in front of
  every point's own features.

  Attributes:
    features: E, output width.
    dtype: Compute type.
  """

  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BGKC: jax.Array, train: bool) -> jax.Array:
    """Embeds (B, G, K, C) points: (B, G, E)."""
    linear = functools.partial(Linear, dtype=self.dtype)
    norm = functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=MOMENTUM,
      epsilon=EPSILON,
      dtype=self.dtype,
    )
    x = nn.relu(norm(name="first_norm")(linear(128, name="first_in")(x_BGKC)))
    local_BGKC = linear(256, name="first_out")(x)
    global_BGC = local_BGKC.max(axis=2)
    # [global, local] W = global W_above + local W_below: a group's global part
    # is multiplied once, and the two are never put side by side.
    kernel_IO, bias_O = Weights(512, name="second_in")(2 * 256)
    *group, _, width = local_BGKC.shape
    above_RO = matmul(global_BGC.reshape(-1, width), kernel_IO[:width])
    below_RO = matmul(local_BGKC.reshape(-1, width), kernel_IO[width:])
    above_BG1O = (above_RO + bias_O).reshape(*group, 1, -1)
    x = above_BG1O + below_RO.reshape(*group, -1, above_RO.shape[-1])
    x = nn.relu(norm(name="second_norm")(x))
    return linear(self.features, name="second_out")(x).max(axis=2)


class PositionMLP(nn.Module):
  """Embeds the centres' xyz: Linear, GELU, Linear to `width`."""

  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, xyz_BG3: jax.Array) -> jax.Array:
    x = Linear(128, dtype=self.dtype, name="in")(xyz_BG3)
    x = nn.gelu(x, approximate=False)
    return Linear(self.width, dtype=self.dtype, name="out")(x)


class Tokenizer(nn.Module):
  """Makes tokens of groups of points, and the positions of their centres.

  Attributes:
    groups: G.
    group_size: K.
    channels: 6, or 3 if it sees no colours.
    features: E, width of a token.
    width: D, of a position.
    dtype: Compute type.
    batch_sharding: See `knn_groups.group_points`.
  """

  groups: int
  group_size: int
  channels: int
  features: int
  width: int
  dtype: jnp.dtype = jnp.float32
  batch_sharding: NamedSharding | None = None

  @nn.compact
  def __call__(
    self, points_BN6: jax.Array, num_points_B: jax.Array, *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns (B, G, E) tokens and (B, G, D) positions."""
    found = knn_groups.group_points(
      points_BN6,
      num_points_B,
      groups=self.groups,
      group_size=self.group_size,
      batch_sharding=self.batch_sharding,
    )
    x_BGKC = found.features[..., : self.channels].astype(self.dtype)
    patches = PatchEmbedding(self.features, self.dtype, name="patches")
    position = PositionMLP(self.width, self.dtype, name="position")
    return patches(x_BGKC, train), position(found.center_xyz)


class Attention(nn.Module):
  """Attention of tokens to themselves or to others, with its projections.

  Attributes:
    heads: H.
    head_dim: Width of a head.
    layout: Which matrices are one.
    biased: Which of queries, keys and values have a bias.
    dtype: Compute type.
  """

  heads: int
  head_dim: int = HEAD_DIM
  layout: Layout = "qkv"
  biased: Biased = ""
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x_BLD: jax.Array, context_BMD: jax.Array | None = None
  ) -> jax.Array:
    """Returns (B, L, D): what tokens x see of the context, or of themselves.

    "qkv" has no context.
    """
    inner = self.heads * self.head_dim
    linear = functools.partial(Linear, dtype=self.dtype)
    others = x_BLD if context_BMD is None else context_BMD
    if self.layout == "qkv":
      qkv = linear(3 * inner, self.biased == "qkv", name="qkv")(x_BLD)
      q, k, v = jnp.split(qkv, 3, axis=-1)
      if self.biased == "qv":
        zeros = nn.initializers.zeros
        q = q + self.param("q_bias", zeros, (inner,)).astype(self.dtype)
        v = v + self.param("v_bias", zeros, (inner,)).astype(self.dtype)
    elif self.layout == "q_kv":
      biased = self.biased == "qkv"
      q = linear(inner, biased, name="q")(x_BLD)
      k, v = jnp.split(linear(2 * inner, biased, name="kv")(others), 2, axis=-1)
    else:
      q = linear(inner, "q" in self.biased, name="q")(x_BLD)
      k = linear(inner, "k" in self.biased, name="k")(others)
      v = linear(inner, "v" in self.biased, name="v")(others)
    q, k, v = (
      x.reshape(*x.shape[:2], self.heads, self.head_dim) for x in (q, k, v)
    )
    with jax.named_scope("attention"):
      # The kernel of "auto" is told one length for queries and keys.
      form = "auto" if context_BMD is None else "xla"
      y = attention.attention(q, k, v, form, k.shape[1])
    return linear(x_BLD.shape[-1], name="out")(y.reshape(*x_BLD.shape[:2], -1))


class MLP(nn.Module):
  """The MLP of a block.

  Attributes:
    hidden: Its width.
    kind: "gelu" (exact); "swiglu", silu(gate) * value of one matrix, the gate
      first; "swiglu_norm", of two, with a LayerNorm behind the product.
    epsilon: Of that norm.
    dtype: Compute type.
  """

  hidden: int
  kind: MLPKind = "gelu"
  epsilon: float = EPSILON
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    linear = functools.partial(Linear, dtype=self.dtype)
    if self.kind == "gelu":
      x = nn.gelu(linear(self.hidden, name="in")(x_BLD), approximate=False)
    elif self.kind == "swiglu":
      packed = linear(2 * self.hidden, name="in")(x_BLD)
      gate, value = jnp.split(packed, 2, axis=-1)
      x = nn.silu(gate) * value
    else:
      gate = linear(self.hidden, name="gate")(x_BLD)
      x = nn.silu(gate) * linear(self.hidden, name="value")(x_BLD)
      x = LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
    return linear(x_BLD.shape[-1], name="out")(x)


class Block(nn.Module):
  """A pre-norm transformer block: x += attention(norm x), x += MLP(norm x).

  Attributes:
    heads, head_dim, layout, biased: See `Attention`.
    mlp_dim, mlp: Width and kind of the MLP.
    epsilon: Of all norms.
    dtype: Compute type.
  """

  heads: int
  mlp_dim: int
  head_dim: int = HEAD_DIM
  layout: Layout = "qkv"
  biased: Biased = ""
  mlp: MLPKind = "gelu"
  epsilon: float = EPSILON
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    norm = functools.partial(LayerNorm, self.epsilon, dtype=self.dtype)
    x_BLD = x_BLD + Attention(
      self.heads,
      self.head_dim,
      self.layout,
      self.biased,
      self.dtype,
      name="attention",
    )(norm(name="attention_norm")(x_BLD))
    mlp = MLP(self.mlp_dim, self.mlp, self.epsilon, self.dtype, name="mlp")
    return x_BLD + mlp(norm(name="mlp_norm")(x_BLD))


def with_tokens(front_1LD: jax.Array, x_BGD: jax.Array) -> jax.Array:
  """Puts the same tokens in front of those of every cloud: (B, L + G, D)."""
  shape = (len(x_BGD), *front_1LD.shape[1:])
  front_BLD = jnp.broadcast_to(front_1LD, shape).astype(x_BGD.dtype)
  return jnp.concatenate([front_BLD, x_BGD], axis=1)
