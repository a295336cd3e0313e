"""A run that nothing disturbs, for tests that disturb one like it."""

from pathlib import Path

import pytest
from runs import command, run


@pytest.fixture(scope="session")
def quick() -> tuple[str, ...]:
  """60 steps of what is quick to compile; it is not about the losses."""
  return (
    "--config.train.steps=60",
    "--config.checkpoint.every_steps=10",
    "--config.eval.every_steps=60",
    "--config.model.depth=1",
    "--config.loss.intra=False",
    "--config.loss.cross=False",
  )


@pytest.fixture(scope="session")
def straight(data_dir, quick, tmp_path_factory) -> Path:
  workdir = tmp_path_factory.mktemp("straight")
  run(command(data_dir, workdir, *quick))
  return workdir
