"""Several processes are one run: together, stopped, killed, and taken over."""

import json
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import (
  assert_same_run,
  command,
  evaluated,
  finish,
  losses,
  run,
  start,
  start_together,
  wait_for_step,
  wait_until,
)

# Each test starts several runs of several processes.
pytestmark = pytest.mark.slow

# Small batches, so that an evaluation has many.
OPTIONS = ("--config.eval.batch_size=2",)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory) -> Path:
  """What two processes leave when nothing happens to them."""
  workdir = tmp_path_factory.mktemp("undisturbed")
  for process in start_together(command(data_dir, workdir, *OPTIONS), 2):
    finish(process)
  return workdir


def go_on(data_dir: Path, workdir: Path) -> None:
  """The same command again, to the end."""
  for process in start_together(command(data_dir, workdir, *OPTIONS), 2):
    finish(process)


def test_two_processes_find_what_one_finds(data_dir, undisturbed, tmp_path):
  """Curve, scores and embeddings; each of the two reads its half."""
  run(command(data_dir, tmp_path, *OPTIONS), devices=2)
  one, two = losses(tmp_path), losses(undisturbed)
  assert list(one) == list(two) == list(range(1, 21))
  np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4)
  assert evaluated(undisturbed) == [0, 10, 20]
  results = [
    json.loads((workdir / "results.json").read_text())
    for workdir in (tmp_path, undisturbed)
  ]
  assert results[0]["shapes"] == results[1]["shapes"] == {"val": 54}
  found = [
    np.load(workdir / "embeddings" / "val.npz")
    for workdir in (tmp_path, undisturbed)
  ]
  for name in found[0].files:  # in the records' order
    np.testing.assert_allclose(found[1][name], found[0][name], atol=2e-3)
  for arrays in found:
    arrays.close()


@pytest.mark.parametrize("piece", ["evaluation", "compilation"])
def test_sigterm_to_one_stops_all_at_one_step(
  data_dir, undisturbed, tmp_path, piece
):
  """In the middle of it; nothing is lost and nothing left out."""
  mark = tmp_path / "mark"
  arguments = command(data_dir, tmp_path / "run", *OPTIONS)
  at = arguments.index("-m")
  arguments[at + 1 : at + 2] = ["tests.slow_main", piece, str(mark)]
  first, second = start_together(arguments, 2)
  wait_until(second, mark.exists)
  second.send_signal(signal.SIGTERM)
  step = int(re.search(r"asked to stop at step (\d+)", finish(first))[1])
  assert finish(second) == ""  # the first speaks for all
  if piece == "evaluation":  # that of step 0, which is then not recorded
    assert step == 0
    assert evaluated(tmp_path / "run") == []
  else:  # one more poll, and they agree
    assert 1 <= step <= 3
    assert (tmp_path / "run" / "checkpoints" / str(step)).exists()
  assert not (tmp_path / "run" / "results.json").exists()
  go_on(data_dir, tmp_path / "run")
  assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("victim", [0, 1])
def test_sigkill_of_one_ends_the_other_soon(
  data_dir, undisturbed, tmp_path, victim
):
  """It cannot go on alone and must not wait for ever."""
  processes = start_together(command(data_dir, tmp_path, *OPTIONS), 2)
  wait_for_step(processes[0], tmp_path, 7)
  processes[victim].kill()
  start = time.monotonic()
  _, errors = processes[1 - victim].communicate(timeout=150)
  assert time.monotonic() - start < 120
  assert processes[1 - victim].returncode != 0, errors
  processes[victim].communicate()
  assert not (tmp_path / "results.json").exists()
  go_on(data_dir, tmp_path)
  assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("moment", ["training", "evaluation"])
def test_sigkill_of_all(data_dir, undisturbed, tmp_path, moment):
  mark = tmp_path / "mark"
  workdir = tmp_path / "run"
  arguments = command(data_dir, workdir, *OPTIONS)
  if moment == "evaluation":
    at = arguments.index("-m")
    arguments[at + 1 : at + 2] = ["tests.slow_main", moment, str(mark)]
  processes = start_together(arguments, 2)
  if moment == "evaluation":
    wait_for_step(processes[0], workdir, 10)  # so in the one of step 10 or on
    mark.unlink()
    wait_until(processes[0], mark.exists)
  else:
    wait_for_step(processes[0], workdir, 13)
  for process in processes:
    process.kill()
  for process in processes:
    process.communicate()
  assert not (workdir / "results.json").exists(), "killed too late"
  go_on(data_dir, workdir)
  assert_same_run(workdir, undisturbed)


def test_other_processes_devices_and_workers_take_over(
  data_dir, undisturbed, tmp_path
):
  """Two processes, then one with eight devices, then one with one.

  The batches are the same, so the losses differ by rounding alone: the first
  after each change hardly, then as two runs do whose rounding differs.
  """
  workdir = tmp_path / "run"
  processes = start_together(command(data_dir, workdir), 2)
  wait_for_step(processes[0], workdir, 6)
  processes[1].send_signal(signal.SIGTERM)
  errors = [finish(process) for process in processes]
  first = int(re.search(r"asked to stop at step (\d+)", errors[0])[1])

  process = start(command(data_dir, workdir, "--config.mesh.fsdp=2"), devices=8)
  wait_for_step(process, workdir, first + 2)
  process.send_signal(signal.SIGTERM)
  second = int(re.search(r"asked to stop at step (\d+)", finish(process))[1])
  run(command(data_dir, workdir, "--config.data.workers=1"))
  expected, found = losses(undisturbed), losses(workdir)
  assert list(found) == list(expected)
  for step in (first + 1, second + 1):
    before = np.array([expected[s] / found[s] for s in (step - 1, step)])
    assert abs(before[1] - before[0]) < 1e-3, step
  np.testing.assert_allclose(
    list(found.values()), list(expected.values()), rtol=5e-3
  )


def test_two_processes_evaluate_to_the_same_file(
  data_dir, undisturbed, tmp_path
):
  def arguments(output: Path) -> list[str]:
    return [
      *(sys.executable, "-m", "mrd_jax.evaluate"),
      *("--checkpoint", str(undisturbed), "--data", str(data_dir)),
      *("--suite", "zero_shot,retrieval", "--output", str(output)),
    ]

  run(arguments(tmp_path / "one"))
  for process in start_together(arguments(tmp_path / "two"), 2):
    finish(process)
  one, two = (
    (tmp_path / name / "results.json").read_text() for name in ("one", "two")
  )
  assert "val" in one
  assert two == one
