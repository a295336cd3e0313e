"""What a dataset says about itself is data: nothing that it names runs."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from runs import REPOSITORY
from shapes import DIM, random_shape

from mrd_jax import main
from mrd_jax.data.batches import pad_records
from mrd_jax.data.dataset import (
  class_features,
  open_split,
  read_meta,
  split_names,
)
from mrd_jax.data.description import features
from mrd_jax.embed import __main__ as embed
from mrd_jax.errors import BadInput
from mrd_jax.evaluate import __main__ as evaluate
from mrd_jax.inspect import __main__ as inspect
from mrd_jax.prepare.job.dataset_writer import write_dataset


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  path = tmp_path_factory.mktemp("original") / "data"
  shapes = [random_shape(i, label=i % 2) for i in range(4)]
  class_features = random_shape().image_feat[:2]
  splits = {"train": shapes, "val": shapes[:2]}
  names = {"val": ["cat", "dog"]}
  write_dataset(path, "test", splits, "t", names, {"val": class_features})
  return path


@pytest.fixture
def data(original, tmp_path):
  return shutil.copytree(original, tmp_path / "down")


def change(file, *path, value):
  """Sets what is at a path in a JSON file; without a value it is removed."""
  content = json.loads(file.read_text())
  place = content
  for step in path[:-1]:
    place = place[step]
  if value is None:
    del place[path[-1]]
  else:
    place[path[-1]] = value
  file.write_text(json.dumps(content))


FIELDS = ("featuresDict", "features")


@pytest.mark.parametrize("features", [np.array(["a"]), np.ones(3), np.ones(())])
def test_class_features_of_another_form_are_refused(data, features):
  np.savez(data / "class_features.npz", val=features)
  with pytest.raises(BadInput, match=r"class_features\.npz: val holds .*again"):
    class_features(data, "val")


@pytest.mark.parametrize(
  ("most", "field"),
  [
    ("max_points", "xyz"),
    ("max_images", "image_feat"),
    ("max_texts", "text_feat"),
  ],
)
def test_a_record_larger_than_its_dataset_says_is_refused(data, most, field):
  change(data / "metadata.json", most, value=1)
  rows = list(open_split(data, "train"))
  found = rf"{field} of shape 'shape\d' .* at most 1;"
  with pytest.raises(BadInput, match=found):
    pad_records(rows, range(len(rows)), read_meta(data))


def test_a_pipe_is_not_waited_for(data):
  (shard,) = data.glob("*val*array_record*")
  shard.unlink()
  os.mkfifo(shard)
  with pytest.raises(BadInput, match="record 0 of split 'val'.*is no file"):
    open_split(data, "val")[0]
  (data / "features.json").unlink()
  os.mkfifo(data / "features.json")
  with pytest.raises(BadInput):
    read_meta(data)


@pytest.mark.parametrize("verb", ["inspect", "main", "evaluate", "embed"])
def test_no_class_that_a_dataset_names_is_imported(
  verb, data, tmp_path, monkeypatch, capsys
):
  trace = tmp_path / "executed"
  (data / "payload.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
  field = (*FIELDS, "label", "pythonClassName")
  change(data / "features.json", *field, value="down.payload.Label")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  config = REPOSITORY / "configs" / "debug.py"
  run, argv = {
    "inspect": (inspect.main, ["down"]),
    "main": (
      main.main,
      [f"--config={config}", "--workdir=run", "--config.data.dir=down"],
    ),
    "evaluate": (
      evaluate.main,
      ["--checkpoint=none", "--data=down", "--output=out"]
      + ["--suite=zero_shot"],
    ),
    "embed": (
      embed.main,
      ["--checkpoint=none", "--data=down", "--split=val", "--output=e.npz"],
    ),
  }[verb]
  assert run(argv) == 2
  said = capsys.readouterr().err
  assert said.startswith(
    "error: data.dir: down/features.json: the field 'label'"
  )
  assert said.count("\n") == 1
  assert not trace.exists() and "down.payload" not in sys.modules
  __import__("down.payload")  # it would have worked
  del sys.modules["down.payload"], sys.modules["down"]
  assert trace.exists()


NAME = "pythonClassName"
TEMPLATE = "{DATASET}-{SPLIT}.{SHARD_X_OF_Y}.{FILEFORMAT}"


@pytest.mark.parametrize(
  ("file", "path", "value", "words"),
  [
    ("features", (*FIELDS, "xyz"), None, "the field 'xyz' is None, must be"),
    ("features", (*FIELDS, "odd"), {}, "the field 'odd' is none of a record"),
    (
      "features",
      (*FIELDS, "xyz", "tensor", "dtype"),
      "int8",
      "the field 'xyz'",
    ),
    (
      "features",
      (*FIELDS, "texts", "sequence", "feature", NAME),
      "a.B",
      "texts",
    ),
    ("features", FIELDS, ["a"], r"has no featuresDict\.features"),
    ("features", (NAME,), "down.payload.Top", "pythonClassName must be tens"),
    ("dataset_info", ("fileFormat",), "tfrecord", "fileFormat is 'tfrecord'"),
    ("dataset_info", ("name",), "../x", r"name is '\.\./x', must be letters"),
    ("dataset_info", ("splits",), {"a": 1}, "splits must be a list"),
    ("dataset_info", ("splits",), ["a"], "splits must be a list"),
    ("dataset_info", ("splits", 0, "name"), "/etc/x", r"splits\.name is '/etc"),
    (
      "dataset_info",
      ("splits", 0, "filepathTemplate"),
      TEMPLATE,
      "Template is",
    ),
    (
      "dataset_info",
      ("splits", 0, "shardLengths"),
      ["-1"],
      "shardLengths of t",
    ),
    ("dataset_info", ("splits", 0, "shardLengths"), None, "shardLengths of t"),
    (
      "dataset_info",
      ("splits", 0, "shardLengths"),
      ["9999999999"],
      "fewer than",
    ),
    (
      "metadata",
      ("max_points",),
      10**12,
      "max_points is 1000000000000, must be",
    ),
    ("metadata", ("embed_dim",), "8", "embed_dim is '8', must be of type int"),
    ("metadata", ("embed_dim",), DIM + 1, "field 'image_feat' is .*must be"),
    ("metadata", ("class_names", "val"), "cat", "class_names of 'val' must be"),
    ("metadata", ("teacher",), None, "the metadata in .* lacks teacher"),
    ("metadata", ("schema",), "new", "schema is 'new'"),
  ],
)
def test_what_is_not_our_layout_is_refused(data, file, path, value, words):
  change(data / f"{file}.json", *path, value=value)
  for read in (read_meta, split_names, lambda data: open_split(data, "train")):
    with pytest.raises(BadInput, match=rf"^data\.dir: .*{words}") as error:
      read(data)
    assert "\n" not in str(error.value)
    assert "mrd_jax.prepare" in str(error.value)


@pytest.mark.parametrize("name", ["features", "dataset_info", "metadata"])
@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "\x00", None])
def test_damaged_descriptions(data, name, content):
  file = data / f"{name}.json"
  file.unlink() if content is None else file.write_text(content)
  with pytest.raises(BadInput, match="prepare") as error:
    read_meta(data)
  assert str(data) in str(error.value)


def test_what_tfds_writes_is_what_is_expected(original):
  written = json.loads((original / "features.json").read_text())
  assert written["featuresDict"]["features"] == features(DIM)


def test_a_folder_whose_name_is_too_long_for_any_file_does_not_exist():
  """As a run's config.json may name it, which is read without its data."""
  with pytest.raises(BadInput, match="x does not exist"):
    read_meta(5000 * "x")
