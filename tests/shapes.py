"""Random shapes, before they are encoded."""

import numpy as np

from mrd_jax.data.records import ImageKind, Shape, TextKind

DIM = 8  # of their features


def random_shape(seed: int = 0, **changes) -> Shape:
  """50 points, two views and a thumbnail, two texts; `changes` are fields."""
  rng = np.random.default_rng(seed)
  values = {
    "id": f"shape{seed}",
    "xyz": rng.normal(size=(50, 3)).astype(np.float32),
    "rgb": rng.uniform(size=(50, 3)).astype(np.float32),
    "image_feat": rng.normal(size=(3, DIM)).astype(np.float32),
    "image_kind": [ImageKind.VIEW, ImageKind.VIEW, ImageKind.THUMBNAIL],
    "texts": ["naïve", "seat"],
    "text_feat": rng.normal(size=(2, DIM)).astype(np.float32),
    "text_kind": [TextKind.RAW, TextKind.BLIP],
    "dataset": "test",
  }
  return Shape(**values | changes)


NO_TEXT = {"texts": [], "text_feat": np.zeros((0, 0)), "text_kind": []}
NO_IMAGE = {"image_feat": np.zeros((0, DIM)), "image_kind": []}
