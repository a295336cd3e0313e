"""Fine-tuning: what it learns, what a run leaves, that it resumes bitwise."""

import dataclasses
import itertools
import json
import os
import re
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from encoders import make_encoder
from runs import last_state, losses

from mrd_jax.checkpoint.checksum import by_path
from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.finetune import start as starts
from mrd_jax.finetune.classification import Classification, cross_entropy
from mrd_jax.finetune.train import finetune
from mrd_jax.io.files import read_json_lines
from mrd_jax.training.loop import NotFinite
from mrd_jax.training.set_up import set_up

LAST = 60


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_equals_pytorch(smoothing):
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  logits = 4 * rng.normal(size=(6, 5)).astype(np.float32)
  labels = rng.integers(5, size=6)
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing
  )
  found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
  np.testing.assert_allclose(found, float(expected), rtol=1e-6)


# Runs.


def without_time(workdir: Path) -> list[dict]:
  return [
    {
      name: value
      for name, value in line.items()
      if name not in ("time", "shapes_per_second")
      and not name.startswith(("seconds/", "memory/"))
    }
    for line in read_json_lines(workdir / "metrics.jsonl")
  ]


def assert_same_run(found: Path, expected: Path) -> None:
  """Bitwise: parameters, statistics, moments, every metric, the results."""
  runs.assert_same_run(found, expected)
  assert without_time(found) == without_time(expected)
  results = [(path / "results.json").read_text() for path in (found, expected)]
  assert results[0] == results[1]


@pytest.fixture
def repeat(finetuning, encoder_dir, monkeypatch):
  """Makes the run of `finetuned` again, with something changed."""

  def repeat(workdir: Path, **changes):
    changed = dataclasses.replace(finetuning, **changes)
    monkeypatch.setattr("mrd_jax.finetune.train.set_up", lambda _: changed)
    return finetune(finetuning.objective.config, str(encoder_dir), workdir)

  return repeat


def test_a_run_that_ends_under_way_goes_on_to_the_same_bits(
  finetuning, finetuned, repeat, tmp_path, capfd
):
  """An error in step 26, SIGTERM in step 41, then to the end."""

  def batches(start):
    yield from itertools.islice(finetuning.batches(start), 25)
    raise KeyError

  with pytest.raises(KeyError):
    repeat(tmp_path, batches=batches)

  def step_fn(state, batch):
    if int(state.step) == 40:
      os.kill(os.getpid(), signal.SIGTERM)
    return finetuning.step_fn(state, batch)

  assert repeat(tmp_path, step_fn=step_fn) is None
  assert (tmp_path / "checkpoints" / "41").exists()
  assert not (tmp_path / "results.json").exists()
  assert repeat(tmp_path)["step"] == LAST
  said = capfd.readouterr().err
  steps = re.findall(r"resumed from the checkpoint of step (\d+)", said)
  assert steps == ["24", "41"]
  assert_same_run(tmp_path, finetuned)


def test_a_loss_that_is_not_finite_ends_the_run(finetuning, repeat, tmp_path):
  def step_fn(state, batch):
    state, metrics = finetuning.step_fn(state, batch)
    return state, metrics | {"loss": np.nan}

  with pytest.raises(NotFinite, match="step 1: loss not finite"):
    repeat(tmp_path, step_fn=step_fn)
  assert not any((tmp_path / "checkpoints").glob("[1-9]*"))


def test_results_name_the_last_epoch_and_the_best_one_apart(finetuned):
  results = json.loads((finetuned / "results.json").read_text())
  evaluations = [x for x in without_time(finetuned) if x["kind"] == "eval"]
  assert [x["step"] for x in evaluations] == [*range(0, LAST + 1, 6)]
  assert results["checkpoint"] == "last" and results["step"] == LAST
  assert results["epoch"] == 20
  top1 = [x["test/top1"] for x in evaluations]
  assert results["metrics"]["test/top1"] == top1[-1]
  best = results["best_test_epoch"]
  assert best["metrics"]["test/top1"] == max(top1)
  assert best["step"] == 6 * int(np.argmax(top1))  # the first of equals
  assert 0 <= results["metrics"]["voted/top1"] <= 1
  assert "voted/top1" not in evaluations[0]
  assert results["chance_top1"] == {"test": 1 / 3}
  assert results["splits"]["test"] == "val" and results["shapes"] == 27
  assert results["start"]["source"] == "drawn at random"


def test_accuracy_rises_on_separable_shapes(finetuned):
  results = json.loads((finetuned / "results.json").read_text())
  assert results["metrics"]["test/top1"] > 0.9
  assert results["metrics"]["voted/top1"] > 0.9
  lines = [x for x in without_time(finetuned) if x["kind"] == "train"]
  assert [x["step"] for x in lines] == [*range(1, LAST + 1)]
  assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_encoder_is_loaded_and_all_of_it_trained(finetuned, finetuning):
  state = finetuning.init()
  before = by_path({"params": state.params, "batch_stats": state.batch_stats})
  trained = last_state(finetuned)
  # What was saved there, without a detour over files.
  saved = by_path(make_encoder(seed=3, num_points=64).variables)
  names = {
    name: name.replace("/", "/encoder/", 1)
    for name in saved
    if not name.startswith("params/proj/")
  }
  for theirs, ours in names.items():
    np.testing.assert_array_equal(before[ours], saved[theirs], err_msg=ours)
    # A bias that a BatchNorm takes away again has no gradient.
    if not re.search(r"point_net/linear_\d/bias", ours):
      assert not np.array_equal(trained[ours], saved[theirs]), ours
  head = {
    f"params/{x}/{y}" for x in ("hidden", "classes") for y in ("kernel", "bias")
  }
  assert before.keys() == head | set(names.values())
  for name in head:
    assert not np.array_equal(trained[name], before[name]), name


def test_start_says_how_clouds_are_prepared(encoder_dir, labelled_dir):
  scratch = runs.finetuning_config(labelled_dir).scratch
  start, variables = starts.load(str(encoder_dir), "latest", scratch)
  assert (start.up_axis, start.colour_fill, start.step) == ("z", 0.3, 7)
  assert "proj" not in variables["params"]
  start, variables = starts.load("", "latest", scratch)
  assert (start.up_axis, start.colour_fill) == ("y", 0.4)
  assert start.architecture.width == 32 and variables is None


@pytest.mark.slow
def test_eight_devices_follow_the_curve_and_the_scores_of_two(
  finetuned, labelled_dir, encoder_dir
):
  """Same samples, so the losses differ by rounding alone.

  The scores, and the votes, do not depend on batch size and devices: they are
  seeded by record and copy.
  """
  config = runs.finetuned_config(
    labelled_dir, eval={"every_epochs": 2.0, "voting": 2, "batch_size": 8}
  )
  start, variables = starts.load(str(encoder_dir), "latest", config.scratch)
  run = set_up(Classification(config, start, variables))
  state, batches = run.init(), run.batches(0)
  for expected in list(losses(finetuned).values())[:3]:
    state, metrics = run.step_fn(state, next(batches))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
  _, saved = load_on_one_device(finetuned / "checkpoints", best_metric=None)
  state = TrainState(**jax.tree.map(np.asarray, saved))
  results = json.loads((finetuned / "results.json").read_text())
  assert run.objective.evaluate(state, True, lambda: None) == results["metrics"]
