"""Zero-shot, by hand and against scikit-learn."""

import operator

import numpy as np
import pytest
from galleries import unit
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from mrd_jax.errors import BadInput
from mrd_jax.metrics import zero_shot as zero_shot_module
from mrd_jax.metrics.zero_shot import ClassScores, confusion, zero_shot

CLASSES = np.eye(6, dtype=np.float32)
NAMES = {"top1", "top3", "top5"} | {
  "class_mean",
  "class_mean_top3",
  "class_mean_top5",
}


def drawn(n: int, classes: int, seed: int = 0):
  """Shapes near their class, without ties: embeddings, labels, classes."""
  rng = np.random.default_rng(seed)
  class_CD = rng.normal(size=(classes, 16))
  label = rng.integers(0, classes, n)
  point = class_CD[label] + 1.5 * rng.normal(size=(n, 16))
  return unit(point), label, unit(class_CD)


def tied(n: int, classes: int):
  """Whole numbers, so that many scores are equal."""
  rng = np.random.default_rng(3)
  point = rng.integers(-1, 2, (n, 3)).astype(np.float32)
  class_CD = rng.integers(-1, 2, (classes, 3)).astype(np.float32)
  return point, rng.integers(-1, classes, n), class_CD


def test_zero_shot_counts_the_classes_ahead_of_the_right_one():
  point = np.float32(
    [
      [9, 1, 2, 3, 4, 5],  # label 0: first
      [9, 8, 7, 1, 2, 3],  # label 1: second
      [9, 8, 7, 1, 2, 3],  # label 2: third
      [9, 8, 7, 4, 3, 5],  # label 3: fifth
      [9, 8, 7, 6, 1, 5],  # label 4: last
      [1, 8, 7, 6, 5, 4],  # label 0: last
    ]
  )
  label = np.array([0, 1, 2, 3, 4, 0])
  assert zero_shot(point, label, CLASSES) == {
    "top1": pytest.approx(1 / 6),
    "top3": pytest.approx(3 / 6),
    "top5": pytest.approx(4 / 6),
    # Of the five classes that occur, class 0 is half right.
    "class_mean": pytest.approx(0.5 / 5),
    "class_mean_top3": pytest.approx(2.5 / 5),
    "class_mean_top5": pytest.approx(3.5 / 5),
  }


def test_instances_against_scikit_learn():
  point, label, classes = drawn(300, 20)
  got = zero_shot(point, label, classes)
  score = point.astype(np.float64) @ classes.T
  for k in (1, 3, 5):
    expected = top_k_accuracy_score(label, score, k=k, labels=np.arange(20))
    assert got[f"top{k}"] == pytest.approx(expected)
  expected = balanced_accuracy_score(label, score.argmax(axis=1))
  assert got["class_mean"] == pytest.approx(expected)
  assert 0.2 < got["top1"] < got["top3"] < got["top5"] < 1


def loop_zero_shot(point, label, classes):
  """By definition, shape by shape: ranks and predictions of the labelled."""
  ranks, predictions, kept = [], [], []
  for p, own in zip(point.tolist(), label.tolist(), strict=True):
    if own >= 0:
      score = [sum(map(operator.mul, p, c)) for c in classes.tolist()]
      others = [j for j in range(len(score)) if j != own]
      ranks.append(sum(score[j] >= score[own] for j in others))
      best = max(score)
      at_best = [j for j in others if score[j] == best]
      predictions.append(at_best[0] if at_best else own)
      kept.append(own)
  return np.array(ranks), np.array(predictions), np.array(kept)


@pytest.mark.parametrize("classes", [1, 4, 12])
def test_ties_against_a_loop(classes):
  point, label, class_CD = tied(200, classes)
  rank, predicted, own = loop_zero_shot(point, label, class_CD)
  got = zero_shot(point, label, class_CD)
  assert got.keys() == NAMES
  for k in (1, 3, 5):
    assert got[f"top{k}"] == pytest.approx(np.mean(rank < k))
    shares = [np.mean(rank[own == c] < k) for c in set(own.tolist())]
    name = "class_mean" + (f"_top{k}" if k > 1 else "")
    assert got[name] == pytest.approx(np.mean(shares))
    if k >= classes:  # all classes fit
      assert got[f"top{k}"] == got[name] == 1
  matrix, _ = confusion(point, label, class_CD)
  expected = np.zeros((classes, classes))
  np.add.at(expected, (own, predicted), 1)
  np.testing.assert_array_equal(matrix, expected)
  assert np.trace(matrix) == round(got["top1"] * len(own))


def test_shapes_without_a_label_are_left_out():
  point = CLASSES[[0, 5, 1]]
  point[1] = np.nan  # whatever it is
  label = np.array([0, -1, 1])
  assert zero_shot(point, label, CLASSES) == dict.fromkeys(NAMES, 1)
  matrix, rows = confusion(point, label, CLASSES)
  assert matrix.sum() == 2 and [row.count for row in rows] == [1, 1]


@pytest.mark.parametrize("classes", [3, 40, 1156])
def test_classes_of_one_name_tie_wherever_they_stand(classes):
  """A product may round equal columns differently; they still tie."""
  rng = np.random.default_rng(0)
  twins = unit(rng.normal(size=(classes, 321)))
  twins[-1] = twins[0]
  point = unit(twins[0] + 0.01 * rng.normal(size=(50, 321)))
  for label in (0, classes - 1):
    got = zero_shot(point, np.full(50, label), twins)
    assert (got["top1"], got["top3"]) == (0, 1)


def test_a_constant_embedding_classifies_at_chance():
  point = np.tile(unit(np.random.default_rng(0).normal(size=6)), (60, 1))
  result = zero_shot(point, np.arange(60) % 6, CLASSES)
  assert result["top1"] == result["class_mean"] == pytest.approx(1 / 6)
  assert result["top3"] == pytest.approx(3 / 6)
  assert result["top5"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_chunks_of_shapes_change_nothing(monkeypatch, chunk):
  point, label, classes = drawn(300, 20)
  label[::7] = -1
  whole = zero_shot(point, label, classes)
  matrix, rows = confusion(point, label, classes)
  monkeypatch.setattr(zero_shot_module, "CHUNK", chunk)
  assert zero_shot(point, label, classes) == whole
  again, rows_again = confusion(point, label, classes)
  np.testing.assert_array_equal(again, matrix)
  assert rows_again == rows


def test_confusion_by_hand():
  point = CLASSES[[0, 0, 1, 1, 2, 4, 4, 3]]
  label = np.array([0, 0, 0, 0, 0, 4, 2, -1])
  matrix, rows = confusion(point, label, CLASSES)
  expected = np.zeros((6, 6))
  expected[0, :3] = [2, 2, 1]
  expected[4, 4] = expected[2, 4] = 1
  np.testing.assert_array_equal(matrix, expected)
  assert matrix.dtype == np.int64
  # Behind the class that scores 1, all the others tie.
  assert rows == [
    ClassScores(0, 5, 0.4, 0.4, 0.4, confused_with=1),
    ClassScores(2, 1, 0, 0, 0, confused_with=4),
    ClassScores(4, 1, 1, 1, 1, confused_with=None),
  ]


@pytest.mark.parametrize("score", [zero_shot, confusion])
def test_bad_input(score):
  point, label, classes = drawn(5, 3)
  with pytest.raises(BadInput, match="no shape has a label"):
    score(point, np.full(5, -1), classes)
  with pytest.raises(BadInput, match="label 3, .* 3 classes"):
    score(point, np.array([0, 1, 3, 0, 0]), classes)
  broken = point.copy()
  broken[2, 0] = np.nan
  with pytest.raises(BadInput, match="embedding of shape 2 is not finite"):
    score(broken, label, classes)
  broken = classes.copy()
  broken[1, 0] = np.inf
  with pytest.raises(BadInput, match="feature of class 1 is not finite"):
    score(point, label, broken)
