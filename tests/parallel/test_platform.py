"""A run, and the GPU tests, meet the platform that was named, or end."""

import sys
import types

import pytest
from runs import REPOSITORY, finish

from mrd_jax.errors import RunFailed


@pytest.mark.parametrize("platforms", ["cuda", "cuda,cpu"])
def test_a_run_that_was_told_cuda_and_finds_a_cpu_ends(
  tmp_path, spawn, platforms
):
  process = spawn(
    *(sys.executable, "-m", "mrd_jax.main", "--config", "configs/debug.py"),
    *("--workdir", tmp_path / "run"),
    JAX_PLATFORMS=platforms,
    CUDA_VISIBLE_DEVICES="",
  )
  errors = finish(process, expect=1)
  last = errors.splitlines()[-1]
  assert last.startswith("error: JAX_PLATFORMS names 'cuda', which cannot be")
  assert "Traceback" not in errors
  assert not (tmp_path / "run").exists()


@pytest.fixture
def conftest(request) -> types.ModuleType:
  return request.config.pluginmanager.get_plugin(
    str(REPOSITORY / "tests" / "conftest.py")
  )


def test_gpu_tests_without_a_gpu_end_with_the_sentence(conftest, monkeypatch):
  def check() -> None:
    raise RunFailed("JAX_PLATFORMS names 'cuda', which cannot be used here")

  monkeypatch.setattr(conftest, "PLATFORM", "cuda")
  monkeypatch.setattr(conftest, "check_platform", check)
  with pytest.raises(
    pytest.exit.Exception, match="'cuda', which cannot"
  ) as end:
    conftest.pytest_sessionstart()
  assert end.value.returncode == 1


@pytest.mark.parametrize(
  ("platform", "outcome"), [("cpu", "skipped"), ("cuda", "failed")]
)
def test_a_skip_on_an_accelerator_is_a_failure(
  conftest, monkeypatch, platform, outcome
):
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
