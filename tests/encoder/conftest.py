"""A model folder, to be changed."""

from pathlib import Path

import pytest
from encoders import make_encoder


@pytest.fixture
def folder(tmp_path) -> Path:
  """A model folder."""
  make_encoder().save_pretrained(tmp_path / "model")
  return tmp_path / "model"
