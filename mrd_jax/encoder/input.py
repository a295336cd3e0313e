"""Prepares clouds for the encoder: one rule for arrays, files and records.

A cloud is drawn and ordered by the number of its points alone, turned and
normalised in float64 on the host.  So it has one embedding, in training's
evaluation as in `load_encoder`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mrd_jax.checkpoint.checksum import mix
from mrd_jax.config.pretraining import UpAxis
from mrd_jax.data.examples import Batch
from mrd_jax.data.records import XYZ_LEVELS, ImageKind, TextKind
from mrd_jax.errors import BadInput
from mrd_jax.io.colors import SLACK
from mrd_jax.zoo.system import Order

FEW_POINTS = 16  # different ones; with fewer a cloud is hardly a shape
TOO_FEW = f"fewer than {FEW_POINTS} different points hardly make a shape"
# What NumPy takes for numbers if asked to, by kind.
_NO_NUMBERS = {
  "U": "text",
  "S": "text",
  "b": "booleans",
  "c": "complex numbers",
  "M": "dates",
  "m": "durations",
}
# What NumPy and PyTorch say of something else, a tensor that has a gradient.
_REFUSALS = (TypeError, ValueError, OverflowError, RuntimeError)


class Shapes(NamedTuple):
  """Records as the encoder and the scores take them.

  Attributes:
    points: (B, N, 6) float32: xyz in the unit ball, rgb in [0, 1].
    num_points: (B,) int32, how many leading points exist; the rest are zero.
    image: (B, D) float32 feature of each shape's first image.
    has_image: (B,) bool.
    text: (B, D) float32 feature of each shape's first text.
    has_text: (B,) bool.
    label: (B,) int32, -1 where there is none.
  """

  points: np.ndarray
  num_points: np.ndarray
  image: np.ndarray
  has_image: np.ndarray
  text: np.ndarray
  has_text: np.ndarray
  label: np.ndarray


def shuffled(n: int) -> np.ndarray:
  """Returns a fixed order of n points that any language can reproduce.

  Sorts by the finaliser of the hash Murmur3 of i + 1; that is a bijection of
  32-bit integers, so there are no ties.

  Returns:
    (n,) int64, a permutation.
  """
  return np.argsort(mix(np.arange(1, n + 1, dtype=np.uint32)))


def prepare_cloud(
  points: Any,
  *,
  num_points: int,
  up_axis: UpAxis,
  colour_fill: float,
  order: Order = "shuffled",
  up: UpAxis = "y",
  normalize: bool = True,
) -> np.ndarray:
  """Prepares one cloud as the encoder takes it.

  Orders it (groups depend on the order of the points, and files are often
  sorted), draws `num_points` of a larger one, turns one that is z up to y up,
  exchanges y and z for an encoder that is z up, and normalises.

  Args:
    points: (N, 3 or 6): xyz in any unit, and rgb in [0, 1]; what leaves that
      range by 1e-2 at most is clipped.
    num_points: How many points are drawn at most.
    up_axis: The axis that is up in the clouds that the encoder sees.
    colour_fill: The grey of a cloud without colours.
    order: Which are drawn: the first of `shuffled`, the first as stored, or by
      farthest point sampling, also of a cloud that is not larger.
    up: The axis of `points` that is up.
    normalize: Whether to centre on the mean and scale into the unit ball.

  Returns:
    (min(N, num_points), 6) float32.

  Raises:
    BadInput: for another shape, a masked array, text or booleans, values that
      are not finite, colours further out, or points that all coincide.
  """
  parts = points if isinstance(points, Sequence) else ()
  if any(map(np.ma.isMaskedArray, (points, *parts))):
    raise BadInput(
      "is a masked array; leave out what is masked (numpy.ma.compress_rows)"
    )
  try:
    cloud = np.asarray(points)
  except _REFUSALS as error:
    raise _no_numbers(error) from None
  kinds = {cloud.dtype.kind}
  if cloud.dtype == object:
    kinds = {np.asarray(value).dtype.kind for value in cloud.flat}
  if wrong := sorted(kinds & _NO_NUMBERS.keys()):
    raise BadInput(f"is not an array of numbers but of {_NO_NUMBERS[wrong[0]]}")
  try:
    cloud = cloud.astype(np.float64)  # coordinates may be geographic
  except _REFUSALS as error:
    raise _no_numbers(error) from None
  if cloud.ndim != 2 or cloud.shape[1] not in (3, 6) or not len(cloud):
    raise BadInput(f"has shape {cloud.shape}, must be (N, 3) or (N, 6)")
  if not np.isfinite(cloud).all():
    raise BadInput("holds NaN or infinite values")
  if up not in ("y", "z"):
    raise BadInput(f"up is {up!r}, must be 'y' or 'z'")
  if order != "stored":
    cloud = cloud[shuffled(len(cloud))[:num_points]]
  cloud = cloud[:num_points]
  xyz, rgb = cloud[:, :3], cloud[:, 3:]
  if (xyz == xyz[0]).all():
    raise BadInput("all points coincide, there is no shape to embed")
  if not rgb.shape[1]:
    rgb = np.full_like(xyz, colour_fill)
  elif rgb.min() < -SLACK or rgb.max() > 1 + SLACK:
    in_bytes = rgb.min() >= 0 and rgb.max() > 1.5
    raise BadInput(
      f"colours reach from {rgb.min():g} to {rgb.max():g}, must be in [0, 1]"
      + ("; divide 8-bit colours by 255" if in_bytes else "")
    )
  if up == "z":
    xyz = xyz[:, [0, 2, 1]] * [1, 1, -1]  # a rotation
  xyz = _exchanged(xyz, up_axis)
  if normalize:
    xyz, radius = _centred(xyz)
    if not 0 < radius < np.inf:
      raise BadInput("is too small or too large for float64: change its unit")
    xyz = xyz / radius
  return np.concatenate([xyz, rgb.clip(0, 1)], axis=1).astype(np.float32)


def _no_numbers(error: Exception) -> BadInput:
  why = " ".join(str(error).split())
  return BadInput(f"is not an array of numbers: {why}")


def prepare_records(batch: Batch, num_points: int, up_axis: UpAxis) -> Shapes:
  """Prepares stored records as `prepare_cloud` does the clouds they hold.

  Without augmentation: all points, first image, first text.  A record's
  centre and scale are not needed, since its cloud is normalised.  One whose
  drawn points all coincide becomes zeros, as OpenShape has it.

  Args:
    batch: Of `pad_records`, on the host.
    num_points: How many points are drawn at most.
    up_axis: The axis that is up in the clouds that the encoder sees.
  """
  size, stored, _ = batch.xyz.shape
  points = np.zeros((size, min(num_points, stored), 6), np.float32)
  drawn = np.minimum(batch.num_points, num_points).astype(np.int32)
  for i, n in enumerate(drawn):
    order = shuffled(int(batch.num_points[i]))[:num_points]
    xyz = np.asarray(batch.xyz[i])[order] / XYZ_LEVELS
    xyz, radius = _centred(_exchanged(xyz, up_axis))
    points[i, :n, :3] = xyz / (radius or 1.0)
    points[i, :n, 3:] = np.asarray(batch.rgb[i])[order] / 255
  return Shapes(
    points,
    drawn,
    np.asarray(batch.image_feat[:, 0], np.float32),
    np.asarray(batch.image_kind[:, 0] != ImageKind.NONE),
    np.asarray(batch.text_feat[:, 0], np.float32),
    np.asarray(batch.text_kind[:, 0] != TextKind.NONE),
    np.asarray(batch.label),
  )


def few_points(points: np.ndarray) -> bool:
  """Says whether a cloud (N, 3 or more) has few different points."""
  # Mostly the first hundred tell.
  return all(
    len(np.unique(part[:, :3], axis=0)) < FEW_POINTS
    for part in (points[:100], points)
  )


def _exchanged(xyz_N3: np.ndarray, up_axis: UpAxis) -> np.ndarray:
  """Exchanges y and z, a reflection, if z is up for the encoder."""
  return xyz_N3[:, [0, 2, 1]] if up_axis == "z" else xyz_N3


def _centred(xyz_N3: np.ndarray) -> tuple[np.ndarray, float]:
  """Centres points on their mean; returns the largest norm, too."""
  with np.errstate(over="ignore", under="ignore"):
    xyz_N3 = xyz_N3 - xyz_N3.mean(axis=0)
    return xyz_N3, float(np.sqrt((xyz_N3**2).sum(axis=1).max()))
