"""Reads datasets of more files than a process may have open."""

import os
import pickle
import resource
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import runs
from shapes import random_shape

from mrd_jax.data.dataset import open_split
from mrd_jax.data.open_files import OpenFiles
from mrd_jax.errors import RunFailed
from mrd_jax.io.arrays import read_npz
from mrd_jax.prepare import procedural
from mrd_jax.prepare.job import shards
from mrd_jax.prepare.job.dataset_writer import write_dataset


@pytest.fixture
def many(tmp_path, monkeypatch):
  """Forty files of a record each."""
  monkeypatch.setattr(shards, "SHARD_ITEMS", 1)
  shapes = [random_shape(i) for i in range(40)]
  write_dataset(tmp_path / "data", "test", {"train": shapes}, "t", {}, {})
  return tmp_path / "data"


def open_now(folder):
  fds = "/proc/self/fd"
  links = (os.readlink(f"{fds}/{x}") for x in os.listdir(fds) if x.isdigit())
  return sum(link.startswith(str(folder)) for link in links)


def test_few_files_are_open(many, monkeypatch):
  monkeypatch.setattr(OpenFiles, "most", 3)
  # A directory's own descriptor is gone by the time that its link is read.
  monkeypatch.setattr(os, "readlink", _quiet(os.readlink))
  source = open_split(many, "train")
  assert len(source) == len(source.files) == 40
  for row in range(40):
    assert source[row]["id"] == f"shape{row}"
    assert open_now(many) == min(row + 1, 3)
  rows = np.random.default_rng(0).integers(0, 40, 400).tolist()
  with ThreadPoolExecutor(8) as pool:
    ids = list(pool.map(lambda row: source[row]["id"], rows))
  assert ids == [f"shape{row}" for row in rows] and open_now(many) == 3
  source = pickle.loads(pickle.dumps(source))  # the first is gone
  assert open_now(many) == 0 and source[1]["id"] == "shape1"


def _quiet(readlink):
  def read(path):
    try:
      return readlink(path)
    except OSError:
      return ""

  return read


def test_a_shortage_is_not_called_damage(many):
  source = open_split(many, "train")
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
  try:
    with pytest.raises(RunFailed, match="too many open files; allow.*ulimit"):
      source[0]
    np_file = many / "class_features.npz"
    with pytest.raises(RunFailed, match="npz cannot be opened: too many open"):
      read_npz(np_file, "prepare the data again")
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
  assert source[0]["id"] == "shape0"


def test_small_shards_are_joined(tmp_path, monkeypatch):
  """Those of units of work that have few records of a split."""
  taken = {"a": 13, "b": 1}
  monkeypatch.setattr(shards, "SHARD_ITEMS", 5)
  splits = {
    split: [random_shape(i) for i in range(count)]
    for split, count in taken.items()
  }
  write_dataset(tmp_path / "data", "test", splits, "t", {}, {})
  for split, files in (("a", 3), ("b", 1)):
    source = open_split(tmp_path / "data", split)
    assert len(source.files) == files
    ids = [record["id"] for record in source]
    assert ids == [f"shape{i}" for i in range(taken[split])]


@pytest.mark.slow
@pytest.mark.long
def test_the_release_under_a_small_limit(tmp_path, monkeypatch):
  """1,417 files, 256 open: trained on, inspected, evaluated and embedded."""
  data, run = tmp_path / "data", tmp_path / "run"
  with monkeypatch.context() as patch:
    patch.setattr(shards, "SHARD_ITEMS", 1)
    procedural.generate(
      data, train=1363, val=54, num_points=160, num_views=2, embed_dim=32
    )
  assert len(list(data.glob("*.array_record-*"))) == 1417
  limit = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh"]

  def verb(name, *arguments):
    command = [*limit, sys.executable, "-m", f"mrd_jax.{name}"]
    runs.finish(runs.start([*command, *map(str, arguments)]))

  steps = "--config.train.steps=45"  # all files, and a few again
  runs.finish(runs.start([*limit, *runs.command(data, run, steps)]))
  verb("inspect", data, "--full")
  suite = ("--suite", "retrieval", "--split", "retrieval=train")
  made = ("--data", data, "--output", tmp_path / "scores")
  verb("evaluate", "--checkpoint", run, *suite, *made)
  output = tmp_path / "train.npz"
  flags = ("--data", data, "--split", "train", "--output", output)
  verb("embed", "--checkpoint", run, *flags)
  with np.load(output) as arrays:
    assert len(arrays["files"]) == 1363
