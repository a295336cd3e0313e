"""Margin ranking by counting, against the loop over all pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import mrd, ranking

ANCHORS = 5
SIZES = (1, 5, 64)
MARGINS = (0.0, 0.1, 3.0)

pytestmark = pytest.mark.usefixtures("x64")


# Without LLVM's optimisations it compiles in half the time.
@functools.partial(
  jax.jit,
  compiler_options={"xla_backend_optimization_level": 0},
)
def hinges(u_AB, teacher_AB, margin, draws_A2S=None):
  """Sum, number of pairs and gradient; what is infinite does not exist."""

  def total(u_AB):
    matrices = u_AB, teacher_AB, jnp.isfinite(u_AB)
    sum_A, pairs_A = (
      ranking.all_pairs_hinges(*matrices, margin)
      if draws_A2S is None
      else ranking.sampled_hinges(*matrices, margin, draws_A2S)
    )
    return sum_A.sum(), pairs_A.sum()

  (value, pairs), gradient = jax.value_and_grad(total, has_aux=True)(u_AB)
  return value, pairs, gradient


def loop(u_AB, teacher_AB, margin, draws_A2S=None):
  """Eq. 12 as it is written: every anchor and pair of columns that exist.

  A pair that the teacher ties has sign 0 and is no pair: one whose squared
  distances are nearer than 16 eps.

  A pair is active when u_q < u_r + margin, in the precision of `u_AB`.
  """
  total, pairs, gradient = 0.0, 0, np.zeros(u_AB.shape, int)
  margin = u_AB.dtype.type(margin)
  rounding = 16 * np.finfo(u_AB.dtype).eps
  everyone = np.array(np.triu_indices(u_AB.shape[1], 1))
  for a, (u, teacher) in enumerate(zip(u_AB, teacher_AB, strict=True)):
    for j, k in (everyone if draws_A2S is None else draws_A2S[a]).T:
      r, q = sorted((j, k), key=lambda x: teacher[x])
      is_tie = teacher[q] ** 2 <= teacher[r] ** 2 + rounding
      if is_tie or not np.isfinite(u[[r, q]]).all():
        continue
      pairs += 1
      if u[q] < u[r] + margin:
        total += float(u[r]) + float(margin) - float(u[q])
        gradient[a, r] += 1
        gradient[a, q] -= 1
  return total, pairs, gradient


def rows(kind: str, size: int) -> tuple[np.ndarray, np.ndarray]:
  """The student's distances and the teacher's."""
  rng = np.random.default_rng(size)
  u, teacher = rng.uniform(0, 2, (2, ANCHORS, size))
  if kind == "ties":  # many of the student's exactly a margin of 0.1 apart
    u, teacher = np.round(u, 1), np.round(3 * teacher)
  elif kind == "an ulp around the margin":
    # u < v + m and u - m < v round differently.
    half = size // 2
    near = u[:, :half] + np.float64(0.1)
    direction = rng.choice([-np.inf, np.inf], near.shape)
    moved = np.nextafter(near, direction)
    u[:, size - half :] = np.where(rng.random(near.shape) < 0.5, near, moved)
    u = rng.permuted(u, axis=1)
  elif kind == "one value":
    u[:], teacher[:] = 0.7, 0.3
  elif kind == "sorted":
    u, teacher = np.sort(u, axis=1), np.sort(teacher, axis=1)
  elif kind == "reversed":
    u, teacher = -np.sort(-u, axis=1), np.sort(teacher, axis=1)
  elif kind == "padded":
    # From none to all of a row does not exist; the teacher has ties.
    exists = np.linspace(0, size, ANCHORS).round().astype(int)
    u[np.arange(size) >= exists[:, None]] = np.inf
    teacher = np.round(teacher, 1)
  elif kind == "far from zero":
    u += 1000
  return u, teacher


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


@pytest.mark.parametrize(
  ("kind", "size", "dtype", "tolerance"),
  [
    *((kind, size, "float64", 1e-12) for kind in KINDS for size in SIZES),
    *((kind, 64, "float32", 1e-5) for kind in ("random", "ties", "padded")),
  ],
)
def test_counting_is_the_loop_over_all_pairs(kind, size, dtype, tolerance):
  u, teacher = (x.astype(dtype) for x in rows(kind, size))
  for margin in MARGINS:
    value, pairs, gradient = hinges(u, teacher, u.dtype.type(margin))
    total, count, counts = loop(u, teacher, margin)
    assert value == pytest.approx(total, rel=tolerance, abs=tolerance)
    # The coefficients are numbers of pairs: exact, whatever ties there are.
    np.testing.assert_array_equal(gradient, counts)
    assert pairs == count
    assert value.dtype == gradient.dtype == dtype


@pytest.mark.parametrize("kind", ["random", "ties", "padded"])
def test_drawn_pairs_are_the_loop_over_them(kind):
  u, teacher = rows(kind, 64)
  draws = np.random.default_rng(0).integers(0, 64, (ANCHORS, 2, 300))
  value, pairs, gradient = hinges(u, teacher, 0.1, draws)
  total, count, counts = loop(u, teacher, 0.1, draws)
  assert value == pytest.approx(total, rel=1e-12)
  assert pairs == count
  if kind == "random":  # no kinks, where a gradient is 1/2
    np.testing.assert_array_equal(gradient, counts)


@pytest.mark.parametrize("margin", [0, 1, 3])
def test_integers_give_the_exact_sum(margin):
  # 8 levels of 1/8, 64 columns: sums, means and shifts are exact in float64.
  u = np.random.default_rng(0).integers(0, 8, (ANCHORS, 64)) / 8
  order = np.broadcast_to(np.arange(64.0), u.shape)
  value, _, gradient = hinges(u, order, float(margin))
  expected, _, counts = loop(u, order, margin)
  assert value == expected
  np.testing.assert_array_equal(gradient, counts)


def test_chunks_change_nothing(monkeypatch):
  monkeypatch.setattr(ranking, "_AT_A_TIME", 3 * 7)  # 3 of 5 anchors
  u, teacher = rows("padded", 7)
  value, _, gradient = hinges(u, teacher, 0.1)
  expected, _, counts = loop(u, teacher, 0.1)
  assert value == pytest.approx(expected, rel=1e-14)
  np.testing.assert_array_equal(gradient, counts)


@pytest.mark.parametrize("sampled_pairs", [0, 50])
@pytest.mark.parametrize("form", ["dense", "gather"])
def test_equal_texts_are_tied_whatever_rounding_does(form, sampled_pairs):
  """Of the one direction that all texts have here, their lengths leave an ulp."""
  point, image = np.random.default_rng(0).normal(size=(2, 40, 8))
  text = image[:1] * np.linspace(0.3, 7, 40)[:, None]
  config = LossConfig(
    representation="partial_order",
    form=form,
    stripe=7,
    sampled_pairs=sampled_pairs,
  )
  embeddings = mrd.Embeddings(
    *(x.astype(np.float32) for x in (point, image, text)), np.ones(40, bool)
  )
  pairs = mrd.init_dynamic_weights(config)
  _, metrics = jax.jit(
    lambda x: mrd.mrd_loss(config, x, jnp.zeros(()), pairs, jax.random.key(0))
  )(embeddings)
  # Columns are texts: every pair is tied.
  assert metrics["relation/PT-IT"] == metrics["relation/PP-TT"] == 0
  assert metrics["relation/PI-TI"] > 0 and metrics["relation/PP-II"] > 0
