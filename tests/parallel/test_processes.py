"""Several processes are one run: together, stopped, killed, and taken over."""

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import runs
from launchers import assert_same_curve, slowed, stopped_at

from mrd_jax.io.arrays import read_npz

# Each test starts several runs of several processes.
pytestmark = pytest.mark.slow

# Small batches, so that an evaluation has many.
OPTIONS = ("--config.eval.batch_size=2",)


def run_together(arguments: list[str]) -> list[str]:
  return [runs.finish(process) for process in runs.start_together(arguments, 2)]


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory) -> Path:
  """What two processes leave when nothing happens to them."""
  workdir = tmp_path_factory.mktemp("undisturbed")
  run_together(runs.command(data_dir, workdir, *OPTIONS))
  return workdir


def go_on(data_dir: Path, workdir: Path, undisturbed: Path) -> None:
  """The same command again, to the end, which is that of `undisturbed`."""
  run_together(runs.command(data_dir, workdir, *OPTIONS))
  runs.assert_same_run(workdir, undisturbed)


def test_two_processes_find_what_one_finds(data_dir, undisturbed, tmp_path):
  """Curve, scores and embeddings; each of the two reads its half."""
  runs.run(runs.command(data_dir, tmp_path, *OPTIONS), devices=2)
  assert_same_curve(undisturbed, runs.losses(tmp_path), rtol=1e-4)
  assert runs.evaluated(undisturbed) == [0, 10, 20]
  both = []
  for workdir in (tmp_path, undisturbed):
    results = json.loads((workdir / "results.json").read_text())
    assert results["shapes"] == {"val": 54}
    both.append(read_npz(workdir / "embeddings" / "val.npz", ""))
  for name in both[0]:  # in the records' order
    np.testing.assert_allclose(both[1][name], both[0][name], atol=2e-3)


@pytest.mark.parametrize(
  "piece", ["evaluation", pytest.param("compilation", marks=pytest.mark.long)]
)
def test_sigterm_to_one_stops_all_at_one_step(
  data_dir, undisturbed, tmp_path, piece
):
  """In the middle of it; nothing is lost and nothing left out."""
  mark, workdir = tmp_path / "mark", tmp_path / "run"
  arguments = slowed(runs.command(data_dir, workdir, *OPTIONS), piece, mark)
  first, second = runs.start_together(arguments, 2)
  runs.wait_until(second, mark.exists)
  second.send_signal(signal.SIGTERM)
  step = stopped_at(runs.finish(first), workdir)
  assert runs.finish(second) == ""  # the first speaks for all
  if piece == "evaluation":  # that of step 0, which is then not recorded
    assert step == 0
    assert runs.evaluated(workdir) == []
  else:  # one more poll, and they agree
    assert 1 <= step <= 3
  go_on(data_dir, workdir, undisturbed)


# test_distributed.py and the launcher's tests have it, too.
@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_sigkill_of_one_ends_the_other_soon(
  data_dir, undisturbed, tmp_path, victim
):
  """It cannot go on alone and must not wait for ever."""
  processes = runs.start_together(runs.command(data_dir, tmp_path, *OPTIONS), 2)
  runs.wait_for_step(processes[0], tmp_path, 7)
  processes[victim].kill()
  start = time.monotonic()
  _, errors = processes[1 - victim].communicate(timeout=150)
  assert time.monotonic() - start < 120
  assert processes[1 - victim].returncode != 0, errors
  processes[victim].communicate()
  assert not (tmp_path / "results.json").exists()
  go_on(data_dir, tmp_path, undisturbed)


@pytest.mark.parametrize(
  "moment", ["training", pytest.param("evaluation", marks=pytest.mark.long)]
)
def test_sigkill_of_all(data_dir, undisturbed, tmp_path, moment):
  mark, workdir = tmp_path / "mark", tmp_path / "run"
  arguments = runs.command(data_dir, workdir, *OPTIONS)
  if moment == "evaluation":
    arguments = slowed(arguments, moment, mark)
  processes = runs.start_together(arguments, 2)
  if moment == "evaluation":
    # So in the one of step 10 or on.
    runs.wait_for_step(processes[0], workdir, 10)
    mark.unlink()
    runs.wait_until(processes[0], mark.exists)
  else:
    runs.wait_for_step(processes[0], workdir, 13)
  for process in processes:
    process.kill()
  for process in processes:
    process.communicate()
  assert not (workdir / "results.json").exists(), "killed too late"
  go_on(data_dir, workdir, undisturbed)


def test_other_processes_devices_and_workers_take_over(
  data_dir, undisturbed, tmp_path
):
  """Two processes, then one with eight devices, then one with one.

  The batches are the same, so the losses differ by rounding alone: the first
  after each change hardly, then as two runs do whose rounding differs.
  """
  workdir = tmp_path / "run"
  processes = runs.start_together(runs.command(data_dir, workdir), 2)
  runs.wait_for_step(processes[0], workdir, 6)
  processes[1].send_signal(signal.SIGTERM)
  said, _ = map(runs.finish, processes)
  first = stopped_at(said, workdir)

  process = runs.start(
    runs.command(data_dir, workdir, "--config.mesh.fsdp=2"), devices=8
  )
  runs.wait_for_step(process, workdir, first + 2)
  process.send_signal(signal.SIGTERM)
  second = stopped_at(runs.finish(process), workdir)
  runs.run(runs.command(data_dir, workdir, "--config.data.workers=1"))
  expected, found = runs.losses(undisturbed), runs.losses(workdir)
  for step in (first + 1, second + 1):
    before = np.array([expected[s] / found[s] for s in (step - 1, step)])
    assert abs(before[1] - before[0]) < 1e-3, step
  assert_same_curve(workdir, expected)


def test_two_processes_evaluate_to_the_same_file(
  data_dir, undisturbed, tmp_path
):
  def arguments(output: Path) -> list[str]:
    return [
      *(sys.executable, "-m", "mrd_jax.evaluate"),
      *("--checkpoint", str(undisturbed), "--data", str(data_dir)),
      *("--suite", "zero_shot,retrieval", "--output", str(output)),
    ]

  runs.run(arguments(tmp_path / "one"))
  run_together(arguments(tmp_path / "two"))
  one, two = (
    (tmp_path / name / "results.json").read_text() for name in ("one", "two")
  )
  assert "val" in one
  assert two == one
