"""Uni3D (Junsheng Zhou et al., ICLR 2024), sizes ti, s, b, l and g.

Point-BERT's tokenizer before the blocks of timm's EVA and EVA-02 image towers,
which are called without their rotary positions.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mrd_jax.models.layers import Linear
from mrd_jax.models.point_transformer import (
  HEAD_DIM,
  TOKEN_INIT,
  Block,
  LayerNorm,
  MLPKind,
  Tokenizer,
  with_tokens,
)
from mrd_jax.zoo import point_bert, prompts
from mrd_jax.zoo.system import Hub, Preparation, Release, Texts, figures
from mrd_jax.zoo.tensors import Row, count, linear, norm, shapes

NAME = "Uni3D"

TEACHER = "EVA02-E-14-plus (laion2b_s9b_b144k)"
UNSAID = ("groups", "group_size")

EPSILON = 1e-6  # of all LayerNorms

_GIANT_HEAD_DIM = 88
_PREFIX = "point_encoder."
_BLOCK = f"{_PREFIX}visual.blocks.0"
_UNUSED = (
  "logit_scale",
  # Of the image tower.
  f"{_PREFIX}visual.cls_token",
  f"{_PREFIX}visual.pos_embed",
  f"{_PREFIX}visual.patch_embed.",
  f"{_PREFIX}visual.head.",
)


@dataclasses.dataclass(frozen=True)
class Size:
  """The architecture.

  Attributes:
    width: Of a token.
    depth: Blocks.
    head_dim: Width of a head.
    split: Whether queries, keys and values have matrices of their own (b, l),
      or one.
    mlp: Kind of the blocks' MLPs: "swiglu" (ti, s), "swiglu_norm" (b, l) or
      "gelu" (g).
    mlp_dim: Their hidden width.
    patch_dim: Output width of the mini-PointNet.
    channels: 6, or 3 if it sees no colours.
    embed_dim: D, of the teacher's embedding space.
    groups: G, tokens a cloud; no file says it.
    group_size: K, points a group; no file says it.
  """

  width: int
  depth: int
  head_dim: int
  split: bool
  mlp: MLPKind
  mlp_dim: int
  patch_dim: int
  channels: int
  embed_dim: int
  groups: int = 512
  group_size: int = 64


_TI = Size(192, 12, 64, False, "swiglu", 512, 512, 6, 1024)
_S = dataclasses.replace(_TI, width=384, mlp_dim=1024)
_B = Size(768, 12, 64, True, "swiglu_norm", 2048, 512, 6, 1024)
_L = dataclasses.replace(_B, width=1024, depth=24, mlp_dim=2730)
_G = Size(1408, 40, _GIANT_HEAD_DIM, False, "gelu", 6144, 512, 6, 1024)


def _release(
  name: str,
  size: Size,
  parameters: int,
  row: tuple[str, str] | None = None,
  **found: tuple[float, float],
) -> Release:
  return Release(
    size,
    parameters,
    Hub("BAAI/Uni3D", f"modelzoo/uni3d-{name}/model.pt"),
    None,
    Texts(prompts.ULIP, prompts.EVA02_E_14_PLUS),
    row,
    "Uni3D's README",
    figures(**found),
    differs="its authors measured in TF32",
  )


# The README has no figures of ti and s.
RELEASES = {
  "uni3d-ti": _release("ti", _TI, 6_221_824),
  "uni3d-s": _release("s", _S, 22_498_432),
  "uni3d-b": _release(
    "b",
    _B,
    86_951_296,
    ("Uni3D-B", "ensembled"),
    lvis=(51.7, 80.8),
    modelnet40=(86.3, 97.9),
    scanobjectnn=(63.8, 90.2),
  ),
  "uni3d-b-no-lvis": _release(
    "b-no-lvis",
    _B,
    86_951_296,
    ("Uni3D-B", "no LVIS"),
    lvis=(45.9, 74.8),
    modelnet40=(86.1, 98.7),
    scanobjectnn=(61.7, 89.5),
  ),
  "uni3d-l": _release(
    "l",
    _L,
    304_671_552,
    ("Uni3D-L", "ensembled"),
    lvis=(53.1, 81.5),
    modelnet40=(86.3, 98.3),
    scanobjectnn=(58.2, 89.4),
  ),
  "uni3d-l-no-lvis": _release(
    "l-no-lvis",
    _L,
    304_671_552,
    ("Uni3D-L", "no LVIS"),
    lvis=(46.2, 74.7),
    modelnet40=(86.6, 97.8),
    scanobjectnn=(58.4, 90.1),
  ),
  "uni3d-g": _release(
    "g",
    _G,
    1_012_864_128,
    lvis=(53.5, 82.0),
    modelnet40=(87.3, 99.2),
    scanobjectnn=(63.9, 91.7),
  ),
  "uni3d-g-no-lvis": _release(
    "g-no-lvis",
    _G,
    1_012_864_128,
    lvis=(47.2, 76.1),
    modelnet40=(86.8, 98.4),
    scanobjectnn=(66.5, 90.1),
  ),
}


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the size of a state dict; None if it is another system's."""
  found = shapes(
    state,
    {
      f"{_PREFIX}encoder.first_conv.0.weight": 3,
      f"{_PREFIX}encoder2trans.weight": 2,
      f"{_PREFIX}trans2embed.weight": 2,
      f"{_BLOCK}.mlp.fc2.weight": 2,
    },
  )
  if found is None:
    return None
  (_, channels, _), (width, patch_dim), (embed_dim, _), (_, mlp_dim) = found
  mlp = "gelu"
  if f"{_BLOCK}.mlp.fc1_g.weight" in state:
    mlp = "swiglu_norm"
  elif shapes(state, {f"{_BLOCK}.mlp.fc1.bias": 1}) == [(2 * mlp_dim,)]:
    mlp = "swiglu"
  # Only the giant tower has GELU.
  head_dim = _GIANT_HEAD_DIM if mlp == "gelu" else HEAD_DIM
  if width % head_dim:
    return None
  return Size(
    width=width,
    depth=count(state, f"{_PREFIX}visual.blocks"),
    head_dim=head_dim,
    split=f"{_BLOCK}.attn.q_proj.weight" in state,
    mlp=mlp,
    mlp_dim=mlp_dim,
    patch_dim=patch_dim,
    channels=channels,
    embed_dim=embed_dim,
  )


def table(size: Size) -> list[Row]:
  """Lists the names of all tensors."""
  rows = [
    Row(f"{_PREFIX}cls_token", "params/cls_token"),
    Row(f"{_PREFIX}cls_pos", "params/cls_position"),
    *point_bert.tokenizer_rows(f"{_PREFIX}encoder", f"{_PREFIX}pos_embed"),
    *linear(f"{_PREFIX}encoder2trans", "lift"),
    *norm(f"{_PREFIX}visual.fc_norm", "norm"),
    *linear(f"{_PREFIX}trans2embed", "projection"),
  ]
  for i in range(size.depth):
    rows += _block_rows(size, f"{_PREFIX}visual.blocks.{i}", f"block_{i}")
  return rows


def _block_rows(size: Size, key: str, path: str) -> list[Row]:
  attention, mlp = f"{path}/attention", f"{path}/mlp"
  rows = [
    *norm(f"{key}.norm1", f"{path}/attention_norm"),
    *norm(f"{key}.norm2", f"{path}/mlp_norm"),
    *linear(f"{key}.attn.proj", f"{attention}/out"),
    *linear(f"{key}.mlp.fc2", f"{mlp}/out"),
  ]
  if size.split:
    for name in "qkv":
      rows += linear(
        f"{key}.attn.{name}_proj", f"{attention}/{name}", bias=name != "k"
      )
  else:
    rows += linear(f"{key}.attn.qkv", f"{attention}/qkv", bias=False)
    for name in "qv":
      rows.append(
        Row(f"{key}.attn.{name}_bias", f"params/{attention}/{name}_bias")
      )
  if size.mlp != "swiglu_norm":
    return rows + linear(f"{key}.mlp.fc1", f"{mlp}/in")
  return [
    *rows,
    *linear(f"{key}.mlp.fc1_g", f"{mlp}/gate"),
    *linear(f"{key}.mlp.fc1_x", f"{mlp}/value"),
    *norm(f"{key}.mlp.norm", f"{mlp}/norm"),
  ]


def preparation(size: Size) -> Preparation:
  """Says how the system takes a cloud."""
  del size
  # As stored: sampling starts at the first point.  Without colours ScanObjectNN
  # has .4; ModelNet40's file has 100 / 255.
  return Preparation(10_000)


def teacher(size: Size) -> str:
  """Names the embedding space, by its teacher."""
  del size
  return TEACHER


def is_unused(key: str) -> bool:
  """Says whether a file may hold a tensor that does not embed clouds."""
  return key.startswith(_UNUSED)


class Uni3D(nn.Module):
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
    x_BLD = with_tokens(
      cls_11D + cls_position_11D, lift(patches_BGE) + position_BGD
    )
    for i in range(size.depth):
      x_BLD = Block(
        size.width // size.head_dim,
        size.mlp_dim,
        size.head_dim,
        "q_k_v" if size.split else "qkv",
        "qv",
        size.mlp,
        EPSILON,
        self.dtype,
        name=f"block_{i}",
      )(x_BLD)
    cls_BD = LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x_BLD[:, 0])
    wide = jnp.promote_types(self.dtype, jnp.float32)
    return Linear(size.embed_dim, dtype=wide, name="projection")(cls_BD)


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """Makes the encoder of a size."""
  return Uni3D(size, dtype)
