"""Eight virtual CPU devices for every test that runs in this process.

`make test-gpu` names another platform in JAX_PLATFORMS: then it must be there,
and no test may skip, or nothing would have run on it.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA's own loops and torch's would fight over the cores of a small machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What one process compiles that a test starts, none compiles again.  Not this
# one, nor another with many devices: on CPUs (jaxlib 0.10.2) the collectives of
# a program from the cache lose their order and wait for each other.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  compiled = tempfile.mkdtemp(prefix="mrd_jax_compiled_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
  atexit.register(shutil.rmtree, compiled, ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest
import runs

from mrd_jax.errors import RunFailed
from mrd_jax.parallel.processes import check_platform

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_compilation_cache", False)


PLATFORM = os.environ["JAX_PLATFORMS"].split(",")[0]


def pytest_sessionstart() -> None:
  if PLATFORM != "cpu":
    try:
      check_platform()
    except RunFailed as error:
      pytest.exit(str(error), returncode=1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  report = yield
  if report.skipped and PLATFORM != "cpu":
    report.outcome = "failed"
    report.longrepr = f"{item.nodeid} skipped on {PLATFORM}: {report.longrepr}"
  return report


@pytest.fixture
def x64():
  """Runs a test in float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
  return runs.make_data(tmp_path_factory.mktemp("data") / "procedural")
