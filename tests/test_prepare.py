"""Conversion of OpenShape's layout, and the commands of `prepare`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from openshape_bundle import (
  ABSOLUTE,
  DIM,
  Attack,
  make_sample,
  npy_bytes,
  simple_bundle,
  write_bundle,
  zero_d,
)

from mrd_jax.data.dataset import class_features, open_split, read_meta
from mrd_jax.data.records import ImageKind, TextKind
from mrd_jax.errors import BadInput
from mrd_jax.prepare import openshape, procedural
from mrd_jax.prepare.__main__ import main

REPOSITORY = Path(__file__).parent.parent


# OpenShape's layout.


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_layouts(tmp_path, archive, absolute):
  contents = [npy_bytes(make_sample(i)) for i in range(3)]
  root = simple_bundle(
    tmp_path / "in", contents, archive=archive, absolute=absolute
  )
  report = openshape.convert(root, tmp_path / "out")
  assert report.splits["train"].converted == 3 and not report.rejects
  source = open_split(tmp_path / "out", "train")
  assert [record["id"] for record in source] == ["id0", "id1", "id2"]
  kinds = [ImageKind.VIEW] * 3 + [ImageKind.THUMBNAIL]
  assert source[0]["image_kind"].tolist() == kinds


def test_root_remap(tmp_path):
  root = simple_bundle(
    tmp_path / "in", [npy_bytes(make_sample(0))], absolute=True
  )
  with pytest.raises(BadInput, match="none of 1 shapes"):
    openshape.convert(root, tmp_path / "out", root_remap=(ABSOLUTE, "wrong"))
  openshape.convert(root, tmp_path / "out", root_remap=(ABSOLUTE, "."))


def test_a_list_cannot_point_out_of_its_bundle(tmp_path):
  (tmp_path / "secret.npy").write_bytes(npy_bytes(make_sample(0)))
  entry = {"id": "x", "data_path": "../secret.npy"}
  root = write_bundle(tmp_path / "in", {}, train_all=[entry])
  with pytest.raises(BadInput, match="not under"):
    openshape.convert(root, tmp_path / "out")


def test_text_rules(tmp_path):
  other = make_sample(2, dataset="ShapeNet")
  del other["thumbnail_feat"]
  silent = make_sample(3) | {"text": [""], "retrieval_text": []}
  silent |= {"blip_caption": ""}
  wrapped = make_sample(4)
  wrapped["blip_caption_feat"] = zero_d(wrapped["blip_caption_feat"])
  samples = [make_sample(0), make_sample(1), other, silent, wrapped]
  root = simple_bundle(tmp_path / "in", [npy_bytes(s) for s in samples])
  flags = {"id0": {"flag": "Y"}, "id1": {"flag": "N"}, "id2": {"flag": "N"}}
  (root / "meta_data" / "gpt4_filtering.json").write_text(json.dumps(flags))
  report = openshape.convert(root, tmp_path / "out")
  assert report.splits["train"].without_text == 1
  records = list(open_split(tmp_path / "out", "train"))
  rest = ["like this", "like that", "a blip"]
  texts = [record["texts"] for record in records]
  assert texts == [
    ["name", *rest],
    rest,
    ["name", "tag", *rest],
    [],
    ["name", *rest],
  ]
  kinds = [TextKind.RAW, TextKind.RETRIEVAL, TextKind.RETRIEVAL, TextKind.BLIP]
  assert records[0]["text_kind"].tolist() == kinds
  expected = np.concatenate(
    [
      samples[0]["text_feat"][0]["prompt_avg"],
      samples[0]["retrieval_text_feat"][0]["original"],
      samples[0]["retrieval_text_feat"][1]["original"],
      samples[0]["blip_caption_feat"]["prompt_avg"],
    ]
  )
  np.testing.assert_array_equal(records[0]["text_feat"], expected)
  assert records[2]["image_feat"].shape == (3, DIM)


@pytest.mark.parametrize("archive", [False, True])
def test_bad_shapes_are_refused_and_counted(tmp_path, archive):
  trace = tmp_path / "executed"
  nan = make_sample(1)
  nan["xyz"][5] = np.nan
  point = make_sample(2)
  point["xyz"][:] = point["xyz"][0]
  keyless = make_sample(3)
  del keyless["image_feat"]
  captionless = make_sample(4)
  del captionless["blip_caption_feat"]
  contents = [
    npy_bytes(make_sample(0)),
    npy_bytes(nan),
    npy_bytes(point),
    npy_bytes(keyless),
    npy_bytes(captionless),
    npy_bytes({"xyz": Attack(trace)}),
    npy_bytes(make_sample(6))[:900],
    None,
    npy_bytes(make_sample(8) | {"xyz": np.zeros((4, 2))}),
    npy_bytes(make_sample(9) | {"rgb": np.full((40, 3), 100.0)}),
    npy_bytes([1, 2]),
    npy_bytes(make_sample(11) | {"image_feat": np.ones((2, 5))}),
    npy_bytes(make_sample(12) | {"text_feat": None}),
    npy_bytes(make_sample(13) | {"xyz": np.eye(40, 3) * 1e38 + 2e38}),
    npy_bytes(make_sample(14) | {"xyz": np.eye(40, 3) * 1e99}),
  ]
  root = simple_bundle(tmp_path / "in", contents, archive=archive)
  report = openshape.convert(root, tmp_path / "out")
  count = report.splits["train"]
  assert not trace.exists()
  assert (count.listed, count.converted) == (15, 1)
  assert dict(count.refused) == {
    "bad value": 9,
    "missing key": 2,
    "unreadable or unsafe file": 2,
    "missing file": 1,
  }
  rows = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
  fields = {row["id"]: row["field"] for row in map(json.loads, rows)}
  assert fields == {
    "id1": "xyz",
    "id2": "xyz",
    "id3": "image_feat",
    "id4": "blip_caption_feat",
    "id5": None,
    "id6": None,
    "id7": "data_path",
    "id8": "xyz",
    "id9": "rgb",
    "id10": "dataset",
    "id11": "thumbnail_feat",
    "id12": "text_feat",
    "id13": None,  # found while encoding
    "id14": "xyz",
  }
  stored = json.loads((tmp_path / "out" / "report.json").read_text())
  assert stored["splits"]["train"]["converted"] == 1
  assert sum(stored["splits"]["train"]["refused"].values()) == 14


def test_a_damaged_archive_is_a_problem_not_an_end(tmp_path):
  contents = [npy_bytes(make_sample(i, points=4000)) for i in range(4)]
  root = simple_bundle(tmp_path / "in", contents, archive=True)
  file = root / "Objaverse.tar.gz"
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  report = openshape.convert(root, tmp_path / "out")
  count = report.splits["train"]
  assert 0 < count.converted < 4
  assert count.converted + count.refused["missing file"] == count.listed == 4
  assert "damaged" in report.problems[0]


def test_duplicate_ids(tmp_path):
  """ShapeNet files some models under two categories."""
  files = {f"ShapeNet/{g}/x.npy": npy_bytes(make_sample(0)) for g in "ab"}
  entries = [
    {"id": "x", "group": path.split("/")[1], "data_path": path}
    for path in [*files, "ShapeNet/a/x.npy"]
  ]
  root = write_bundle(tmp_path / "in", files, train_all=entries)
  report = openshape.convert(root, tmp_path / "out")
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
  np.save(modelnet / "cat_name_pt_feat.npy", zero_d(classes))
  return root


def test_labels(tmp_path):
  root = labelled_bundle(tmp_path / "in")
  report = openshape.convert(root, tmp_path / "out")
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
  openshape.convert(root, tmp_path / "out", splits=["lvis"], limit=1)
  source = open_split(tmp_path / "out", "lvis")
  assert (len(source), source[0]["label"]) == (1, 1)


def test_unusable_bundles(tmp_path):
  with pytest.raises(BadInput, match=r"meta_data/split"):
    openshape.convert(tmp_path, tmp_path / "out")
  root = labelled_bundle(tmp_path / "in")
  with pytest.raises(BadInput, match=r"nope.*lvis, modelnet40, val"):
    openshape.convert(root, tmp_path / "out", splits=["nope"])
  np.save(root / "meta_data" / "lvis_cat_name_pt_feat.npy", np.eye(3, DIM))
  with pytest.raises(BadInput, match="3 rows for the 2"):
    openshape.convert(root, tmp_path / "out")
  (root / "meta_data" / "split" / "lvis.json").write_text("{")
  with pytest.raises(BadInput, match="is not JSON"):
    openshape.convert(root, tmp_path / "out")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_unknown_categories_leave_a_split_without_labels(tmp_path):
  entry = {"id": "0", "category": "yak", "data_path": "O/0.npy"}
  root = labelled_bundle(tmp_path / "in", extra=[entry])
  report = openshape.convert(root, tmp_path / "out", splits=["val"])
  assert "'yak'" in report.problems[0]
  assert read_meta(tmp_path / "out").class_names == {}


# Commands.


def test_procedural(tmp_path, capsys):
  command = "procedural --train 9 --val 4 --num-points 64 --embed-dim 32"
  assert main([*command.split(), "--output", str(tmp_path / "out")]) == 0
  meta = read_meta(tmp_path / "out")
  assert meta.teacher == procedural.TEACHER and meta.embed_dim == 32
  assert set(meta.class_names) == {"train", "val"}
  assert len(open_split(tmp_path / "out", "train")) == 9
  features = class_features(tmp_path / "out", "val")
  assert features.shape == (len(meta.class_names["val"]), 32)
  out, err = capsys.readouterr()
  assert "not CLIP" in out and not err


def test_bad_input_is_one_sentence_and_code_2(tmp_path, capsys):
  arguments = ["--input", str(tmp_path), "--output", str(tmp_path / "out")]
  assert main(["openshape", *arguments]) == 2
  out, err = capsys.readouterr()
  assert not out and err.count("\n") == 1 and str(tmp_path) in err


def test_real_bundle(tmp_path, capsys):
  shared = os.environ.get("MRD_SHARED_DATA", str(REPOSITORY / "../shared/data"))
  root = Path(shared) / "openshape-mini"
  if not root.is_dir():
    pytest.skip(f"no real data at {root}; set MRD_SHARED_DATA")
  arguments = ["--input", str(root), "--output", str(tmp_path / "out")]
  assert main(["openshape", *arguments, "--limit", "20"]) == 0
  assert "refused:" not in capsys.readouterr().out
  meta = read_meta(tmp_path / "out")
  assert meta.embed_dim == 384 and meta.max_points == 2048
  assert len(meta.class_names["lvis"]) == 110
  assert "not CLIP" in meta.teacher
  for split in ("train", "val", "lvis", "modelnet40"):
    assert len(open_split(tmp_path / "out", split)) == 20
