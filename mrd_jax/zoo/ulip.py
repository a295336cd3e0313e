"""ULIP and ULIP-2 with PointBERT (Le Xue et al., CVPR 2023 and 2024).

Several files are called ULIP-2: what a file is, its shapes say.  PointNet++
and PointMLP of the same authors are other networks.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mrd_jax.zoo import point_bert, prompts
from mrd_jax.zoo.system import Hub, Preparation, Release, Texts, figures
from mrd_jax.zoo.tensors import Row, shapes

NAME = "ULIP"

# By embed_dim.
TEACHERS = {512: "SLIP ViT-B/16", 1280: prompts.BIG_G_SPACE}
UNSAID = ("groups", "group_size")

_UNUSED = (
  "logit_scale",
  # Of ULIP-1, SLIP; of ULIP-2, OpenCLIP.
  "visual.",
  "image_projection",
  "token_embedding.",
  "positional_embedding",
  "transformer.",
  "ln_final.",
  "text_projection",
  "open_clip_model.",
)


@dataclasses.dataclass(frozen=True)
class Size(point_bert.Size):
  """The architecture; 12 blocks without colours are ULIP-1, 18 with ULIP-2."""

  groups: int = 512
  group_size: int = 32


RELEASES = {
  "ulip-pointbert": Release(
    Size(384, 12, 1536, 256, 3, 512),
    22_252_032,
    Hub(
      "SFXX/ulip",
      # So spelt there.
      "ULIP-1/pretrained_models/ckpt_zero-sho_classification/"
      "checkpoint_pointbert.pt",
      "dataset",
    ),
    None,
    Texts(prompts.ULIP, None),
    ("ULIP+PointBERT", "ShapeNet"),
    "ULIP's README",
    figures(modelnet40=(60.3, 84.0)),
    differs="its authors' sampling then began at a random point",
  ),
  "ulip2-pointbert": Release(
    Size(384, 18, 1536, 256, 6, 1280),
    33_482_112,
    Hub(
      "SFXX/ulip",
      "ULIP-2/pretrained_models/"
      "ULIP-2-PointBERT-10k-xyzrgb-pc-vit_g-objaverse_shapenet-pretrained.pt",
      "dataset",
    ),
    None,
    Texts(prompts.ULIP, prompts.BIG_G),
    source="ULIP's README",
    figures=figures(lvis=(50.6, 79.1), modelnet40=(84.7, 97.1)),
    on={"modelnet40": {"normalized": False, "colour": 0.4}},
  ),
}


def infer(state: Mapping[str, np.ndarray]) -> Size | None:
  """Reads the size of a state dict; None if it is another system's."""
  sizes = point_bert.read_size(state, "point_encoder.")
  projection = shapes(state, {"pc_projection": 2})
  if sizes is None or projection is None:
    return None
  return Size(**sizes, embed_dim=projection[0][1])


def table(size: Size) -> list[Row]:
  """Lists the names of all tensors."""
  # The projection is stored (in, out), as ours is.
  projection = Row("pc_projection", "params/projection/kernel")
  return [*point_bert.rows(size, "point_encoder."), projection]


def preparation(size: Size) -> Preparation:
  """Says how the system takes a cloud."""
  # As stored: sampling starts at the first point.  ULIP-2's ModelNet40 file is
  # not normalised again; ULIP-1 sees no colours.
  return Preparation(8192 if size.channels == 3 else 10_000)


def teacher(size: Size) -> str:
  """Names the embedding space, by its teacher."""
  return TEACHERS.get(size.embed_dim, "unknown")


def is_unused(key: str) -> bool:
  """Says whether a file may hold a tensor that does not embed clouds."""
  return key.startswith(_UNUSED)


def make(size: Size, dtype: jnp.dtype = jnp.float32) -> nn.Module:
  """Makes the encoder of a size."""
  return point_bert.PointBERT(size, projection_bias=False, dtype=dtype)
