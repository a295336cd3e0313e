"""Tells which way a collection of shapes is up, from where its points lie.

Most things stand: seen along the vertical their halves differ (a seat and
legs, a crown and a trunk), along the other axes they are near to mirror
images; and at their lowest they touch the ground over a wide footprint, while
their top is something else.  Neither is true of every shape.  Over a mixed
collection both are, and only where both name the same axis is it named.

No direction is preferred: exchange or turn round axes, and the answer moves
along.  A collection of one kind of thing can mislead (of 54 synthetic
families three would: bookshelves, snails and glasses, whose fronts differ
more from their backs than their tops from their bottoms).
"""

from typing import Any, NamedTuple

import numpy as np

BINS = 12  # of the profile along an axis
SLAB = 0.04  # height of a slab, as a share of the largest extent
TRIM = 0.005  # share of the points at either end that an extent leaves out
FEWEST = 100  # shapes; below, one kind of thing may decide
CONFIDENT = 0.99  # share of bootstrap draws
_DRAWS = 500


class Posture(NamedTuple):
  """What `posture` measures of each of B clouds, by axis.

  Attributes:
    extent: (B, 3) float32 extent without the outermost `TRIM` of the points.
    asymmetry: (B, 3) float32 in [0, 1]: the share of points that would have
      to move for the profile along the axis to equal its mirror image.
    footprint: (B, 3) float32: how far the slab at the low end spreads over
      the other two axes, less how far that at the high end does; 1 is an
      evenly covered bounding box, and 0 a line or a spot.
  """

  extent: np.ndarray
  asymmetry: np.ndarray
  footprint: np.ndarray


def posture(xyz_BP3: np.ndarray) -> Posture:
  """Measures clouds, P points each, of any unit and place.

  Args:
    xyz_BP3: (B, P, 3) float32; points may repeat.
  """
  batch, points, _ = xyz_BP3.shape
  ordered_BP3 = np.sort(xyz_BP3, axis=1)
  trimmed = int(TRIM * points)
  low_B3 = ordered_BP3[:, trimmed]
  high_B3 = ordered_BP3[:, points - 1 - trimmed]
  extent_B3 = high_B3 - low_B3
  largest_B1 = np.maximum(extent_B3.max(axis=1, keepdims=True), 1e-12)
  # A flat axis must not blow up rounding to a profile.
  span_B3 = np.maximum(extent_B3, 1e-3 * largest_B1)
  place_BP3 = (xyz_BP3 - low_B3[:, None]) / span_B3[:, None]

  bin_BP3 = np.clip((place_BP3 * BINS).astype(int), 0, BINS - 1)
  bin_BP3 += (np.arange(batch)[:, None, None] * 3 + np.arange(3)) * BINS
  profile_B3H = np.bincount(
    bin_BP3.ravel(), minlength=batch * 3 * BINS
  ).reshape(batch, 3, BINS)
  moved_B3H = np.abs(profile_B3H - profile_B3H[:, :, ::-1]) / points

  slab_B1 = SLAB * largest_B1
  bottom_BP3 = xyz_BP3 < (low_B3 + slab_B1)[:, None]
  top_BP3 = xyz_BP3 > (high_B3 - slab_B1)[:, None]
  footprint_B3 = _spread(place_BP3, bottom_BP3) - _spread(place_BP3, top_BP3)
  return Posture(
    extent_B3, (moved_B3H.sum(axis=-1) / 2).astype(np.float32), footprint_B3
  )


def _spread(place_BP3: np.ndarray, inside_BP3: np.ndarray) -> np.ndarray:
  """Measures how far each axis' slab spreads over the other axes: (B, 3).

  It is the product of their standard deviations, in units of that of an
  evenly filled extent, 1 / sqrt(12).
  """
  inside_BP3 = inside_BP3.astype(np.float32)
  count_B31 = np.maximum(inside_BP3.sum(axis=1), 1)[:, :, None]
  mean_B33 = inside_BP3.transpose(0, 2, 1) @ place_BP3 / count_B31
  square_B33 = inside_BP3.transpose(0, 2, 1) @ place_BP3**2 / count_B31
  variance_B33 = 12 * np.maximum(square_B33 - mean_B33**2, 0)
  axis = np.arange(3)
  return np.sqrt(
    variance_B33[:, axis, axis - 2] * variance_B33[:, axis, axis - 1]
  )


def up_axis(
  asymmetry_N3: np.ndarray, footprint_N3: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
  """Decides what is up in a collection of N shapes measured by `posture`.

  The axis is that of the largest mean asymmetry.  Confidence is that of a
  bootstrap over shapes, in which the mean magnitude of the footprint has to
  agree.

  Returns:
    "axis", x, y or z, with a minus where the wide end is confidently the high
    one; "confidence", the share of bootstrap draws in which both statistics
    name that axis; and "shapes", how many were looked at.
  """
  count = len(asymmetry_N3)
  axis = int(asymmetry_N3.mean(axis=0).argmax())
  weight_RN = rng.multinomial(count, np.full(count, 1 / count), size=_DRAWS)
  agree_R = (weight_RN @ asymmetry_N3).argmax(axis=1) == axis
  agree_R &= (weight_RN @ np.abs(footprint_N3)).argmax(axis=1) == axis
  wide_low = float((weight_RN @ footprint_N3[:, axis] > 0).mean())
  return {
    "axis": ("-" if wide_low <= 1 - CONFIDENT else "") + "xyz"[axis],
    "confidence": float(agree_R.mean()),
    "shapes": count,
  }
