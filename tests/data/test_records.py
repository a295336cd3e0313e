"""Records: the quantisation's error bound, and what is refused."""

import dataclasses

import numpy as np
import pytest
from shapes import NO_IMAGE, NO_TEXT, random_shape

from mrd_jax.data.records import ImageKind, TextKind, encode
from mrd_jax.errors import BadInput

INT16_MAX = 32767
ROUNDING = 1.01  # float32 arithmetic on top of the half level


GOOD = random_shape(id="chair-7", label=3)


def replaced(array: np.ndarray, value: float) -> np.ndarray:
  array = array.copy()
  array[1, 1] = value
  return array


@pytest.mark.parametrize("size", [1e-3, 1.0, 500.0])
@pytest.mark.parametrize("stretch", [(1, 1, 1), (1, 0.01, 0)])
def test_coordinates_come_back_within_half_a_level(size, stretch):
  rng = np.random.default_rng(1)
  xyz = size * rng.uniform(-1, 1, (400, 3)) * stretch + size * rng.normal(
    size=3
  )
  xyz = xyz.astype(np.float32)
  record = encode(random_shape(xyz=xyz, rgb=np.zeros_like(xyz)))
  assert record["xyz"].dtype == np.int16
  assert np.abs(record["xyz"].astype(int)).max() == INT16_MAX
  decoded = (
    record["center"].astype(np.float64)
    + record["xyz"].astype(np.float64) / INT16_MAX * record["scale"]
  )
  half_extent = np.ptp(xyz.astype(np.float64), axis=0).max() / 2
  error = np.abs(decoded - xyz).max()
  assert error <= half_extent / (2 * INT16_MAX) * ROUNDING
  assert record["scale"] == pytest.approx(half_extent, rel=1e-6)


def test_colours_and_features_come_back_within_their_precision():
  record = encode(GOOD)
  assert record["rgb"].dtype == np.uint8
  assert np.abs(record["rgb"] / 255 - GOOD.rgb).max() <= 0.5 / 255 + 1e-7
  for field in ("image_feat", "text_feat"):
    assert record[field].dtype == np.float16
    np.testing.assert_allclose(record[field], getattr(GOOD, field), rtol=2**-11)


def test_everything_else_is_stored_as_it_is():
  record = encode(GOOD)
  assert record["id"] == "chair-7"
  assert record["dataset"] == "test"
  assert record["texts"] == ["naïve", "seat"]
  assert record["label"] == 3 and record["label"].dtype == np.int32
  # The numbers are on disk: renumbering a kind would break stored data.
  np.testing.assert_array_equal(record["image_kind"], [1, 1, 2])
  np.testing.assert_array_equal(record["text_kind"], [1, 2])
  assert (int(TextKind.MSFT), int(TextKind.RETRIEVAL)) == (3, 4)
  assert int(TextKind.NONE) == int(ImageKind.NONE) == 0


def test_a_shape_without_texts_and_a_labelled_one_without_images_are_good():
  assert encode(random_shape(**NO_TEXT))["texts"] == []
  assert encode(random_shape(**NO_IMAGE, label=0))["image_feat"].shape == (0, 8)


# A field, what makes it bad, and what is said of it.
BAD = [
  *(
    (field, {field: array}, words)
    for field in ("xyz", "rgb", "image_feat", "text_feat")
    for array, words in (
      (getattr(GOOD, field)[0], "matrix"),
      (getattr(GOOD, field)[None], "matrix"),
      (replaced(getattr(GOOD, field), np.nan), "NaN"),
      (replaced(getattr(GOOD, field), -np.inf), "infinite"),
    )
  ),
  # No points, points in the plane, fewer colours than points.
  ("xyz", {"xyz": np.zeros((0, 3)), "rgb": np.zeros((0, 3))}, r"\(0, 3\)"),
  ("xyz", {"xyz": GOOD.xyz[:, :2], "rgb": GOOD.rgb[:, :2]}, r"\(50, 2\)"),
  ("rgb", {"rgb": GOOD.rgb[1:]}, r"\(49, 3\)"),
  # One point repeated, or alone.
  ("xyz", {"xyz": np.repeat(GOOD.xyz[:1], 50, axis=0)}, "coincide"),
  ("xyz", {"xyz": GOOD.xyz[:1], "rgb": GOOD.rgb[:1]}, "coin"),
  # An image without a kind; neither image nor label.
  ("image_feat", {"image_kind": GOOD.image_kind[1:]}, "kind"),
  ("image_feat", NO_IMAGE | {"label": -1}, "label"),
  # A text without a feature or a kind, a feature without a text.
  ("text_feat", {"text_feat": GOOD.text_feat[1:]}, "per text"),
  ("text_feat", {"text_kind": GOOD.text_kind[1:]}, "per text"),
  ("text_feat", {"texts": ["chair"]}, "per text"),
  # Another teacher's.
  ("text_feat", {"text_feat": np.ones((2, 5))}, "width 5.* 8"),
  ("image_feat", {"image_feat": GOOD.image_feat * [[1], [0], [1]]}, "zero"),
  ("text_feat", {"text_feat": GOOD.text_feat * [[1], [0]]}, "zero"),
  ("texts", {"texts": ["chair", ""]}, "empty"),
  ("texts", {"texts": [" \n", "chair"]}, "empty"),
  # Stored as inf or all zeros it would be NaN in training.
  *(
    (field, {field: np.full_like(getattr(GOOD, field), x)}, "float16's range")
    for field in ("image_feat", "text_feat")
    for x in (1e6, 1e-9)
  ),
  # NONE marks padding: the feature would never be drawn.
  ("image_kind", {"image_kind": [0] * 3}, "kind"),
  ("text_kind", {"text_kind": [0] * 2}, "kind"),
]


@pytest.mark.parametrize(("field", "changes", "words"), BAD)
def test_a_bad_shape_is_refused_by_id_and_field(field, changes, words):
  with pytest.raises(BadInput, match=f"'chair-7'.*'{field}'.*{words}"):
    encode(dataclasses.replace(GOOD, **changes))
