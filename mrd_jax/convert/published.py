"""Knows what the files of published OpenShape models do not say."""

from typing import NamedTuple

from mrd_jax.config.pretraining import SIZES, UpAxis
from mrd_jax.encoder.names import Shapes


class Grouping(NamedTuple):
  """How an encoder groups points, see `PointBERTSize`."""

  groups: int
  radius: float
  group_size: int


class Published(NamedTuple):
  """A published model.

  Attributes:
    name: Its repository or repositories.
    grouping: How it groups points.
    up_axis: The axis that is up in its clouds.
    embedding_space: Its teacher.
  """

  name: str
  grouping: Grouping
  up_axis: UpAxis
  embedding_space: str


# OpenShape's model cards and demo (openshape-demo-support, __init__.py).
MODELS = {
  Shapes(512, 12, 8, 1536, 256, 1280): Published(
    "OpenShape/openshape-pointbert-vitg14-rgb, -no-lvis or -shapenet",
    Grouping(384, 0.2, 64),
    "z",
    "OpenCLIP ViT-bigG-14, laion2b_s39b_b160k",
  ),
  Shapes(512, 12, 8, 1024, 128, 768): Published(
    "OpenShape/openshape-pointbert-vitl14-rgb",
    Grouping(64, 0.4, 256),
    "y",
    "OpenAI CLIP ViT-L/14",
  ),
  Shapes(512, 12, 8, 1024, 128, None): Published(
    "OpenShape/openshape-pointbert-vitb32-rgb",
    Grouping(64, 0.4, 256),
    "y",
    "OpenAI CLIP ViT-B/32",
  ),
}

# Other scales of OpenShape's code (src/models/ppat.py: 2, 3, 5, 6), then our
# sizes, two of which are its scales 1 and 4; whatever the projection.
_SCALES = {
  (512, 6, 8, 1024, 128): Grouping(64, 0.4, 256),
  (512, 12, 8, 1024, 128): Grouping(128, 0.35, 128),
  (768, 12, 12, 2304, 256): Grouping(512, 0.2, 64),
  (768, 24, 12, 3072, 256): Grouping(512, 0.2, 64),
} | {
  (s.width, s.depth, s.heads, s.mlp_dim, s.sa_dim): Grouping(
    s.groups, s.radius, s.group_size
  )
  for s in SIZES.values()
}


def known_grouping(shapes: Shapes) -> Grouping | None:
  """Finds how an encoder of these shapes groups points, if it is known."""
  if shapes in MODELS:
    return MODELS[shapes].grouping
  return _SCALES.get(shapes[:5])
