"""Retrieval, by hand, by loops, and by every order of what ties."""

import itertools

import jax
import numpy as np
import pytest
from galleries import unit

from mrd_jax.errors import BadInput
from mrd_jax.metrics import embeddings
from mrd_jax.metrics.retrieval import retrieval


def names(*ways: str) -> set[str]:
  return {f"{way}_r{k}" for way in ways for k in (1, 3, 5)}


INSTANCES = names("text_to_shape", "shape_to_text")


def noisy_pairs(n: int):
  rng = np.random.default_rng(1)
  text = rng.normal(size=(n, 8))
  return unit(text + 0.8 * rng.normal(size=(n, 8))), unit(text)


def loop_recall(query, gallery, k: int, label) -> float:
  """The share of labelled queries with a hit among the first k; no ties."""
  hits = []
  for q, own in zip(query.astype(np.float64), label, strict=True):
    if own >= 0:
      score = [q @ g for g in gallery.astype(np.float64)]
      first = sorted(range(len(score)), key=lambda j: -score[j])[:k]
      hits.append(any(label[j] == own for j in first))
  return np.mean(hits)


def order_recall(query, gallery, k: int, label) -> float:
  """The same where scores tie: the mean over all orders of the gallery."""
  scores = query @ gallery.T
  orders = np.array(list(itertools.permutations(range(len(gallery)))))
  recall = []
  for score, own in zip(scores, label, strict=True):
    if own >= 0:
      # A stable sort leaves what ties in the order drawn.
      place = np.argsort(-score[orders], axis=1, kind="stable")[:, :k]
      first = np.take_along_axis(orders, place, axis=1)
      recall.append((label[first] == own).any(axis=1).mean())
  return np.mean(recall)


def retrieval_like(recall, point, text, image, label) -> dict[str, float]:
  """Retrieves in every direction, as `recall` says that it should be."""
  everywhere = np.ones(len(point), bool)
  images = {"image_ND": image, "has_image_N": everywhere}
  got = retrieval(point, text, everywhere, **images, label_N=label)
  expected = {
    f"{way}{kind}_r{k}": pytest.approx(recall(query, gallery, k, own))
    for way, query, gallery in (
      ("text_to_shape", text, point),
      ("shape_to_text", point, text),
      ("image_to_shape", image, point),
    )
    for kind, own in (("", np.arange(len(point))), ("_category", label))
    for k in (1, 3, 5)
  }
  assert got == expected
  return got


def test_every_direction_against_a_loop():
  point, text = noisy_pairs(40)
  image = unit(text[::-1] + 0.7 * point)
  label = np.arange(40) // 4
  label[::7] = -1
  got = retrieval_like(loop_recall, point, text, image, label)
  ways = ("text_to_shape", "shape_to_text", "image_to_shape")
  assert len({got[f"{way}_r1"] for way in ways}) == 3
  assert 0.2 < got["text_to_shape_r1"] < got["text_to_shape_category_r1"] < 1


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (2, 0), (6, 1), (6, 2)])
def test_ties_against_every_order(n, seed):
  """Whole numbers tie often; a gallery of two is smaller than k."""
  rng = np.random.default_rng(seed)
  point, text, image = rng.integers(-1, 2, (3, n, 2)).astype(np.float32)
  label = rng.integers(-1, 3, n)
  label[0] = 0
  got = retrieval_like(order_recall, point, text, image, label)
  for name, value in got.items():
    if n <= int(name[-1]):  # the gallery fits
      assert value == pytest.approx(1)


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
  index = np.arange(has_text.sum())
  expected = loop_recall(text[has_text], point[has_text], 1, index)
  assert result["text_to_shape_r1"] == pytest.approx(expected)


def test_a_direction_takes_the_shapes_that_it_can():
  point, text = noisy_pairs(40)
  has_text, has_image = np.arange(40) % 3 > 0, np.arange(40) % 4 > 0
  image = text[::-1].copy()
  text[~has_text], image[~has_image] = np.nan, np.nan
  got = retrieval(point, text, has_text, image_ND=image, has_image_N=has_image)
  index = np.arange(has_image.sum())
  for k in (1, 3, 5):
    expected = loop_recall(image[has_image], point[has_image], k, index)
    assert got[f"image_to_shape_r{k}"] == pytest.approx(expected)
  instances = {name: got[name] for name in INSTANCES}
  assert instances == retrieval(point, text, has_text)


def test_an_item_without_a_label_is_a_wrong_one():
  shape = np.eye(3, dtype=np.float32)
  text = unit([[2, 3, 0], [0, 1, 0], [0, 0, 1]])  # text 0 finds shape 1 first
  label = np.array([5, -1, 7])
  got = retrieval(shape, text, np.ones(3, bool), label_N=label)
  # Of the queries 0 and 2; the text of shape 1 asks for no category.
  assert got["text_to_shape_category_r1"] == 0.5
  assert got["text_to_shape_r1"] == pytest.approx(2 / 3)
  got = retrieval(shape, text, np.ones(3, bool), label_N=np.array([5, 5, 7]))
  assert got["text_to_shape_category_r1"] == 1


@pytest.mark.parametrize(("tile", "devices"), [(7, 1), (256, 1), (7, 2)])
def test_tiles_and_devices_change_nothing(monkeypatch, tile, devices):
  point, text = noisy_pairs(70)
  text[20:30] = text[5]
  everywhere = np.ones(70, bool)
  label = np.arange(70) // 4
  whole = retrieval(point, text, everywhere, label_N=label)
  local = jax.local_devices()
  monkeypatch.setattr(jax, "local_devices", lambda: local[:devices])
  monkeypatch.setattr(embeddings, "TILE", tile)
  assert retrieval(point, text, everywhere, label_N=label) == whole


@pytest.mark.parametrize("n", [2, 301])
def test_constant_embeddings_retrieve_at_chance(n):
  text = unit(np.random.default_rng(0).normal(size=(n, 321)))
  point = np.tile(text[:1], (n, 1))
  label = np.arange(n) % 2
  result = retrieval(point, text, np.ones(n, bool), label_N=label)
  for k in (1, 3, 5):
    # To a text all shapes are the same, however the product is rounded; and
    # texts come in one order for all shapes.
    chance = pytest.approx(min(k / n, 1))
    assert result[f"text_to_shape_r{k}"] == chance
    assert result[f"shape_to_text_r{k}"] == chance
  assert result["text_to_shape_category_r1"] == pytest.approx(
    np.mean(np.bincount(label)[label] / n)
  )


def test_what_nothing_asks_for_is_absent():
  point, text = noisy_pairs(4)
  some, none = np.ones(4, bool), np.zeros(4, bool)
  assert retrieval(point, text, some).keys() == INSTANCES
  unlabelled = np.full(4, -1)
  assert retrieval(point, text, some, label_N=unlabelled).keys() == INSTANCES
  got = retrieval(point, text, none, image_ND=text, has_image_N=some)
  assert got.keys() == names("image_to_shape")
  got = retrieval(point, text, some, image_ND=text, has_image_N=none)
  assert got.keys() == INSTANCES


def test_bad_input():
  point, text = noisy_pairs(4)
  some, none = np.ones(4, bool), np.zeros(4, bool)
  with pytest.raises(BadInput, match="no shape has a text"):
    retrieval(point, text, none)
  with pytest.raises(BadInput, match="no shape has a text"):
    retrieval(point, text, none, image_ND=text, has_image_N=none)
  text[1, 0] = np.nan
  with pytest.raises(BadInput, match="text 1 is not finite"):
    retrieval(point, text, some)
  with pytest.raises(BadInput, match="image 1 is not finite"):
    retrieval(point, point, some, image_ND=text, has_image_N=some)
  with pytest.raises(BadInput, match="shape 1 is not finite"):
    retrieval(text, point, some)
  with pytest.raises(ValueError, match="together"):
    retrieval(point, point, some, image_ND=point)
