"""Eight virtual CPU devices for every test that runs in this process.

`make test-gpu` names another platform in JAX_PLATFORMS: then it must be there,
and no test may skip, or nothing would have run on it.  Where there is one GPU,
tests of several (`gpus`) are left out, and the summary says so.
"""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# PyTorch, and processes that tests start, share the GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
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

import clips
import jax
import pytest
import runs
from encoders import make_encoder
from hub import serving

from mrd_jax.errors import RunFailed
from mrd_jax.finetune import start as starts
from mrd_jax.finetune.classification import Classification
from mrd_jax.finetune.train import finetune
from mrd_jax.parallel.processes import check_platform
from mrd_jax.training import set_up, step
from mrd_jax.training.loop import Run

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_compilation_cache", False)


PLATFORM = os.environ["JAX_PLATFORMS"].split(",")[0]


def pytest_sessionstart() -> None:
  if PLATFORM != "cpu":
    try:
      check_platform()
    except RunFailed as error:
      pytest.exit(str(error), returncode=1)


def several(item: pytest.Item) -> bool:
  return item.get_closest_marker("gpus") is not None


def pytest_collection_modifyitems(
  config: pytest.Config, items: list[pytest.Item]
) -> None:
  if PLATFORM != "cpu" and jax.device_count() == 1:
    config.hook.pytest_deselected(items=[x for x in items if several(x)])
    items[:] = [x for x in items if not several(x)]


def pytest_terminal_summary(terminalreporter) -> None:
  for report in terminalreporter.stats.get("passed", []):
    for name, said in report.user_properties:
      if name == "fuzz":
        terminalreporter.write_line(said)
  left_out = terminalreporter.stats.get("deselected", [])
  if PLATFORM != "cpu" and (count := sum(map(several, left_out))):
    terminalreporter.write_line(f"{count} tests of several GPUs: there is one")


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


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen]]:
  """`runs.spawn` in a group of its own, of which no process is left over."""
  started = []

  def spawn(*arguments: str | Path, **options: Any) -> subprocess.Popen:
    started.append(runs.spawn(*arguments, new_group=True, **options))
    return started[-1]

  yield spawn
  for process in started:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ValueError):  # its pipes are closed: it was read
      process.communicate()


# What several test files start from: to be read, or copied and then changed.


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
  return runs.make_data(tmp_path_factory.mktemp("data") / "procedural")


@pytest.fixture(scope="session")
def traces() -> list[int]:
  """An entry for each time that the run of `pretrained` traced its step."""
  return []


@pytest.fixture(scope="session")
def pretrained(data_dir, tmp_path_factory, traces) -> Path:
  """A short pre-training on two devices; its best step need not be its last."""
  workdir = tmp_path_factory.mktemp("runs") / "pretrained"
  original = step.train_step
  with runs.on_devices(2), pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      "mrd_jax.training.step.train_step",
      lambda *args, **named: traces.append(1) or original(*args, **named),
    )
    set_up.train(runs.pretrained_config(data_dir), workdir)
  return workdir


@pytest.fixture(scope="session")
def labelled_dir(tmp_path_factory) -> Path:
  return runs.make_labelled(tmp_path_factory.mktemp("data") / "labelled")


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory) -> Path:
  """A model folder to fine-tune."""
  path = tmp_path_factory.mktemp("encoder") / "model"
  make_encoder(seed=3, num_points=64).save_pretrained(path)
  return path


@pytest.fixture(scope="session")
def finetuning(labelled_dir, encoder_dir) -> Run:
  """The run of `finetuned`: whoever repeats it compiles nothing."""
  config = runs.finetuned_config(labelled_dir)
  start, variables = starts.load(str(encoder_dir), "latest", config.scratch)
  with runs.on_devices(2):
    return set_up.set_up(Classification(config, start, variables))


@pytest.fixture(scope="session")
def finetuned(finetuning, encoder_dir, tmp_path_factory) -> Path:
  """A short fine-tuning on two devices."""
  workdir = tmp_path_factory.mktemp("runs") / "finetuned"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("mrd_jax.finetune.train.set_up", lambda _: finetuning)
    finetune(finetuning.objective.config, str(encoder_dir), workdir)
  return workdir


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
  """A tiny CLIP; not to be changed."""
  return clips.make_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="session")
def clip_teacher(clip_folder):
  """Its teacher; not to be changed, either."""
  return clips.load_teacher(clip_folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A local stand-in for the Hugging Face hub, of which this process is a user."""
  with serving(tmp_path / "home", monkeypatch) as hub:
    yield hub


@pytest.fixture
def in_the_foreground():
  """Python ignores SIGINT where whoever started it did."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)
