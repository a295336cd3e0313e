"""ModelNet40 as .h5, as .txt with normals, and as OpenShape's .npy."""

import json
import re

import labelled_sets as sets
import numpy as np
import pytest

from mrd_jax.data.records import Shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.test_sets import modelnet40

D = 8


# modelnet40_ply_hdf5_2048.


@pytest.mark.parametrize(
  ("part", "published"), [("train", "9,843"), ("test", "2,468")]
)
def test_hdf5(tmp_path, part, published):
  categories, ids = sets.write_hdf5(tmp_path, part)
  found = modelnet40.read_hdf5(tmp_path, part, D)
  assert found.class_names == sets.NAMES
  assert found.name == f"modelnet40_hdf5_{part}" and found.count == 5
  shapes = list(found.shapes())
  assert [shape.id for shape in shapes] == ids
  assert [sets.CLASSES[shape.label] for shape in shapes] == categories
  # Up is y in the files and in records: nothing is turned.
  np.testing.assert_array_equal([s.xyz for s in shapes], sets.clouds(5))
  assert {shape.dataset for shape in shapes} == {"ModelNet40"}
  (problem,) = found.problems
  assert f"5 shapes where the published set has {published}" in problem


def test_hdf5_without_names_counts_through_the_files(tmp_path):
  sets.write_hdf5(tmp_path, names=False)
  found = modelnet40.read_hdf5(tmp_path, "test", D)
  ids = [shape.id for shape in found.shapes()]
  assert ids == [f"hdf5-test-{i:05d}" for i in range(5)]


def test_hdf5_names_that_contradict_the_labels_are_reported(tmp_path):
  categories, _ = sets.write_hdf5(tmp_path)
  names = tmp_path / "ply_data_test_0_id2file.json"
  names.write_text(json.dumps(["tv_stand/a.ply", "lamp/b.ply", "x/c.ply"]))
  found = modelnet40.read_hdf5(tmp_path, "test", D)
  assert [sets.CLASSES[s.label] for s in found.shapes()] == categories
  said = "2 of 3 names contradict the labels, first lamp/b.ply with label"
  assert said in found.problems[0]
  names.write_text('["a/b.ply"]')
  with pytest.raises(BadInput, match=r"0_id2file.*list of the 3 names"):
    modelnet40.read_hdf5(tmp_path, "test", D)


@pytest.mark.parametrize(
  "name", ["shape_names.txt", "test_files.txt", "ply_data_test1.h5"]
)
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\xff"])
def test_hdf5_files_that_are_missing_or_damaged(tmp_path, name, content):
  sets.write_hdf5(tmp_path)
  (tmp_path / name).unlink()
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(BadInput, match=name):
    modelnet40.read_hdf5(tmp_path, "test", D)


def test_hdf5_with_too_few_class_names(tmp_path):
  sets.write_hdf5(tmp_path)
  (tmp_path / "shape_names.txt").write_text("airplane\nnight_stand\n")
  with pytest.raises(BadInput, match="label 2 of cloud 0 is not a class"):
    modelnet40.read_hdf5(tmp_path, "test", D)


# modelnet40_normal_resampled.


@pytest.mark.parametrize(
  ("classes", "part", "published"),
  [
    (40, "train", "9,843"),
    (40, "test", "2,468"),
    (10, "train", "3,991"),
    (10, "test", "908"),
  ],
)
def test_txt(tmp_path, classes, part, published):
  xyz, normals = np.round(sets.clouds(2), 6), np.ones((16, 3))
  contents = {
    "tv_stand_0001": np.concatenate([xyz[0], normals], axis=1),
    "airplane_0627": xyz[1],
  }
  root = sets.write_txt(tmp_path, contents, classes, part)
  found = modelnet40.read_txt(root, part, D, classes)
  shapes = list(found.shapes())
  assert [shape.id for shape in shapes] == list(contents)
  assert [shape.label for shape in shapes] == [2, 0]
  np.testing.assert_allclose([shape.xyz for shape in shapes], xyz, atol=1e-6)
  assert shapes[0].dataset == f"ModelNet{classes}"
  assert found.class_names == sets.NAMES
  assert encode(shapes[0])["rgb"].max() == 102
  (problem,) = found.problems
  assert f"2 shapes where the published set has {published}" in problem


@pytest.mark.parametrize(
  ("content", "reason", "detail"),
  [
    (None, "missing file", "No such file"),
    ("\n\n", "unreadable file", "empty"),
    ("1,2,3\n4,5,x\n", "unreadable file", "could not convert"),
    ("1,2,3\n4,5\n", "unreadable file", "columns"),
    ("# x,y,z\n", "unreadable file", "could not convert"),
    ("1,2,3,4\n4,5,6,7\n", "bad value", r"shape \(2, 4\)"),
    ("1,2,3\n4,5,nan\n", "bad value", "NaN"),
  ],
)
def test_txt_refuses_single_shapes(tmp_path, content, reason, detail):
  cloud = sets.clouds(1)[0]
  contents = {"airplane_0001": cloud, "airplane_0002": content}
  root = sets.write_txt(tmp_path, contents | {"tv_stand_0003": cloud})
  first, refused, last = modelnet40.read_txt(root, "test", D, 40).shapes()
  assert isinstance(first, Shape) and isinstance(last, Shape)
  assert (refused.id, refused.reason) == ("airplane_0002", reason)
  assert refused.file == str(root / "airplane" / "airplane_0002.txt")
  assert re.match(f"field 'xyz': .*{detail}", refused.detail)


def test_txt_class_that_is_not_listed(tmp_path):
  root = sets.write_txt(
    tmp_path, {"lamp_0001": sets.clouds(1)[0], "x": "1,2,3"}
  )
  for refused in modelnet40.read_txt(root, "test", D, 40).shapes():
    assert (refused.field, refused.reason) == ("category", "bad value")


def test_a_list_cannot_point_out_of_its_folder(tmp_path):
  root = sets.write_txt(tmp_path / "in", {"airplane_0001": sets.clouds(1)[0]})
  (root / "modelnet40_test.txt").write_text(
    f"airplane_/../../airplane_secret\n{tmp_path}/airplane_secret\n"
  )
  np.savetxt(tmp_path / "airplane_secret.txt", sets.clouds(1)[0], delimiter=",")
  for refused in modelnet40.read_txt(root, "test", D, 40).shapes():
    assert refused.reason == "missing file"
    assert refused.file == str(root / "airplane" / "airplane_secret.txt")


def test_txt_lists_that_are_missing(tmp_path):
  with pytest.raises(BadInput, match=r"modelnet40_shape_names\.txt"):
    modelnet40.read_txt(tmp_path, "test", D, 40)
  root = sets.write_txt(tmp_path, {"airplane_0001": None})
  with pytest.raises(BadInput, match=r"modelnet40_train\.txt: cannot be read"):
    modelnet40.read_txt(root, "train", D, 40)
  with pytest.raises(BadInput, match="classes: 20"):
    modelnet40.read_txt(root, "test", D, 20)  # pyright: ignore


@pytest.mark.parametrize("name", ["test_files.txt", "shape_names.txt"])
def test_a_list_that_repeats_itself(tmp_path, name):
  """A damaged one of a megabyte would read two files 40,000 times."""
  sets.write_hdf5(tmp_path)
  lines = (tmp_path / name).read_text().splitlines()
  (tmp_path / name).write_text("\n".join([*lines, lines[0], lines[0]]))
  with pytest.raises(BadInput, match=f"{name}: names '.*' 3 times"):
    modelnet40.read_hdf5(tmp_path, "test", D)


# OpenShape's test_pc.npy.


def test_openshape(tmp_path):
  rgb = np.full((16, 3), 100)
  written = [{"xyz": xyz, "rgb": rgb} for xyz in sets.clouds(3)]
  sets.write_openshape(tmp_path, written)
  found = modelnet40.read_openshape(tmp_path, D)
  assert found.class_names == ("tv stand", "airplane")
  plane, stand, lamp = found.shapes()
  assert (plane.id, plane.label) == ("airplane_0627", 1)
  assert (stand.id, stand.label) == ("tv_stand_0268", 0)
  np.testing.assert_array_equal(stand.xyz, sets.clouds(3)[1])
  assert encode(plane)["rgb"].max() == 100 and plane.image_feat.shape == (0, D)
  assert (lamp.id, lamp.field) == ("lamp_0125", "category")
  assert "3 shapes where the published set has 2,468" in found.problems[0]


def test_openshape_refuses_single_clouds(tmp_path):
  sets.write_openshape(tmp_path, [{"rgb": sets.clouds(1)[0]}, None])
  no_xyz, nothing, absent = modelnet40.read_openshape(tmp_path, D).shapes()
  assert (no_xyz.field, no_xyz.reason) == ("xyz", "missing key")
  assert (nothing.field, nothing.reason) == ("xyz", "bad value")
  assert (absent.id, absent.reason) == ("lamp_0125", "missing file")
  assert "holds only 2 clouds" in absent.detail


def test_openshape_clouds_of_another_kind(tmp_path):
  sets.write_openshape(tmp_path, [None])
  np.save(tmp_path / "meta_data" / "modelnet40" / "test_pc.npy", sets.clouds(2))
  with pytest.raises(BadInput, match=r"test_pc\.npy: expected an array"):
    next(modelnet40.read_openshape(tmp_path, D).shapes())
