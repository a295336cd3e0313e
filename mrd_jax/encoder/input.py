"""Prepares clouds for the encoder: one rule for arrays, files and records.

A cloud is drawn and ordered by the number of its points alone, turned and
normalised in float64 on the host.  So it has one embedding, in training's
evaluation as in `load_encoder`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mrd_jax.checkpoint.checksum import mix
from mrd_jax.config.pretraining import UpAxis
from mrd_jax.data.examples import Batch
from mrd_jax.data.records import (
  XYZ_LEVELS,
  ImageKind,
  TextKind,
  record_cloud,
)
from mrd_jax.errors import BadInput
from mrd_jax.io.colors import SLACK
from mrd_jax.models.knn_groups import sample_centers
from mrd_jax.zoo.system import Preparation

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
  preparation: Preparation,
  *,
  up: UpAxis = "y",
  normalize: bool | None = None,
) -> np.ndarray:
  """Prepares one cloud as the encoder takes it.

  Turns one that is z up to y up, exchanges y and z for an encoder that is z up,
  draws and orders points (groups depend on their order, and files are often
  sorted), and normalises.

  Args:
    points: (N, 3 or 6): xyz in any unit, and rgb in [0, 1]; what leaves that
      range by 1e-2 at most is clipped.
    preparation: What the encoder takes.
    up: The axis of `points` that is up.
    normalize: Whether to centre on the mean and scale into the unit ball; None
      does as `preparation` says.

  Returns:
    (min(N, preparation.num_points), 6) float32.

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
  if normalize is None:
    normalize = preparation.normalized
  xyz, rgb = cloud[:, :3], cloud[:, 3:]
  if up == "z":
    xyz = xyz[:, [0, 2, 1]] * [1, 1, -1]  # a rotation
  if not rgb.shape[1]:
    rgb = np.full_like(xyz, preparation.colour_fill)
  elif rgb.min() < -SLACK or rgb.max() > 1 + SLACK:
    in_bytes = rgb.min() >= 0 and rgb.max() > 1.5
    raise BadInput(
      f"colours reach from {rgb.min():g} to {rgb.max():g}, must be in [0, 1]"
      + ("; divide 8-bit colours by 255" if in_bytes else "")
    )
  xyz, rgb, radius = _drawn(xyz, rgb, preparation, normalize)
  if np.isfinite(radius) and (xyz == xyz[0]).all():
    raise BadInput("all points coincide, there is no shape to embed")
  if normalize and not 0 < radius < np.inf:
    raise BadInput("is too small or too large for float64: change its unit")
  return np.concatenate([xyz, rgb.clip(0, 1)], axis=1).astype(np.float32)


def _drawn(
  xyz_N3: np.ndarray,
  rgb_N3: np.ndarray,
  preparation: Preparation,
  normalize: bool,
) -> tuple[np.ndarray, np.ndarray, float]:
  """Draws, orders and normalises a cloud that is y up, in float64.

  Returns:
    xyz and rgb, and the radius that xyz had; one of no extent is zeros.
  """
  order = np.arange(len(xyz_N3))
  if preparation.order == "shuffled":
    order = shuffled(len(xyz_N3))
  if preparation.order != "farthest":  # which is of the whole, normalised cloud
    order = order[: preparation.num_points]
  xyz, radius = xyz_N3[order], 1.0
  if preparation.up_axis == "z":
    xyz = xyz[:, [0, 2, 1]]  # a reflection, as training does it
  if normalize:
    with np.errstate(over="ignore", under="ignore"):
      xyz = xyz - xyz.mean(axis=0)
      radius = float(np.sqrt((xyz**2).sum(axis=1).max()))
      xyz = xyz / (radius or 1.0)
  if len(xyz) > preparation.num_points:
    sampled = max(preparation.num_points, preparation.sampled_points)
    chosen = _farthest(xyz, min(sampled, len(xyz)))
    if len(chosen) > preparation.num_points:
      chosen = chosen[shuffled(len(chosen))[: preparation.num_points]]
    xyz, order = xyz[chosen], order[chosen]
  return xyz, rgb_N3[order], radius


def _farthest(xyz_N3: np.ndarray, num_points: int) -> np.ndarray:
  # Few sizes, so that few programs are compiled.
  room = (1 << (len(xyz_N3) - 1).bit_length()) - len(xyz_N3)
  padded = np.pad(xyz_N3, ((0, room), (0, 0))).astype(np.float32)
  return np.asarray(_sample_centers(padded, len(xyz_N3), num_points))


_sample_centers = jax.jit(sample_centers, static_argnums=2)


def _no_numbers(error: Exception) -> BadInput:
  why = " ".join(str(error).split())
  return BadInput(f"is not an array of numbers: {why}")


def prepare_records(
  batch: Batch,
  preparation: Preparation,
  records: Sequence[Mapping[str, Any]] = (),
) -> Shapes:
  """Prepares stored records as `prepare_cloud` does the clouds they hold.

  Without augmentation: first image, first text.  A record's centre and scale
  are needed only by an encoder that takes clouds as they were.  One whose drawn
  points all coincide becomes zeros, as OpenShape has it.

  Args:
    batch: Of `pad_records`, on the host.
    preparation: What the encoder takes.
    records: Of the batch, for an encoder that takes clouds as they were; the
      batch may have more rows.
  """
  size, stored, _ = batch.xyz.shape
  most = min(preparation.num_points, stored)
  points = np.zeros((size, most, 6), np.float32)
  drawn = np.minimum(batch.num_points, most).astype(np.int32)
  for i, (count, n) in enumerate(zip(batch.num_points, drawn, strict=True)):
    xyz = np.asarray(batch.xyz[i])[:count] / XYZ_LEVELS
    rgb = np.asarray(batch.rgb[i])[:count] / 255
    if not preparation.normalized and i < len(records):
      xyz = record_cloud(records[i])[:, :3]
    xyz, rgb, _ = _drawn(xyz, rgb, preparation, preparation.normalized)
    points[i, :n] = np.concatenate([xyz, rgb], axis=1)
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
