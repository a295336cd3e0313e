"""Runs as processes: killed, stopped, on other devices, without a disk."""

import re
import signal

import numpy as np
import pytest
import runs
from launchers import assert_same_curve

from mrd_jax.io.files import read_json_lines

pytestmark = pytest.mark.slow


def resumed_from(said: str) -> int:
  found = re.search(r"resumed from the checkpoint of step (\d+)", said)
  assert found, said
  return int(found[1])


def test_killed_and_repeated_run_ends_bitwise_equal(
  straight, quick, data_dir, tmp_path
):
  """SIGKILL half-way, the same command again: same parameters, every bit."""
  arguments = runs.command(data_dir, tmp_path, *quick)
  killed = runs.start(arguments)
  runs.wait_for_step(killed, tmp_path, 22)
  killed.kill()
  killed.communicate()
  assert max(runs.losses(tmp_path)) < 60, (
    "it was over before it could be killed"
  )
  assert 10 <= resumed_from(runs.run(arguments)) <= 30
  # The log, too, reads as if nothing had happened.
  runs.assert_same_run(tmp_path, straight)


@pytest.fixture(scope="module")
def one(data_dir, tmp_path_factory) -> dict[int, float]:
  """The curve of a run on one device."""
  workdir = tmp_path_factory.mktemp("one")
  runs.run(runs.command(data_dir, workdir))
  return runs.losses(workdir)


def test_eight_devices_one_and_a_change_between_follow_one_curve(
  data_dir, tmp_path, one
):
  """Same batches on any devices, so the losses differ by rounding alone."""
  moved = runs.start(runs.command(data_dir, tmp_path / "moved"), devices=8)
  runs.wait_for_step(moved, tmp_path / "moved", 11)
  moved.kill()
  moved.communicate()
  before = runs.losses(tmp_path / "moved")
  resumed_from(runs.run(runs.command(data_dir, tmp_path / "moved")))

  assert list(one) == list(range(1, 21))
  for curve in (before, runs.losses(tmp_path / "moved")):
    expected = np.array([one[step] for step in curve])
    found = np.array(list(curve.values()))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=5e-3)


@pytest.mark.long
def test_sharded_state_follows_the_same_curve(data_dir, tmp_path, one):
  runs.run(runs.command(data_dir, tmp_path, "--config.mesh.fsdp=4"), devices=8)
  assert_same_curve(tmp_path, one)


def test_sigterm_saves_and_exits_with_0(quick, straight, data_dir, tmp_path):
  arguments = runs.command(
    data_dir, tmp_path, *quick, "--config.checkpoint.every_steps=60"
  )
  process = runs.start(arguments)
  runs.wait_for_step(process, tmp_path, 3)
  process.send_signal(signal.SIGTERM)
  said = runs.finish(process)
  step = int(re.search(r"asked to stop at step (\d+)", said)[1])
  assert (tmp_path / "checkpoints" / str(step)).exists() and step < 60
  assert not (tmp_path / "results.json").exists()
  assert resumed_from(runs.run(arguments)) == step
  runs.assert_same_run(tmp_path, straight)


@pytest.mark.long  # two processes do: tests/parallel/test_processes.py
def test_sigterm_during_an_evaluation_is_made_up_for(data_dir, tmp_path):
  """The stop leaves no hole: the evaluation it cut short is done on resume."""
  arguments = runs.command(data_dir, tmp_path, "--config.eval.batch_size=1")
  process = runs.start(arguments)
  runs.wait_for_step(process, tmp_path, 8)  # so the next evaluation is close
  process.send_signal(signal.SIGTERM)
  assert "asked to stop" in runs.finish(process)
  runs.run(arguments)
  assert runs.evaluated(tmp_path) == [0, 10, 20]
  assert (tmp_path / "results.json").exists()


def test_a_failed_save_fails_the_run(data_dir, tmp_path):
  """A file-size limit stands in for a full disk, after a first good save."""
  good = runs.command(
    data_dir,
    tmp_path,
    *("--config.checkpoint.every_steps=5", "--config.eval.every_steps=20"),
  )
  process = runs.start(good)
  runs.wait_until(process, (tmp_path / "checkpoints" / "5").exists)
  process.kill()
  process.communicate()

  limited = ["bash", "-c", 'ulimit -f 50; exec "$@"', "-"]  # KiB a file
  assert "File too large" in runs.run([*limited, *good], expect=1)
  assert not (tmp_path / "results.json").exists()
  resumed_from(runs.run(good))


def test_nan_stops_the_run_before_it_is_saved(data_dir, tmp_path):
  errors = runs.run(
    runs.command(
      data_dir,
      tmp_path,
      "--config.optimizer.learning_rate=1000.0",
      "--config.optimizer.clip_norm=0.0",
      "--config.logit_scale.max=0.0",
      "--config.checkpoint.every_steps=1",
    ),
    expect=1,
  )
  step = int(re.search(r"error: step (\d+): .*loss.* not finite", errors)[1])
  saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
  assert max(saved, default=0) < step
  assert all(np.isfinite(x).all() for x in runs.last_state(tmp_path).values())


def test_a_second_start_compiles_nothing_anew(
  quick, data_dir, tmp_path, monkeypatch
):
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  cache = tmp_path / "compiled" / "cache"

  def seconds_to_compile(name: str) -> float:
    workdir = tmp_path / name
    runs.run(
      runs.command(data_dir, workdir, *quick, f"--config.compile_cache={cache}")
    )
    return read_json_lines(workdir / "metrics.jsonl")[1]["seconds/compile"]

  def programs():
    return {path.name for path in cache.glob("*-cache")}

  first = seconds_to_compile("first")
  before = programs()
  assert any("train_step" in name for name in before)
  assert seconds_to_compile("second") < first
  assert programs() == before
  runs.assert_same_run(tmp_path / "second", tmp_path / "first")
