"""Synthetic shapes, small."""

import zlib

from mrd_jax.procedural.shapes import SyntheticTeacher, make_shape

TEACHER = SyntheticTeacher(128, seed=0)


def synthetic_shape(
  index, *, seed=0, num_points=256, num_views=4, teacher=TEACHER
):
  return make_shape(
    index,
    seed=seed,
    num_points=num_points,
    num_views=num_views,
    teacher=teacher,
  )


def digest(index):
  """A checksum of everything in a shape."""
  shape = synthetic_shape(index, seed=5)
  arrays = (shape.xyz, shape.rgb, shape.image_feat, shape.text_feat)
  total = zlib.crc32("|".join(shape.texts).encode())
  for array in arrays:
    total = zlib.crc32(array.tobytes(), total)
  return total
