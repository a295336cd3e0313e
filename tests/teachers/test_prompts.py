"""Class features from prompts, and their cache."""

import hashlib
import json
import os

import numpy as np
import pytest
from openshape_bundle import npy_bytes

from mrd_jax.errors import BadInput
from mrd_jax.prepare.openshape.lists import load_class_features
from mrd_jax.teachers.prompts import TEMPLATES, class_features, read_templates

NAMES = ["night_stand", "chair", "bowl", "chair (toy)"]
OURS = ["a photo of {}.", "{}", "the {{}} of it"]


class Teacher:
  """Random features that depend on the text alone."""

  name = "random"
  fingerprint = "f" * 64
  dtype = "float32"
  embed_dim = 6

  def __init__(self):
    self.asked: list[str] = []

  def text_features(self, texts):
    self.asked += texts
    rows = []
    for text in texts:
      seed = hashlib.sha256(text.encode()).digest()[:4]
      rng = np.random.default_rng(int.from_bytes(seed, "little"))
      rows.append(rng.normal(size=self.embed_dim))
    return np.float32(rows)  # of any length: they are normalised here


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The folder of the class features, which is not there yet."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "dir"))
  return tmp_path / "new" / "dir" / "mrd_jax"


def test_normalise_mean_normalise():
  found = class_features(Teacher(), NAMES, OURS)
  assert found.shape == (4, 6) and found.dtype == np.float32
  for name, row in zip(NAMES, found, strict=True):
    name = name.replace("_", " ")
    total = np.zeros(6)
    for prompt in (f"a photo of {name}.", name, f"the {{{name}}} of it"):
      one = Teacher().text_features([prompt])[0].astype(np.float64)
      total += one / np.sqrt((one**2).sum())
    np.testing.assert_allclose(
      row, total / np.sqrt((total**2).sum()), atol=1e-6
    )


def test_underscores():
  teacher = Teacher()
  a = class_features(teacher, NAMES, ["{}"])
  assert teacher.asked[0] == "night stand"
  b = class_features(teacher, NAMES, ["{}"], keep_underscores=True)
  assert teacher.asked[4] == "night_stand"
  assert not np.allclose(a[0], b[0])
  np.testing.assert_array_equal(a[1:], b[1:])


def test_a_cache_by_content(cache):
  teacher = Teacher()

  def features(names=NAMES, templates=OURS, **args):
    before = len(teacher.asked)
    found = class_features(teacher, names, templates, **args)
    return found, len(teacher.asked) > before

  first, made = features()
  assert made
  again, made = features()
  assert not made
  np.testing.assert_array_equal(first, again)
  assert features(["night stand", *NAMES[1:]])[1] is False  # means the same
  # Whatever the features depend on makes another file.
  assert features(NAMES[::-1])[1]
  assert features(templates=OURS[::-1])[1]
  assert features(keep_underscores=True)[1]
  for field, value in (("fingerprint", "e" * 64), ("dtype", "bfloat16")):
    old = getattr(teacher, field)
    setattr(teacher, field, value)
    assert features()[1]
    setattr(teacher, field, old)
  teacher.name = "renamed"
  assert not features()[1]
  assert [file.suffix for file in cache.iterdir()] == [".npz"] * 6


def test_a_damaged_cache_is_made_again(cache, tmp_path):
  teacher = Teacher()
  expected = class_features(teacher, NAMES, OURS)
  (path,) = cache.iterdir()
  whole = path.read_bytes()
  key = np.load(path)["key"]
  at = whole.index(expected.tobytes())
  flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
  damaged = [b"", b"nothing of this", whole[: len(whole) // 2], flipped]
  for features, of in (
    (expected[:2], key),
    (np.full_like(expected, np.nan), key),
    (expected.astype(np.float64), key),
    (expected, "another"),
  ):
    np.savez(tmp_path / "bad.npz", features=features, key=of)
    damaged.append((tmp_path / "bad.npz").read_bytes())
  np.savez(tmp_path / "bad.npz", key=key)
  damaged.append((tmp_path / "bad.npz").read_bytes())
  for content in damaged:
    path.write_bytes(content)
    teacher.asked = []
    found = class_features(teacher, NAMES, OURS)
    np.testing.assert_array_equal(found, expected)
    assert teacher.asked
    assert path.read_bytes() == whole


def test_the_cache_is_written_whole_or_not_at_all(cache, monkeypatch):
  def fail(*_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", fail)
    with pytest.raises(BadInput, match="No space left .* XDG_CACHE_HOME"):
      class_features(Teacher(), NAMES, OURS)
  assert not list(cache.iterdir())
  cache.rmdir()
  cache.write_text("")
  with pytest.raises(BadInput, match="mrd_jax/.* cannot be kept there"):
    class_features(Teacher(), NAMES, OURS)


def test_where_the_cache_is(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  for place, folder in (("", ".cache"), (str(tmp_path / "xdg"), "xdg")):
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    class_features(Teacher(), NAMES, OURS)
    assert len(list((tmp_path / folder / "mrd_jax").iterdir())) == 1


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (["chair", " "], "' ': give every class a name"),
    (["_"], "'_': give"),
    (["a_b", "c", "a b"], "'a b' twice"),
    ([], "class_names is empty"),
    ("chair", "class_names is one text"),
  ],
)
def test_refuses_class_names(names, message):
  with pytest.raises(BadInput, match=message):
    class_features(Teacher(), names, OURS)


@pytest.mark.parametrize("templates", [[], ["a {}", "b"], ["{} {}"], "{}", [3]])
def test_refuses_templates(templates):
  with pytest.raises(BadInput, match="^templates: "):
    class_features(Teacher(), NAMES, templates)


def test_our_templates():
  ours = read_templates()
  assert 20 <= len(ours) == len(set(ours)) <= 40
  assert read_templates(TEMPLATES) == read_templates(key="renders") == ours


def test_reads_templates(tmp_path):
  path = tmp_path / "templates.json"
  several = {"modelnet40_64": ["a {}"], "other": ["b {}", "{} ü"]}
  path.write_text(json.dumps(several))
  for key, expected in several.items():
    assert read_templates(path, key) == expected
  path.write_text(json.dumps(several["other"]))
  assert read_templates(path) == several["other"]
  text = tmp_path / "templates.txt"
  text.write_text("b {}\n\n  {} ü\r\n", encoding="utf-8")
  assert read_templates(text) == several["other"]


@pytest.mark.parametrize(
  ("content", "key", "message"),
  [
    ('{"a": ["{}"], "b": ["{}"]}', None, "choose a key of 'a', 'b'"),
    ('{"a": ["{}"]}', "c", "has no key 'c', it has 'a'"),
    ('["{}"]', "c", "is one list"),
    ('{"a": "{}"}', None, "expected a list"),
    ("3", None, "expected a list"),
    ("[]", None, "at least one"),
    ('["a {}", "b"]', None, "'b' must have exactly one {}"),
    ("a {}", None, "is not JSON .* named .txt"),
    ("[" * 100_000, None, "is not JSON .nested too deeply"),
  ],
)
def test_refuses_files_of_templates(tmp_path, content, key, message):
  path = tmp_path / "t.json"
  path.write_text(content)
  with pytest.raises(BadInput, match=rf"t\.json: .*{message}"):
    read_templates(path, key)
  with pytest.raises(BadInput, match="none.json: cannot be read"):
    read_templates(tmp_path / "none.json")


def test_loads_openshapes_features(tmp_path):
  rows = np.random.default_rng(0).normal(size=(3, 1, 5)).astype(np.float16)
  classes = {
    name: {"open_clip_text_feat": row}
    for name, row in zip("cab", rows, strict=True)
  }
  path = tmp_path / "cat_name_pt_feat.npy"
  path.write_bytes(npy_bytes(classes))
  names, features = load_class_features(path)
  assert names == ["c", "a", "b"] and features.dtype == np.float32
  np.testing.assert_array_equal(features, rows[:, 0])
  rows[1, 0, 2] = np.nan
  path.write_bytes(npy_bytes(classes))
  with pytest.raises(BadInput, match=r"feat\.npy: holds NaN"):
    load_class_features(path)
  for other in ({"a": rows[0]}, {}, [1], {"a": {"open_clip_text_feat": "x"}}):
    path.write_bytes(npy_bytes(other))
    with pytest.raises(BadInput, match=r"feat\.npy: expected class name"):
      load_class_features(path)
  with pytest.raises(BadInput, match=r"none\.npy: cannot be read"):
    load_class_features(tmp_path / "none.npy")
