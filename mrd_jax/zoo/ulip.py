"""ULIP and ULIP-2 with PointBERT (Le Xue et al., CVPR 2023 and 2024).

Several files are called ULIP-2: what a file is, its shapes say.  PointNet++
and PointMLP of the same authors are other networks.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mrd_jax.zoo import point_bert
from mrd_jax.zoo.system import Preparation
from mrd_jax.zoo.tensors import Row, shapes

NAME = "ULIP"

# Texts: ULIP's 64 templates, key "modelnet40_64" of its templates.json, names
# as the data set spells them; normalised, averaged, normalised.
TEMPLATES = "modelnet40_64"
RAW_NAMES = True
TEXTS_NORMALISED = True
# ULIP-1's text tower is in its own file.
TEACHERS = {512: "SLIP ViT-B/16", 1280: "OpenCLIP ViT-bigG-14"}  # by embed_dim

# On the authors' test files; sampling then started at a random point.
PUBLISHED = {
  "ulip1-pointbert": {"modelnet40/top1": 60.3, "modelnet40/top5": 84.0},
  "ulip2-pointbert-10k-colored": {
    "lvis/top1": 50.6,
    "lvis/top5": 79.1,
    "modelnet40/top1": 84.7,
    "modelnet40/top5": 97.1,
  },
}

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
