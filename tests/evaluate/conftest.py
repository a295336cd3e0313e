"""A short run to evaluate."""

import pytest
from short_run import on_devices, pretrained_config

from mrd_jax.training import set_up


@pytest.fixture(scope="module")
def pretrained(data_dir, tmp_path_factory):
  """A short run whose best checkpoint need not be its last."""
  workdir = tmp_path_factory.mktemp("runs") / "pretrained"
  with on_devices(2):
    set_up.train(pretrained_config(data_dir), workdir)
  return workdir
