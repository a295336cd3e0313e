"""Makes the shapes of a *synthetic* dataset with a *synthetic* teacher.

Coloured point clouds of parametric everyday objects, captions from a small
grammar, and features that no network ever computed (`teacher.py` says how).
It exists so that training, evaluation and tests run anywhere within minutes.
Its numbers say that the program works; they say nothing about how well a
method does on real shapes, and must not be reported as if they did.
"""

import zlib

import numpy as np

from mrd_jax.data.records import ImageKind, Shape
from mrd_jax.procedural.families import FAMILIES
from mrd_jax.procedural.objects import draw_object
from mrd_jax.procedural.teacher import SyntheticTeacher
from mrd_jax.procedural.texts import draw_texts

__all__ = ["CLASS_NAMES", "SyntheticTeacher", "make_shape"]

CLASS_NAMES: tuple[str, ...] = tuple(FAMILIES)

_STREAM = zlib.crc32(b"mrd_jax.procedural.shape")


def make_shape(
  index: int,
  *,
  seed: int,
  num_points: int,
  num_views: int,
  teacher: SyntheticTeacher,
) -> Shape:
  """Makes one synthetic shape, a pure function of the arguments.

  The family is `index % len(CLASS_NAMES)`, so any run of indices is balanced;
  splits are disjoint ranges of indices, or different seeds.  `num_points` and
  `num_views` change neither the object nor its texts, and points come in no
  order, so that a prefix is a fair sample of the surface too.

  Args:
    index: Which shape, from 0 up without end.
    seed: Which dataset; not negative.
    num_points: N points, sampled uniformly over the surface.
    num_views: V image features: all VIEW but the last, which is a THUMBNAIL
      (a single one is a VIEW).
    teacher: Makes the image and text features.

  Returns:
    A shape with `xyz` (N, 3) about 1 in size, centred, y up, `rgb` (N, 3)
    in [0, 1], `image_feat` (V, D), and T = 0 to 5 texts with `text_feat`
    (T, D); about 3 % have no text.

  Raises:
    ValueError: when an argument is out of range.
  """
  if min(index, seed) < 0 or num_points < 2 or num_views < 1:
    raise ValueError(
      "needs index >= 0, seed >= 0, num_points >= 2 and num_views >= 1, got "
      f"{index}, {seed}, {num_points} and {num_views}"
    )
  # One stream per purpose: none can shift what another draws.
  streams = np.random.SeedSequence((_STREAM, seed, index)).spawn(4)
  object_rng, point_rng, text_rng, image_rng = map(
    np.random.default_rng, streams
  )
  label = index % len(CLASS_NAMES)
  obj = draw_object(FAMILIES[CLASS_NAMES[label]], object_rng)
  xyz, rgb = obj.sample(point_rng, num_points)
  pairs = draw_texts(obj.description, text_rng)
  texts = [text for text, _ in pairs]
  image_kind = [ImageKind.VIEW] * num_views
  if num_views > 1:
    image_kind[-1] = ImageKind.THUMBNAIL
  return Shape(
    id=f"procedural-{index:06d}",
    xyz=xyz,
    rgb=rgb,
    image_feat=teacher.image_features(obj.description, num_views, image_rng),
    image_kind=image_kind,
    texts=texts,
    text_feat=teacher.text_features(texts),
    text_kind=[kind for _, kind in pairs],
    dataset="procedural",
    label=label,
  )
