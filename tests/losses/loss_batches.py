"""Embeddings that are hard on the losses, each named by what is hard."""

import zlib

import numpy as np

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import mrd

BATCHES = (
  "random",
  "correlated",
  "duplicates",
  "masked",
  "few_texts",
  "one_text",
  "no_text",
  "huge_scale",
  "student_is_teacher",
)


def make_batch(name: str, samples: int, width: int) -> dict[str, np.ndarray]:
  """Draws raw embeddings in float64, {"point": (samples, width), ...}."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  samples = 2 if name == "two" else samples
  point, image, text = rng.normal(size=(3, samples, width))
  has_text = np.ones(samples, bool)
  if name == "correlated":
    image, text = point + 0.3 * image, point + 0.5 * text
  elif name == "duplicates":  # on one device and on two
    for x in (point, image, text):
      x[[3, -1]] = x[2]
    image[[5, -2]] = image[2]
  elif name == "one_class":
    image, text = (x[:1] + 1e-3 * x for x in (image, text))
  elif name == "masked":  # no row of the first of two devices has one
    has_text = rng.random(samples) < 0.5
    has_text[: samples // 2], has_text[-2:] = False, True
    text[~has_text] = 0
  elif name == "few_texts":  # which the teacher ties
    text = text[rng.integers(0, 3, samples)]
  elif name == "one_text":
    has_text[1:] = False
  elif name == "no_text":
    has_text[:] = False
    text[:] = 0
  elif name == "student_is_teacher":
    point = image.copy()
  return {
    "point": point,
    "image": image,
    "text": text,
    "has_text": has_text,
    "logit_scale": np.log(99.0 if name == "huge_scale" else 14.28),
  }


def free_pairs(config: LossConfig) -> dict[str, np.ndarray]:
  """Draws what is behind the dynamic weights."""
  rng = np.random.default_rng(7)
  return {name: rng.normal(size=2) for name in mrd.init_dynamic_weights(config)}
