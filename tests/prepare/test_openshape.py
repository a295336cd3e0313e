"""Conversion of OpenShape's layout: files, archives, texts, bad shapes."""

import json

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
)
from prepared import rejects_of, report_of

from mrd_jax.data.dataset import open_split
from mrd_jax.data.records import ImageKind, TextKind
from mrd_jax.errors import BadInput
from mrd_jax.prepare.openshape import convert


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


def test_text_rules(tmp_path):
  other = make_sample(2, dataset="ShapeNet")
  del other["thumbnail_feat"]
  silent = make_sample(3) | {"text": [""], "retrieval_text": []}
  silent |= {"blip_caption": ""}
  wrapped = make_sample(4)
  wrapped["blip_caption_feat"] = np.array(wrapped["blip_caption_feat"])
  samples = [make_sample(0), make_sample(1), other, silent, wrapped]
  root = simple_bundle(tmp_path / "in", [npy_bytes(s) for s in samples])
  flags = {"id0": {"flag": "Y"}, "id1": {"flag": "N"}, "id2": {"flag": "N"}}
  (root / "meta_data" / "gpt4_filtering.json").write_text(json.dumps(flags))
  report = convert.convert(root, tmp_path / "out")
  assert report.splits["train"].without_text == 1
  records = list(open_split(tmp_path / "out", "train"))
  rest = ["like this", "like that", "a blip"]
  named = ["name", *rest]
  texts = [record["texts"] for record in records]
  assert texts == [named, rest, ["name", "tag", *rest], [], named]
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
  # What the files hold, and the field that is refused.
  table = [
    (npy_bytes(make_sample(0)), "none"),
    (npy_bytes(nan), "xyz"),
    (npy_bytes(point), "xyz"),
    (npy_bytes(keyless), "image_feat"),
    (npy_bytes(captionless), "blip_caption_feat"),
    (npy_bytes({"xyz": Attack(trace)}), None),
    (npy_bytes(make_sample(6))[:900], None),
    (None, "data_path"),
    (npy_bytes(make_sample(8) | {"xyz": np.zeros((4, 2))}), "xyz"),
    (npy_bytes(make_sample(9) | {"rgb": np.full((40, 3), 100.0)}), "rgb"),
    (npy_bytes([1, 2]), "dataset"),
    (
      npy_bytes(make_sample(11) | {"image_feat": np.ones((2, 5))}),
      "thumbnail_feat",
    ),
    (npy_bytes(make_sample(12) | {"text_feat": None}), "text_feat"),
    (npy_bytes(make_sample(13) | {"xyz": np.eye(40, 3) * 1e38 + 2e38}), "xyz"),
    (npy_bytes(make_sample(14) | {"xyz": np.eye(40, 3) * 1e99}), "xyz"),
    (npy_bytes(make_sample(15) | {"text": ["\ud800"]}), "texts"),
    (npy_bytes(make_sample(16) | {"dataset": "\udfff"}), "dataset"),
  ]
  contents = [content for content, _ in table]
  root = simple_bundle(tmp_path / "in", contents, archive=archive)
  convert.convert(root, tmp_path / "out")
  assert not trace.exists()
  count = report_of(tmp_path / "out")["splits"]["train"]
  assert (count["listed"], count["converted"]) == (17, 1)
  assert count["refused"] == {
    "bad value": 11,
    "missing key": 2,
    "unreadable or unsafe file": 2,
    "missing file": 1,
  }
  fields = {id: r["field"] for id, r in rejects_of(tmp_path / "out").items()}
  assert fields == {f"id{i}": table[i][1] for i in range(1, 17)}


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


def archives(root, *folders, count=1):
  """A bundle of these folders with `count` shapes each."""
  samples = [npy_bytes(make_sample(i)) for i in range(count)]
  return write_archives(root, dict.fromkeys(folders, samples))


@pytest.mark.parametrize(
  ("parts", "limit", "expected"),
  [
    (["ABO"], None, ["ABO-0", "ABO-1"]),
    (["000-00*"], None, ["000-000-0", "000-000-1", "000-001-0", "000-001-1"]),
    (
      ["merged_for_training_final/ABO", "*-001"],
      None,
      ["000-001-0", "000-001-1", "ABO-0", "ABO-1"],
    ),
    (["000-*"], 3, ["000-000-0", "000-000-1", "000-001-0"]),
  ],
)
def test_parts(tmp_path, parts, limit, expected):
  """The limit counts what is chosen."""
  root = archives(tmp_path / "in", "ABO", "000-000", "000-001", count=2)
  report = convert.convert(root, tmp_path / "out", parts=parts, limit=limit)
  found = [record["id"] for record in open_split(tmp_path / "out", "train")]
  assert found == expected and not report.rejects
  assert report.splits["train"].listed == len(found)


def test_a_part_that_nothing_lies_in(tmp_path):
  root = archives(tmp_path / "in", "ABO")
  with pytest.raises(BadInput, match="parts: nothing lies in 'AB0'.*ABO"):
    convert.convert(root, tmp_path / "out", parts=["ABO", "AB0"])


def test_an_archive_that_is_not_there_is_not_looked_for_elsewhere(tmp_path):
  root = archives(tmp_path / "in", "ABO", "000-000")
  (root / "ABO.tar.gz").unlink()
  report = convert.convert(root, tmp_path / "out")
  (reject,) = report.rejects
  assert (reject.id, reject.reason) == ("ABO-0", "missing file")
  assert "no archive for it" in reject.detail


def test_archives_with_other_names(tmp_path):
  root = archives(tmp_path / "in", "ABO", "000-000")
  (root / "ABO.tar.gz").rename(root / "first.tar.gz")
  (root / "000-000.tar.gz").rename(root / "second.tar.gz")
  assert convert.convert(root, tmp_path / "out").splits["train"].converted == 2
