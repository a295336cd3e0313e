"""Margin ranking by counting, against the loop over all pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.losses.ranking import ranking_hinge

ANCHORS = 5
SIZES = (1, 2, 3, 5, 64)
MARGINS = (0.0, 0.1, 3.0)

pytestmark = pytest.mark.usefixtures("x64")


# Without LLVM's optimisations it compiles in half the time.
@functools.partial(
  jax.jit,
  static_argnames="anchor_chunk",
  compiler_options={"xla_backend_optimization_level": 0},
)
def hinge(u_AB, margin, anchor_chunk=64):
  return jax.value_and_grad(
    lambda u: ranking_hinge(u, margin, anchor_chunk=anchor_chunk)
  )(u_AB)


def loop(u_AB: np.ndarray, margin: float) -> tuple[float, np.ndarray]:
  """Eq. 12 as it is written: every anchor, every pair r < q that exists.

  A pair is active when u_q < u_r + margin, in the precision of `u_AB`.
  """
  total, gradient = 0.0, np.zeros(u_AB.shape, int)
  margin = u_AB.dtype.type(margin)
  for a, u in enumerate(u_AB):
    for r in range(len(u)):
      for q in range(r + 1, len(u)):
        if np.isfinite(u[q]) and u[q] < u[r] + margin:
          total += float(u[r]) + float(margin) - float(u[q])
          gradient[a, r] += 1
          gradient[a, q] -= 1
  return total, gradient


def rows(kind: str, size: int) -> np.ndarray:
  rng = np.random.default_rng(size)
  u = rng.uniform(0, 2, (ANCHORS, size))
  if kind == "ties":  # many of them exactly a margin of 0.1 apart
    u = np.round(u, 1)
  elif kind == "an ulp around the margin":
    # u < v + m and u - m < v round differently.
    half = size // 2
    near = u[:, :half] + np.float64(0.1)
    direction = rng.choice([-np.inf, np.inf], near.shape)
    moved = np.nextafter(near, direction)
    u[:, size - half :] = np.where(rng.random(near.shape) < 0.5, near, moved)
    u = rng.permuted(u, axis=1)
  elif kind == "one value":
    u[:] = 0.7
  elif kind == "sorted":
    u.sort(axis=1)
  elif kind == "reversed":
    u = -np.sort(-u, axis=1)
  elif kind == "padded":
    # From none to all of a row does not exist.
    exists = np.linspace(0, size, ANCHORS).round().astype(int)
    u[np.arange(size) >= exists[:, None]] = np.inf
  elif kind == "far from zero":
    u += 1000
  return u


KINDS = (
  "random",
  "ties",
  "an ulp around the margin",
  "one value",
  "sorted",
  "reversed",
  "padded",
  "far from zero",
)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_counting_is_the_loop_over_all_pairs(kind, size, margin):
  u = rows(kind, size)
  value, gradient = hinge(u, margin)
  expected, counts = loop(u, margin)
  assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)
  # The coefficients are numbers of pairs: exact, whatever ties there are.
  np.testing.assert_array_equal(gradient, counts)
  assert value.dtype == gradient.dtype == np.float64


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("kind", ["random", "ties", "padded"])
def test_float32_counts_exactly_too(kind, margin):
  u = rows(kind, 64).astype(np.float32)
  value, gradient = hinge(u, np.float32(margin))
  expected, counts = loop(u, margin)
  np.testing.assert_array_equal(gradient, counts)
  assert value.dtype == gradient.dtype == np.float32
  assert value == pytest.approx(expected, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("margin", [0, 1, 3])
def test_integers_give_the_exact_sum(margin):
  # 8 levels of 1/8, 64 columns: sums, means and shifts are exact in float64.
  u = np.random.default_rng(0).integers(0, 8, (ANCHORS, 64)) / 8
  value, gradient = hinge(u, float(margin))
  expected, counts = loop(u, margin)
  assert value == expected
  np.testing.assert_array_equal(gradient, counts)


@pytest.mark.parametrize("chunk", [1, 3])  # of 5 anchors
def test_chunks_change_nothing(chunk):
  u = rows("padded", 5)
  value, gradient = hinge(u, 0.1, anchor_chunk=chunk)
  whole_value, whole_gradient = hinge(u, 0.1)
  assert value == pytest.approx(float(whole_value), rel=1e-14)
  np.testing.assert_array_equal(gradient, whole_gradient)


def test_the_value_has_the_gradient_of_its_finite_differences():
  rng = np.random.default_rng(1)
  margin, h = 0.1, 1e-6
  u = rng.uniform(0, 2, (ANCHORS, 5))
  # Away from kinks: no pair within 2 h of the margin.
  gaps = np.abs(u[:, :, None] + margin - u[:, None, :])
  assert gaps.min() > 10 * h
  _, gradient = hinge(u, margin)
  for index in np.ndindex(u.shape):
    step = np.zeros_like(u)
    step[index] = h
    up, down = hinge(u + step, margin)[0], hinge(u - step, margin)[0]
    assert (up - down) / (2 * h) == pytest.approx(
      float(gradient[index]), abs=1e-6
    )


def test_missing_columns_have_no_gradient_and_no_nan():
  u = rows("padded", 64)
  _, gradient = hinge(u, 3.0)
  assert (np.asarray(gradient)[np.isinf(u)] == 0).all()
  shorter = rows("random", 64)[:, :40]
  padded = np.concatenate([shorter, np.full((ANCHORS, 24), np.inf)], axis=1)
  value, _ = hinge(padded, 0.1)
  assert value == pytest.approx(loop(shorter, 0.1)[0], rel=1e-12)


def test_a_perfect_student_beyond_the_margin_has_no_loss():
  u = np.tile(np.arange(5.0), (ANCHORS, 1))
  value, gradient = hinge(u, 0.1)
  assert value == 0 and not np.asarray(gradient).any()
  assert jnp.isfinite(value)
