"""Labelled sets that become splits to evaluate on, and Cap3D's captions."""

import csv
import re

import labelled_sets as sets
import numpy as np
import pytest
import runs
from openshape_bundle import npy_bytes
from prepared import assert_cloud, rejects_of, report_of

from mrd_jax.data.dataset import class_features, open_split, read_meta
from mrd_jax.errors import BadInput
from mrd_jax.prepare.__main__ import main
from mrd_jax.prepare.test_sets.common import EvaluationSet
from mrd_jax.prepare.test_sets.scanobjectnn import CLASS_NAMES as SCAN
from mrd_jax.teachers.prompts import prompt_features, read_templates

DIM = 8
VARIANTS = ("obj_only", "obj_bg", "pb_t50_rs")
FILE = "--class-features={in}/f.npy"


def write_scan(root, variant, labels, part="test", seed=0):
  """The release's file of a variant; returns its clouds."""
  data = sets.clouds(len(labels), seed)
  path = root / "h5_files" / sets.SCANOBJECTNN[variant, part]
  sets.write_h5(path, data, np.uint8(labels))
  return data


@pytest.fixture
def by_file(tmp_path):
  """The flags for one variant with OpenShape's features of its classes."""
  write_features(tmp_path / "f.npy", SCAN)
  return ["--variants=obj_bg", f"--class-features={tmp_path / 'f.npy'}"]


def write_features(path, names, seed=0, width=DIM):
  """OpenShape's pickled form; returns {name: unit feature}."""
  rng = np.random.default_rng(seed)
  rows = rng.normal(size=(len(names), width)).astype(np.float32)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  found = dict(zip(names, rows, strict=True))
  stored = {n: {"open_clip_text_feat": row[None]} for n, row in found.items()}
  path.write_bytes(npy_bytes(stored))
  return found


def assert_classes(output, split, names, expected):
  assert tuple(read_meta(output).class_names[split]) == tuple(names)
  found = class_features(output, split)
  assert found.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(found, [expected[name] for name in names], 1e-5)


def test_scanobjectnn_with_openshape_features(tmp_path, prepare):
  labels = {v: [14, 0, 5, 5 + i] for i, v in enumerate(VARIANTS)}
  data = {
    v: write_scan(tmp_path / "in", v, labels[v], seed=i)
    for i, v in enumerate(VARIANTS)
  }
  features = write_features(tmp_path / "f.npy", [*reversed(SCAN), "lamp"])
  code, printed = prepare(
    "scanobjectnn", "--class-features", tmp_path / "f.npy"
  )
  assert code == 0 and "written to" in printed
  output = tmp_path / "out"
  for variant in VARIANTS:
    split = f"scanobjectnn_{variant}_test"
    found = list(open_split(output, split))
    assert [record["label"] for record in found] == labels[variant]
    ids = [f"{variant}-test-{row:05d}" for row in range(4)]
    assert [record["id"] for record in found] == ids
    for record, cloud in zip(found, data[variant], strict=True):
      assert_cloud(record, cloud)
      assert (record["rgb"] == 102).all() and record["texts"] == []
      assert record["image_feat"].shape == (0, DIM)
    assert_classes(output, split, SCAN, features)
    assert report_of(output)["splits"][split]["converted"] == 4
  problems = report_of(output)["problems"]
  assert len(problems) == 3 and "4 shapes where the published" in problems[0]
  assert "f.npy" in read_meta(output).teacher


def test_chosen_variants_and_parts(tmp_path, prepare, by_file):
  for part in ("train", "test"):
    write_scan(tmp_path / "in", "obj_bg", [1, 2], part)
  assert prepare("scanobjectnn", *by_file, "--parts", "train,test")[0] == 0
  names = {f"scanobjectnn_obj_bg_{part}" for part in ("train", "test")}
  assert read_meta(tmp_path / "out").class_names.keys() == names


@pytest.mark.parametrize("form", ["hdf5", "txt", "openshape"])
def test_modelnet40(tmp_path, prepare, form):
  root = tmp_path / "in"
  names, xyz = sets.NAMES, sets.clouds(5)
  if form == "hdf5":
    found, _ = sets.write_hdf5(root)
    found = [name.replace("_", " ") for name in found]
  elif form == "txt":
    contents = {"tv_stand_0001": xyz[0], "night_stand_0004": xyz[1]}
    sets.write_txt(root, contents | {"airplane_0003": None}, classes=10)
    found, form = ["tv stand", "night stand"], "txt --classes 10"
  else:
    sets.write_openshape(root, [{"xyz": x} for x in xyz[:3]])
    found, names = ["airplane", "tv stand"], ("tv stand", "airplane")
  # OpenShape's file and the lists differ in case and underscores.
  given = ["Tv_Stand", "airplane", "night stand"]
  features = write_features(tmp_path / "f.npy", given)
  features |= {"tv stand": features["Tv_Stand"]}
  file = ["--class-features", tmp_path / "f.npy"]
  assert prepare("modelnet40", *file, "--form", *form.split())[0] == 0
  output = tmp_path / "out"
  (split,) = read_meta(output).class_names
  assert re.fullmatch("modelnet(40_hdf5|10_txt|40_openshape)_test", split)
  assert_classes(output, split, names, features)
  records = list(open_split(output, split))
  assert [names[record["label"]] for record in records] == found
  for record, cloud in zip(records, xyz, strict=False):
    assert_cloud(record, cloud)
  refused = [reject["split"] for reject in rejects_of(output).values()]
  assert refused == ([] if form == "hdf5" else [split])


def test_features_of_a_teacher(tmp_path, prepare, by_clip, teacher):
  sets.write_hdf5(tmp_path / "in")
  assert prepare("modelnet40", *by_clip, "--form", "hdf5")[0] == 0
  output, split = tmp_path / "out", "modelnet40_hdf5_test"
  assert tuple(read_meta(output).class_names[split]) == sets.NAMES
  expected = prompt_features(teacher, sets.NAMES, read_templates())
  found = class_features(output, split)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  assert open_split(output, split)[0]["image_feat"].shape == (0, 24)
  assert read_meta(output).teacher == teacher.name
  # The templates are part of the job.
  (tmp_path / "one.txt").write_text("a {}\n")
  given = [*by_clip, "--form", "hdf5", "--templates", tmp_path / "one.txt"]
  code, printed = prepare("modelnet40", *given)
  assert code == 2 and "already holds a complete dataset" in printed
  assert prepare("modelnet40", *given, output=tmp_path / "other")[0] == 0
  rows = teacher.text_features([f"a {name}" for name in sets.NAMES])
  found = class_features(tmp_path / "other", split)
  np.testing.assert_allclose(found, rows, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  "flags, message",
  [
    ([], "give either --teacher or --class-features"),
    (["--teacher", "clip", "--class-features", "f.npy"], "give either"),
    (["--class-features", "none.npy"], "none.npy"),
    (
      ["--class-features", "{in}/less.npy"],
      "less.npy: lacks the class 'pillow'; it has bag, bin",
    ),
    ([FILE, "--variants", "obj"], "variant 'obj'"),
    ([FILE, "--parts", "val"], "part 'val'"),
    ([FILE, "--parts", "test,test"], "set once"),
    ([FILE, "--variants", "obj_only"], "main_split_nobg"),
    (["--teacher", "nowhere/at/all"], "nowhere/at/all"),
  ],
)
def test_what_cannot_be_used(tmp_path, prepare, flags, message):
  write_scan(tmp_path / "in", "obj_bg", [1, 2])
  write_features(tmp_path / "in" / "f.npy", SCAN)
  less = [name for name in SCAN if name != "pillow"]
  write_features(tmp_path / "in" / "less.npy", less)
  flags = [flag.replace("{in}", str(tmp_path / "in")) for flag in flags]
  code, printed = prepare("scanobjectnn", "--variants", "obj_bg", *flags)
  assert code == 2 and len(printed.splitlines()) == 1
  assert message in printed
  assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_set_that_ends_early_is_refused_to_its_end():
  """What cannot be read any more is counted all the same."""

  def read():
    yield runs.make_shape(0, points=8, label=0)
    raise BadInput("x.h5: is damaged")

  clouds = EvaluationSet("split", ("a",), 4, read)
  found = [outcome for item in clouds.items() for outcome in item()]
  assert found[0][0] == "split" and found[0][1]["id"] == "shape-0"
  refused = [reject.id for reject in found[1:]]
  assert refused == ["split-1", "split-2", "split-3"]
  assert {reject.detail for reject in found[1:]} == {"x.h5: is damaged"}
  assert {reject.split for reject in found[1:]} == {"split"}


# Cap3D's captions.


def captions(tmp_path, *splits):
  file, data = f"--input={tmp_path / 'cap.csv'}", f"--data={tmp_path / 'out'}"
  return main(["captions", file, data, *splits])


def test_captions_beside_a_dataset(tmp_path, prepare, by_file, capsys):
  write_scan(tmp_path / "in", "obj_bg", [1, 2, 3])
  assert prepare("scanobjectnn", *by_file)[0] == 0
  rows = [
    ("elsewhere", "of another set"),
    ("obj_bg-test-00002", 'a chair, "red"'),
    ("obj_bg-test-00000", "ein Stühlchen"),
    ("obj_bg-test-00000", "again"),
    ("obj_bg-test-00001", ""),
  ]
  with open(tmp_path / "cap.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)
  split = "scanobjectnn_obj_bg_test"
  assert captions(tmp_path, "--splits", split) == 0
  printed = capsys.readouterr().out.splitlines()
  assert "1 rows repeat an id" in printed[0]
  assert "1 captions are empty" in printed[1]
  assert printed[2] == (
    "2 of 3 shapes (66.7%) have a caption; 1 captions belong to no shape here; "
    "1 shapes have none, first: obj_bg-test-00001"
  )
  file = tmp_path / "out" / f"captions_{split}.csv"
  with open(file, newline="", encoding="utf-8") as opened:
    assert list(csv.reader(opened)) == [[*rows[2]], [*rows[1]]]
  assert len(open_split(tmp_path / "out", split)) == 3  # still a dataset

  assert captions(tmp_path) == 2  # lvis, which is not there
  assert "split 'lvis' is not in" in capsys.readouterr().err
  (tmp_path / "cap.csv").write_text("x,y\n")
  assert captions(tmp_path, "--splits", split) == 2
  assert "none of its 3 shapes has a caption" in capsys.readouterr().err
  assert len(file.read_text(encoding="utf-8").splitlines()) == 2  # as it was
