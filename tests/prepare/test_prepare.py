"""Conversion of OpenShape's layout, and the commands of `prepare`."""

import collections
import io
import json
import os
import shutil
import tarfile
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
  write_archives,
  write_bundle,
  zero_d,
)
from runs import REPOSITORY

from mrd_jax.data.dataset import class_features, open_split, read_meta
from mrd_jax.data.records import ImageKind, TextKind
from mrd_jax.errors import BadInput
from mrd_jax.prepare import procedural
from mrd_jax.prepare.__main__ import main
from mrd_jax.prepare.job import job
from mrd_jax.prepare.openshape import convert
from mrd_jax.prepare.openshape.lists import SCANOBJECTNN_CLASSES

# OpenShape's layout.


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_layouts(tmp_path, archive, absolute):
  contents = [npy_bytes(make_sample(i)) for i in range(3)]
  root = simple_bundle(
    tmp_path / "in", contents, archive=archive, absolute=absolute
  )
  report = convert.convert(root, tmp_path / "out")
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
    convert.convert(root, tmp_path / "out", root_remap=(ABSOLUTE, "wrong"))
  convert.convert(root, tmp_path / "out", root_remap=(ABSOLUTE, "."))


def test_a_list_cannot_point_out_of_its_bundle(tmp_path):
  (tmp_path / "secret.npy").write_bytes(npy_bytes(make_sample(0)))
  entry = {"id": "x", "data_path": "../secret.npy"}
  root = write_bundle(tmp_path / "in", {}, train_all=[entry])
  with pytest.raises(BadInput, match="not under"):
    convert.convert(root, tmp_path / "out")


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
  report = convert.convert(root, tmp_path / "out")
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
  report = convert.convert(root, tmp_path / "out")
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
    "id13": "xyz",
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
  report = convert.convert(root, tmp_path / "out")
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
  np.save(modelnet / "cat_name_pt_feat.npy", zero_d(classes))
  return root


def test_labels(tmp_path):
  root = labelled_bundle(tmp_path / "in")
  report = convert.convert(root, tmp_path / "out")
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


# The real bundle, whole.


@pytest.fixture(scope="module")
def mini() -> Path:
  shared = os.environ.get("MRD_SHARED_DATA", str(REPOSITORY / "../shared/data"))
  root = Path(shared) / "openshape-mini"
  if not root.is_dir():
    pytest.skip(f"no real data at {root}; set MRD_SHARED_DATA")
  return root


def test_real_bundle(mini, tmp_path, capsys):
  """Counts are those of its README."""
  arguments = ["--input", str(mini), "--output", str(tmp_path / "out")]
  assert main(["openshape", *arguments]) == 0
  assert "refused:" not in capsys.readouterr().out
  meta = read_meta(tmp_path / "out")
  assert meta.embed_dim == 384 and meta.max_points == 2048
  assert len(meta.class_names["lvis"]) == 110
  assert "not CLIP" in meta.teacher
  sources, kinds, no_text = {}, collections.Counter(), 0
  for split, count in {
    "train": 2582,
    "val": 287,
    "lvis": 214,
    "modelnet40": 1000,
  }.items():
    source = open_split(tmp_path / "out", split)
    assert len(source) == count
    if split in ("train", "val"):
      records = list(source)
      names = [record["dataset"] for record in records]
      sources[split] = collections.Counter(names)
      no_text += sum(not record["texts"] for record in records)
      for record in records:
        kinds.update(set(record["text_kind"].tolist()))
  assert sources == {
    "train": {
      "Quaternius": 1147,
      "KayKit": 455,
      "SweetHome3D": 715,
      "MarketAssets": 265,
    },
    "val": {
      "Quaternius": 128,
      "KayKit": 50,
      "SweetHome3D": 80,
      "MarketAssets": 29,
    },
  }
  assert no_text == 57
  # Shapes, of all 2,869, with a text of this kind.
  assert kinds[TextKind.BLIP] == 166
  assert kinds[TextKind.MSFT] == 830
  assert kinds[TextKind.RETRIEVAL] == 2812


def test_a_malicious_pickle_in_the_middle_of_an_archive(mini, tmp_path):
  root = tmp_path / "in"
  root.mkdir()
  (root / "meta_data").symlink_to(mini / "meta_data")
  trace = tmp_path / "executed"
  with (
    tarfile.open(mini / "KayKit.tar.gz") as old,
    tarfile.open(root / "KayKit.tar.gz", "w:gz", compresslevel=1) as new,
  ):
    for index, member in enumerate(old):
      file = old.extractfile(member)
      content = file.read() if file else b""
      if index == 250:
        planted = member.name
        content = npy_bytes({"xyz": Attack(trace)})
        member.size = len(content)
      new.addfile(member, io.BytesIO(content))
  report = convert.convert(
    root, tmp_path / "out", splits=["train", "val"], parts=["KayKit"]
  )
  assert not trace.exists()
  counts = report.splits["train"], report.splits["val"]
  assert [count.listed for count in counts] == [455, 50]
  assert sum(count.converted for count in counts) == 504
  (reject,) = report.rejects
  assert reject.reason == "unreadable or unsafe file"
  assert reject.file.endswith(planted) and "system" in reject.detail


def test_parts(tmp_path):
  contents = {
    folder: [npy_bytes(make_sample(i)) for i in range(2)]
    for folder in ("ABO", "000-000", "000-001")
  }
  root = write_archives(tmp_path / "in", contents)
  for parts, expected in (
    (["ABO"], ["ABO-0", "ABO-1"]),
    (["000-00*"], ["000-000-0", "000-000-1", "000-001-0", "000-001-1"]),
    (["merged_for_training_final/ABO", "*-001"], ["000-001-0", "000-001-1"]),
  ):
    output = tmp_path / "_".join(p.strip("*").replace("/", "") for p in parts)
    report = convert.convert(root, output, parts=parts)
    ids = [record["id"] for record in open_split(output, "train")]
    assert set(expected) <= set(ids) and not report.rejects
    assert report.splits["train"].listed == len(ids)


def test_a_part_that_nothing_lies_in(tmp_path):
  contents = {"ABO": [npy_bytes(make_sample(0))]}
  root = write_archives(tmp_path / "in", contents)
  with pytest.raises(BadInput, match="parts: nothing lies in 'AB0'.*ABO"):
    convert.convert(root, tmp_path / "out", parts=["ABO", "AB0"])


def test_the_limit_counts_what_is_chosen(tmp_path):
  contents = {
    folder: [npy_bytes(make_sample(i)) for i in range(3)]
    for folder in ("ABO", "000-000")
  }
  root = write_archives(tmp_path / "in", contents)
  output = tmp_path / "out"
  convert.convert(root, output, parts=["000-000"], limit=2)
  ids = [record["id"] for record in open_split(output, "train")]
  assert ids == ["000-000-0", "000-000-1"]


def test_input_that_was_added_during_a_stop(tmp_path, monkeypatch):
  """Nothing that was found missing before is kept as missing."""
  contents = [npy_bytes(make_sample(0)), None]
  root = simple_bundle(tmp_path / "in", contents)

  def stop(*_, **__):
    raise InterruptedError("stopped")

  with monkeypatch.context() as patch:
    patch.setattr(job, "assemble", stop)
    with pytest.raises(InterruptedError):
      convert.convert(root, tmp_path / "out")
  (root / "Objaverse/a/id1.npy").write_bytes(npy_bytes(make_sample(1)))
  with pytest.raises(BadInput, match=r"other settings or input \(unpacked\)"):
    convert.convert(root, tmp_path / "out")
  shutil.rmtree(tmp_path / "out.incomplete")
  report = convert.convert(root, tmp_path / "out")
  assert report.splits["train"].converted == 2


def test_a_kill_after_the_last_rename(tmp_path, monkeypatch):
  root = simple_bundle(tmp_path / "in", [npy_bytes(make_sample(0))])
  with monkeypatch.context() as patch:
    patch.setattr(job.shutil, "rmtree", lambda *_, **__: None)
    convert.convert(root, tmp_path / "out")
  assert (tmp_path / "out.incomplete").exists()
  report = convert.convert(root, tmp_path / "out")
  assert report.splits["train"].converted == 1
  assert not (tmp_path / "out.incomplete").exists()


@pytest.mark.parametrize(
  ("change", "reason", "field"),
  [
    ({"text": ["\ud800"]}, "bad value", "texts"),
    ({"dataset": "\udfff"}, "bad value", "dataset"),
  ],
)
def test_texts_that_are_no_utf8(tmp_path, change, reason, field):
  samples = [make_sample(0), make_sample(1) | change]
  root = simple_bundle(tmp_path / "in", [npy_bytes(s) for s in samples])
  report = convert.convert(root, tmp_path / "out")
  (reject,) = report.rejects
  assert (reject.id, reject.reason, reject.field) == ("id1", reason, field)


def test_odd_lists(tmp_path):
  root = simple_bundle(tmp_path / "in", [npy_bytes(make_sample(0))])
  lists = root / "meta_data" / "split"
  (lists / "odd.json").write_text('[{"id": "a", "category": ["b"]}]')
  with pytest.raises(BadInput, match=r"row 0: category \['b'\] is no text"):
    convert.convert(root, tmp_path / "out", splits=["odd"])
  (lists / "odd.json").write_text("[" * 100_000)
  with pytest.raises(BadInput, match="is not JSON"):
    convert.convert(root, tmp_path / "out", splits=["odd"])
  (lists / "odd.json").write_text("[]")
  with pytest.raises(BadInput, match="name no shape"):
    convert.convert(root, tmp_path / "out", splits=["odd"])
  rows = [{"id": "a", "data_path": "x" * 300 + "/a.npy"}]
  (lists / "odd.json").write_text(json.dumps(rows))
  report = convert.convert(root, tmp_path / "out", splits=["train", "odd"])
  assert report.splits["odd"].refused == {"missing file": 1}


def test_an_archive_that_is_not_there_is_not_looked_for_elsewhere(tmp_path):
  contents = {f: [npy_bytes(make_sample(0))] for f in ("ABO", "000-000")}
  root = write_archives(tmp_path / "in", contents)
  (root / "ABO.tar.gz").unlink()
  report = convert.convert(root, tmp_path / "out")
  (reject,) = report.rejects
  assert (reject.id, reject.reason) == ("ABO-0", "missing file")
  assert "no archive for it" in reject.detail


def test_archives_with_other_names(tmp_path):
  contents = {f: [npy_bytes(make_sample(0))] for f in ("ABO", "000-000")}
  root = write_archives(tmp_path / "in", contents)
  (root / "ABO.tar.gz").rename(root / "first.tar.gz")
  (root / "000-000.tar.gz").rename(root / "second.tar.gz")
  report = convert.convert(root, tmp_path / "out")
  assert report.splits["train"].converted == 2


def test_scanobjectnn(tmp_path):
  root = labelled_bundle(tmp_path / "in")
  folder = root / "meta_data" / "scanobjectnn"
  folder.mkdir()
  rng = np.random.default_rng(0)
  content = {"xyz": rng.normal(size=(3, 64, 3)), "label": np.array([4, 0, 14])}
  np.save(folder / "xyz_label.npy", zero_d(content))
  names = sorted(SCANOBJECTNN_CLASSES)  # another order than that of the labels
  classes = {
    name: {"open_clip_text_feat": np.full((1, DIM), i + 1.0)}
    for i, name in enumerate(names)
  }
  np.save(folder / "cat_name_pt_feat.npy", zero_d(classes))
  report = convert.convert(root, tmp_path / "out", splits=["scanobjectnn"])
  assert report.splits["scanobjectnn"].converted == 3
  assert "2,890" in report.problems[0]  # the published number
  stored = read_meta(tmp_path / "out").class_names["scanobjectnn"]
  features = class_features(tmp_path / "out", "scanobjectnn")
  for record, name in zip(
    open_split(tmp_path / "out", "scanobjectnn"),
    ("chair", "bag", "toilet"),
    strict=True,
  ):
    assert stored[record["label"]] == name
    assert features[record["label"]][0] == names.index(name) + 1
    assert (record["rgb"] == 102).all()


def test_finished_and_changed_jobs(tmp_path):
  root = simple_bundle(tmp_path / "in", [npy_bytes(make_sample(0))])
  first = convert.convert(root, tmp_path / "out")
  files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
  again = convert.convert(root, tmp_path / "out")
  assert again == first
  assert files == {p: p.stat().st_mtime_ns for p in files}
  with pytest.raises(BadInput, match="already holds a complete dataset"):
    convert.convert(root, tmp_path / "out", limit=1)
