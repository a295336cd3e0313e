"""Names the tensors of CLIP as OpenAI published it, both kinds of image tower.

OpenCLIP, SLIP and what is trained from these keep the names.  A transformer's
`in_proj_weight` holds queries, keys and values above each other, as ours does;
ours has the layers of a tower in one array, so a row is a layer of it.
"""

import math
from collections.abc import Mapping

import numpy as np

from mrd_jax.models.clip import ImageTowerSize, TextTowerSize, TowerSize
from mrd_jax.models.clip_resnet import ResNetSize
from mrd_jax.models.layers import EPSILON
from mrd_jax.zoo.tensors import Row, batch_norm, count, linear

HEAD_DIM = 64  # of all of OpenAI's towers; no tensor says it
# Of CLIP's own images, by channel.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

# How names begin that are not the image tower's.
TEXTS = (
  "transformer.",
  "token_embedding.weight",
  "positional_embedding",
  "ln_final.",
  "text_projection",
  "logit_scale",
  "input_resolution",
  "context_length",
  "vocab_size",
)
_BLOCK = {
  "attn.in_proj_weight": "qkv/weight",
  "attn.in_proj_bias": "qkv/bias",
  "attn.out_proj.weight": "out_proj/weight",
  "attn.out_proj.bias": "out_proj/bias",
  "ln_1.weight": "layer_norm1/scale",
  "ln_1.bias": "layer_norm1/bias",
  "mlp.c_fc.weight": "fc1/weight",
  "mlp.c_fc.bias": "fc1/bias",
  "mlp.c_proj.weight": "fc2/weight",
  "mlp.c_proj.bias": "fc2/bias",
  "ln_2.weight": "layer_norm2/scale",
  "ln_2.bias": "layer_norm2/bias",
}


_VIT_B = TowerSize(768, 12, 12, 3072, "quick_gelu", EPSILON)
VIT_B_32 = ImageTowerSize(512, _VIT_B, 224, 32)
VIT_B_16 = ImageTowerSize(512, _VIT_B, 224, 16)
RN50 = ResNetSize(1024, 64, (3, 4, 6, 3), 224)
RN101 = ResNetSize(512, 64, (3, 4, 23, 3), 224)


def image_size(
  state: Mapping[str, np.ndarray], prefix: str = "visual."
) -> ImageTowerSize | ResNetSize | None:
  """Reads the sizes of an image tower.

  Args:
    state: Arrays by OpenAI's names.
    prefix: Of the image tower's.

  Returns:
    What the shapes say.  The activation they do not: it is OpenAI's; OpenCLIP
    trained most of its own towers with "gelu".  None if there is no such tower.
  """
  if f"{prefix}attnpool.positional_embedding" in state:
    shapes = _shapes(
      state,
      prefix,
      {"attnpool.positional_embedding": 2, "attnpool.c_proj.weight": 2}
      | {"layer1.0.conv1.weight": 4},
    )
    if shapes is None or shapes[0][0] < 2:
      return None
    (positions, _), (embed_dim, _), (width, *_) = shapes
    return ResNetSize(
      embed_dim=embed_dim,
      width=width,
      layers=tuple(count(state, f"{prefix}layer{i}") for i in range(1, 5)),
      image_size=32 * math.isqrt(positions - 1),
    )
  shapes = _shapes(
    state, prefix, {"positional_embedding": 2, "conv1.weight": 4, "proj": 2}
  )
  vision = _tower(state, f"{prefix}transformer.resblocks")
  if shapes is None or shapes[0][0] < 2 or vision is None:
    return None
  (positions, _), (*_, patch), (_, embed_dim) = shapes
  return ImageTowerSize(
    embed_dim=embed_dim,
    vision=vision,
    image_size=patch * math.isqrt(positions - 1),
    patch_size=patch,
  )


def text_size(
  state: Mapping[str, np.ndarray], prefix: str = ""
) -> TextTowerSize | None:
  """Reads the sizes of a text tower, see `image_size`.

  A text is pooled at its largest token, as in all of them.
  """
  shapes = _shapes(
    state,
    prefix,
    {
      "token_embedding.weight": 2,
      "positional_embedding": 2,
      "text_projection": 2,
    },
  )
  text = _tower(state, f"{prefix}transformer.resblocks")
  if shapes is None or text is None:
    return None
  (vocabulary, _), (context, _), (_, embed_dim) = shapes
  return TextTowerSize(embed_dim, text, vocabulary, context, None)


def image_table(
  size: ImageTowerSize | ResNetSize, prefix: str = "visual.", path: str = ""
) -> list[Row]:
  """Lists the rows of an image tower and its projection.

  Args:
    size: The tower.
    prefix: Of the published names.
    path: Of the `ViewEncoder`, ending in "/", or empty.
  """
  if isinstance(size, ResNetSize):
    return _resnet_table(size, prefix, f"{path}vision")
  width, patch = size.vision.width, size.patch_size
  tower = f"params/{path}vision"
  return [
    Row(
      f"{prefix}conv1.weight",
      f"{tower}/patch_embedding/weight",
      shape=(width, 3, patch, patch),
    ),
    Row(f"{prefix}class_embedding", f"{tower}/class_embedding"),
    Row(f"{prefix}positional_embedding", f"{tower}/position_embedding"),
    *(
      Row(f"{prefix}{key}.{kind}", f"{tower}/{name}/{ours}")
      for key, name in (("ln_pre", "pre_norm"), ("ln_post", "post_norm"))
      for kind, ours in (("weight", "scale"), ("bias", "bias"))
    ),
    *_blocks(f"{prefix}transformer", tower, size.vision.depth),
    Row(f"{prefix}proj", f"params/{path}visual_projection/weight", rank=2),
  ]


def text_table(
  size: TextTowerSize, prefix: str = "", path: str = ""
) -> list[Row]:
  """Lists the rows of a text tower and its projection, a `CLIPText`'s.

  Arguments are those of `image_table`.
  """
  tower = f"params/{path}text_model"
  return [
    Row(f"{prefix}token_embedding.weight", f"{tower}/token_embedding"),
    Row(f"{prefix}positional_embedding", f"{tower}/position_embedding"),
    *_blocks(f"{prefix}transformer", tower, size.text.depth),
    Row(f"{prefix}ln_final.weight", f"{tower}/final_norm/scale"),
    Row(f"{prefix}ln_final.bias", f"{tower}/final_norm/bias"),
    Row(
      f"{prefix}text_projection",
      f"params/{path}text_projection/weight",
      rank=2,
    ),
  ]


def _resnet_table(size: ResNetSize, prefix: str, path: str) -> list[Row]:
  """Lists the rows of a `CLIPResNet`."""

  def conv_norm(conv: str, norm: str, name: str) -> list[Row]:
    kernel = f"params/{path}/{name}/conv/kernel"
    return [
      Row(f"{prefix}{conv}.weight", kernel, conv=True),
      *batch_norm(f"{prefix}{norm}", f"{path}/{name}/norm"),
    ]

  rows = []
  for i in range(3):
    rows += conv_norm(f"conv{i + 1}", f"bn{i + 1}", f"stem_{i}")
  for stage, depth in enumerate(size.layers):
    for i in range(depth):
      block, name = f"layer{stage + 1}.{i}", f"stage_{stage}_block_{i}"
      for j, part in enumerate(("reduce", "spatial", "expand"), 1):
        rows += conv_norm(
          f"{block}.conv{j}", f"{block}.bn{j}", f"{name}/{part}"
        )
      if not i:
        rows += conv_norm(
          f"{block}.downsample.0", f"{block}.downsample.1", f"{name}/shortcut"
        )
  rows.append(
    Row(
      f"{prefix}attnpool.positional_embedding",
      f"params/{path}/pool/position_embedding",
    )
  )
  for key, name in (("q", "q"), ("k", "k"), ("v", "v"), ("c", "out")):
    rows += linear(f"{prefix}attnpool.{key}_proj", f"{path}/pool/{name}")
  return rows


def _blocks(key: str, path: str, depth: int) -> list[Row]:
  """Lists the rows of a transformer's blocks."""
  return [
    Row(f"{key}.resblocks.{i}.{theirs}", f"{path}/layers/{ours}", layer=i)
    for theirs, ours in _BLOCK.items()
    for i in range(depth)
  ]


def _tower(state: Mapping[str, np.ndarray], blocks: str) -> TowerSize | None:
  """Reads the sizes of a transformer."""
  shapes = _shapes(state, f"{blocks}.0.", {"mlp.c_fc.weight": 2})
  if shapes is None:
    return None
  ((mlp_dim, width),) = shapes
  heads = max(width // HEAD_DIM, 1)
  if width % heads:
    return None
  return TowerSize(
    width=width,
    depth=count(state, blocks),
    heads=heads,
    mlp_dim=mlp_dim,
    activation="quick_gelu",
    epsilon=EPSILON,
  )


def _shapes(
  state: Mapping[str, np.ndarray], prefix: str, ranks: Mapping[str, int]
) -> list[tuple[int, ...]] | None:
  """Looks up shapes; None if a tensor is missing, empty or of another rank."""
  shapes = [
    state[prefix + key].shape if prefix + key in state else () for key in ranks
  ]
  if any(
    len(shape) != rank or 0 in shape
    for shape, rank in zip(shapes, ranks.values(), strict=True)
  ):
    return None
  return shapes
