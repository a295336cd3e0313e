"""A run, and the GPU tests, meet the platform that was named, or end."""

import os
import subprocess
import sys
import types

import conftest
import pytest
from runs import REPOSITORY

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("platforms", ["cuda", "cuda,cpu"])
def test_a_run_that_was_told_cuda_and_finds_a_cpu_ends(tmp_path, platforms):
  ended = subprocess.run(
    [sys.executable, "-m", "mrd_jax.main", "--config", "configs/debug.py"]
    + ["--workdir", tmp_path / "run"],
    cwd=REPOSITORY,
    env=os.environ | NO_GPU | {"JAX_PLATFORMS": platforms},
    capture_output=True,
    text=True,
  )
  last = ended.stderr.splitlines()[-1]
  assert ended.returncode == 1
  assert last.startswith("error: JAX_PLATFORMS names 'cuda', which cannot be")
  assert "Traceback" not in ended.stderr
  assert not (tmp_path / "run").exists()


def test_gpu_tests_without_a_gpu_say_so_in_one_sentence():
  ended = subprocess.run(
    [
      sys.executable,
      "-m",
      "pytest",
      "-m",
      "gpu",
      "tests/parallel/test_platform.py",
    ],
    cwd=REPOSITORY,
    env=os.environ | NO_GPU | {"JAX_PLATFORMS": "cuda"},
    capture_output=True,
    text=True,
  )
  said = ended.stdout + ended.stderr
  assert ended.returncode == 1
  assert "JAX_PLATFORMS names 'cuda', which cannot be used here" in said
  assert "Traceback" not in said


@pytest.mark.parametrize(
  ("platform", "outcome"), [("cpu", "skipped"), ("cuda", "failed")]
)
def test_a_skip_on_an_accelerator_is_a_failure(monkeypatch, platform, outcome):
  monkeypatch.setattr(conftest, "PLATFORM", platform)
  report = types.SimpleNamespace(
    skipped=True, outcome="skipped", longrepr="needs a Hopper GPU"
  )
  hook = conftest.pytest_runtest_makereport(
    types.SimpleNamespace(nodeid="test_kernel"), None
  )
  next(hook)
  with pytest.raises(StopIteration):
    hook.send(report)
  assert report.outcome == outcome
  assert "needs a Hopper GPU" in report.longrepr
