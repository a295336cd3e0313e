"""Class features that no dataset can hold, and disks that cannot hold it."""

import errno
import os

import numpy as np
import pytest
from shapes import DIM, random_shape

from mrd_jax.errors import BadInput
from mrd_jax.prepare.job.dataset_writer import write_dataset

NAMES = {"val": ["cat", "dog"]}
ROWS = np.eye(2, DIM, dtype=np.float32)


@pytest.mark.parametrize(
  "features, words",
  [
    ({"train": ROWS}, "name different splits"),
    ({"val": ROWS[:1]}, "split 'val': shape .* does not fit 2 class names"),
    ({"val": ROWS[0]}, "split 'val': shape .* does not fit 2 class names"),
    ({"val": ROWS * [[1], [0]]}, "a row is zero, NaN or infinite"),
    ({"val": ROWS * np.nan}, "a row is zero, NaN or infinite"),
    ({"val": np.eye(2, DIM + 1)}, f"width {DIM + 1} differs .* {DIM}; use one"),
  ],
)
def test_wrong_class_features_cost_no_shapes(tmp_path, features, words):
  taken = []

  def shapes():
    for i in range(9):
      taken.append(i)
      yield random_shape(i)

  splits = {"train": shapes()}
  with pytest.raises(BadInput, match=words):
    write_dataset(tmp_path / "out", "test", splits, "t", NAMES, features)
  assert taken == [0]  # the first one, whose width is that of all
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("written_by", "file"),
  [
    ("features.FeaturesDict.save_config", "features.json"),
    ("core.MetadataDict.save_metadata", "metadata.json"),
    ("core.DatasetInfo.write_dataset_info_json", "dataset_info.json"),
  ],
)
def test_a_full_disk_names_the_metadata(
  tmp_path, monkeypatch, written_by, file
):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(f"tensorflow_datasets.{written_by}", full)
  splits = {"train": [random_shape(0)]}
  with pytest.raises(OSError, match=f"No space left .*/dataset/{file}"):
    write_dataset(tmp_path / "out", "test", splits, "t", {}, {})
  assert list(tmp_path.iterdir()) == []
