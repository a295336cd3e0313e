"""Eight virtual CPU devices for every test that runs in this process."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA's own loops and torch's would fight over the cores of a small machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import jax
import pytest
import runs
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
# Grain's worker processes read absl flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()


@pytest.fixture
def x64():
  """Runs a test in float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory):
  """Runs of one program, as processes of their own, compile it once."""
  path = tmp_path_factory.mktemp("compiled")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(path))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
  return runs.make_data(tmp_path_factory.mktemp("data") / "procedural")
