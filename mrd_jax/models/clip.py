"""Computes CLIP's two towers in Linen, as Hugging Face's `CLIPModel` does.

Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision" (2021).  One module serves OpenAI's and OpenCLIP's sizes: the
activation, the head width (bigG's image tower: 1664 / 16 = 104), the widths
of both towers and of the embedding space are read from `config.json`.

Layers are scanned: a tower compiles as fast at 48 layers as at two, and each
of its parameters is one array with the layer as its first axis.  Weights keep
PyTorch's orientation (outputs, inputs), so that loading moves no element.

In bfloat16 only matrix products are: the residual stream, biases, norms,
softmax and activations are float32, since features are made once and used for
ever.  XLA fuses the conversions.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models.layers import precision_of

Attention = Literal["xla", "cudnn"]  # of JAX; no gradient is asked for

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's
  "gelu": lambda x: nn.gelu(x, approximate=False),  # OpenCLIP's
  "gelu_new": nn.gelu,
  "gelu_pytorch_tanh": nn.gelu,
  "relu": nn.relu,
  "silu": nn.silu,
}


@dataclasses.dataclass(frozen=True)
class TowerSize:
  """A transformer tower: what decides its parameters and its numbers.

  Attributes:
    width: Token width.
    depth: Transformer blocks.
    heads: Attention heads, each width / heads wide.
    mlp_dim: Hidden width of a block's MLP.
    activation: A key of `ACTIVATIONS`.
    epsilon: Of every LayerNorm.
  """

  width: int
  depth: int
  heads: int
  mlp_dim: int
  activation: str
  epsilon: float


@dataclasses.dataclass(frozen=True)
class ImageTowerSize:
  """The image tower and its projection.

  Attributes:
    embed_dim: D, width of the embedding space.
    vision: The transformer.
    image_size: Side of an image in pixels.
    patch_size: Side of a patch in pixels.
  """

  embed_dim: int
  vision: TowerSize
  image_size: int
  patch_size: int


@dataclasses.dataclass(frozen=True)
class TextTowerSize:
  """The text tower and its projection.

  Attributes:
    embed_dim: D, width of the embedding space.
    text: The transformer.
    vocabulary: Number of tokens.
    context: Most tokens of a text, start and end included.
    eos_token_id: Whose first place a text is pooled at; None pools at the
      largest id, which is what Hugging Face does where its config says 2.
  """

  embed_dim: int
  text: TowerSize
  vocabulary: int
  context: int
  eos_token_id: int | None


@dataclasses.dataclass(frozen=True)
class CLIPSize(TextTowerSize, ImageTowerSize):
  """Both towers."""


class Dense(nn.Module):
  """A dense layer in PyTorch's orientation; its bias is added in float32.

  Returns float32 (float64 of float64), whatever the type of the product.
  """

  features: int
  dtype: jnp.dtype
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    weight = self.param(
      "weight",
      nn.initializers.normal(x.shape[-1] ** -0.5),
      (self.features, x.shape[-1]),
      self.dtype,
    )
    # XLA multiplies matrices faster than it contracts higher ranks on CPU.
    x_2d = x.reshape(-1, x.shape[-1]).astype(self.dtype)
    y = jnp.matmul(
      x_2d, weight.astype(self.dtype).T, precision=precision_of(self.dtype)
    )
    y = y.astype(jnp.promote_types(self.dtype, jnp.float32))
    if self.use_bias:
      y += self.param("bias", nn.initializers.zeros, (self.features,))
    return y.reshape(*x.shape[:-1], self.features)


def _norm(size: TowerSize, name: str | None = None) -> nn.LayerNorm:
  # The two-pass variance: CLIP's residual stream has a few huge channels.
  return nn.LayerNorm(size.epsilon, use_fast_variance=False, name=name)


class Block(nn.Module):
  """A pre-norm transformer block, the body of a scan over layers."""

  size: TowerSize
  causal: bool
  attention: Attention
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x_BLD: jax.Array, mask_B11L: jax.Array | None
  ) -> tuple[jax.Array, None]:
    size = self.size
    batch, length, width = x_BLD.shape
    y = _norm(size, "layer_norm1")(x_BLD)
    y = Dense(3 * width, self.dtype, name="qkv")(y).astype(self.dtype)
    y = y.reshape(batch, length, 3, size.heads, width // size.heads)
    # Slices: with a moved axis XLA for CPUs (jaxlib 0.12.0.1) computes wrong
    # products in bfloat16.
    # It takes no precision; that of a context reaches the forward pass alone,
    # but no teacher is trained.
    with jax.default_matmul_precision(precision_of(self.dtype)):
      y = jax.nn.dot_product_attention(
        y[:, :, 0],
        y[:, :, 1],
        y[:, :, 2],
        mask=mask_B11L,
        is_causal=self.causal,
        implementation=self.attention,
      )
    y = y.reshape(batch, length, width)
    x_BLD += Dense(width, self.dtype, name="out_proj")(y)
    y = _norm(size, "layer_norm2")(x_BLD)
    y = Dense(size.mlp_dim, self.dtype, name="fc1")(y)
    y = ACTIVATIONS[size.activation](y)
    return x_BLD + Dense(width, self.dtype, name="fc2")(y), None


def _layers(module: nn.Module, size: TowerSize, causal: bool) -> nn.Module:
  """The blocks of a tower, scanned."""
  scanned = nn.scan(
    Block,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
    length=size.depth,
  )
  return scanned(size, causal, module.attention, module.dtype, name="layers")


class ImageTower(nn.Module):
  """Patches and a class token through a transformer; the class token's."""

  size: ImageTowerSize
  attention: Attention
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, pixels_BCHW: jax.Array) -> jax.Array:
    size, patch = self.size.vision, self.size.patch_size
    batch, channels = pixels_BCHW.shape[:2]
    side = self.size.image_size // patch
    # The convolution whose stride is its width, as a product.  What does not
    # fill a patch is left out, as there.
    x = pixels_BCHW[:, :, : side * patch, : side * patch]
    x = x.reshape(batch, channels, side, patch, side, patch)
    x = x.transpose(0, 2, 4, 1, 3, 5).reshape(batch, side * side, -1)
    x_BLD = Dense(size.width, self.dtype, False, name="patch_embedding")(x)
    normal = nn.initializers.normal(0.02)
    cls_D = self.param("class_embedding", normal, (size.width,))
    cls_B1D = jnp.broadcast_to(cls_D, (batch, 1, size.width))
    x_BLD = jnp.concatenate([cls_B1D.astype(x_BLD.dtype), x_BLD], axis=1)
    x_BLD += self.param(
      "position_embedding", normal, (side * side + 1, size.width)
    )
    x_BLD = _norm(size, "pre_norm")(x_BLD)
    x_BLD, _ = _layers(self, size, causal=False)(x_BLD, None)
    return _norm(size, "post_norm")(x_BLD[:, 0])


class TextTower(nn.Module):
  """Tokens through a causal transformer; those of the end of the text."""

  size: TextTowerSize
  attention: Attention
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, ids_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
    size = self.size.text
    length = ids_BL.shape[1]
    normal = nn.initializers.normal(0.02)
    tokens_VD = self.param(
      "token_embedding",
      normal,
      (self.size.vocabulary, size.width),
      self.dtype,
    )
    positions = self.param(
      "position_embedding", normal, (self.size.context, size.width)
    )
    x_BLD = tokens_VD[ids_BL].astype(positions.dtype) + positions[:length]
    x_BLD, _ = _layers(self, size, causal=True)(
      x_BLD, mask_BL[:, None, None, :].astype(bool)
    )
    eos = self.size.eos_token_id
    found_BL = ids_BL if eos is None else ids_BL == eos
    end_B = found_BL.argmax(axis=1)  # of equal ones the first
    x_BD = jnp.take_along_axis(x_BLD, end_B[:, None, None], axis=1)[:, 0]
    return _norm(size, "final_norm")(x_BD)


class CLIPText(nn.Module):
  """The text tower with its projection, of a file that has no image tower.

  Attributes are those of `CLIP`, the variables a part of its.
  """

  size: TextTowerSize
  dtype: jnp.dtype = jnp.float32
  attention: Attention = "xla"

  @nn.compact
  def __call__(self, ids_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
    """Embeds texts, see `CLIP.text`."""
    args = self.size, self.attention, self.dtype
    x_BD = TextTower(*args, name="text_model")(ids_BL, mask_BL)
    project = Dense(
      self.size.embed_dim, self.dtype, False, name="text_projection"
    )
    return project(x_BD)

  def text(self, ids_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
    """Embeds texts, under the name that `CLIP` has for it."""
    return self(ids_BL, mask_BL)


class CLIP(nn.Module):
  """Both towers with their projections.

  `model.apply(variables, pixels, method="image")` and `method="text"`.

  Attributes:
    size: The architecture.
    dtype: Type of the matrix products and of their weights; float32 means
      float32, without TF32 on GPUs or bfloat16 passes on TPUs.
    attention: Implementation for `jax.nn.dot_product_attention`; "cudnn" for
      bfloat16 on GPUs.
  """

  size: CLIPSize
  dtype: jnp.dtype = jnp.float32
  attention: Attention = "xla"

  def setup(self):
    args = self.size, self.attention, self.dtype
    self.vision = ImageTower(*args)
    self.visual_projection = Dense(self.size.embed_dim, self.dtype, False)
    self.text_model = TextTower(*args)
    self.text_projection = Dense(self.size.embed_dim, self.dtype, False)
    # ln(1 / temperature) of its training; features do not depend on it.
    self.logit_scale = self.param(
      "logit_scale", nn.initializers.constant(2.6592), ()
    )

  def image(self, pixels_BCHW: jax.Array) -> jax.Array:
    """Embeds images.

    Args:
      pixels_BCHW: (B, 3, S, S) with S = image_size, normalised.

    Returns:
      (B, D) float32, not of unit length.
    """
    side = self.size.image_size
    chex.assert_shape(pixels_BCHW, (None, 3, side, side))
    return self.visual_projection(self.vision(pixels_BCHW))

  def text(self, ids_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
    """Embeds texts.

    Args:
      ids_BL: (B, L) int tokens, L at most `context`.
      mask_BL: (B, L), 1 at tokens and 0 at padding.

    Returns:
      (B, D) float32, not of unit length.
    """
    chex.assert_equal_shape([ids_BL, mask_BL])
    chex.assert_axis_dimension_lt(ids_BL, 1, self.size.context + 1)
    return self.text_projection(self.text_model(ids_BL, mask_BL))

  def __call__(
    self, pixels_BCHW: jax.Array, ids_BL: jax.Array, mask_BL: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns `image`, `text` and logit_scale; for initialisation."""
    images, texts = self.image(pixels_BCHW), self.text(ids_BL, mask_BL)
    return images, texts, self.logit_scale
