"""Runs survive damage: of their checkpoints, of the disk, of the process."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from damage import array_file, flip

from mrd_jax.checkpoint.read import load_on_one_device


def command(data_dir: Path, workdir: Path, *options: str) -> list[str]:
  return runs.command(
    data_dir,
    workdir,
    *("--config.model.depth=1", "--config.eval.retrieval=()"),
    *("--config.eval.batch_size=16", "--config.train.steps=12"),
    *("--config.eval.every_steps=12", "--config.checkpoint.every_steps=4"),
    *options,
  )


@pytest.mark.slow
def test_a_run_goes_on_from_the_one_before_and_ends_the_same(
  data_dir, tmp_path
):
  arguments = command(data_dir, tmp_path)
  runs.run(arguments)
  expected = runs.last_state(tmp_path)
  curve = runs.losses(tmp_path)
  assert runs.evaluated(tmp_path) == [0, 12]
  file = array_file(tmp_path / "checkpoints" / "12")
  os.truncate(file, file.stat().st_size // 2)
  lines = runs.run(arguments).splitlines()
  said = [line for line in lines if not line.startswith("step ")]
  # The summary of four lines, the remark, and nothing of Orbax's.
  assert len(said) == 6, said
  assert said[4].startswith("the checkpoint of step 12 is damaged (")
  assert said[4].endswith("; the run goes on from step 8")
  assert said[5] == "resumed from the checkpoint of step 8"
  jax.tree.map(
    np.testing.assert_array_equal, runs.last_state(tmp_path), expected
  )
  assert runs.losses(tmp_path) == curve
  assert runs.evaluated(tmp_path) == [0, 12]


def saving(directory: Path, steps: int, megabytes: int) -> list[str]:
  script = [sys.executable, "-m", "tests.saving", str(directory)]
  return [*script, str(steps), str(megabytes)]


def pair(directory: Path, steps: int) -> list[str]:
  """What two processes say, of which each writes its half of the state."""
  both = [
    runs.start([*saving(directory, steps, 1), *flags])
    for flags in runs.joining(2)
  ]
  try:
    said = [process.communicate(timeout=runs.PATIENCE) for process in both]
  finally:  # one that waits for the other for ever
    for process in both:
      process.kill()
  assert [process.returncode for process in both] == [0, 0], said
  return [out for out, _ in said]


@pytest.mark.parametrize(
  "damage", ["truncated", pytest.param("flipped", marks=pytest.mark.slow)]
)
def test_two_processes_agree_on_the_one_before(tmp_path, damage):
  """Only one of them reads the damaged file."""
  pair(tmp_path, 3)
  (file,) = (tmp_path / "3").rglob("ocdbt.process_1/d/*")
  size = file.stat().st_size
  assert size > 2**18
  if damage == "truncated":
    os.truncate(file, size // 2)
  else:
    flip(file, size // 2)
  first, second = pair(tmp_path, 4)
  for said in (first, second):
    assert "step 3 is damaged (" in said and "from 2\ndone" in said
  assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4", "damaged-3"]
  # And one process alone goes on from what two have left.
  out, errors = runs.start(saving(tmp_path, 5, 1)).communicate(
    timeout=runs.PATIENCE
  )
  assert "from 4\ndone" in out, errors


def kill_during_a_save(directory: Path, seconds: float, steps: int) -> None:
  """Kills it so long after a second save has begun."""
  process = runs.start(saving(directory, steps, 64))
  after = directory / str(int(runs.read_until(process, "from").split()[1]) + 1)
  runs.wait_until(
    process, lambda: after.exists() and [*directory.glob("*tmp*")]
  )
  time.sleep(seconds)
  process.kill()
  process.communicate()


@pytest.mark.slow
def test_killed_during_a_save(tmp_path):
  """Goes on from the last complete one, whose values it checks itself."""
  interrupted = 0
  for moment in np.linspace(0, 0.5, 8).tolist():
    kill_during_a_save(tmp_path, moment, 1000)
    interrupted += bool(list(tmp_path.glob("*tmp*")))
    complete = max(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
    step, _ = load_on_one_device(tmp_path, best_metric=None)
    assert step == complete
  assert interrupted, "no save was under way when it was killed"
  out, errors = runs.start(saving(tmp_path, complete + 1, 64)).communicate()
  assert out == f"\nfrom {complete}\ndone\n", errors
  # Neither what was being saved nor what was being removed.
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {str(complete), str(complete + 1)}


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 8 MiB."""
  path = tmp_path / "disk"
  path.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
  try:
    mounted = subprocess.run(mount, capture_output=True, text=True)
  except FileNotFoundError:
    pytest.skip("there is no mount")
  if mounted.returncode:
    pytest.skip(f"cannot mount a file system: {mounted.stderr.strip()}")
  yield path
  subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_loses_nothing(
  data_dir, tmp_path, small_disk
):
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "checkpoints").symlink_to(small_disk)
  process = runs.start(command(data_dir, workdir, "--config.train.steps=5000"))
  runs.wait_until(process, (small_disk / "4").exists)
  filler = small_disk / "filler"
  with pytest.raises(OSError, match="No space"), filler.open("wb") as file:
    while True:
      file.write(bytes(2**16))
      file.flush()
  errors = runs.finish(process, expect=1)
  last = errors.strip().splitlines()[-1]
  assert "Traceback" not in errors, errors
  said = re.fullmatch(
    r"error: the checkpoint of step (\d+) could not be saved in .* \(.*No "
    r"space left on device.*\); mend that and repeat the command, which goes "
    r"on from step (\d+)",
    last,
  )
  assert said, errors
  failed, newest = map(int, said.groups())
  assert newest == failed - 4
  assert not (small_disk / str(failed)).exists()
  assert not (workdir / "results.json").exists()
  step, _ = load_on_one_device(workdir / "checkpoints", best_metric=None)
  assert step == newest

  filler.unlink()
  steps, config = newest + 8, workdir / "config.json"
  ended = config.read_text().replace('"steps": 5000', f'"steps": {steps}')
  config.write_text(ended)
  again = command(data_dir, workdir, f"--config.train.steps={steps}")
  errors = runs.run(again)
  assert f"resumed from the checkpoint of step {newest}" in errors
  assert "damaged" not in errors
  assert not list(small_disk.glob("*tmp*"))
