"""Every finding of an inspection, planted."""

import dataclasses
import itertools
import json
from collections import Counter

import numpy as np
import pytest
from planted import (
  NAMES,
  NO_IMAGE,
  TRAIN,
  VAL,
  found,
  inspect,
  renamed,
  shuffled,
  spoil,
  write,
)
from shapes import NO_TEXT

from mrd_jax.data.dataset import CLASS_FEATURES_FILE
from mrd_jax.data.records import TextKind
from mrd_jax.inspect import feature_findings, summary
from mrd_jax.inspect.findings import Split
from mrd_jax.inspect.text_report import text_report


def stray(shape):
  xyz = shape.xyz.copy()
  xyz[0] = 10
  return {"xyz": xyz}


def test_cloud_defects(tmp_path, splits):
  defects = {
    "far from the origin": lambda s: {"xyz": s.xyz + np.float32(1000)},
    "outlying points": stray,
    "few distinct points": lambda s: {"xyz": np.tile(s.xyz[:100], (4, 1))},
    "black": lambda s: {"rgb": s.rgb / 255},
  }
  expected = []
  for name, shapes in splits.items():
    for i, (code, change) in enumerate(defects.items()):
      three = spoil(shapes[3 * i : 3 * i + 3], 3, change)
      shapes = [*shapes[: 3 * i], *three, *shapes[3 * i + 3 :]]
      expected.append((code, name, three))
    splits[name] = shapes
  warnings = inspect(write(tmp_path / "data", splits)).report["warnings"]
  assert len(warnings) == len(expected) == 8
  for warning, (code, name, three) in zip(warnings, expected, strict=True):
    size = len(splits[name])
    assert (warning["code"], warning["split"]) == (code, name)
    assert (warning["affected"], warning["looked_at"]) == (3, size)
    assert warning["text"].startswith(f"{name}: 3 of {size} shapes have ")
    assert f"({', '.join(shape.id for shape in three)}); " in warning["text"]


def test_wrong_up_axis(tmp_path, splits):
  """The remedy that is named turns the clouds back."""
  clean = splits["train"]
  turned = {
    f"train_{up}": spoil(
      clean,
      TRAIN,
      lambda s, turn=turn: {"xyz": np.stack(turn(*s.xyz.T), axis=1)},
    )
    for up, turn in {
      "x": lambda x, y, z: (y, -x, z),
      "-x": lambda x, y, z: (-y, x, z),
      "-y": lambda x, y, z: (x, -y, -z),
      "z": lambda x, y, z: (x, -z, y),
      "-z": lambda x, y, z: (x, z, -y),
    }.items()
  }
  warnings = inspect(write(tmp_path / "data", turned)).report["warnings"]
  assert {warning["split"] for warning in warnings} == turned.keys()
  for warning in warnings:
    assert warning["code"] == "up axis" and warning["affected"] == TRAIN
    up = warning["split"].removeprefix("train_")
    assert f"seems to have {up} up" in warning["text"]
    remedy = warning["text"].rpartition("turned to (")[2].rstrip(")")
    x, y, z = turned[warning["split"]][0].xyz.T
    back = eval(remedy, {"x": x, "y": y, "z": z})
    np.testing.assert_array_equal(np.stack(back, axis=1), clean[0].xyz)


def test_up_axis_of_one_collection_among_others(tmp_path, shapes):
  """A z-up collection is found in a split whose other one is y up."""

  def turn(shape):
    xyz = shape.xyz[:, [0, 2, 1]] * np.float32([1, -1, 1])
    return {"dataset": "turned", "xyz": xyz}

  mixed = renamed(spoil(shapes[:TRAIN], TRAIN, turn), "turned-")
  split = {"train": shapes[:TRAIN] + mixed}
  report = inspect(write(tmp_path / "data", split)).report
  (warning,) = [f for f in report["warnings"] if f["code"] == "up axis"]
  assert warning["text"].startswith("train: turned seems to have z up")


@pytest.mark.parametrize("size", [2, 3, TRAIN])
def test_a_text_that_most_shapes_share(tmp_path, splits, size):
  """The name of their files, whatever the size of the dataset."""
  shapes = splits["train"][:size]

  def share(shape):
    return {"texts": ["model normalized", *shape.texts[1:]]}

  data = write(
    tmp_path / "data", {"train": spoil(shapes, size // 2 + 1, share)}
  )
  warnings = inspect(data).report["warnings"]
  (warning,) = [w for w in warnings if w["code"] == "shared text"]
  assert (warning["affected"], warning["looked_at"]) == (size // 2 + 1, size)
  data = write(tmp_path / "half", {"train": spoil(shapes, size // 2, share)})
  assert "shared text" not in {code for code, *_ in found(data)[0]}


def test_constant_image_features(tmp_path, splits):
  """A few variants may look the same from one side."""
  train = splits["train"]
  constant = {"image_feat": train[0].image_feat, "label": 0}
  spoilt = {f"train{n}": spoil(train, n, lambda s: constant) for n in (3, 4)}
  warnings, _ = found(write(tmp_path / "data", spoilt))
  assert warnings == {("constant image features", "train4", 4, TRAIN)}


def test_copies_of_a_shape_may_have_its_features(tmp_path, splits):
  first = splits["train"][0]
  splits["train"] += [shuffled(first, id=f"copy{i}") for i in range(5)]
  warnings, _ = found(write(tmp_path / "data", splits))
  assert warnings == {("duplicates", "train", 5, TRAIN + 5)}


def test_constant_text_features(tmp_path, splits):
  one = np.eye(32, dtype=np.float32)[:1]

  def equal(shape):
    return {"text_feat": np.repeat(one, len(shape.texts), axis=0)}

  texts = [len(shape.texts) for shape in splits["train"]]
  splits["train"] = spoil(splits["train"], 10, equal)
  warnings, _ = found(write(tmp_path / "data", splits))
  planted, of = sum(texts[:10]), sum(texts)
  assert warnings == {("constant text features", "train", planted, of)}


def test_equal_texts_may_have_equal_features(tmp_path, splits):
  one = splits["train"][0]
  same = {"text_feat": one.text_feat[:1], "text_kind": [TextKind.RAW]}
  names = itertools.cycle([["A chair."], ["a  chair"], ["A CHAIR"]])
  splits["train"] = [
    dataclasses.replace(shape, texts=texts, **same)
    for shape, texts in zip(splits["train"], names, strict=False)
  ]
  codes = {code for code, *_ in found(write(tmp_path / "data", splits))[0]}
  # One text for all teaches nothing, but its features are what they must be.
  collapsed = {"collapsed text features", "images and texts disagree"}
  assert codes == {*collapsed, "shared text"}


def test_collapsed_image_features(tmp_path, splits):
  rng = np.random.default_rng(0)
  splits["train"] = [
    dataclasses.replace(s, image_feat=1 + 0.1 * rng.normal(size=(2, 32)))
    for s in splits["train"]
  ]
  data = write(tmp_path / "data", splits)
  warnings, notes = found(data)
  assert warnings == {
    ("collapsed image features", "train", TRAIN, TRAIN),
    ("images and texts disagree", "train", TRAIN, TRAIN),
  }
  assert ("not unit norm", "train", TRAIN, TRAIN) in notes
  inspection = inspect(data)
  image = inspection.scans["train"].sample.image
  cosine = (image @ image.T)[~np.eye(TRAIN, dtype=bool)].mean()
  texts = [f["text"] for f in inspection.report["warnings"]]
  assert any(f"mean cosine of {cosine:.4f}" in text for text in texts)


def test_images_of_other_shapes(tmp_path, splits):
  train = splits["train"]
  splits["train"] = [
    dataclasses.replace(shape, image_feat=other.image_feat)
    for shape, other in zip(train, train[27:] + train[:27], strict=True)
  ]
  warnings, _ = found(write(tmp_path / "data", splits))
  assert warnings == {("images and texts disagree", "train", TRAIN, TRAIN)}


def test_varying_norms(tmp_path, splits):
  train = splits["train"]
  longer = spoil(train[:5], 5, lambda s: {"image_feat": s.image_feat * 10})
  shorter = spoil(train[5:8], 3, lambda s: {"image_feat": s.image_feat / 10})
  splits["train"] = longer + shorter + train[8:]
  warnings, notes = found(write(tmp_path / "data", splits))
  # Of each shape one view and one thumbnail.
  assert warnings == {("varying norms", "train", 8, TRAIN)} and not notes
  texts = [f["text"] for f in inspect(tmp_path / "data").report["warnings"]]
  assert ["VIEW" in text for text in texts] == [True, False]
  assert ["THUMBNAIL" in text for text in texts] == [False, True]


def test_features_that_are_not_of_unit_norm_are_a_note(tmp_path, splits):
  splits["val"] = spoil(
    splits["val"], VAL, lambda s: {"text_feat": s.text_feat * 30}
  )
  warnings, notes = found(write(tmp_path / "data", splits))
  assert not warnings
  kinds = Counter(int(k) for s in splits["val"] for k in s.text_kind)
  assert notes == {("not unit norm", "val", n, n) for n in kinds.values()}


def test_features_that_are_not_finite(tmp_path, splits):
  """Our builder refuses them; another program may not."""
  inspection = inspect(write(tmp_path / "data", splits))
  spoilt = inspection.scans["train"]
  norm = spoilt.image_features.norm
  norm[4], norm[5] = np.nan, np.inf  # both of shape 2: view, thumbnail
  summarized = summary.summarize(spoilt, (), None, 1, np.random.default_rng(0))
  split = Split(spoilt, summarized, inspection.meta, None)
  warnings = [
    found for check in feature_findings.WARNINGS for found in check(split)
  ]
  assert [(w.code, w.affected) for w in warnings] == [("not finite", 1)] * 2
  assert splits["train"][2].id in warnings[0].text
  means = [f["norm"]["mean"] for f in summarized["features"].values()]
  assert means[:2] == [None, None]
  json.dumps(summarized, allow_nan=False)


def test_missing_modalities(tmp_path, splits):
  splits["train"] = spoil(splits["train"], 3, lambda s: NO_IMAGE)
  splits["train"] = splits["train"][::-1]
  splits["train"] = spoil(splits["train"], 70, lambda s: NO_TEXT)
  splits["val"] = spoil(splits["val"], 6, lambda s: NO_TEXT)
  warnings, notes = found(write(tmp_path / "data", splits))
  assert warnings == {
    ("no image", "train", 3, TRAIN),
    ("mostly no text", "train", 70, TRAIN),
  }
  # It can be scored by its labels.
  assert notes == {("missing evaluation texts", "val", 6, VAL)}


def test_missing_evaluation_texts(tmp_path, splits):
  val = spoil(splits["val"], VAL, lambda s: {"label": -1})
  lacking = {
    f"val{n}": renamed(spoil(val, n, lambda s: NO_TEXT), f"{n}-")
    for n in (2, 6, VAL)
  }
  warnings, notes = found(write(tmp_path / "data", lacking, named=[]))
  assert not notes and warnings == {
    ("missing evaluation texts", f"val{n}", n, VAL) for n in (6, VAL)
  }


def test_text_free_zero_shot_split_is_fine(tmp_path, splits):
  splits["val"] = spoil(splits["val"], VAL, lambda s: NO_TEXT | NO_IMAGE)
  inspection = inspect(write(tmp_path / "data", splits))
  assert not inspection.report["warnings"] and not inspection.report["notes"]
  val = inspection.report["splits"]["val"]
  assert val["alignment"] is None and val["zero_shot"] is None
  assert "val" in text_report(inspection.report)


def test_label_defects(tmp_path, splits):
  val = splits["val"]
  splits["test"] = renamed(spoil(val, VAL, lambda s: {"label": -1}), "t")
  splits["val"] = spoil(val, 2, lambda s: {"label": 54 if s.label % 2 else -2})
  splits["other"] = renamed(splits["val"], "o")
  data = write(tmp_path / "data", splits, named=["train", "val", "test"])
  warnings, _ = found(data)
  assert warnings == {
    ("labels out of range", "val", 2, VAL),
    ("no labels", "test", VAL, VAL),
    ("labels without class names", "other", VAL, VAL),
  }


def test_class_feature_defects(tmp_path, splits):
  data = write(tmp_path / "data", splits)
  features = np.load(data / CLASS_FEATURES_FILE)["val"]

  def rewritten(**arrays):
    np.savez(data / CLASS_FEATURES_FILE, **arrays)
    return found(data)[0]

  all_of_them = {("class features", "val", 54, 54)}
  assert rewritten(train=features) == all_of_them
  assert rewritten(train=features, val=features[:50]) == all_of_them
  assert rewritten(train=features, val=features[:, :31]) == all_of_them
  empty = features.copy()
  empty[3], empty[5, 2] = 0, np.nan
  two = {("class features", "val", 2, 54)}
  assert rewritten(train=features, val=empty) == two
  equal = features.copy()
  equal[7] = equal[9]
  assert rewritten(train=features, val=equal) == two
  (warning,) = inspect(data).report["warnings"]
  assert f"'{NAMES[7]}', '{NAMES[9]}' have the feature" in warning["text"]


def test_duplicates_within_a_split(tmp_path, splits):
  train = splits["train"]
  moved = shuffled(train[0], id="other")
  moved = dataclasses.replace(moved, xyz=moved.xyz * 2)
  named = dataclasses.replace(train[5], id=train[1].id)
  splits["train"] = [*train, moved, named]
  report = inspect(write(tmp_path / "data", splits)).report
  (warning,) = report["warnings"]
  assert warning["code"] == "duplicates" and warning["affected"] == 2
  assert "1 by id and 2 by points" in warning["text"]
  assert f"(other, {train[1].id})" in warning["text"]
  counts = {"shapes": 2, "by_id": 1, "by_points": 2, "estimated_total": 2}
  assert report["duplicates"]["within"]["train"] == counts


def test_duplicates_across_splits(tmp_path, splits):
  train, val = splits["train"], splits["val"]
  splits["val"] = [*val, shuffled(train[3], id="leaked")]
  same_id = {"id": train[8].id, "image_feat": train[8].image_feat}
  fewer = {"xyz": val[0].xyz[1:], "rgb": val[0].rgb[1:]}
  splits["val"].append(dataclasses.replace(val[0], **same_id, **fewer))
  splits["lvis"] = val[:9]  # a part of another evaluation split: no harm
  report = inspect(write(tmp_path / "data", splits)).report
  (warning,) = report["warnings"]
  assert warning["code"] == "in training and evaluation"
  assert warning["split"] == "val" and warning["affected"] == 2
  assert "1 by id and 1 by points" in warning["text"]
  assert "are in train too" in warning["text"]
  assert f"(leaked, {train[8].id})" in warning["text"]
  across = report["duplicates"]["across"]
  assert {f["evaluation"]: f["shapes"] for f in across} == {"val": 2, "lvis": 0}
  assert {f["train"] for f in across} == {"train"}
