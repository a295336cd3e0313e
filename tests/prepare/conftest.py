"""A tiny teacher, a quick command, and a hub that has OpenShape's release."""

import functools
import os
import random
import types
from pathlib import Path

import pytest
from clips import make_clip
from hub import COMMITS, serving
from huggingface_hub import constants, file_download
from openshape_hub import CHUNK, NAME, lists, zip_of

from mrd_jax.prepare.__main__ import main
from mrd_jax.prepare.job.teacher import TeacherConfig

_load = functools.cache(TeacherConfig.load)


@pytest.fixture(scope="module", autouse=True)
def quick():
  """A teacher is loaded and compiled once; units run in this process."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(TeacherConfig, "load", _load)
    patch.setattr(os, "cpu_count", lambda: 1)
    yield


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
  small = {"num_hidden_layers": 1}
  folder = tmp_path_factory.mktemp("clip") / "tiny"
  return make_clip(folder, text=small, vision=small)


@pytest.fixture(scope="session")
def by_clip(clip) -> list[str]:
  """The flags that name the teacher."""
  return ["--dtype=float32", "--batch-size=2", f"--teacher={clip}"]


@pytest.fixture(scope="session")
def teacher(clip):
  config = TeacherConfig(model=str(clip), dtype="float32", batch_size=2)
  return _load(config).clip


@pytest.fixture
def prepare(tmp_path, capsys):
  """Runs a kind on tmp_path/in; returns its exit code and what it printed."""

  def run(kind, *args, output=tmp_path / "out"):
    paths = ["--input", tmp_path / "in", "--output", output]
    code = main([kind, *map(str, [*paths, *args])])
    printed = capsys.readouterr()
    return code, printed.out if code == 0 else printed.err.strip()

  return run


@pytest.fixture
def hub(tmp_path, monkeypatch):
  monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
  monkeypatch.setattr(
    file_download, "time", types.SimpleNamespace(sleep=lambda _: None)
  )
  with serving(tmp_path / "home", monkeypatch) as hub:
    yield hub


@pytest.fixture
def remote(hub, tmp_path) -> Path:
  """What the hub has: random archives in the release's layout."""
  folder = tmp_path / "remote"
  for i, name in enumerate(
    [
      "3D-FUTURE.tar.gz",
      "ABO.tar.gz",
      "Objaverse/000-000.tar.gz",
      "Objaverse/000-001.tar.gz",
      "Objaverse/000-010.tar.gz",
      "Objaverse_12.tar.gz",
      "README.md",
      "ShapeNet.tar.gz",
      "rendered_images/000-000.tar.gz",
    ]
  ):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(random.Random(i).randbytes(CHUNK * 10 + i))
  (folder / "meta_data.zip").write_bytes(zip_of(lists()))
  hub.repositories[NAME, COMMITS["main"]] = folder
  return folder
