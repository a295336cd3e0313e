"""Fine-tuning of other systems' encoders."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from encoders import TINY_SIZES, make_of_system
from runs import last_state, losses

from mrd_jax.checkpoint.checksum import by_path
from mrd_jax.errors import BadInput
from mrd_jax.finetune import start as starts
from mrd_jax.finetune.classification import Classification
from mrd_jax.finetune.train import finetune
from mrd_jax.io.files import write_json
from mrd_jax.report.__main__ import main as report
from mrd_jax.training.loop import Run
from mrd_jax.training.set_up import set_up
from mrd_jax.zoo.registry import SYSTEMS

LAST = 12
# SparseConv's smallest has 29 million parameters.
QUICK = [
  pytest.param(x, marks=pytest.mark.slow) if x == "spconv" else x
  for x in TINY_SIZES
]
# One of each kind of network; `make test-slow` has all.
KINDS = ("uni3d", "cg3d_pointmlp", "clip2point")
SLOW = [
  x if x in KINDS else pytest.param(x, marks=pytest.mark.long)
  for x in TINY_SIZES
]


def config_of(labelled_dir: Path, **changes):
  return runs.finetuning_config(
    labelled_dir,
    **{
      "train": {"epochs": 4.0},
      "optimizer": {"learning_rate": 3e-3},
      "eval": {"every_epochs": 4.0},
      "model": {"dropout": 0.0},
    }
    | changes,
  )


def save(system: str, folder: Path) -> str:
  make_of_system(system).save_pretrained(folder)
  return str(folder)


def run_of(config, checkpoint: str) -> Run:
  start, variables = starts.load(checkpoint, "latest", config.scratch)
  return set_up(Classification(config, start, variables))


def check_run(system: str, workdir: Path) -> None:
  """Checks that a run has ended, learned, and trained all of the encoder."""
  results = json.loads((workdir / "results.json").read_text())
  assert results["step"] == LAST
  assert 0 <= results["metrics"]["test/top1"] <= 1
  loss = list(losses(workdir).values())
  assert np.mean(loss[-3:]) < 0.95 * np.mean(loss[:3])

  saved = by_path(make_of_system(system).variables)
  trained = last_state(workdir)
  moved = {
    name: not np.array_equal(trained[name.replace("/", "/encoder/", 1)], value)
    for name, value in saved.items()
  }
  weights = [x for name, x in moved.items() if name.startswith("params/")]
  # What the last block makes of tokens that are not pooled reaches nothing.
  assert np.mean(weights) > 0.7
  assert sum(moved.values()) == sum(weights)  # published statistics stay


@pytest.mark.slow
@pytest.mark.parametrize("system", SLOW)
def test_all_of_an_encoder_learns(system, labelled_dir, tmp_path):
  checkpoint, workdir = save(system, tmp_path / "model"), tmp_path / "run"
  with runs.on_devices(1):
    assert finetune(config_of(labelled_dir), checkpoint, workdir)
  check_run(system, workdir)
  assert report([str(workdir)]) == 0
  page = (workdir / "report.html").read_text()
  assert checkpoint in page and "val, fine-tuned" in page


@pytest.mark.parametrize("system", QUICK)
def test_a_run_that_goes_on_knows_its_encoder(system, labelled_dir, tmp_path):
  """start.json says all that the program depends on, but for the weights."""
  config = config_of(labelled_dir, model={"dtype": "bfloat16"})
  checkpoint = save(system, tmp_path / "model")
  start, variables = starts.load(checkpoint, "latest", config.scratch)
  assert start.system == system
  assert start.up_axis == make_of_system(system).config.up_axis
  assert start.colour_fill == 0.3
  write_json(tmp_path / starts.START_FILE, dataclasses.asdict(start))
  again = starts.read(tmp_path, checkpoint, "latest")
  assert again == start
  with runs.on_devices(2):
    first, second = (
      set_up(Classification(config, *given)).abstract_state
      for given in ((start, variables), (again, None))
    )
  assert first == second
  assert {x.dtype for x in jax.tree.leaves(first.params)} == {
    np.dtype(np.float32)
  }


def test_a_damaged_start_is_refused(labelled_dir, tmp_path):
  checkpoint = save("uni3d", tmp_path / "model")
  scratch = config_of(labelled_dir).scratch
  start, _ = starts.load(checkpoint, "latest", scratch)
  good = dataclasses.asdict(start)
  for change, message in (
    ({"system": "dgcnn"}, "dgcnn"),
    ({"architecture": good["architecture"] | {"odd": 1}}, "odd"),
    ({"architecture": good["architecture"] | {"depth": 0}}, "depth is 0"),
  ):
    write_json(tmp_path / starts.START_FILE, good | change)
    with pytest.raises(BadInput, match=rf"start.json is damaged .*{message}"):
      starts.read(tmp_path, checkpoint, "latest")


@pytest.mark.slow
def test_a_run_of_another_system_goes_on_to_the_same_bits(
  labelled_dir, tmp_path, monkeypatch
):
  checkpoint, config = (
    save("uni3d", tmp_path / "model"),
    config_of(labelled_dir),
  )
  with runs.on_devices(1):
    run = run_of(config, checkpoint)

  def train(workdir: Path, **changes):
    changed = dataclasses.replace(run, **changes)
    monkeypatch.setattr("mrd_jax.finetune.train.set_up", lambda _: changed)
    return finetune(config, checkpoint, workdir)

  def batches(start):
    yield from itertools.islice(run.batches(start), 7)
    raise KeyError

  assert train(tmp_path / "whole")
  with pytest.raises(KeyError):
    train(tmp_path / "broken", batches=batches)
  assert train(tmp_path / "broken")
  runs.assert_same_run(tmp_path / "broken", tmp_path / "whole")
  check_run("uni3d", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("system", SLOW)
def test_devices_share_a_batch(system, labelled_dir, tmp_path):
  """The state too, in the second case; the numbers differ by rounding."""
  checkpoint = save(system, tmp_path / "model")
  found = []
  for devices, fsdp in ((1, 1), (2, 2)):
    config = config_of(labelled_dir, mesh={"fsdp": fsdp})
    with runs.on_devices(devices):
      run = run_of(config, checkpoint)
      state, batches = run.init(), run.batches(0)
      for _ in range(2):
        state, metrics = run.step_fn(state, next(batches))
        found.append((metrics["loss"], metrics["grad_norm"]))
      scores = run.objective.evaluate(state, True, lambda: None)
      found.append((scores["test/top1"], scores["test/class_mean"]))
  np.testing.assert_allclose(found[:3], found[3:], rtol=2e-4)


@pytest.mark.parametrize(
  "change",
  [
    {"remat": "blocks"},
    {"attention": "xla"},
    {"point_net": "xla"},
    {"gradient_dtype": "bfloat16"},
    {"drop_path": 0.2},
  ],
  ids=str,
)
def test_what_only_a_point_bert_has_is_refused(change, labelled_dir, tmp_path):
  config = config_of(labelled_dir, model=change)
  checkpoint = save("clip2point", tmp_path / "model")
  (name,) = change
  with pytest.raises(
    BadInput, match=f"model.{name} is .* only a PointBERT .* is CLIP2Point"
  ):
    run_of(config, checkpoint)


def test_no_drop_path_is_as_good_as_its_default(labelled_dir, tmp_path):
  config = config_of(labelled_dir, model={"drop_path": 0.0})
  assert run_of(config, save("ulip", tmp_path / "model"))


def test_every_system_is_tried():
  assert {"pointbert", *TINY_SIZES} == SYSTEMS.keys()
