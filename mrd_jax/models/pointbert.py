"""Embeds clouds: OpenShape's PointPatchTransformer and projection, in Linen.

points -> groups (`point_ops`) -> mini-PointNet -> lift -> [cls] + groups ->
pre-norm transformer -> cls -> projection to the teacher's embedding space.

Everything that touches numbers follows OpenShape (`docs/encoder.md` lists it
with sources): head width 64 whatever the width, qkv without bias, exact GELU,
epsilon 1e-5, no position embedding besides the centre's xyz in the lift, no
final LayerNorm, PyTorch's default initialisation.
"""

import functools
import re
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.config.shared import Attention, Form, Remat
from mrd_jax.models import point_ops
from mrd_jax.models.attention import attention, padded_length
from mrd_jax.models.layers import EPSILON, Linear
from mrd_jax.models.mini_pointnet import MiniPointNet
from mrd_jax.parallel import sharding

HEAD_DIM = 64

Output = Literal["embedding", "tokens"]


def drop_path(x_BLD: jax.Array, rate: float, key: jax.Array) -> jax.Array:
  """Drops the branch of whole samples: stochastic depth (arXiv 1603.09382).

  Args:
    x_BLD: (B, L, D) what a branch adds to its residual stream.
    rate: Probability, below 1, that a sample loses it.
    key: Randomness.

  Returns:
    (B, L, D), zero for those that lose it and divided by 1 - rate for the
    others, so that the expectation is `x_BLD`.
  """
  keep_B11 = jax.random.bernoulli(key, 1 - rate, (len(x_BLD), 1, 1))
  return jnp.where(keep_B11, x_BLD / (1 - rate), 0)


# Matrices that are multiplied in the compute type.
_ROUNDED = re.compile(r"(.*/)?(lift|block_\d+/\w+)/kernel")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered_in(kernel_IO: jax.Array, mesh: Mesh, dtype: Any) -> jax.Array:
  # Said to be split still, or the compiler gathers first and then rounds.
  layout = sharding.with_state_sharding(mesh, kernel_IO).sharding
  split_IO = jax.lax.with_sharding_constraint(kernel_IO.astype(dtype), layout)
  return sharding.gathered(split_IO, mesh).astype(kernel_IO.dtype)


_gathered_in.defvjp(
  lambda kernel_IO, mesh, dtype: (_gathered_in(kernel_IO, mesh, dtype), None),
  lambda mesh, dtype, _, gradient: (sharding.gathered(gradient, mesh),),
)


def gathered_parameters(params: Any, mesh: Mesh | None, dtype: Any) -> Any:
  """Gathers an encoder's parameters whole on every device.

  What every device would round to half precision is rounded before it is sent:
  the numbers are the same, and half as much is sent and held.  The gradients
  come back as `layers.matmul` makes them.

  Args:
    params: Of a `PointBERT`, or of a model that has one.
    mesh: The devices; None is one.
    dtype: The encoder's compute type.
  """
  if mesh is None or mesh.shape["fsdp"] == 1:
    return sharding.gathered(params, mesh)

  def gather(path, leaf: jax.Array) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    narrower = jnp.dtype(dtype).itemsize < leaf.dtype.itemsize
    if narrower and _ROUNDED.fullmatch(name):
      return _gathered_in(leaf, mesh, dtype)
    return sharding.gathered(leaf, mesh)

  return jax.tree_util.tree_map_with_path(gather, params)


class Block(nn.Module):
  """A pre-norm transformer block.

  Attributes:
    heads: H, of width `HEAD_DIM`.
    mlp_dim: Hidden width of the MLP.
    dtype: Compute type.
    gradient_dtype: See `layers.matmul`.
    attention: See `attention.py`.
    length: How many leading tokens exist; None: all.
    drop_path: Rate at which a sample loses either branch; above 0 it needs
      the random stream "drop_path".
  """

  heads: int
  mlp_dim: int
  dtype: jnp.dtype
  gradient_dtype: jnp.dtype
  attention: Attention
  length: int | None = None
  drop_path: float = 0.0

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    batch, length, width = x_BLD.shape
    inner = self.heads * HEAD_DIM
    linear = functools.partial(
      Linear, dtype=self.dtype, gradient_dtype=self.gradient_dtype
    )

    y_BLD = nn.LayerNorm(EPSILON, dtype=self.dtype, name="attention_norm")(
      x_BLD
    )
    qkv = linear(3 * inner, use_bias=False, name="qkv")(y_BLD)
    qkv = qkv.reshape(batch, length, 3, self.heads, HEAD_DIM)
    with jax.named_scope("attention"):
      # Slices: with a moved axis XLA for CPUs (jaxlib 0.12.0.1) computes wrong
      # products in bfloat16.
      q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
      y = attention(q, k, v, self.attention, self.length)
    y = y.reshape(batch, length, inner)
    y = linear(width, name="attention_out")(y)
    if self.drop_path:
      y = drop_path(y, self.drop_path, self.make_rng("drop_path"))
    x_BLD = x_BLD + y

    y = nn.LayerNorm(EPSILON, dtype=self.dtype, name="mlp_norm")(x_BLD)
    y = linear(self.mlp_dim, name="mlp_in")(y)
    # Computed again in the backward pass: it would keep two arrays more, the
    # widest that there are.
    y = jax.checkpoint(functools.partial(nn.gelu, approximate=False))(y)
    y = linear(width, name="mlp_out")(y)
    if self.drop_path:
      y = drop_path(y, self.drop_path, self.make_rng("drop_path"))
    return x_BLD + y


class PointBERT(nn.Module):
  """The point-cloud encoder.

  Attributes:
    size: The architecture.
    embed_dim: D, width of the teacher's embedding space; None leaves the
      projection out (OpenShape's ViT-B/32 encoder), D is then the width.
    dtype: Compute type of matrix work; parameters, BatchNorm and LayerNorm
      statistics are float32 always.
    gradient_dtype: What the gradients of the blocks' and the lift's matrices
      are rounded to before devices sum them, see `layers.matmul`.
    remat: What the backward pass recomputes instead of keeping: nothing, the
      transformer blocks, or the mini-PointNet too.
    attention: Implementation, see `attention.py`.
    point_net: Form of the mini-PointNet, see `mini_pointnet.py`.
    sampling: Form of farthest point sampling (`point_ops`).
    fps_chunk: Clouds per step of its portable form.
    query_chunk: Clouds per step of the ball query (`point_ops`).
    batch_sharding: Layout of the batch over devices, so that grouping stays
      on the device that holds the cloud; None on a single device.
    drop_path: Rate of stochastic depth in the last block, in training; it
      grows linearly from 0 in the first.
    output: "embedding", or "tokens": what the last block leaves, for another
      head; there is no projection then.
  """

  size: PointBERTSize
  embed_dim: int | None
  dtype: jnp.dtype = jnp.float32
  gradient_dtype: jnp.dtype = jnp.float32
  remat: Remat = "none"
  attention: Attention = "auto"
  point_net: Form = "auto"
  sampling: Form = "auto"
  fps_chunk: int = 1
  query_chunk: int = 8
  batch_sharding: NamedSharding | None = None
  drop_path: float = 0.0
  output: Output = "embedding"

  def __call__(
    self, points_BN6: jax.Array, num_points_B: jax.Array, *, train: bool
  ) -> jax.Array:
    """Embeds a batch of clouds.

    Args:
      points_BN6: (B, N, 6) float32: xyz (z up, unit ball) and rgb in [0, 1].
        Groups hold the first points of a ball in index order, so the order of
        a cloud's points matters: shuffle them.
      num_points_B: (B,) int32, how many leading points of a cloud exist.
      train: Whether BatchNorm uses (and records) the batch's statistics.

    Returns:
      (B, D) float32 embeddings, not normalised; or (B, 1 + G, width) float32
      tokens, the cls token first.
    """
    return self.embed(self.group(points_BN6, num_points_B), train=train)

  def group(
    self, points_BN6: jax.Array, num_points_B: jax.Array
  ) -> point_ops.Groups:
    """Groups points: the tokenizer's part without parameters.

    Arguments are those of a call.
    """
    return point_ops.group_points(
      points_BN6,
      num_points_B,
      groups=self.size.groups,
      radius=self.size.radius,
      group_size=self.size.group_size,
      sampling=self.sampling,
      fps_chunk=self.fps_chunk,
      query_chunk=self.query_chunk,
      batch_sharding=self.batch_sharding,
    )

  @nn.compact
  def embed(self, groups: point_ops.Groups, *, train: bool) -> jax.Array:
    """Embeds groups: the part with parameters.

    Returns what a call returns.
    """
    size = self.size
    point_net, block = MiniPointNet, Block
    if self.remat in ("blocks", "all"):
      block = nn.remat(Block)
    if self.remat == "all":
      point_net = nn.remat(MiniPointNet, static_argnums=(2,))

    feature_BGS = point_net(
      size.sa_dim,
      self.dtype,
      self.point_net,
      self.batch_sharding,
      name="point_net",
    )(groups.features.astype(self.dtype), train)
    x_BGD = jnp.concatenate(
      [groups.center_xyz.astype(self.dtype), feature_BGS], axis=-1
    )
    lift = Linear(
      size.width, True, self.dtype, self.gradient_dtype, name="lift"
    )
    x_BGD = nn.LayerNorm(EPSILON, dtype=self.dtype, name="lift_norm")(
      lift(x_BGD)
    )

    cls_D = self.param("cls_token", nn.initializers.normal(1.0), (size.width,))
    # Spread before it is rounded, for the same reason as a bias.
    cls_B1D = jnp.broadcast_to(cls_D, (x_BGD.shape[0], 1, size.width))
    length = 1 + size.groups
    padding = padded_length(length, self.attention, self.dtype) - length
    x_BLD = jnp.concatenate(
      [
        cls_B1D.astype(self.dtype),
        x_BGD,
        jnp.zeros_like(x_BGD, shape=(len(x_BGD), padding, size.width)),
      ],
      axis=1,
    )
    for i in range(size.depth):
      x_BLD = block(
        size.heads,
        size.mlp_dim,
        self.dtype,
        self.gradient_dtype,
        self.attention,
        length=length,
        drop_path=self.drop_path * i / max(size.depth - 1, 1) if train else 0.0,
        name=f"block_{i}",
      )(x_BLD)
    # What the losses compare is never rounded to a half-precision type.
    out_dtype = jnp.promote_types(self.dtype, jnp.float32)
    if self.output == "tokens":
      return x_BLD[:, :length].astype(out_dtype)
    if self.embed_dim is None:
      return x_BLD[:, 0].astype(out_dtype)
    return Linear(self.embed_dim, dtype=out_dtype, name="proj")(x_BLD[:, 0])
