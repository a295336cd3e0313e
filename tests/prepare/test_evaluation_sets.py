"""Labelled .h5 sets: what is yielded, what is refused, and how it is said."""

import functools
import pickle

import h5py
import numpy as np
import pytest
from labelled_sets import clouds, write_h5

from mrd_jax.data.records import Shape, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.openshape.lists import Entry
from mrd_jax.prepare.test_sets.common import EvaluationSet, h5_labels, read_h5

D = 8


def make_set(*files):
  """A set of (path, data) written as .h5 files, labels 0, 1, 2, 0, ..."""
  entries = []
  for path, data in files:
    labels = np.arange(len(data)) % 3
    write_h5(path, data, labels)
    entries += [
      Entry(f"id{len(entries) + row}", str(path), "Set", label=int(label))
      for row, label in enumerate(labels)
    ]
  read = functools.partial(read_h5, entries, D)
  return EvaluationSet("a_set", ("a", "b", "c"), len(entries), read)


def test_shapes_are_those_of_the_file(tmp_path):
  data = clouds(5)
  shapes = list(make_set((tmp_path / "a.h5", data)).shapes())
  assert [shape.id for shape in shapes] == [f"id{i}" for i in range(5)]
  assert [shape.label for shape in shapes] == [0, 1, 2, 0, 1]
  for shape, cloud in zip(shapes, data, strict=True):
    np.testing.assert_array_equal(shape.xyz, cloud)
    np.testing.assert_array_equal(shape.rgb, np.full((16, 3), np.float32(0.4)))
    assert shape.dataset == "Set" and not shape.texts
    assert shape.image_feat.shape == shape.text_feat.shape == (0, D)
    assert encode(shape)["rgb"].max() == 102  # 0.4 * 255


def test_several_files_also_after_pickling(tmp_path):
  data = clouds(9)
  whole = make_set((tmp_path / "a.h5", data[:4]), (tmp_path / "b.h5", data[4:]))
  sent = pickle.loads(pickle.dumps(whole))
  shapes = list(sent.shapes())
  assert [shape.id for shape in shapes] == [f"id{i}" for i in range(9)]
  np.testing.assert_array_equal([shape.xyz for shape in shapes], data)
  assert sent.count == 9 and sent.class_names == ("a", "b", "c")


def test_a_set_is_lazy(tmp_path):
  lazy = make_set((tmp_path / "a.h5", clouds(2)))
  (tmp_path / "a.h5").unlink()
  with pytest.raises(BadInput, match=r"a\.h5: no such file"):
    next(lazy.shapes())
  (tmp_path / "a.h5").write_bytes(b"cut off since")
  with pytest.raises(BadInput, match=r"a\.h5: cannot be read as HDF5"):
    next(lazy.shapes())


def test_a_bad_cloud_is_refused_and_the_others_go_on(tmp_path):
  data = clouds(6).astype(np.float64)
  bad = (np.nan, "NaN"), (-np.inf, "infinite"), (1e300, "infinite")
  for row, (value, _) in enumerate(bad, 1):
    data[row, 5, 1] = value
  data[4] = 1
  first, *refused, last = make_set((tmp_path / "a.h5", data)).shapes()
  assert isinstance(first, Shape) and isinstance(last, Shape)
  problems = [problem for _, problem in bad] + ["coincide"]
  for row, (reject, problem) in enumerate(
    zip(refused, problems, strict=True), 1
  ):
    assert (reject.id, reject.field) == (f"id{row}", "xyz")
    assert (reject.file, reject.reason) == (str(tmp_path / "a.h5"), "bad value")
    assert reject.detail.startswith("field 'xyz': ")
    assert problem in reject.detail


def test_a_damaged_chunk_loses_only_its_clouds(tmp_path):
  path = tmp_path / "a.h5"
  whole = make_set((path, clouds(4)))
  with h5py.File(path, "r+") as file:
    del file["data"]
    chunked = file.create_dataset(
      "data", data=clouds(4), chunks=(1, 16, 3), fletcher32=True
    )
    offset = chunked.id.get_chunk_info(2).byte_offset
  content = bytearray(path.read_bytes())
  content[offset + 3] ^= 0xFF
  path.write_bytes(content)
  *whole_ones, refused, last = whole.shapes()
  assert all(isinstance(shape, Shape) for shape in [*whole_ones, last])
  assert (refused.id, refused.field) == ("id2", "data")
  assert refused.reason == "unreadable file"


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_labels_of_any_published_form(tmp_path, dtype, shape):
  labels = np.array([2, 0, 1, 2])
  stored = labels.astype(dtype).reshape(shape)
  path = write_h5(tmp_path / "a.h5", clouds(4), stored, mask=np.zeros(4))
  found = h5_labels(path, 3)
  assert found.dtype == np.int64 and found.tolist() == labels.tolist()


@pytest.mark.parametrize(
  ("data", "label", "problem"),
  [
    (None, [0, 1], "no dataset 'data'.*'label'"),
    (clouds(2), None, "no dataset 'label'.*'data'"),
    (clouds(2)[:, :, :2], [0, 1], r"'data'.*\(2, 16, 2\)"),
    (np.zeros((0, 16, 3)), [], r"'data'.*\(0, 16, 3\)"),
    (np.full((2, 16, 3), b"x"), [0, 1], r"'data'.*S1"),
    (clouds(2), [0, 1, 2], r"'label'.*\(3,\).*each of the 2"),
    (clouds(2), [b"a", b"b"], "'label': holds object"),
    (clouds(2), [0, 3], "'label': label 3 of cloud 1.*0 to 2"),
    (clouds(2), [-1, 0], "'label': label -1 of cloud 0"),
    (clouds(2), [0, 0.5], "'label': label 0.5 of cloud 1"),
    (clouds(2), [np.nan, 0], "'label': label nan of cloud 0"),
  ],
)
def test_unusable_arrays(tmp_path, data, label, problem):
  path = write_h5(tmp_path / "a.h5", data, label)
  with pytest.raises(BadInput, match=rf"a\.h5: .*{problem}"):
    h5_labels(path, 3)


@pytest.mark.parametrize("keep", [0, 7, 100, 1000, -200, -1])
def test_cut_off_files(tmp_path, keep):
  path = write_h5(tmp_path / "a.h5", clouds(20), np.zeros(20, int))
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(BadInput, match=r"a\.h5: cannot be read as HDF5"):
    h5_labels(path, 3)
