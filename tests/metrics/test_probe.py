"""Probes against scikit-learn, and what the few-shot draw promises."""

import statistics

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from mrd_jax.errors import BadInput
from mrd_jax.metrics import probe
from mrd_jax.metrics.probe import few_shot, linear_probe


def drawn(label, seed: int = 0, noise: float = 1.3) -> np.ndarray:
  """Unit embeddings around a direction for each label; 9 wide."""
  label = np.asarray(label)
  rng = np.random.default_rng(seed)
  centre = np.random.default_rng(99).normal(size=(label.max() + 1, 9))
  x = centre[label] + noise * rng.normal(size=(len(label), 9))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


TRAIN = np.repeat([0, 1, 2, 5], [30, 20, 10, 5])
TEST = np.repeat([0, 1, 2, 5], [10, 20, 30, 15])
LABEL = np.repeat([0, 1, 2, 3, 4], [40, 20, 5, 2, 1])


def fit(train, train_label, test, test_label, c: float) -> dict[str, float]:
  """Fits and scores by scikit-learn alone."""
  model = LogisticRegression(C=c, max_iter=1000)
  predicted = model.fit(train.astype(np.float64), train_label).predict(test)
  return {
    "top1": accuracy_score(test_label, predicted),
    "class_mean": balanced_accuracy_score(test_label, predicted),
  }


@pytest.mark.parametrize("c", [1e-9, 1, 30])
def test_linear_probe_against_scikit_learn(c):
  train, test = drawn(TRAIN), drawn(TEST, seed=1)
  got = linear_probe(train, TRAIN, test, TEST, c=c)
  assert got == pytest.approx(fit(train, TRAIN, test, TEST, c))
  # The least leaves nothing but how often the classes occur.
  assert got["top1"] == np.mean(TEST == 0) if c < 1e-6 else got["top1"] > 0.2


def test_shapes_without_a_label_are_left_out():
  train, test = drawn(TRAIN), drawn(TEST, seed=1)
  expected = linear_probe(train[5:], TRAIN[5:], test[3:], TEST[3:], c=1)
  train_label, test_label = TRAIN.copy(), TEST.copy()
  train_label[:5] = test_label[:3] = -1
  train[0], test[0] = np.nan, 0  # whatever they are
  assert linear_probe(train, train_label, test, test_label, c=1) == expected


def test_a_test_class_that_was_never_fitted_is_wrong():
  train, test = drawn(TRAIN), drawn(TEST, seed=1)
  seen = TRAIN != 5
  got = linear_probe(train[seen], TRAIN[seen], test, TEST, c=1)
  old = TEST != 5
  known = linear_probe(train[seen], TRAIN[seen], test[old], TEST[old], c=1)
  assert got["top1"] == pytest.approx(known["top1"] * old.mean())
  assert got["class_mean"] == pytest.approx(known["class_mean"] * 3 / 4)


def test_linear_probe_bad_input():
  train, test = drawn(TRAIN), drawn(TEST, seed=1)
  one = np.zeros(len(TRAIN), int)
  with pytest.raises(BadInput, match="all of one class"):
    linear_probe(train, one, test, TEST, c=1)
  with pytest.raises(BadInput, match="no training shape has a label"):
    linear_probe(train, one - 1, test, TEST, c=1)
  with pytest.raises(BadInput, match="no test shape has a label"):
    linear_probe(train, TRAIN, test, TEST * 0 - 1, c=1)
  with pytest.raises(BadInput, match="c is 0"):
    linear_probe(train, TRAIN, test, TEST, c=0)
  with pytest.raises(BadInput, match="test embedding is 1 away from 1"):
    linear_probe(train, TRAIN, 2 * test, TEST, c=1)
  train[3, 3] = np.nan
  with pytest.raises(BadInput, match="training shape 3 is not finite"):
    linear_probe(train, TRAIN, test, TEST, c=1)


def test_a_fit_that_does_not_converge_is_no_result(monkeypatch):
  monkeypatch.setattr(probe, "MAX_ITERATIONS", 2)
  with pytest.raises(BadInput, match="not converged after 2 iterations"):
    linear_probe(drawn(TRAIN), TRAIN, drawn(TEST), TEST, c=1)


@pytest.fixture
def draws(monkeypatch):
  """Collects what is fitted and tested on, as rows of the embeddings."""
  found = []
  score = probe.linear_probe

  def spy(train, train_label, test, test_label, *, c):
    found.append((train, train_label, test, test_label))
    return score(train, train_label, test, test_label, c=c)

  monkeypatch.setattr(probe, "linear_probe", spy)
  return found


def rows_of(x: np.ndarray) -> set[bytes]:
  return {row.tobytes() for row in x}


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_few_shot_draws(draws, shots):
  x = drawn(LABEL)
  x[7] = np.nan
  label = LABEL.copy()
  label[7] = -1
  _, counts = few_shot(x, label, shots=shots, seeds=(0, 1, 5), c=1)
  # Class 4 has one shape; class 3 has one to fit on, class 2 has four.
  short = {1: 0, 4: 1, 16: 2}[shots]
  assert counts == {"classes": 4, "classes_short": short, "classes_left_out": 1}
  fitted = np.minimum(shots, [38, 19, 4, 1])
  used = (label >= 0) & (label < 4)
  labels = {
    row.astype(np.float64).tobytes(): y for row, y in zip(x, label, strict=True)
  }
  for train, train_label, test, test_label in draws:
    assert np.bincount(train_label).tolist() == fitted.tolist()
    rest = [39, 20, 5, 2] - fitted
    assert np.bincount(test_label).tolist() == rest.tolist()
    # Disjoint, and together all; each with its own label.
    assert not rows_of(train) & rows_of(test)
    everything = rows_of(x[used].astype(np.float64))
    assert rows_of(np.concatenate([train, test])) == everything
    for part, y in ((train, train_label), (test, test_label)):
      assert [labels[row.tobytes()] for row in part] == y.tolist()
  assert len({train.tobytes() for train, *_ in draws}) == 3


def test_few_shot_scores_against_scikit_learn(draws):
  got, _ = few_shot(drawn(LABEL), LABEL, shots=2, seeds=range(4), c=3.0)
  expected = [fit(*draw, 3.0) for draw in draws]
  for name in ("top1", "class_mean"):
    scores = [found[name] for found in expected]
    assert got.pop(name) == pytest.approx(statistics.fmean(scores))
    assert got.pop(f"{name}_std") == pytest.approx(statistics.stdev(scores))
    assert len(set(scores)) > 1
  assert not got


def test_few_shot_is_the_same_by_seed_and_nested_by_shots(draws):
  x = drawn(LABEL)
  few_shot(x, LABEL, shots=2, seeds=(3, 4), c=1)
  alone, _ = few_shot(x, LABEL, shots=2, seeds=(4,), c=1)
  assert alone.keys() == {"top1", "class_mean"}  # one has no deviation
  for of_both, of_one in zip(draws[1], draws[2], strict=True):
    np.testing.assert_array_equal(of_both, of_one)
  draws.clear()
  for shots in (1, 2, 4, 16):
    few_shot(x, LABEL, shots=shots, seeds=(4,), c=1)
  fits = [rows_of(train) for train, *_ in draws]
  for fewer, more in zip(fits[:-1], fits[1:], strict=True):
    assert fewer < more


def test_a_class_more_changes_no_other_draw(draws):
  x = drawn(LABEL)
  few_shot(x, LABEL, shots=3, seeds=(0,), c=1)
  first = LABEL != 1
  few_shot(x[first], LABEL[first], shots=3, seeds=(0,), c=1)
  with_it, without = draws
  kept = with_it[1] != 1
  assert rows_of(with_it[0][kept]) == rows_of(without[0])


def test_classes_are_drawn_independently(draws):
  """Two classes of one size are not given the same places."""
  label = np.repeat([0, 1], 50)
  x = drawn(label)
  few_shot(x, label, shots=16, seeds=(0,), c=1)
  ((train, *_),) = draws
  fitted = rows_of(train)
  places = [row.tobytes() in fitted for row in x.astype(np.float64)]
  assert places[:50] != places[50:]


def test_few_shot_bad_input():
  x = drawn(LABEL)
  with pytest.raises(BadInput, match="shots is 0"):
    few_shot(x, LABEL, shots=0, seeds=(0,), c=1)
  for seeds in ((), (1, 1), (-1, 0)):
    with pytest.raises(BadInput, match="seeds are"):
      few_shot(x, LABEL, shots=1, seeds=seeds, c=1)
  with pytest.raises(BadInput, match="1 of 2 classes"):
    few_shot(x[-3:], LABEL[-3:], shots=1, seeds=(0,), c=1)
  with pytest.raises(BadInput, match="0 of 3 classes"):
    few_shot(x[:3], np.arange(3), shots=1, seeds=(0,), c=1)
  with pytest.raises(BadInput, match="no few-shot shape has a label"):
    few_shot(x, LABEL * 0 - 1, shots=1, seeds=(0,), c=1)
  with pytest.raises(BadInput, match="normalise"):
    few_shot(x / 2, LABEL, shots=1, seeds=(0,), c=1)
  x[9] = np.inf
  with pytest.raises(BadInput, match="few-shot shape 9 is not finite"):
    few_shot(x, LABEL, shots=1, seeds=(0,), c=1)
