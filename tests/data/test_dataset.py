"""Datasets on disk: round trip, metadata, and that they appear at once."""

import contextlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from runs import REPOSITORY, spawn
from shapes import DIM, NO_IMAGE, NO_TEXT, random_shape

from mrd_jax.data.dataset import class_features, decode, open_split, read_meta
from mrd_jax.data.records import SCHEMA, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.job.dataset_writer import write_dataset
from mrd_jax.prepare.job.shards import serialize_record


def test_round_trip(tmp_path):
  shapes = [random_shape(i, label=i % 2) for i in range(70)]
  shapes.append(random_shape(70, **NO_TEXT))
  names, rows = ["cat", "dog"], np.eye(2, DIM)
  meta = write_dataset(
    tmp_path / "out",
    "test",
    {"train": shapes, "val": iter(shapes[:3])},
    "nobody",
    {"val": names},
    {"val": rows},
  )
  assert read_meta(tmp_path / "out") == meta
  assert (meta.max_points, meta.max_images, meta.max_texts) == (50, 3, 2)
  assert (meta.embed_dim, meta.class_names) == (DIM, {"val": names})
  np.testing.assert_array_equal(class_features(tmp_path / "out", "val"), rows)
  source = open_split(tmp_path / "out", "train")
  assert len(source) == 71 and len(open_split(tmp_path / "out", "val")) == 3
  source = pickle.loads(pickle.dumps(source))
  for shape, record in zip(shapes, source, strict=True):
    expected = encode(shape)
    if not shape.texts:
      expected["text_feat"] = np.zeros((0, DIM), np.float16)
    assert record.keys() == expected.keys()
    for field, value in expected.items():
      np.testing.assert_array_equal(record[field], value, err_msg=field)
      if hasattr(value, "dtype"):
        assert record[field].dtype == value.dtype, field
    assert isinstance(record["id"], str)
  with pytest.raises(IndexError):
    source[71]


def test_reading_says_what_is_missing(tmp_path):
  with pytest.raises(BadInput, match=r"data\.dir.*mrd_jax\.prepare"):
    read_meta(tmp_path / "absent")
  with pytest.raises(BadInput, match=r"data\.dir"):
    open_split(tmp_path, "train")
  write_dataset(tmp_path / "out", "test", {"a": [random_shape()]}, "t", {}, {})
  with pytest.raises(BadInput, match=r"'train'.*has: a"):
    open_split(tmp_path / "out", "train")
  with pytest.raises(BadInput, match="no class names"):
    class_features(tmp_path / "out", "a")


def test_a_failure_leaves_nothing(tmp_path):
  def broken():
    yield random_shape()
    raise RuntimeError("disk on fire")

  with pytest.raises(RuntimeError):
    write_dataset(tmp_path / "out", "test", {"train": broken()}, "t", {}, {})
  with pytest.raises(BadInput, match="not one shape"):
    write_dataset(tmp_path / "out", "test", {"train": []}, "t", {}, {})
  wider = random_shape(1, image_feat=np.ones((3, 9)), **NO_TEXT)
  other = [random_shape(), random_shape(2), wider]
  with pytest.raises(BadInput, match="shape1"):
    write_dataset(tmp_path / "out", "test", {"train": other}, "t", {}, {})
  assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path):
  (tmp_path / "mine").write_text("precious")
  with pytest.raises(BadInput, match="no dataset of ours"):
    write_dataset(tmp_path, "test", {"train": [random_shape()]}, "t", {}, {})
  assert (tmp_path / "mine").read_text() == "precious"
  (tmp_path / "empty").mkdir()
  arguments = (tmp_path / "empty", "test", {"a": [random_shape()]}, "t", {}, {})
  write_dataset(*arguments)
  with pytest.raises(BadInput, match="complete dataset"):
    write_dataset(*arguments)


def test_a_killed_run_leaves_no_output(tmp_path):
  program = f"""
import time
from shapes import random_shape
from mrd_jax.prepare.job.dataset_writer import write_dataset
def slow():
  for i in range(100):
    yield random_shape(i)
  print("half-way", flush=True)
  time.sleep(60)
write_dataset({str(tmp_path / "out")!r}, "test", {{"a": slow()}}, "t", {{}}, {{}})
"""
  path = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
  with spawn(sys.executable, "-c", program, PYTHONPATH=path) as process:
    assert process.stdout and process.stdout.readline() == "half-way\n"
    process.kill()
  assert not (tmp_path / "out").exists()
  write_dataset(tmp_path / "out", "test", {"a": [random_shape()]}, "t", {}, {})


def small_dataset(path):
  shapes = [random_shape(i) for i in range(3)]
  write_dataset(path, "test", {"train": shapes}, "nobody", {}, {})
  return path


def test_a_newer_schema_is_refused_in_words(tmp_path):
  path = small_dataset(tmp_path / "data") / "metadata.json"
  metadata = json.loads(path.read_text())
  assert metadata["schema"] == SCHEMA
  path.write_text(json.dumps(metadata | {"schema": SCHEMA + 1}))
  for read in (read_meta, lambda data: open_split(data, "train")):
    with pytest.raises(BadInput, match="schema 2.*reads up to 1.*newer"):
      read(tmp_path / "data")


def test_reading_needs_no_tensorflow_and_no_pickle(tmp_path):
  data = small_dataset(tmp_path / "data")
  code = """
import sys, pickle
from mrd_jax.data import dataset
def refuse(*_, **__):
  raise AssertionError("unpickled")
pickle.load = pickle.loads = pickle.Unpickler = refuse
records = list(dataset.open_split(sys.argv[1], "train"))
assert records and records[0]["xyz"].dtype == "int16"
assert not {"tensorflow", "torch", "apache_beam"} & set(sys.modules)
"""
  subprocess.run([sys.executable, "-c", code, data], cwd=REPOSITORY, check=True)


def test_records_are_what_tfds_reads(tmp_path):
  """Our decoder against the one of the library whose format it is."""
  shapes = [
    random_shape(0),
    random_shape(1, label=7, **NO_TEXT),
    random_shape(2, label=3, dataset="", **NO_IMAGE),
  ]
  write_dataset(tmp_path / "d", "test", {"train": shapes}, "nobody", {}, {})
  rows = tfds.builder_from_directory(tmp_path / "d").as_data_source("train")
  source = open_split(tmp_path / "d", "train")
  assert len(source) == len(rows) == 3
  for record, row in ((source[i], rows[i]) for i in range(3)):
    assert record["id"] == row["id"].decode()
    assert record["dataset"] == row["dataset"].decode()
    assert record["texts"] == [text.decode() for text in row["texts"]]
    for field in row.keys() - {"id", "dataset", "texts"}:
      expected = np.asarray(row[field], record[field].dtype)
      np.testing.assert_array_equal(record[field], expected, strict=True)


def test_bytes_that_are_no_record():
  content = serialize_record(encode(random_shape()), DIM)
  assert decode(content, DIM)["id"] == "shape0"
  rng = np.random.default_rng(0)
  for cut in range(0, len(content), 7):
    with pytest.raises((ValueError, LookupError)):
      decode(content[:cut], DIM)
  for _ in range(300):  # any outcome but a hang or another exception
    damaged = bytearray(content)
    damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
    with contextlib.suppress(ValueError, LookupError):
      decode(bytes(damaged), DIM)
