"""What is up in a collection, against naive forms."""

import numpy as np

from mrd_jax.inspect.up_axis import BINS, CONFIDENT, SLAB, posture, up_axis


def test_up_axis_says_when_it_does_not_know(shapes):
  clouds = np.stack([shape.xyz for shape in shapes])
  rng = np.random.default_rng(0)
  measured = posture(clouds)
  certain = up_axis(measured.asymmetry, measured.footprint, rng)
  assert certain == {"axis": "y", "confidence": 1.0, "shapes": len(shapes)}
  turns, _ = np.linalg.qr(rng.normal(size=(len(clouds), 3, 3)))
  measured = posture((clouds @ turns).astype(np.float32))
  unsure = up_axis(measured.asymmetry, measured.footprint, rng)
  assert unsure["confidence"] < CONFIDENT


def naive_posture(xyz_P3):
  """The docstring of `Posture`, one axis and one slab at a time."""
  points = len(xyz_P3)
  cut = int(0.005 * points)
  ordered = [sorted(xyz_P3[:, axis].tolist()) for axis in range(3)]
  low = [o[cut] for o in ordered]
  high = [o[points - 1 - cut] for o in ordered]
  extent = [h - lo for h, lo in zip(high, low, strict=True)]
  slab = SLAB * max(extent)
  asymmetry, footprint = [], []
  for axis in range(3):
    counts = [0] * BINS
    for value in xyz_P3[:, axis].tolist():
      place = (value - low[axis]) / extent[axis]
      counts[min(max(int(place * BINS), 0), BINS - 1)] += 1
    moved = sum(abs(a - b) for a, b in zip(counts, counts[::-1], strict=True))
    asymmetry.append(moved / points / 2)
    spreads = []
    for inside in (
      xyz_P3[:, axis] < low[axis] + slab,
      xyz_P3[:, axis] > high[axis] - slab,
    ):
      spread = 1.0
      for other in {0, 1, 2} - {axis}:
        deviation = xyz_P3[inside, other].std() if inside.any() else 0
        spread *= deviation / extent[other] * np.sqrt(12)
      spreads.append(spread)
    footprint.append(spreads[0] - spreads[1])
  return extent, asymmetry, footprint


def test_posture_against_naive_form(shapes):
  clouds = np.stack([shape.xyz for shape in shapes[:20]])
  measured = posture(clouds)
  for i, cloud in enumerate(clouds.astype(np.float64)):
    extent, asymmetry, footprint = naive_posture(cloud)
    np.testing.assert_allclose(measured.extent[i], extent, rtol=1e-5)
    np.testing.assert_allclose(measured.asymmetry[i], asymmetry, atol=0.006)
    np.testing.assert_allclose(measured.footprint[i], footprint, atol=2e-3)


def test_posture_moves_with_the_axes(shapes):
  """No axis is preferred, and mirroring turns the footprint's sign."""
  clouds = np.stack([shape.xyz for shape in shapes[:50]])
  here = posture(clouds)
  there = posture(clouds[:, :, [2, 0, 1]])
  for name in here._fields:
    np.testing.assert_allclose(
      getattr(there, name), getattr(here, name)[:, [2, 0, 1]], atol=1e-4
    )
  mirrored = posture(-clouds)
  np.testing.assert_allclose(mirrored.footprint, -here.footprint, atol=5e-3)


def test_posture_of_a_flat_cloud_is_finite():
  flat = np.random.default_rng(0).uniform(size=(2, 100, 3)).astype(np.float32)
  flat[0, :, 1] = 0
  flat[1, :, :2] = 0
  for values in posture(flat):
    assert np.isfinite(values).all()
