"""The lists of an OpenShape bundle: entries, labels, class features."""

import json
import time

import numpy as np
import pytest
from openshape_bundle import (
  DIM,
  make_sample,
  npy_bytes,
  simple_bundle,
  write_bundle,
)

from mrd_jax.data.dataset import class_features, open_split, read_meta
from mrd_jax.errors import BadInput
from mrd_jax.prepare.openshape import convert
from mrd_jax.prepare.openshape.lists import SCANOBJECTNN_CLASSES


def test_a_list_cannot_point_out_of_its_bundle(tmp_path):
  (tmp_path / "secret.npy").write_bytes(npy_bytes(make_sample(0)))
  entry = {"id": "x", "data_path": "../secret.npy"}
  root = write_bundle(tmp_path / "in", {}, train_all=[entry])
  with pytest.raises(BadInput, match="not under"):
    convert.convert(root, tmp_path / "out")


def test_a_path_of_a_million_characters_takes_no_time(tmp_path):
  """It was tried from each of its folders on."""
  entry = {"id": "x", "data_path": "bjaverse/" * 2**17}
  root = write_bundle(tmp_path / "in", {}, train_all=[entry])
  start = time.monotonic()
  with pytest.raises(BadInput, match="not under"):
    convert.convert(root, tmp_path / "out")
  assert time.monotonic() - start < 5


def test_duplicate_ids(tmp_path):
  """ShapeNet files some models under two categories."""
  files = {f"ShapeNet/{g}/x.npy": npy_bytes(make_sample(0)) for g in "ab"}
  entries = [
    {"id": "x", "group": path.split("/")[1], "data_path": path}
    for path in [*files, "ShapeNet/a/x.npy"]
  ]
  root = write_bundle(tmp_path / "in", files, train_all=entries)
  report = convert.convert(root, tmp_path / "out")
  ids = [record["id"] for record in open_split(tmp_path / "out", "train")]
  assert len(set(ids)) == len(ids) == report.splits["train"].converted
  assert report.splits["train"].listed == 3


def labelled_bundle(root, extra=()):
  files = {f"O/{i}.npy": npy_bytes(make_sample(i)) for i in range(3)}
  lvis = [
    {"uid": str(i), "category": c, "data_path": f"O/{i}.npy"}
    for i, c in enumerate(["zebra", "ant", "zebra"])
  ]
  val = [{"id": "1", "category": "ant", "data_path": "O/1.npy"}]
  val.append({"id": "2", "category": None, "data_path": "O/2.npy"})
  write_bundle(root, files, lvis=lvis, val=[*val, *extra])
  np.save(root / "meta_data" / "lvis_cat_name_pt_feat.npy", np.eye(2, DIM))
  modelnet = root / "meta_data" / "modelnet40"
  modelnet.mkdir()
  rows = [{"name": f"m{i}", "category": c} for i, c in enumerate("bab?")]
  (modelnet / "test_split.json").write_text(json.dumps(rows))
  rng = np.random.default_rng(0)
  clouds = [
    {"xyz": rng.normal(size=(8, 3)), "rgb": np.full((8, 3), 100)} for _ in rows
  ]
  del clouds[2]["rgb"]
  np.save(modelnet / "test_pc.npy", np.array(clouds, object))
  classes = {n: {"open_clip_text_feat": np.ones((1, DIM))} for n in "ba"}
  np.save(modelnet / "cat_name_pt_feat.npy", np.array(classes, object))
  return root


def test_labels(tmp_path):
  report = convert.convert(labelled_bundle(tmp_path / "in"), tmp_path / "out")
  meta = read_meta(tmp_path / "out")
  assert meta.class_names == {
    "val": ["ant", "zebra"],
    "lvis": ["ant", "zebra"],
    "modelnet40": ["b", "a"],
  }
  labels = {
    split: {
      record["id"]: int(record["label"])
      for record in open_split(tmp_path / "out", split)
    }
    for split in report.splits
  }
  assert labels == {
    "val": {"1": 0, "2": -1},
    "lvis": {"0": 1, "1": 0, "2": 1},
    "modelnet40": {"m0": 0, "m1": 1, "m2": 0},
  }
  assert report.splits["modelnet40"].refused == {"bad value": 1}
  clouds = list(open_split(tmp_path / "out", "modelnet40"))
  assert clouds[0]["image_feat"].shape == (0, DIM)
  assert (clouds[0]["rgb"] == 100).all() and (clouds[2]["rgb"] == 102).all()
  assert "modelnet40" in str(report)


def test_labels_do_not_depend_on_the_limit(tmp_path):
  root = labelled_bundle(tmp_path / "in")
  convert.convert(root, tmp_path / "out", splits=["lvis"], limit=1)
  source = open_split(tmp_path / "out", "lvis")
  assert (len(source), source[0]["label"]) == (1, 1)


def test_unusable_bundles(tmp_path):
  with pytest.raises(BadInput, match=r"meta_data/split"):
    convert.convert(tmp_path, tmp_path / "out")
  root = labelled_bundle(tmp_path / "in")
  with pytest.raises(BadInput, match=r"nope.*lvis, modelnet40, val"):
    convert.convert(root, tmp_path / "out", splits=["nope"])
  np.save(root / "meta_data" / "lvis_cat_name_pt_feat.npy", np.eye(3, DIM))
  with pytest.raises(BadInput, match="3 rows for the 2"):
    convert.convert(root, tmp_path / "out")
  (root / "meta_data" / "split" / "lvis.json").write_text("{")
  with pytest.raises(BadInput, match="is not JSON"):
    convert.convert(root, tmp_path / "out")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_unknown_categories_leave_a_split_without_labels(tmp_path):
  entry = {"id": "0", "category": "yak", "data_path": "O/0.npy"}
  root = labelled_bundle(tmp_path / "in", extra=[entry])
  report = convert.convert(root, tmp_path / "out", splits=["val"])
  assert "'yak'" in report.problems[0]
  assert read_meta(tmp_path / "out").class_names == {}


def test_odd_lists(tmp_path):
  root = simple_bundle(tmp_path / "in", [npy_bytes(make_sample(0))])
  lists = root / "meta_data" / "split"
  for content, message in (
    ('[{"id": "a", "category": ["b"]}]', r"row 0: category \['b'\] is no text"),
    ("[" * 100_000, "is not JSON"),
    ("[]", "name no shape"),
  ):
    (lists / "odd.json").write_text(content)
    with pytest.raises(BadInput, match=message):
      convert.convert(root, tmp_path / "out", splits=["odd"])
  rows = [{"id": "a", "data_path": "x" * 300 + "/a.npy"}]
  (lists / "odd.json").write_text(json.dumps(rows))
  report = convert.convert(root, tmp_path / "out", splits=["train", "odd"])
  assert report.splits["odd"].refused == {"missing file": 1}


def test_scanobjectnn(tmp_path):
  root = labelled_bundle(tmp_path / "in")
  folder = root / "meta_data" / "scanobjectnn"
  folder.mkdir()
  rng = np.random.default_rng(0)
  content = {"xyz": rng.normal(size=(3, 64, 3)), "label": np.array([4, 0, 14])}
  np.save(folder / "xyz_label.npy", np.array(content, object))
  names = sorted(SCANOBJECTNN_CLASSES)  # another order than that of the labels
  classes = {
    name: {"open_clip_text_feat": np.full((1, DIM), i + 1.0)}
    for i, name in enumerate(names)
  }
  np.save(folder / "cat_name_pt_feat.npy", np.array(classes, object))
  report = convert.convert(root, tmp_path / "out", splits=["scanobjectnn"])
  assert report.splits["scanobjectnn"].converted == 3
  assert "2,890" in report.problems[0]  # the published number
  stored = read_meta(tmp_path / "out").class_names["scanobjectnn"]
  features = class_features(tmp_path / "out", "scanobjectnn")
  records = open_split(tmp_path / "out", "scanobjectnn")
  for record, name in zip(records, ("chair", "bag", "toilet"), strict=True):
    assert stored[record["label"]] == name
    assert features[record["label"]][0] == names.index(name) + 1
    assert (record["rgb"] == 102).all()
