"""ScanObjectNN: which file is read, its labels, and OpenShape's form of it."""

import numpy as np
import pytest
from labelled_sets import SCANOBJECTNN as FILES
from labelled_sets import clouds, write_h5
from openshape_bundle import Attack, npy_bytes

from mrd_jax.data.records import Shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.test_sets import scanobjectnn

D = 8
# In the archive too, and never the right one.
DECOYS = (
  "main_split_nobg/test_objectdataset_augmentedrot_scale75.h5",
  "main_split/test_objectdataset_augmentedrot_scale75_extra.h5",
  "split1/test_objectdataset.h5",
)


def write_release(folder):
  """A release whose files differ in their number of clouds."""
  for i, name in enumerate([*FILES.values(), *DECOYS]):
    label = np.arange(i + 2) % 15
    mask = np.zeros((i + 2, 16), np.int64)
    write_h5(folder / name, clouds(i + 2, seed=i), label, mask=mask)
  return folder


@pytest.mark.parametrize(("variant", "part"), FILES)
@pytest.mark.parametrize("start", ["h5_files", "", "..", "main", "file"])
def test_every_variant_from_every_folder(tmp_path, variant, part, start):
  release = write_release(tmp_path / "scan" / "h5_files")
  file = release / FILES[variant, part]
  path = {
    "h5_files": release,
    "": release.parent,
    "..": tmp_path,
    "main": file.parent,
    "file": file,
  }[start]
  found = scanobjectnn.read(path, variant, part, D)
  i = list(FILES).index((variant, part))
  shapes = list(found.shapes())
  assert found.count == len(shapes) == i + 2
  assert shapes[1].id == f"{variant}-{part}-00001"
  # Up is y in the files and in records: nothing is turned.
  np.testing.assert_array_equal(shapes[1].xyz, clouds(i + 2, seed=i)[1])
  assert [shape.label for shape in shapes] == list(range(i + 2))
  assert shapes[0].dataset == "ScanObjectNN"
  assert found.name == f"scanobjectnn_{variant}_{part}"


def test_class_order_is_that_of_the_labels():
  order = (
    "bag, bin, box, cabinet, chair, desk, display, door, shelf, table, bed, "
    "pillow, sink, sofa, toilet"
  )
  assert ", ".join(scanobjectnn.CLASS_NAMES) == order


def test_a_copy_with_another_name_is_read(tmp_path):
  file = write_h5(tmp_path / "mine.h5", clouds(3), [0, 14, 2])
  found = scanobjectnn.read(file, "obj_only", "test", D)
  assert [shape.label for shape in found.shapes()] == [0, 14, 2]
  (problem,) = found.problems
  assert "mine.h5: 3 shapes where the published set has 581" in problem


def test_the_published_number_of_shapes_is_no_problem(tmp_path):
  label = np.arange(581) % 15
  file = write_h5(tmp_path / "a.h5", clouds(581, points=2), label)
  assert scanobjectnn.read(file, "obj_bg", "test", D).problems == ()
  assert scanobjectnn.read(file, "obj_bg", "train", D).problems


@pytest.mark.parametrize(("variant", "part"), FILES)
@pytest.mark.parametrize("name", FILES.values())
def test_a_file_that_is_another_one_by_its_name(tmp_path, variant, part, name):
  file = write_release(tmp_path) / name
  if name == FILES[variant, part]:
    assert scanobjectnn.find(file, variant, part) == file
  else:
    with pytest.raises(BadInput, match=f"this is not {variant} {part}"):
      scanobjectnn.find(file, variant, part)


def test_missing_and_ambiguous_files(tmp_path):
  with pytest.raises(BadInput, match="holds no main_split_nobg/training"):
    scanobjectnn.read(tmp_path / "none", "obj_only", "train", D)
  write_release(tmp_path / "a")
  write_release(tmp_path / "b")
  with pytest.raises(BadInput, match="both are main_split/test_objectdataset"):
    scanobjectnn.read(tmp_path, "obj_bg", "test", D)


def test_another_data_set(tmp_path):
  file = write_h5(tmp_path / "ply_data_test0.h5", clouds(2), [[3], [39]])
  with pytest.raises(BadInput, match="label 39 of cloud 1.*0 to 14.*another"):
    scanobjectnn.read(file, "obj_bg", "test", D)


# OpenShape's xyz_label.npy.


def write_npy(tmp_path, **content):
  path = tmp_path / "xyz_label.npy"
  path.write_bytes(npy_bytes(content))
  return path


def test_openshape_without_colours(tmp_path):
  xyz = clouds(3)
  path = write_npy(tmp_path, xyz=xyz, label=np.array([4, 0, 14]))
  found = scanobjectnn.read_openshape(path, D)
  shapes = list(found.shapes())
  ids = [f"openshape-0000{i}" for i in range(3)]
  assert [shape.id for shape in shapes] == ids
  assert [shape.label for shape in shapes] == [4, 0, 14]
  np.testing.assert_array_equal([shape.xyz for shape in shapes], xyz)
  assert encode(shapes[0])["rgb"].max() == 102
  assert found.class_names == scanobjectnn.CLASS_NAMES
  assert "3 shapes where the published set has 2,890" in found.problems[0]


def test_openshape_clouds_of_different_sizes(tmp_path):
  xyz = np.empty(2, object)
  xyz[:] = [clouds(1)[0], clouds(1, points=5)[0]]
  path = write_npy(tmp_path, xyz=xyz, label=[1, 2])
  shapes = list(scanobjectnn.read_openshape(path, D).shapes())
  assert [len(shape.xyz) for shape in shapes] == [16, 5]


@pytest.mark.parametrize("scale", [1, 255])
def test_openshape_colours_of_either_scale(tmp_path, scale):
  rgb = np.random.default_rng(0).integers(0, 256, (2, 16, 3))
  rgb[0, 0, 0] = 255
  stored = (rgb / 255 * scale).astype(np.float32)
  path = write_npy(tmp_path, xyz=clouds(2), label=[0, 1], rgb=stored)
  shapes = list(scanobjectnn.read_openshape(path, D).shapes())
  stored_again = [encode(shape)["rgb"] for shape in shapes]
  np.testing.assert_array_equal(stored_again, rgb)


def test_openshape_refuses_single_clouds(tmp_path):
  rgb = np.full((4, 16, 3), 0.5)
  rgb[1, 0, 0] = -1
  rgb[2, 0, 0] = np.nan
  path = write_npy(tmp_path, xyz=clouds(4), label=np.zeros(4, int), rgb=rgb)
  first, *refused, last = scanobjectnn.read_openshape(path, D).shapes()
  assert isinstance(first, Shape) and isinstance(last, Shape)
  assert [reject.field for reject in refused] == ["rgb", "rgb"]


@pytest.mark.parametrize(
  ("content", "problem"),
  [
    ({"label": [0]}, "no array 'xyz'"),
    ({"xyz": clouds(1)}, "no array 'label'"),
    ({"xyz": clouds(0), "label": np.zeros(0)}, "no clouds"),
    ({"xyz": clouds(2), "label": [0, [1]]}, "key 'label': holds object"),
    (
      {"xyz": clouds(2), "label": [0, 1], "rgb": clouds(1)},
      "key 'rgb'.*1 rows",
    ),
    ({"xyz": clouds(2), "label": [0, 1], "rgb": 7}, "key 'rgb'"),
    (clouds(2), "no array 'xyz'"),
  ],
)
def test_unusable_openshape_files(tmp_path, content, problem):
  path = tmp_path / "xyz_label.npy"
  path.write_bytes(npy_bytes(content))
  with pytest.raises(BadInput, match=rf"xyz_label\.npy: .*{problem}"):
    scanobjectnn.read_openshape(path, D)


def test_a_malicious_openshape_file_executes_nothing(tmp_path):
  path = write_npy(tmp_path, xyz=Attack(tmp_path / "pwned"), label=[0])
  with pytest.raises(BadInput, match="refused"):
    scanobjectnn.read_openshape(path, D)
  assert not (tmp_path / "pwned").exists()
