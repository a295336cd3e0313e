"""What fails on one of several processes ends all; the command goes on."""

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import runs
from launchers import slowed

from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.prepare.job import shards

pytestmark = pytest.mark.slow

STEPS = 80
OPTIONS = (
  f"--config.train.steps={STEPS}",
  "--config.checkpoint.every_steps=4",
  f"--config.eval.every_steps={STEPS}",
  "--config.model.depth=1",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
  """As the session's, in several files."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shards, "SHARD_ITEMS", 27)
    return runs.make_data(tmp_path_factory.mktemp("files") / "data")


def ended(processes: list[subprocess.Popen]) -> list[str]:
  """What each says; all end soon, and none with 0."""
  said = [process.communicate(timeout=150)[1] for process in processes]
  assert all(process.returncode for process in processes), said
  return said


def go_on(arguments: list[str], workdir: Path) -> None:
  """The newest checkpoint is whole, and the same command ends the run."""
  assert not (workdir / "results.json").exists()
  newest, _ = load_on_one_device(workdir / "checkpoints", best_metric=None)
  assert 4 <= newest < STEPS
  said = [runs.finish(process) for process in runs.start_together(arguments, 2)]
  assert f"resumed from the checkpoint of step {newest}" in said[0]
  assert "damaged" not in said[0]
  assert json.loads((workdir / "results.json").read_text())["step"] == STEPS


@pytest.mark.long
def test_a_file_of_records_is_removed_under_way(data_dir, tmp_path):
  workdir, mark = tmp_path / "run", tmp_path / "mark"
  arguments = runs.command(data_dir, workdir, *OPTIONS)
  processes = runs.start_together(slowed(arguments, "opening", mark), 2)
  runs.wait_for_step(processes[0], workdir, 8)
  file = sorted(data_dir.glob("*train*array_record*"))[1]
  content = file.read_bytes()
  file.unlink()
  said = ended(processes)
  lines = [x for x in "".join(said).splitlines() if x.startswith("error:")]
  assert any(
    x.startswith("error: data.dir: record ") and file.name in x for x in lines
  ), said
  file.write_bytes(content)
  go_on(arguments, workdir)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_save_fails(data_dir, tmp_path, victim):
  workdir = tmp_path / "run"
  arguments = runs.command(data_dir, workdir, *OPTIONS)
  processes = runs.start_together(arguments, 2)
  runs.wait_until(processes[0], (workdir / "checkpoints" / "8").exists)
  hard = resource.RLIM_INFINITY
  pid = processes[victim].pid
  resource.prlimit(pid, resource.RLIMIT_FSIZE, (2**15, hard))
  said = ended(processes)
  assert "could not be saved" in said[victim], said
  assert "File too large" in said[victim]
  go_on(arguments, workdir)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_during_a_save(data_dir, tmp_path, victim):
  workdir = tmp_path / "run"
  arguments = runs.command(data_dir, workdir, *OPTIONS)
  processes = runs.start_together(arguments, 2)
  checkpoints = workdir / "checkpoints"
  runs.wait_until(processes[0], (checkpoints / "8").exists)
  runs.wait_until(processes[0], lambda: [*checkpoints.glob("*tmp*")])
  processes[victim].kill()
  ended(processes)
  go_on(arguments, workdir)


@pytest.mark.long
def test_a_worker_is_stuck_and_all_are_asked_to_stop(data_dir, tmp_path):
  """They cannot save: the other has begun a step that needs its batch."""
  workdir = tmp_path / "run"
  arguments = runs.command(data_dir, workdir, *OPTIONS)
  processes = runs.start_together([*arguments, "--config.data.workers=1"], 2)
  runs.wait_until(processes[0], (workdir / "checkpoints" / "4").exists)
  os.kill(runs.worker_of(processes[0]), signal.SIGSTOP)
  time.sleep(1)  # the batches that it had read are used up
  for process in processes:
    process.send_signal(signal.SIGTERM)
  said = ended(processes)
  assert "a data worker has died" in said[0]
  go_on(arguments, workdir)
