"""The relation gap against the matrices themselves."""

import jax
import numpy as np
import pytest

from mrd_jax.errors import BadInput
from mrd_jax.metrics import embeddings
from mrd_jax.metrics.embeddings import unit
from mrd_jax.metrics.relation_gap import relation_gap

EVERYWHERE = np.ones(30, bool)


def drawn(n: int, dtype=np.float32):
  """Points, images, texts."""
  rng = np.random.default_rng(0)
  return [unit(rng.normal(size=(n, 8))).astype(dtype) for _ in range(3)]


def loop_gap(a, b, c, d, has) -> float:
  """Mean of |a_i . b_j - c_i . d_j| over the pairs of `has`, one by one."""
  a, b, c, d = (x.astype(np.float64) for x in (a, b, c, d))
  kept = np.flatnonzero(has)
  return float(
    np.mean([abs(a[i] @ b[j] - c[i] @ d[j]) for i in kept for j in kept])
  )


def loop_gaps(p, i, t, has_image, has_text):
  both = has_image & has_text
  return {
    "gap_p2p_i2i": loop_gap(p, p, i, i, has_image),
    "gap_p2p_t2t": loop_gap(p, p, t, t, has_text),
    "gap_p2t_i2t": loop_gap(p, t, i, t, both),
    "gap_p2i_t2i": loop_gap(p, i, t, i, both),
  }


def test_against_a_double_loop():
  p, i, t = drawn(30)
  got = relation_gap(p, i, t, EVERYWHERE, EVERYWHERE)
  expected = loop_gaps(p, i, t, EVERYWHERE, EVERYWHERE)
  assert got == pytest.approx(expected, rel=1e-6)
  assert len(set(expected.values())) == 4


def test_shapes_that_lack_a_modality_leave_the_terms_that_need_it():
  p, i, t = drawn(30)
  has_image, has_text = np.arange(30) % 3 > 0, np.arange(30) % 5 > 0
  i[~has_image], t[~has_text] = np.nan, np.inf
  got = relation_gap(p, i, t, has_image, has_text)
  assert got == pytest.approx(loop_gaps(p, i, t, has_image, has_text), rel=1e-6)


@pytest.mark.parametrize(("tile", "devices"), [(7, 1), (256, 1), (7, 2)])
def test_tiles_and_devices_change_nothing(monkeypatch, tile, devices):
  p, i, t = drawn(70)
  everywhere = np.ones(70, bool)
  whole = relation_gap(p, i, t, everywhere, everywhere)
  local = jax.local_devices()
  monkeypatch.setattr(jax, "local_devices", lambda: local[:devices])
  assert relation_gap(p, i, t, everywhere, everywhere) == whole  # to the bit
  monkeypatch.setattr(embeddings, "TILE", tile)
  got = relation_gap(p, i, t, everywhere, everywhere)
  # The rounding of a float32 product is left.
  assert got == pytest.approx(whole, rel=1e-7)


def test_a_student_that_is_its_teacher_has_no_gap():
  _, i, t = drawn(30)
  got = relation_gap(i, i, t, EVERYWHERE, EVERYWHERE)
  assert got["gap_p2p_i2i"] == got["gap_p2t_i2t"] == 0
  got = relation_gap(t, i, t, EVERYWHERE, EVERYWHERE)
  assert got["gap_p2p_t2t"] == got["gap_p2i_t2i"] == 0


def test_sums_of_many_terms_do_not_drift():
  """Sixteen million terms of one value."""
  n = 4_000
  p = np.tile(np.float32([[0.1, 0]]), (n, 1))
  i = p[:, ::-1].copy()
  got = relation_gap(p, i, p, np.ones(n, bool), np.ones(n, bool))
  # P2T is 0.01 and I2T is 0 everywhere.
  assert got["gap_p2t_i2t"] == pytest.approx(
    float(np.float32(0.1) * np.float32(0.1)), rel=1e-12
  )


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_taken(dtype):
  stored = drawn(30, dtype)
  assert relation_gap(*stored, EVERYWHERE, EVERYWHERE) == pytest.approx(
    loop_gaps(*stored, EVERYWHERE, EVERYWHERE), rel=1e-6
  )


def test_terms_without_shapes_are_absent():
  p, i, t = drawn(4)
  some, none = np.ones(4, bool), np.zeros(4, bool)
  assert relation_gap(p, i, t, some, none).keys() == {"gap_p2p_i2i"}
  assert relation_gap(p, i, t, none, some).keys() == {"gap_p2p_t2t"}
  left = np.array([1, 0, 0, 0], bool)
  got = relation_gap(p, i, t, left, ~left)
  assert got.keys() == {"gap_p2p_i2i", "gap_p2p_t2t"}
  assert got["gap_p2p_i2i"] == pytest.approx(0, abs=1e-6)  # 1 - 1
  with pytest.raises(BadInput, match="image or a text"):
    relation_gap(p, i, t, none, none)


def test_an_embedding_that_is_not_finite_is_named():
  p, i, t = drawn(4)
  everywhere = np.ones(4, bool)
  p[2, 1] = np.nan
  with pytest.raises(BadInput, match="shape 2 is not finite"):
    relation_gap(p, i, t, everywhere, everywhere)
