"""Encoders on disk."""

import pytest
from encoders import make_encoder

from mrd_jax.zoo import openshape


@pytest.fixture
def unknown(tmp_path):
  """A file of an encoder that no table knows, and its encoder."""
  encoder = make_encoder()
  state = openshape.to_state_dict(encoder.variables, num_batches_tracked=7)
  from converting import save  # needs torch

  save(tmp_path / "model.pt", state)
  return tmp_path / "model.pt", encoder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  make_encoder().save_pretrained(folder)
  return folder
