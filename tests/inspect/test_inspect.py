"""Inspection of datasets: planted defects, numbers against naive forms."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from mrd_jax.data.dataset import CLASS_FEATURES_FILE, open_split
from mrd_jax.data.records import ImageKind, TextKind
from mrd_jax.errors import BadInput
from mrd_jax.inspect import duplicates, feature_findings, output, run, summary
from mrd_jax.inspect.__main__ import main
from mrd_jax.inspect.scan import hash_cloud, scan
from mrd_jax.inspect.text_report import text_report
from mrd_jax.inspect.up_axis import BINS, SLAB, posture, up_axis
from mrd_jax.prepare.job.dataset_writer import write_dataset
from mrd_jax.procedural import shapes as procedural

NAMES = procedural.CLASS_NAMES
TEACHER = procedural.SyntheticTeacher(embed_dim=32, seed=0)
TRAIN, VAL = 120, 60


@pytest.fixture(scope="module")
def shapes():
  """Clean shapes: TRAIN + VAL of them, all with a text."""
  made = []
  index = 0
  while len(made) < TRAIN + VAL:
    shape = procedural.make_shape(
      index, seed=0, num_points=400, num_views=2, teacher=TEACHER
    )
    index += 1
    if len(shape.texts):
      made.append(shape)
  return made


@pytest.fixture
def splits(shapes):
  """Lists that a test may spoil."""
  return {"train": shapes[:TRAIN], "val": shapes[TRAIN:]}


def write(directory, splits, named=("train", "val")):
  write_dataset(
    directory,
    "planted",
    splits,
    "synthetic",
    dict.fromkeys(named, NAMES),
    dict.fromkeys(named, TEACHER.class_features(NAMES)),
  )
  return directory


def inspect(directory, *, samples=1000, counted=1000, seed=0):
  return run.inspect_dataset(
    directory, samples=samples, counted=counted, seed=seed
  )


def found(directory, **kwargs):
  """(code, split, affected, looked_at) of the warnings, and of the notes."""
  report = inspect(directory, **kwargs).report
  return tuple(
    {(f["code"], f["split"], f["affected"], f["looked_at"]) for f in report[k]}
    for k in ("warnings", "notes")
  )


def spoil(shapes, count, change):
  """The first `count` shapes changed."""
  return [
    dataclasses.replace(shape, **change(shape)) if i < count else shape
    for i, shape in enumerate(shapes)
  ]


# Clean data.


def test_clean_data_has_no_warnings(tmp_path, splits):
  inspection = inspect(write(tmp_path / "data", splits))
  report = inspection.report
  assert not report["warnings"] and not report["notes"]
  train, val = report["splits"]["train"], report["splits"]["val"]
  assert train["records"] == train["counted"] == train["measured"] == TRAIN
  assert train["collections"] == {"procedural": TRAIN}
  up = train["up_axis"]["procedural"]
  assert up["axis"] == "y" and up["confidence"] == 1 and up["shapes"] == TRAIN
  assert not val["up_axis"]  # too few to say
  assert report["schema"] == 1 and report["embed_dim"] == 32
  assert report["duplicates"]["within"]["train"]["shapes"] == 0
  text = text_report(report)
  assert "no warnings" in text and "all 120 counted, all 120 measured" in text
  assert "procedural y (100% sure)" in text


# Defects.  Each: code, how many of how many, and how the split is spoilt.


def stray(shape):
  xyz = shape.xyz.copy()
  xyz[0] = 10
  return {"xyz": xyz}


CLOUD_DEFECTS = {
  "far from the origin": lambda s: {"xyz": s.xyz + np.float32(1000)},
  "outlying points": stray,
  "few distinct points": lambda s: {"xyz": np.tile(s.xyz[:100], (4, 1))},
  "black": lambda s: {"rgb": s.rgb / 255},
}


@pytest.mark.parametrize("code", CLOUD_DEFECTS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_cloud_defects(tmp_path, splits, code, split):
  size = len(splits[split])
  splits[split] = spoil(splits[split], 3, CLOUD_DEFECTS[code])
  report = inspect(write(tmp_path / "data", splits)).report
  (warning,) = report["warnings"]
  assert (warning["code"], warning["split"]) == (code, split)
  assert (warning["affected"], warning["looked_at"]) == (3, size)
  ids = ", ".join(shape.id for shape in splits[split][:3])
  assert f"{split}: 3 of {size} shapes have " in warning["text"]
  assert f"({ids}); " in warning["text"]


@pytest.mark.parametrize(
  ("up", "turn"),
  [
    ("x", lambda x, y, z: (y, -x, z)),
    ("-x", lambda x, y, z: (-y, x, z)),
    ("-y", lambda x, y, z: (x, -y, -z)),
    ("z", lambda x, y, z: (x, -z, y)),
    ("-z", lambda x, y, z: (x, z, -y)),
  ],
)
def test_wrong_up_axis(tmp_path, splits, up, turn):
  """The remedy that is named turns the clouds back."""
  clean = splits["train"]
  splits["train"] = spoil(
    clean, TRAIN, lambda s: {"xyz": np.stack(turn(*s.xyz.T), axis=1)}
  )
  report = inspect(write(tmp_path / "data", splits)).report
  (warning,) = report["warnings"]
  assert warning["code"] == "up axis" and warning["affected"] == TRAIN
  assert f"seems to have {up} up" in warning["text"]
  remedy = warning["text"].rpartition("turned to (")[2].rstrip(")")
  x, y, z = splits["train"][0].xyz.T
  back = eval(remedy, {"x": x, "y": y, "z": z})
  np.testing.assert_array_equal(np.stack(back, axis=1), clean[0].xyz)


def test_up_axis_of_one_collection_among_others(tmp_path, shapes):
  """A z-up collection is found in a split whose other one is y up."""
  mixed = [
    dataclasses.replace(
      shape,
      dataset="turned",
      id=f"turned-{shape.id}",
      xyz=shape.xyz[:, [0, 2, 1]] * np.float32([1, -1, 1]),
    )
    for shape in shapes[:TRAIN]
  ]
  split = {"train": shapes[:TRAIN] + mixed}
  report = inspect(write(tmp_path / "data", split, named=["train"])).report
  (warning,) = [f for f in report["warnings"] if f["code"] == "up axis"]
  assert warning["text"].startswith("train: turned seems to have z up")


def at_random(xyz_BP3):
  """The clouds turned at random."""
  rng = np.random.default_rng(0)
  turns, _ = np.linalg.qr(rng.normal(size=(len(xyz_BP3), 3, 3)))
  return (xyz_BP3 @ turns).astype(np.float32)


def test_up_axis_says_when_it_does_not_know(shapes):
  clouds = np.stack([shape.xyz for shape in shapes])
  rng = np.random.default_rng(0)
  measured = posture(clouds)
  certain = up_axis(measured.asymmetry, measured.footprint, rng)
  assert certain.confident and str(certain) == "y" and certain.sign == 1
  few = up_axis(measured.asymmetry[:99], measured.footprint[:99], rng)
  assert not few.confident and few.shapes == 99
  measured = posture(at_random(clouds))
  assert not up_axis(measured.asymmetry, measured.footprint, rng).confident


def constant(shapes):
  """A change that gives every shape the first one's image features."""
  return lambda s: {"image_feat": shapes[0].image_feat, "label": 0}


@pytest.mark.parametrize("count", [3, 4])
def test_constant_image_features(tmp_path, splits, count):
  """A few variants may look the same from one side."""
  splits["train"] = spoil(splits["train"], count, constant(splits["train"]))
  warnings, _ = found(write(tmp_path / "data", splits))
  expected = {("constant image features", "train", count, TRAIN)}
  assert warnings == (expected if count > 3 else set())


def test_copies_of_a_shape_may_have_its_features(tmp_path, splits):
  first = splits["train"][0]
  splits["train"] += [shuffled(first, id=f"copy{i}") for i in range(5)]
  warnings, _ = found(write(tmp_path / "data", splits))
  assert warnings == {("duplicates", "train", 5, TRAIN + 5)}


def test_constant_text_features(tmp_path, splits):
  one = np.eye(32, dtype=np.float32)[:1]
  splits["train"] = spoil(
    splits["train"],
    10,
    lambda s: {"text_feat": np.repeat(one, len(s.texts), axis=0)},
  )
  texts = sum(len(shape.texts) for shape in splits["train"])
  planted = sum(len(shape.texts) for shape in splits["train"][:10])
  warnings, _ = found(write(tmp_path / "data", splits))
  assert warnings == {("constant text features", "train", planted, texts)}


def test_equal_texts_may_have_equal_features(tmp_path, splits):
  one = splits["train"][0]
  names = ["A chair.", "a  chair", "A CHAIR"]
  splits["train"] = [
    dataclasses.replace(
      shape,
      texts=[names[i % 3]],
      text_feat=one.text_feat[:1],
      text_kind=[TextKind.RAW],
    )
    for i, shape in enumerate(splits["train"])
  ]
  codes = {code for code, *_ in found(write(tmp_path / "data", splits))[0]}
  # One text for all teaches nothing, but its features are what they must be.
  assert codes == {"collapsed text features", "images and texts disagree"}


def test_collapsed_image_features(tmp_path, splits):
  rng = np.random.default_rng(0)
  splits["train"] = spoil(
    splits["train"],
    TRAIN,
    lambda s: {"image_feat": 1 + 0.1 * rng.normal(size=(2, 32))},
  )
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
  splits["train"] = spoil(
    splits["train"], 5, lambda s: {"image_feat": s.image_feat * 10}
  )
  splits["train"] = splits["train"][:115] + spoil(
    splits["train"][115:], 3, lambda s: {"image_feat": s.image_feat / 10}
  )
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
  scanned = inspect(write(tmp_path / "data", splits)).scans["train"]
  features = scanned.sample.image_features
  norm = features.norm.copy()
  norm[4], norm[5] = np.nan, np.inf  # both of shape 2: view, thumbnail
  sample = dataclasses.replace(
    scanned.sample, image_features=dataclasses.replace(features, norm=norm)
  )
  spoilt = dataclasses.replace(scanned, sample=sample)
  summarized = summary.summarize(
    spoilt, {}, (), None, 1, np.random.default_rng(0)
  )
  warnings = list(
    feature_findings.feature_findings("train", spoilt, summarized)
  )
  assert [(w.code, w.affected) for w in warnings] == [("not finite", 1)] * 2
  assert splits["train"][2].id in warnings[0].text
  means = [f["norm"]["mean"] for f in summarized["features"].values()]
  assert means[:2] == [None, None]
  json.dumps(summarized, allow_nan=False)


NO_TEXT = {
  "texts": [],
  "text_kind": [],
  "text_feat": np.zeros((0, 32), np.float32),
}
NO_IMAGE = {"image_kind": [], "image_feat": np.zeros((0, 32), np.float32)}


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


@pytest.mark.parametrize("textless", [2, 6, VAL])
def test_missing_evaluation_texts(tmp_path, splits, textless):
  splits["val"] = spoil(splits["val"], VAL, lambda s: {"label": -1})
  splits["val"] = spoil(splits["val"], textless, lambda s: NO_TEXT)
  warnings, notes = found(write(tmp_path / "data", splits, named=["train"]))
  expected = {("missing evaluation texts", "val", textless, VAL)}
  assert warnings == (expected if textless > 3 else set()) and not notes


def test_text_free_zero_shot_split_is_fine(tmp_path, splits):
  splits["val"] = spoil(splits["val"], VAL, lambda s: NO_TEXT | NO_IMAGE)
  inspection = inspect(write(tmp_path / "data", splits))
  assert not inspection.report["warnings"] and not inspection.report["notes"]
  val = inspection.report["splits"]["val"]
  assert val["alignment"] is None and val["zero_shot"] is None
  assert "val" in text_report(inspection.report)


def test_label_defects(tmp_path, splits):
  splits["test"] = spoil(
    splits["val"], VAL, lambda s: {"id": "t" + s.id, "label": -1}
  )
  splits["val"] = spoil(
    splits["val"], 2, lambda s: {"label": 54 if s.label % 2 else -2}
  )
  splits["other"] = spoil(splits["val"], VAL, lambda s: {"id": "o" + s.id})
  warnings, _ = found(
    write(tmp_path / "data", splits, named=["train", "val", "test"])
  )
  assert warnings == {
    ("labels out of range", "val", 2, VAL),
    ("no labels", "test", VAL, VAL),
    ("labels without class names", "other", VAL, VAL),
  }


def test_class_feature_defects(tmp_path, splits):
  data = write(tmp_path / "data", splits)
  with np.load(data / CLASS_FEATURES_FILE) as stored:
    features = stored["val"]

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


# Duplicates.


def shuffled(shape, **change):
  order = np.random.default_rng(0).permutation(len(shape.xyz))
  return dataclasses.replace(
    shape, xyz=shape.xyz[order], rgb=shape.rgb[order] * 0.5, **change
  )


def test_duplicates_within_a_split(tmp_path, splits):
  train = splits["train"]
  moved = dataclasses.replace(
    shuffled(train[0], id="other"), xyz=shuffled(train[0]).xyz * 2
  )
  named = dataclasses.replace(train[5], id=train[1].id)
  splits["train"] = [*train, moved, named]
  report = inspect(write(tmp_path / "data", splits)).report
  (warning,) = report["warnings"]
  assert warning["code"] == "duplicates" and warning["affected"] == 2
  assert "1 by id and 2 by points" in warning["text"]
  assert f"(other, {train[1].id})" in warning["text"]
  assert report["duplicates"]["within"]["train"] == {
    "shapes": 2,
    "by_id": 1,
    "by_points": 2,
    "estimated_total": 2,
  }


def test_duplicates_across_splits(tmp_path, splits):
  train, val = splits["train"], splits["val"]
  splits["val"] = [*val, shuffled(train[3], id="leaked")]
  same_id = dataclasses.replace(
    val[0],
    id=train[8].id,
    xyz=val[0].xyz[1:],
    rgb=val[0].rgb[1:],
    image_feat=train[8].image_feat,
  )
  splits["val"].append(same_id)
  splits["lvis"] = val[:9]  # a part of another evaluation split: no harm
  report = inspect(
    write(tmp_path / "data", splits, named=["train", "val", "lvis"])
  ).report
  (warning,) = report["warnings"]
  assert (warning["code"], warning["split"]) == (
    "in training and evaluation",
    "val",
  )
  assert (
    warning["affected"] == 2 and "1 by id and 1 by points" in (warning["text"])
  )
  assert "are in train too" in warning["text"]
  assert f"(leaked, {train[8].id})" in warning["text"]
  by_pair = {
    (f["train"], f["evaluation"]): f["shapes"]
    for f in report["duplicates"]["across"]
  }
  assert by_pair == {("train", "val"): 2, ("train", "lvis"): 0}


def test_sampled_splits_say_what_was_looked_at(tmp_path, splits):
  splits["val"] = splits["train"][:VAL]  # all leaked
  data = write(tmp_path / "data", splits)
  inspection = inspect(data, samples=30, counted=60)
  report = inspection.report
  train, val = report["splits"]["train"], report["splits"]["val"]
  assert (train["counted"], train["measured"]) == (30, 30)
  assert (val["counted"], val["measured"]) == (60, 30)
  (pair,) = report["duplicates"]["across"]
  # Whatever was drawn of train, a quarter of all.
  drawn = set(inspection.scans["train"].census.row.tolist())
  leaked = len(drawn & set(range(VAL)))
  assert 0 < leaked < 30 and pair["shapes"] == pair["by_points"] == leaked
  assert pair["estimated_total"] == min(4 * leaked, 60)
  # (1 - 1/4)**n <= 5 %
  assert pair["detectable"] == 11
  text = text_report(report)
  assert "30 of 120 (drawn at random) counted" in text
  assert "all 60 counted, 30 of 60 (drawn at random) measured" in text
  assert "overlap of 11 shapes" in text and "--full" in text
  assert f"{leaked} of 60 shapes are in train too (about" in text
  full = inspect(data, samples=30, counted=sys.maxsize).report
  assert full["duplicates"]["across"][0]["shapes"] == VAL
  assert "--full" not in text_report(full)


def test_draws_follow_the_seed(tmp_path, splits):
  data = write(tmp_path / "data", splits)
  first = inspect(data, samples=30, counted=1)
  again = inspect(data, samples=30, counted=1)
  other = inspect(data, samples=30, counted=1, seed=1)
  assert first.report == again.report
  rows = [i.scans["train"].census.row.tolist() for i in (first, other)]
  assert rows[0] != rows[1]
  assert all(row == sorted(set(row)) and len(row) == 30 for row in rows)


# Numbers against naive forms.


def test_measures_against_naive_forms(tmp_path, splits):
  grey = {"rgb": np.full((400, 3), 0.4, np.float32)}
  splits["train"] = spoil(splits["train"], 4, lambda s: grey)
  splits["train"][0] = dataclasses.replace(splits["train"][0], **NO_TEXT)
  red = {"rgb": np.tile(np.float32([1, 0, 0]), (400, 1)), "label": -1}
  splits["train"][9] = dataclasses.replace(splits["train"][9], **red)
  data = write(tmp_path / "data", splits)
  source = open_split(data, "train")
  rows = np.arange(TRAIN)
  calls = []
  scanned = scan(
    source, rows, rows[::2], np.random.default_rng(0), lambda: calls.append(1)
  )
  assert len(calls) == TRAIN
  sample, census = scanned.sample, scanned.census
  records = list(source)
  assert census.label.tolist() == [r["label"] for r in records]
  assert census.texts.tolist() == [len(r["texts"]) for r in records]
  measured = records[::2]
  np.testing.assert_array_equal(sample.at, rows[::2])
  for i, record in enumerate(measured):
    assert sample.distinct[i] == len(set(map(tuple, record["xyz"].tolist())))
    stored = sum(
      value.size * value.itemsize
      for value in record.values()
      if isinstance(value, np.ndarray | np.generic)
    )
    words = [record["id"], record["dataset"], *record["texts"]]
    assert sample.num_bytes[i] == stored + len("".join(words).encode())
    images = record["image_feat"].astype(np.float64)
    mean = np.mean([f / np.linalg.norm(f) for f in images], axis=0)
    np.testing.assert_allclose(
      sample.image[i], mean / np.linalg.norm(mean), atol=1e-6
    )
    owned = sample.image_features.owner == i
    assert sample.image_features.kind[owned].tolist() == [
      ImageKind.VIEW,
      ImageKind.THUMBNAIL,
    ]
    np.testing.assert_allclose(
      sample.image_features.norm[owned],
      np.linalg.norm(images, axis=1),
      rtol=1e-6,
    )
    color = record["rgb"].astype(np.float64).mean(axis=0) / 255
    np.testing.assert_allclose(sample.color[i], color, atol=1e-6)
  assert not sample.text[0].any() and sample.text[1:].any(axis=1).all()
  report = inspect(data).report["splits"]["train"]
  assert report["colors"]["grey"] == 4 / TRAIN
  assert report["colors"]["constant"] == 5 / TRAIN
  assert report["without_text"] == 1 / TRAIN
  counts = Counter(int(r["label"]) for r in records)
  unlabelled = counts.pop(-1)
  assert report["classes"] == {
    "named": 54,
    "empty": 54 - len(counts),
    "fewest": min(counts.values()),
    "most": max(counts.values()),
    "unlabelled": unlabelled,
    "out_of_range": 0,
  }
  texts = [len(r["texts"]) for r in records]
  assert report["texts"] == {
    "min": min(texts),
    "median": float(np.median(texts)),
    "max": max(texts),
  }
  files = sum(f.stat().st_size for f in data.glob("planted-train.*"))
  assert report["bytes"]["disk"] == files
  assert report["bytes"]["disk_per_record"] == files / TRAIN


def test_class_counts():
  label = np.array([0, 0, 0, 3, 3, -1, -2, 5, 5])
  assert summary.class_counts(label, 5) == {
    "named": 5,
    "empty": 3,
    "fewest": 2,
    "most": 3,
    "unlabelled": 1,
    "out_of_range": 3,
  }
  none = summary.class_counts(np.array([-1]), 5)
  assert (none["empty"], none["fewest"], none["most"]) == (5, 0, 0)


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


def test_hash_cloud():
  rng = np.random.default_rng(0)
  xyz = rng.integers(-32767, 32768, (500, 3)).astype(np.int16)
  mask = (1 << 64) - 1

  def mix(point):
    x, y, z = (int(value) & 0xFFFF for value in point)
    h = ((x | y << 16 | z << 32) + 0x9E3779B97F4A7C15) & mask
    h = ((h ^ h >> 30) * 0xBF58476D1CE4E5B9) & mask
    h = ((h ^ h >> 27) * 0x94D049BB133111EB) & mask
    return h ^ h >> 31

  assert hash_cloud(xyz) == sum(map(mix, xyz)) & mask
  assert hash_cloud(xyz) == hash_cloud(rng.permutation(xyz))
  others = [xyz[:, [1, 0, 2]], -xyz, xyz[1:], np.concatenate([xyz, xyz])]
  changed = xyz.copy()
  changed[3, 1] += 1
  hashes = {hash_cloud(x) for x in (xyz, changed, *others)}
  assert len(hashes) == 6


def test_alignment_against_naive_form():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(40, 8))
  text = image + rng.normal(size=(40, 8))
  image, text = (
    x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)
  )
  text[7] = text[6]  # a text that repeats: each is found half the time
  image[3] = 0
  text[4] = 0
  got = summary.alignment(image, text, rng)
  assert got is not None
  both = [i for i in range(40) if i not in (3, 4)]
  score = np.array([[image[i] @ text[j] for j in both] for i in both])
  hits = [0.0, 0.0]
  for i in range(38):
    for way, row in ((0, score[i]), (1, score[:, i])):
      ahead = sum(s > row[i] + 1e-12 for s in row)
      equal = sum(abs(s - row[i]) <= 1e-12 for s in row)
      hits[way] += min(max((1 - ahead) / equal, 0), 1) / 38
  assert got["pairs"] == 38 and got["chance"] == 1 / 38
  assert got["image_to_text_r1"] == pytest.approx(hits[0])
  assert got["text_to_image_r1"] == pytest.approx(hits[1])
  assert got["cosine_matched"] == pytest.approx(np.diag(score).mean())
  assert got["cosine_all"] == pytest.approx(score.mean())
  gaps = np.diag(score) - score.mean(axis=1)
  error = gaps.std(ddof=1) / np.sqrt(38)
  assert got["gap"] == pytest.approx(gaps.mean() / error)
  assert summary.alignment(image[:1], text[:1], rng) is None


def test_zero_shot_of_the_images():
  classes = np.eye(3) * 2  # need not be of unit length
  image = np.eye(3)[[0, 1, 2, 2, 0]]
  label = np.array([0, 1, 0, -1, 7])
  got = summary.image_zero_shot(image, label, classes)
  assert got == {"shapes": 3, "top1": pytest.approx(2 / 3), "chance": 1 / 3}
  assert summary.image_zero_shot(image * 0, label, classes) is None
  assert summary.image_zero_shot(image, label, None) is None


# The command and its files.


def test_command(tmp_path, splits, capsys):
  splits["train"] = spoil(splits["train"], 3, CLOUD_DEFECTS["black"])
  data = write(tmp_path / "data", splits)
  before = sorted(tmp_path.rglob("*"))
  assert main([str(data)]) == 0
  printed = capsys.readouterr().out
  assert "1 warning:\n- train: 3 of 120 shapes have black" in printed
  assert sorted(tmp_path.rglob("*")) == before  # nothing written
  assert main([str(data), "--strict", "--samples", "120"]) == 1
  out = tmp_path / "a" / "b"
  assert main([str(data), "--output", str(out), "--shapes", "2"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[-2:] == [str(out / "report.json"), str(out / "shapes.png")]
  report = json.loads((out / "report.json").read_text())
  assert report["warnings"][0]["code"] == "black"
  assert sorted(path.name for path in out.iterdir()) == [
    "report.json",
    "shapes.png",
  ]
  picture = (out / "shapes.png").read_bytes()
  assert picture.startswith(b"\x89PNG")
  # Its own files are replaced, and the same seed gives the same.
  assert main([str(data), "--output", str(out), "--shapes", "2"]) == 0
  assert (out / "shapes.png").read_bytes() == picture


@pytest.mark.parametrize(
  "name, content", [("report.json", '{"splits": {}}'), ("shapes.png", "")]
)
def test_foreign_files_stay(tmp_path, splits, capsys, name, content):
  data = write(tmp_path / "data", splits)
  (data / name).write_text(content)
  assert main([str(data), "--output", str(data)]) == 2
  assert name in capsys.readouterr().err
  assert (data / name).read_text() == content


def test_bad_input(tmp_path, capsys):
  assert main([str(tmp_path / "nowhere")]) == 2
  assert "does not exist" in capsys.readouterr().err
  (tmp_path / "file").write_text("")
  with pytest.raises(BadInput, match="--output"):
    output.checked_output(tmp_path / "file")


def test_shapes_are_drawn_of_all_splits_alike(tmp_path, splits):
  splits["val"] = splits["val"][:2]
  inspection = inspect(write(tmp_path / "data", splits))

  def drawn(count):
    chosen = output.choose_shapes(inspection, count)
    assert len({record["id"] for _, record in chosen}) == len(chosen)
    return [split for split, _ in chosen]

  assert drawn(1) == ["train"]
  assert drawn(3) == ["train", "train", "val"]
  assert drawn(7) == ["train"] * 5 + ["val"] * 2
  assert len(drawn(1000)) == TRAIN + 2


def test_the_standard_library_keeps_its_inspect():
  code = (
    "import sys, mrd_jax.inspect.__main__, inspect; "
    "assert 'mrd_jax' not in inspect.__file__; "
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_repeats_are_estimated_of_pairs():
  """Of n records drawn from N, a pair is found with (n / N)**2, about."""
  rng = np.random.default_rng(0)
  clouds = np.repeat(np.arange(500), 2).astype(np.uint64)

  @dataclasses.dataclass
  class Drawn:
    census: "Drawn | None" = None
    size: int = 1000
    row: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    id: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    cloud: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

  estimates = []
  for _ in range(200):
    row = rng.choice(1000, 300, replace=False)
    drawn = Drawn(row=row, id=row.astype(np.uint64), cloud=clouds[row])
    drawn.census = drawn
    estimates.append(duplicates.within(drawn).total)  # type: ignore
  assert np.mean(estimates) == pytest.approx(500, rel=0.05)
