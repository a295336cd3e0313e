"""Stand-ins for what a cluster has: commands that note what they are asked."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import losses

from configs import debug
from mrd_jax.config.pretraining import Config
from mrd_jax.training import set_up

# A Python that only notes what it was started with; TERM is noted too.
NOTING = """
import json, os, signal, sys, time
if sys.argv[1] == "-c":
  os.execv(os.environ["REAL"], ["python", *sys.argv[1:]])
index = os.environ.get("JAX_PROCESS_ID") or os.environ["SLURM_PROCID"]
folder = os.environ["NOTES"]
def note(name, value):
  with open(f"{folder}/{name}{index}.tmp", "w") as file:
    json.dump(value, file)
  os.rename(f"{folder}/{name}{index}.tmp", f"{folder}/{name}{index}")
def leave(*_):
  note("term", True)
  sys.exit(int(os.environ.get("ON_TERM", "0")))
signal.signal(signal.SIGTERM, leave)
note("start", [sys.argv[1:], dict(os.environ)])
plan = os.environ.get("PLAN", "0 0").split()[int(index)]
if plan == "wait":
  time.sleep(60)
if plan.startswith("-"):
  os.kill(os.getpid(), -int(plan))
sys.exit(int(plan))
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  """One process has one CPU device, and the shell finds this Python."""
  launchers = ("SLURM_", "OMPI_", "KUBERNETES_", "JAX_")
  for name in list(os.environ):
    if name.startswith(launchers) and "_CACHE_" not in name:
      monkeypatch.delenv(name)
  for name in ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("PYTHON", sys.executable)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  # A shell cannot trap what it is started to ignore, as background jobs are.
  handlers = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
  }
  before = {x: signal.signal(x, handlers[x]) for x in handlers}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.fixture(scope="session")
def curve(data_dir, tmp_path_factory) -> dict[int, float]:
  """Of one process, this one."""
  workdir = tmp_path_factory.mktemp("one")
  values = debug.get_config()
  values.data.dir = str(data_dir)
  values.eval.every_steps = 20
  set_up.train(Config.from_dict(values), workdir)
  return losses(workdir)


@pytest.fixture
def spawn(spawn) -> Callable[..., subprocess.Popen]:
  """What a launcher says comes in one piece."""
  return functools.partial(spawn, stderr=subprocess.STDOUT)


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Callable[[str, str], Path]:
  """Puts a Python script in the place of a command, before all others."""
  folder = tmp_path / "bin"
  folder.mkdir()
  monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

  def stand_in(name: str, script: str) -> Path:
    file = folder / name
    file.write_text(f"#!{sys.executable}\n{script}")
    file.chmod(0o755)
    assert shutil.which(name) == str(file)
    return file

  return stand_in


@pytest.fixture
def noting(tmp_path, stand_in, monkeypatch):
  """Such a Python, and what processes noted."""
  monkeypatch.setenv("PYTHON", str(stand_in("python", NOTING)))
  notes = tmp_path / "notes"
  notes.mkdir()
  monkeypatch.setenv("REAL", sys.executable)
  monkeypatch.setenv("NOTES", str(notes))

  def read(kind: str, wait_for: int = 0) -> list:
    while len(found := sorted(notes.glob(f"{kind}?"))) < wait_for:
      time.sleep(0.02)
    return [json.loads(file.read_text()) for file in found]

  return read
