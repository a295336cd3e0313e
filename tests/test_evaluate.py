"""Zero-shot and retrieval on examples that can be scored by hand."""

import numpy as np
import pytest

from mrd_jax.evaluate import retrieval as retrieval_module
from mrd_jax.evaluate.retrieval import retrieval
from mrd_jax.evaluate.zero_shot import zero_shot


def unit(x) -> np.ndarray:
  x = np.asarray(x, np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def scores(*rows) -> np.ndarray:
  """Embeddings whose cosines with the unit vectors are ordered like `rows`."""
  return unit(rows)


CLASSES = np.eye(6, dtype=np.float32)


def test_zero_shot_counts_the_classes_ahead_of_the_right_one():
  point = scores(
    [9, 1, 2, 3, 4, 5],  # label 0: first
    [9, 8, 7, 1, 2, 3],  # label 1: second
    [9, 8, 7, 1, 2, 3],  # label 2: third
    [9, 8, 7, 4, 3, 5],  # label 3: fifth
    [9, 8, 7, 6, 1, 5],  # label 4: last
    [9, 8, 7, 6, 5, 4],  # label 0: first
  )
  label = np.array([0, 1, 2, 3, 4, 0])
  assert zero_shot(point, label, CLASSES) == {
    "top1": pytest.approx(2 / 6),
    "top3": pytest.approx(4 / 6),
    "top5": pytest.approx(5 / 6),
    # Of the five classes that occur, class 0 is right and four are wrong.
    "class_mean": pytest.approx(1 / 5),
  }


def test_class_mean_weighs_classes_and_not_instances():
  point = scores(
    [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], *[[0, 0, 1, 0, 0, 0]] * 3
  )
  result = zero_shot(point, np.array([0, 1, 2, 2, 2]), CLASSES)
  assert result["top1"] == pytest.approx(4 / 5)
  assert result["class_mean"] == pytest.approx(2 / 3)


def test_shapes_without_a_label_are_left_out():
  point = scores([1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0])
  result = zero_shot(point, np.array([0, -1, 1]), CLASSES)
  assert result == {"top1": 1, "top3": 1, "top5": 1, "class_mean": 1}


def test_ties_count_against_the_right_class():
  # Every class scores the same.
  point = np.zeros((6, 6), np.float32)
  assert set(zero_shot(point, np.arange(6), CLASSES).values()) == {0.0}
  # The right one and another tie for the first place.
  point = scores([1, 1, 0, 0, 0, 0])
  result = zero_shot(point, np.array([0]), CLASSES)
  assert (result["top1"], result["top3"]) == (0, 1)
  # Two classes of one name: neither can be told.
  twins = CLASSES.copy()
  twins[1] = twins[0]
  assert zero_shot(point, np.array([0]), twins)["top1"] == 0


def test_a_constant_embedding_classifies_at_chance():
  rng = np.random.default_rng(0)
  point = np.tile(unit(rng.normal(size=6)), (60, 1))
  result = zero_shot(point, np.arange(60) % 6, CLASSES)
  assert result["top1"] == result["class_mean"] == pytest.approx(1 / 6)
  assert result["top3"] == pytest.approx(3 / 6)
  assert result["top5"] == pytest.approx(5 / 6)


def test_three_classes_are_all_among_the_top_three():
  point = scores([0, 1, 2])
  result = zero_shot(point, np.array([0]), np.eye(3, dtype=np.float32))
  assert (result["top1"], result["top3"], result["top5"]) == (0, 1, 1)


def loop_recall(query, gallery, k: int) -> float:
  """The share of queries with fewer than k items above their own; no ties."""
  hits = 0
  for i, q in enumerate(query.astype(np.float64)):
    own = q @ gallery[i]
    hits += sum(q @ g > own for g in gallery.astype(np.float64)) < k
  return hits / len(query)


ALL = {
  f"{way}_r{k}" for way in ("text_to_shape", "shape_to_text") for k in (1, 3, 5)
}


def noisy_pairs(n: int):
  rng = np.random.default_rng(1)
  text = rng.normal(size=(n, 8))
  return unit(text + 0.8 * rng.normal(size=(n, 8))), unit(text)


def test_retrieval_is_scored_in_both_directions():
  point, text = noisy_pairs(40)
  result = retrieval(point, text, np.ones(40, bool))
  assert result.keys() == ALL
  for k in (1, 3, 5):
    forward, backward = loop_recall(text, point, k), loop_recall(point, text, k)
    assert result[f"text_to_shape_r{k}"] == pytest.approx(forward)
    assert result[f"shape_to_text_r{k}"] == pytest.approx(backward)
  assert result["text_to_shape_r1"] != result["shape_to_text_r1"]
  assert 0.2 < result["text_to_shape_r1"] < 1


def test_retrieval_by_hand_tells_the_directions_apart():
  # Every text is nearest to shape 0; every shape is nearest to its own text.
  # Row i: cosines of shape i with texts 0, 1, 2, and what fills it up to 1.
  point = np.array([[0.6, 0.5, 0.5], [0, 0.4, 0.1], [0, 0.1, 0.4]], np.float32)
  fill = np.sqrt(1 - (point**2).sum(axis=1, keepdims=True))
  point = np.concatenate([point, fill], axis=1)
  text = np.eye(3, 4, dtype=np.float32)
  result = retrieval(point, text, np.ones(3, bool))
  assert result["text_to_shape_r1"] == pytest.approx(1 / 3)
  assert result["shape_to_text_r1"] == 1
  assert result["text_to_shape_r3"] == result["shape_to_text_r3"] == 1


def test_shapes_without_a_text_are_neither_query_nor_gallery():
  point, text = noisy_pairs(40)
  has_text = np.arange(40) % 3 > 0
  text[~has_text] = 0
  # They would come first for every query.
  point[~has_text] = 10 * point.sum(axis=0)
  result = retrieval(point, text, has_text)
  assert result == retrieval(
    point[has_text], text[has_text], np.ones(has_text.sum(), bool)
  )
  expected = loop_recall(text[has_text], point[has_text], 1)
  assert result["text_to_shape_r1"] == pytest.approx(expected)


@pytest.mark.parametrize("chunk", [1, 7, 40, 64])
def test_chunks_of_queries_change_nothing(monkeypatch, chunk):
  point, text = noisy_pairs(40)
  whole = retrieval(point, text, np.ones(40, bool))
  monkeypatch.setattr(retrieval_module, "CHUNK", chunk)
  assert retrieval(point, text, np.ones(40, bool)) == whole


def test_a_perfect_model_retrieves_everything():
  text = np.eye(9, dtype=np.float32)
  assert set(retrieval(text, text, np.ones(9, bool)).values()) == {1.0}


def test_constant_embeddings_of_many_retrieve_nothing():
  point, text = noisy_pairs(40)
  point[:] = point[0]
  result = retrieval(point, text, np.ones(40, bool))
  for k in (1, 3, 5):
    # All shapes tie; texts come in one order for all.
    assert result[f"text_to_shape_r{k}"] <= k / 40
    assert result[f"shape_to_text_r{k}"] == pytest.approx(k / 40)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_constant_embeddings_of_few_retrieve_at_chance(n):
  point, text = noisy_pairs(n)
  point[:] = point[0]
  result = retrieval(point, text, np.ones(n, bool))
  for k in (1, 3, 5):
    assert result[f"text_to_shape_r{k}"] <= min(k / n, 1) + 1e-6


def test_a_text_that_repeats_is_found_half_of_the_times():
  """A perfect model cannot tell two shapes with one text apart."""
  text = np.eye(8, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 3, 3]]
  result = retrieval(text, text, np.ones(8, bool))
  assert result["text_to_shape_r1"] == pytest.approx(0.5)


def test_a_split_without_texts_says_so():
  point, text = noisy_pairs(4)
  with pytest.raises(ValueError, match="text"):
    retrieval(point, text, np.zeros(4, bool))
