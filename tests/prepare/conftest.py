"""A stand-in for the hub that has OpenShape's release."""

import random
import types
from pathlib import Path

import pytest
from hub import COMMITS, serving
from huggingface_hub import constants, file_download
from openshape_hub import CHUNK, NAME, lists, zip_of


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
    content = random.Random(i).randbytes(CHUNK * 10 + i)
    (folder / name).write_bytes(content)
  (folder / "meta_data.zip").write_bytes(zip_of(lists()))
  hub.repositories[NAME, COMMITS["main"]] = folder
  return folder
