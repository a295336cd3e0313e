"""ULIP-2's ShapeNet triplets, from its files to records."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepared import assert_cloud, contents, rejects_of, report_of, stamps

from mrd_jax.data.dataset import open_split, read_meta
from mrd_jax.data.records import ImageKind, TextKind
from mrd_jax.prepare import ulip2
from mrd_jax.prepare.job import add_features, drafts
from mrd_jax.prepare.job.teacher import TeacherConfig
from mrd_jax.teachers.prompts import prompt_features, read_templates

AIRPLANE, CHAIR, UNKNOWN = "02691156", "03001627", "09999999"
KEYS = [f"{AIRPLANE}-a", f"{CHAIR}-b", f"{CHAIR}-c", f"{UNKNOWN}-d"]
KEYS += [f"{CHAIR}-e"]
VIEWS = {key: (0, 12, 348)[: 2 + i % 2] for i, key in enumerate(KEYS)}
FOREIGN = "/export/home/someone/rendered_images"
WORDS = ("red", "green", "blue", "round", "tall")


def captions_of(key, degree):
  """Ten, some of them unfit."""
  word = WORDS[(degree // 12) % 5]
  texts = [f"{word} {other} shape of {key[-1]}" for other in WORDS]
  return ["", f"  {word} chair ", *texts, "a chair", "ein Stühlchen 椅子", " "]


def picture(seed, mode="RGB"):
  rng = np.random.default_rng(seed)
  shape = (9, 7, len(mode))
  return Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode)


def make_release(root, flat=False):
  """Five shapes; the last has no caption, the fourth a synset unknown."""
  clouds, renders = root / "shapenet_pc", root / "rendered_images"
  clouds.mkdir(parents=True)
  captions = {}
  for row, (key, degrees) in enumerate(VIEWS.items()):
    rng = np.random.default_rng(row)
    np.save(clouds / f"{key}.npy", rng.normal(size=(64, 3)))
    folder = renders if flat else renders / key
    folder.mkdir(parents=True, exist_ok=True)
    for degree in degrees:
      name = f"{key}_r_{degree:03d}"
      picture(1000 * row + degree).save(folder / f"{name}.png")
      (folder / f"{name}_depth0001.png").write_bytes(b"not for us")
      if key != KEYS[4]:
        captions[f"{FOREIGN}/{key}/{name}.png"] = captions_of(key, degree)
    other = f"{FOREIGN}/{key}/{key}_r_024.png"  # of a view that is not there
    captions |= {other: ["a chair"]} if key != KEYS[4] else {}
  names = {AIRPLANE: "airplane,aeroplane,plane", CHAIR: "chair"}
  rows = [{"synsetId": s, "name": n, "children": []} for s, n in names.items()]
  (root / "taxonomy.json").write_text(json.dumps(rows))
  (root / "ULIP-shapenet_triplets_captions.json").write_text(
    json.dumps(captions)
  )
  write_lists(root, KEYS[:4], KEYS[4:])
  return root


def write_lists(root, train, test):
  for name, keys in (("train", train), ("test", test)):
    (root / f"{name}.txt").write_text("".join(f"{k}.npy\n" for k in keys))


@pytest.fixture
def release(tmp_path):
  return make_release(tmp_path / "in")


@pytest.fixture
def convert(prepare, by_clip):
  """Runs the command; returns its exit code, and what it printed."""
  return functools.partial(prepare, "ulip2", *by_clip)


def image_files(root, key, flat=False):
  folder = root / "rendered_images"
  folder = folder if flat else folder / key
  return [folder / f"{key}_r_{degree:03d}.png" for degree in VIEWS[key]]


def count_of(folder):
  return report_of(folder)["splits"]["train"]


def assert_stored(found, expected):
  """Equal up to float16's rounding, and of unit length."""
  assert found.dtype == np.float16 and len(found)
  expected = np.stack(expected)
  np.testing.assert_allclose(found, expected, rtol=2**-11 + 1e-5, atol=1e-6)
  norms = np.linalg.norm(np.float32(found), axis=1)
  np.testing.assert_allclose(norms, 1, atol=1e-3)


@pytest.mark.parametrize("flat", [False, True])
def test_records(tmp_path, teacher, convert, flat):
  root = make_release(tmp_path / "in", flat)
  code, printed = convert()
  assert code == 0 and "written to" in printed
  found = list(open_split(tmp_path / "out", "train"))
  assert [record["id"] for record in found] == KEYS
  for record, key in zip(found, KEYS, strict=True):
    assert_cloud(record, np.load(root / "shapenet_pc" / f"{key}.npy"))
    assert record["rgb"].shape == (64, 3) and (record["rgb"] == 102).all()
    files = image_files(root, key, flat)
    assert_stored(record["image_feat"], teacher.image_features(files))
    assert record["image_kind"].tolist() == [ImageKind.VIEW] * len(files)
    assert (record["dataset"], record["label"]) == ("ShapeNet", -1)
    name = {AIRPLANE: ["airplane"], CHAIR: ["chair"]}.get(key[:8], [])
    first = [captions_of(key, degree)[1].strip() for degree in VIEWS[key]]
    first = [] if key == KEYS[4] else first
    assert record["texts"] == name + first
    kinds = [TextKind.RAW] * len(name) + [TextKind.BLIP] * len(first)
    assert record["text_kind"].tolist() == kinds
    expected = [teacher.text_features([text])[0] for text in first]
    if name:
      expected[:0] = prompt_features(teacher, name, read_templates())
    assert_stored(record["text_feat"], expected)
  meta = read_meta(tmp_path / "out")
  assert str(teacher.name) == meta.teacher and meta.class_names == {}
  assert (meta.max_points, meta.max_images, meta.max_texts) == (64, 3, 4)
  count = count_of(tmp_path / "out")
  assert (count["listed"], count["converted"]) == (5, 5)
  assert not (tmp_path / "out.incomplete").exists()


def test_the_caption_that_fits_its_view_best(
  tmp_path, release, teacher, convert
):
  assert convert("--captions-per-view", "10", "--limit", "1")[0] == 0
  (record,) = open_split(tmp_path / "out", "train")
  expected = []
  files = image_files(release, KEYS[0])
  for degree, file in zip(VIEWS[KEYS[0]], files, strict=True):
    said = [t.strip() for t in captions_of(KEYS[0], degree) if t.strip()]
    fits = teacher.text_features(said) @ teacher.image_features([file])[0]
    expected.append(said[fits.argmax()])
  assert record["texts"] == ["airplane", *expected]
  assert expected[0] != captions_of(KEYS[0], VIEWS[KEYS[0]][0])[1].strip()


UNUSABLE = {  # field and reason
  "away": ("xyz", "missing file"),
  "pickle": ("xyz", "unreadable cloud"),
  "unseen": ("images", "missing file"),
  "nan": ("xyz", "unreadable cloud"),
  "vast": ("xyz", "bad value"),
  "cut": ("images", "unreadable image"),
}


def test_what_is_unusable_is_refused_alone(tmp_path, release, convert):
  whole = tmp_path / "whole"
  assert convert(output=whole)[0] == 0
  keys = {why: f"{CHAIR}-{why}" for why in UNUSABLE}
  cloud = np.random.default_rng(0).normal(size=(64, 3))
  clouds = dict.fromkeys(keys, cloud)
  clouds["pickle"] = np.array([{"xyz": 1}], dtype=object)
  clouds["nan"], clouds["vast"] = cloud * np.nan, cloud * 1e60
  for why, key in keys.items():
    if why != "away":
      np.save(release / "shapenet_pc" / f"{key}.npy", clouds[why])
    if why != "unseen":
      folder = release / "rendered_images" / key
      folder.mkdir()
      picture(0).save(folder / f"{key}_r_000.png")
  folder = release / "rendered_images" / keys["cut"]
  file = folder / f"{keys['cut']}_r_012.png"
  file.write_bytes((folder / f"{keys['cut']}_r_000.png").read_bytes()[:90])
  write_lists(release, [*keys.values(), *KEYS], [])
  code, printed = convert()
  assert code == 0 and "2 refused: unreadable cloud" in printed
  assert contents(tmp_path / "out").keys() == contents(whole).keys()
  datasets = [open_split(path, "train") for path in (tmp_path / "out", whole)]
  for found, expected in zip(*datasets, strict=True):
    np.testing.assert_equal(found, expected)
  rejects = rejects_of(tmp_path / "out")
  assert {key: (r["field"], r["reason"]) for key, r in rejects.items()} == {
    keys[why]: refused for why, refused in UNUSABLE.items()
  }
  assert "is a pickle" in rejects[keys["pickle"]]["detail"]
  assert str(file) in rejects[keys["cut"]]["detail"]
  assert rejects[keys["cut"]]["file"] == f"{keys['cut']}.npy"
  count = count_of(tmp_path / "out")
  assert (count["listed"], count["converted"]) == (11, 5)
  assert sum(count["refused"].values()) == 6


@pytest.mark.parametrize("name", ["../secret", "sub/secret", "/secret"])
def test_a_list_cannot_point_out_of_its_folder(
  tmp_path, release, convert, name
):
  content = np.random.default_rng(0).normal(size=(64, 3))
  (release / "shapenet_pc" / "sub").mkdir()
  for folder in (release, release / "shapenet_pc" / "sub"):
    np.save(folder / "secret.npy", content)
  if name == "/secret":
    name = str(release / "secret")
  picture(0).save(release / "rendered_images" / "secret_r_000.png")
  write_lists(release, [name, KEYS[0]], [])
  assert convert()[0] == 0
  assert len(open_split(tmp_path / "out", "train")) == 1
  (reject,) = rejects_of(tmp_path / "out").values()
  assert (reject["field"], reject["reason"]) == (None, "bad name")
  assert reject["file"] == f"{name}.npy"


def test_lists_are_joined_also_one_folder_deeper(tmp_path, convert):
  root = make_release(tmp_path / "in" / "ULIP_Shapenet_Triplets")
  write_lists(root, [*KEYS[:2], KEYS[0]], [KEYS[1], KEYS[2]])
  assert convert()[0] == 0
  found = [record["id"] for record in open_split(tmp_path / "out", "train")]
  assert found == KEYS[:3]


def test_a_job_that_was_stopped_goes_on(
  tmp_path, release, convert, monkeypatch
):
  """Within the second shard of records; `test_meshes` stops before them."""
  monkeypatch.setattr(drafts, "DRAFTS_PER_SHARD", 2)
  monkeypatch.setattr(add_features, "_GROUP", 1)
  assert convert("--captions-per-view", "3", output=tmp_path / "whole")[0] == 0
  expected = contents(tmp_path / "whole")
  # Small shards are joined at the end.
  assert sum(name.startswith("ulip2-train") for name in expected) == 1

  encode, output = add_features.encode, tmp_path / "out"
  made = []

  def stopping(shape):
    if len(made) == 3:
      raise KeyboardInterrupt
    made.append(shape)
    return encode(shape)

  with monkeypatch.context() as patch:
    patch.setattr(add_features, "encode", stopping)
    assert convert("--captions-per-view", "3")[0] == 130
  assert not output.exists()

  code, printed = convert("--captions-per-view", "2")
  assert code == 2 and "other settings or input (captions_per_view)" in printed
  lists = (release / "train.txt").read_text()
  write_lists(release, [KEYS[1], KEYS[0], *KEYS[2:4]], KEYS[4:])
  code, printed = convert("--captions-per-view", "3")
  assert code == 2 and "other settings or input (list)" in printed
  (release / "train.txt").write_text(lists)

  with monkeypatch.context() as patch:  # drafts and captions are there
    patch.setattr(ulip2, "read_cloud", None)
    patch.setattr(ulip2, "PurePosixPath", None)
    patch.setattr(add_features, "encode", lambda s: made.append(s) or encode(s))
    assert convert("--captions-per-view", "3")[0] == 0
  # One again: the shape whose shard was not finished.
  assert len(made) == len(KEYS) + 1
  assert contents(output) == expected
  assert not Path(f"{output}.incomplete").exists()


def test_a_finished_output_is_left_alone(
  tmp_path, release, convert, monkeypatch
):
  assert convert("--limit", "3")[0] == 0
  output = tmp_path / "out"
  before = contents(output), stamps(output)
  monkeypatch.setattr(TeacherConfig, "load", None)  # none is needed
  code, printed = convert("--limit", "3")
  assert code == 0 and "written to" in printed
  code, printed = convert("--limit", "2")
  assert code == 2 and "already holds a complete dataset" in printed
  assert (contents(output), stamps(output)) == before


def rewrite(path, change):
  values = json.loads(path.read_text())
  path.write_text(json.dumps(change(values)))


CAPTIONS = "ULIP-shapenet_triplets_captions.json"


@pytest.mark.parametrize(
  "name, change, message",
  [
    ("taxonomy.json", lambda _: {"a": "b"}, "expected a list of objects"),
    ("taxonomy.json", lambda _: [{"name": "b"}], "expected a list of objects"),
    (CAPTIONS, list, "expected path of an image"),
    (CAPTIONS, lambda c: c | {"/x/image.png": []}, "'/x/image.png' is not SYN"),
    (CAPTIONS, lambda c: c | {f"x_r_{'9' * 5000}.png": []}, "is not SYNSET"),
    (CAPTIONS, lambda c: c | {"x_r_².png": ["a"]}, "is not SYNSET-MODEL_r_DEG"),
    (
      CAPTIONS,
      lambda c: c | {"x_r_000.png": [None]},
      "with a list of captions",
    ),
    (CAPTIONS, lambda _: {"x_r_000.png": ["a"]}, f"of x and none of {KEYS[0]}"),
    ("shapenet_pc", None, "no folder shapenet_pc"),
    ("rendered_images", None, "rendered_images"),
    (CAPTIONS, None, r"holds no \*captions\*\.json"),
    ("taxonomy.json", None, "taxonomy.json: cannot be read"),
    ("train.txt", None, "train.txt is missing or empty"),
  ],
)
def test_files_that_cannot_be_used(
  tmp_path, release, convert, name, change, message
):
  (release / "test.txt").unlink()
  if change is None:
    (release / name).rename(release / "away")
  else:
    rewrite(release / name, change)
    message = f"{name}: .*{message}"
  code, printed = convert()
  assert code == 2 and len(printed.splitlines()) == 1
  assert re.search(message, printed), printed
  assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_captions_of_other_forms(tmp_path, release, convert):
  """One string instead of a list; half a surrogate pair, which is no text."""
  degrees = VIEWS[KEYS[0]]
  path = f"{KEYS[0]}_r_{degrees[0]:03d}.png"
  odd = {path: " one ", f"{KEYS[0]}_r_012.png": ["half \ud83e pair"]}
  rewrite(release / CAPTIONS, lambda _: odd)
  assert convert("--limit", "1")[0] == 0
  (record,) = open_split(tmp_path / "out", "train")
  assert record["texts"] == ["airplane", "one", "half ? pair"]
