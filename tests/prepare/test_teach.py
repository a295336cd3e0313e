"""The teacher's stage: drafts in, records with features out."""

import collections
import zlib

import numpy as np
import pytest
from clips import encoded
from PIL import Image
from prepared import assert_cloud

from mrd_jax.data.dataset import open_split
from mrd_jax.data.records import TextKind
from mrd_jax.errors import BadInput
from mrd_jax.io.images import to_rgb
from mrd_jax.prepare.job import add_features, shards
from mrd_jax.prepare.job.dataset_writer import Made, assemble
from mrd_jax.prepare.job.drafts import Draft, Text, serialize_draft, to_record
from mrd_jax.prepare.job.shards import Reject, ShardWriter
from mrd_jax.prepare.job.teacher import Teacher
from mrd_jax.teachers.towers import Throughput

DIM = 6
TEMPLATES = ["a {}.", "the {} here"]


def feature(content):
  """A unit vector that depends on nothing but the content."""
  x = np.random.default_rng(zlib.crc32(content)).normal(size=DIM)
  return (x / np.linalg.norm(x)).astype(np.float32)


def image_feature(image):
  return feature(np.asarray(to_rgb(image)).tobytes())


def text_feature(text):
  return feature(text.encode())


def prompted_feature(name):
  x = sum(text_feature(t.replace("{}", name)) for t in TEMPLATES)
  return x / np.linalg.norm(x)


class FakeClip:
  name = "fake"
  fingerprint = "0123"
  dtype = "float32"
  embed_dim = DIM

  def __init__(self):
    self.throughput = Throughput()
    self.texts = []
    self.image_calls = 0
    self.problem = None

  def image_features(self, images):
    self.image_calls += 1
    if self.problem:
      raise BadInput(self.problem)
    rows = [np.zeros((0, DIM), np.float32)]
    for row, image in enumerate(images):
      try:
        rows.append(image_feature(image)[None])
      except BadInput as error:
        raise BadInput(f"image {row}: {error}") from error
    return np.concatenate(rows)

  def text_features(self, texts):
    self.texts += texts
    return np.stack([text_feature(text) for text in texts])


class FakeCaptioner:
  """Says what colour the corner has."""

  def __init__(self):
    self.asked = []

  def caption(self, images):
    for image in images:
      assert image.dtype == np.uint8 and image.shape == (4, 4, 3)
    self.asked += [int(image[0, 0, 0]) for image in images]
    return [f" {x} " if x != 13 else "" for x in self.asked[-len(images) :]]


@pytest.fixture
def clip():
  return FakeClip()


def png(value):
  return encoded(Image.new("RGB", (4, 4), (value, 0, 0)), "PNG")


def make_draft(row, images=None, texts=(), **others):
  rng = np.random.default_rng(row)
  values = {
    "split": "train",
    "id": f"id{row}",
    "file": f"file{row}",
    "xyz": rng.normal(size=(5, 3)).astype(np.float32),
    "rgb": rng.random((5, 3)).astype(np.float32),
    "images": [png(row)] if images is None else images,
    "texts": texts,
    "dataset": "here",
  }
  return Draft(**values | others)


def write(folder, stem, drafts, rejects=(), problems=()):
  folder.mkdir(exist_ok=True)
  with ShardWriter(folder, stem, serialize_draft) as writer:
    for draft in drafts:
      writer.add(draft.split, to_record(draft))
    writer.rejects += rejects
    writer.problems += problems
  return stem


def run(tmp_path, clip, stems, captioner=None):
  teacher = Teacher(clip, TEMPLATES, captioner)
  return add_features.teach(
    tmp_path / "drafts", stems, tmp_path / "shards", teacher
  )


def run_one(tmp_path, clip, drafts, captioner=None):
  """Commits of one piece of drafts, and the records of its split train."""
  stems = [write(tmp_path / "drafts", "a", drafts)]
  commits = run(tmp_path, clip, stems, captioner)
  return commits[0], records(tmp_path, commits)


def records(tmp_path, commits, split="train"):
  of_all = {"teacher": "x", "embed_dim": DIM}
  empty = {"class_names": {}, "class_features": {}}
  shards, out = tmp_path / "shards", tmp_path / "out"
  assemble(Made(folder=shards, commits=commits, **of_all, **empty), out, "x")
  return list(open_split(out, split))


def stored(feature):
  return np.float16(feature)


def test_a_record_has_what_the_draft_and_the_teacher_say(tmp_path, clip):
  texts = [
    Text("red chair", TextKind.RAW, prompted=True),
    Text("a caption, 椅子", TextKind.BLIP),
    Text("red chair", TextKind.MSFT),
  ]
  path = tmp_path / "view.png"
  path.write_bytes(png(7))
  draft = make_draft(0, [png(1), png(2)], texts, label=4)
  paths = make_draft(1, [str(path)])
  commit, found = run_one(tmp_path, clip, [draft, paths])
  assert (commit.rejects, commit.problems) == ([], [])
  first, second = found
  assert first["id"] == "id0" and first["dataset"] == "here"
  assert first["label"] == 4 and second["label"] == -1
  assert_cloud(first, draft.xyz)
  np.testing.assert_array_equal(first["rgb"], np.rint(draft.rgb * 255))
  images = [image_feature(image) for image in draft.images]
  np.testing.assert_array_equal(first["image_feat"], stored(images))
  assert first["image_kind"].tolist() == [1, 1]
  assert first["texts"] == [text.text for text in texts]
  kinds = [TextKind.RAW, TextKind.BLIP, TextKind.MSFT]
  assert first["text_kind"].tolist() == kinds
  expected = [prompted_feature("red chair")]
  expected += map(text_feature, first["texts"][1:])
  np.testing.assert_allclose(
    first["text_feat"], np.float32(expected), rtol=2**-11, atol=1e-6
  )
  for field in ("image_feat", "text_feat"):
    norms = np.linalg.norm(np.float32(first[field]), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-3)
  np.testing.assert_array_equal(
    second["image_feat"], [stored(image_feature(str(path)))]
  )
  assert second["texts"] == [] and second["text_feat"].shape == (0, DIM)


def test_groups_keep_order_splits_rejects_and_problems(
  tmp_path, clip, monkeypatch
):
  monkeypatch.setattr(add_features, "_GROUP", 2)
  folder = tmp_path / "drafts"
  rejects = [Reject("val", f"f{i}", f"x{i}", None, "bad", "why") for i in "ab"]
  stems = [
    write(folder, "b", [make_draft(0), make_draft(1, split="val")]),
    write(folder, "a", [make_draft(2)], rejects[:1], ["one"]),
    write(folder, "d", [], rejects[1:], ["two"]),
    write(folder, "c", [make_draft(3, split="val"), make_draft(4)]),
    write(folder, "e", [make_draft(5, split="val")]),
  ]
  commits = run(tmp_path, clip, stems)
  assert [commit.rejects for commit in commits] == [*([r] for r in rejects), []]
  assert [commit.problems for commit in commits] == [["one"], ["two"], []]
  counts = [{s.split: s.records for s in c.shards} for c in commits]
  assert counts == [{"train": 2, "val": 1}, {"val": 1, "train": 1}, {"val": 1}]
  train = records(tmp_path, commits)
  assert [record["id"] for record in train] == ["id0", "id2", "id4"]
  val = list(open_split(tmp_path / "out", "val"))
  assert [record["id"] for record in val] == ["id1", "id3", "id5"]
  for record in train + val:
    image = png(int(record["id"][2:]))
    expected = [stored(image_feature(image))]
    np.testing.assert_array_equal(record["image_feat"], expected)


def test_a_group_of_rejects_alone(tmp_path, clip):
  reject = Reject("train", "f", "x", None, "bad", "why")
  stems = [write(tmp_path / "drafts", "a", [], [reject])]
  (commit,) = run(tmp_path, clip, stems)
  assert commit.shards == [] and commit.rejects == [reject]
  assert clip.texts == []


def test_a_bad_image_costs_its_shape_alone(tmp_path, clip):
  broken = tmp_path / "cut.png"
  broken.write_bytes(png(50)[:40])
  absent = tmp_path / "absent.png"
  drafts = [
    make_draft(0, [png(1), png(2)]),
    make_draft(1, [png(3), b"no image", png(4)], [Text("x", TextKind.BLIP)]),
    make_draft(2),
    make_draft(3, [str(broken)]),
    make_draft(4, [str(absent)], split="val"),
    make_draft(5, [png(6), png(7), png(8)], [Text("y", TextKind.BLIP)]),
  ]
  commit, found = run_one(tmp_path, clip, drafts)
  assert [record["id"] for record in found] == ["id0", "id2", "id5"]
  for record, draft in zip(found, (0, 2, 5), strict=True):
    expected = [image_feature(image) for image in drafts[draft].images]
    np.testing.assert_array_equal(record["image_feat"], stored(expected))
  rows = [(r.split, r.file, r.id) for r in commit.rejects]
  splits = {1: "train", 3: "train", 4: "val"}
  assert rows == [(split, f"file{i}", f"id{i}") for i, split in splits.items()]
  for reject in commit.rejects:
    assert (reject.field, reject.reason) == ("images", "unreadable image")
  details = [reject.detail for reject in commit.rejects]
  assert details[0].startswith("image 1: ")
  assert str(broken) in details[1] and str(absent) in details[2]
  assert clip.texts == ["y"]  # nothing is done for what is left out
  assert clip.image_calls == 2  # whole batches, not one for every shape


def test_features_that_are_not_finite_end_the_job(tmp_path, clip):
  """They show damaged weights; no shape is to blame."""
  clip.problem = "image 0: its features are NaN or infinite"
  with pytest.raises(BadInput, match="NaN or infinite"):
    run_one(tmp_path, clip, [make_draft(0)])
  assert not list((tmp_path / "shards").glob("*.json"))
  assert not list((tmp_path / "shards").glob("*tmp*"))


def huge(low, high):
  rgb = np.ones((3, 3), np.float32)
  xyz = np.float32(np.where(np.eye(3), high, low))
  return make_draft(1, xyz=xyz, rgb=rgb)


@pytest.mark.parametrize(
  "draft, field, detail",
  [
    (make_draft(1, xyz=np.ones((5, 3), np.float32)), "xyz", "coincide"),
    (make_draft(1, xyz=np.full((5, 3), np.inf)), "xyz", "NaN or infinite"),
    (huge(2e38, 3e38), "xyz", "beyond 1e+37"),
    (make_draft(1, images=[]), "image_feat", "needs a feature"),
  ],
)
def test_what_no_record_can_hold(tmp_path, clip, draft, field, detail):
  drafts = [make_draft(0), draft, make_draft(2), huge(0, 9e36)]
  commit, found = run_one(tmp_path, clip, drafts)
  assert [record["id"] for record in found] == ["id0", "id2", "id1"]
  (reject,) = commit.rejects
  assert (reject.id, reject.field) == ("id1", field)
  assert reject.reason == "bad value" and detail in reject.detail


def test_the_best_text_of_a_view_is_kept(tmp_path, clip):
  views = [png(i) for i in range(1, 4)]
  texts = [Text("name", TextKind.RAW, prompted=True)]
  texts += [
    Text(f"{view} {word}", TextKind.BLIP, view=view)
    for word in "abcdefg"
    for view in (2, 0)
  ]
  texts += [Text("free", TextKind.MSFT), Text("free", TextKind.MSFT)]
  twice = [Text("same", TextKind.BLIP, view=0)] * 2
  drafts = [make_draft(0, views, texts), make_draft(1, views, twice)]
  _, found = run_one(tmp_path, clip, drafts)
  best = {}
  for view in (0, 2):
    said = [text.text for text in texts if text.view == view]
    image = image_feature(views[view])
    best[view] = max(said, key=lambda text: text_feature(text) @ image)
  order = [text.text for text in texts]
  of_views = sorted(best.values(), key=order.index)
  kept = ["name", *of_views, "free", "free"]
  assert found[0]["texts"] == kept
  rows = [stored(text_feature(text)) for text in kept[1:]]
  np.testing.assert_array_equal(found[0]["text_feat"][1:], rows)
  assert found[1]["texts"] == ["same"]


def test_texts_are_embedded_once(tmp_path, clip):
  name = Text("chair", TextKind.RAW, prompted=True)
  drafts = [
    make_draft(i, None, [name, Text(t, TextKind.BLIP), Text(t, TextKind.MSFT)])
    for i, t in enumerate(["one", "two", "one", "chair"])
  ]
  _, found = run_one(tmp_path, clip, drafts)
  prompts = [template.replace("{}", "chair") for template in TEMPLATES]
  wanted = ["one", "two", "chair", *prompts]
  assert collections.Counter(clip.texts) == collections.Counter(wanted)
  assert found[3]["texts"] == ["chair", "chair", "chair"]
  rows = found[3]["text_feat"]
  np.testing.assert_array_equal(rows[1:], [stored(text_feature("chair"))] * 2)
  np.testing.assert_allclose(
    rows[0], prompted_feature("chair"), rtol=2**-11, atol=1e-6
  )


def test_the_captioner_describes_what_has_no_caption(tmp_path, clip):
  name = Text("chair", TextKind.RAW, prompted=True)
  drafts = [
    make_draft(0, [png(10), png(99)], [name]),
    make_draft(1, [png(11)], [name, Text("has one", TextKind.RETRIEVAL)]),
    make_draft(2, [png(12)]),
    make_draft(3, [png(13)], [name]),  # of which there is nothing to say
    make_draft(4, [png(14), b"broken"]),
  ]
  captioner = FakeCaptioner()
  commit, found = run_one(tmp_path, clip, drafts, captioner)
  assert captioner.asked == [10, 12, 13]
  texts = [record["texts"] for record in found]
  assert texts == [["chair", "10"], ["chair", "has one"], ["12"], ["chair"]]
  kinds = [record["text_kind"].tolist() for record in found]
  raw, blip = TextKind.RAW, TextKind.BLIP
  assert kinds == [[raw, blip], [raw, TextKind.RETRIEVAL], [blip], [raw]]
  np.testing.assert_array_equal(
    found[2]["text_feat"], [stored(text_feature("12"))]
  )
  assert [reject.id for reject in commit.rejects] == ["id4"]


def test_what_is_there_is_not_made_again(tmp_path, clip, monkeypatch):
  monkeypatch.setattr(add_features, "_GROUP", 1)
  folder = tmp_path / "drafts"
  stems = [write(folder, name, [make_draft(i)]) for i, name in enumerate("abc")]
  first = run(tmp_path, clip, stems[:2])
  assert clip.image_calls == 2
  half = tmp_path / "shards" / "000002-train.array_record"
  for path in (half, half.with_suffix(".array_record.tmp-1")):
    path.write_text("not committed")
  commits = run(tmp_path, clip, stems)
  assert clip.image_calls == 3 and commits[:2] == first
  assert not list((tmp_path / "shards").glob("*.tmp-*"))
  found = records(tmp_path, commits)
  assert [record["id"] for record in found] == ["id0", "id1", "id2"]


def test_another_teacher_does_not_go_on(tmp_path, clip, monkeypatch):
  """The files of a model can change under its name."""
  monkeypatch.setattr(add_features, "_GROUP", 1)
  folder = tmp_path / "drafts"
  stems = [write(folder, name, [make_draft(i)]) for i, name in enumerate("ab")]
  run(tmp_path, clip, stems[:1])
  clip.fingerprint = "4567"
  with pytest.raises(BadInput, match="other files of the model than fake"):
    run(tmp_path, clip, stems)
  assert not shards.is_committed(tmp_path / "shards", "000001")
  clip.fingerprint = "0123"
  assert len(run(tmp_path, clip, stems)) == 2


def test_throughput_is_printed(tmp_path, clip, capsys):
  stems = [write(tmp_path / "drafts", "a", [make_draft(0)])]
  run(tmp_path, clip, stems)
  assert "teacher:" not in capsys.readouterr().err
  clip.throughput = Throughput(images=30, image_seconds=2)
  run(tmp_path, clip, stems)
  assert "teacher: 30 images at 15/s" in capsys.readouterr().err
