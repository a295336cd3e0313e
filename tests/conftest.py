"""Eight virtual CPU devices for every test that runs in this process."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA's own loops and torch's would fight over the cores of a small machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
# Grain's worker processes read absl flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()


@pytest.fixture
def x64():
  """Runs a test in float64."""
  with jax.enable_x64(True):
    yield
