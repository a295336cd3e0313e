"""Weights & Biases: what it gets, and that it may fail."""

import json
import time

import pytest
from counting import counting_run, interrupt
from runs import losses

from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json_lines
from mrd_jax.training.log import WandbRun
from mrd_jax.training.loop import train_loop


@pytest.fixture
def offline(monkeypatch):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")


@pytest.fixture
def given(offline, monkeypatch) -> list[dict]:
  """What Weights & Biases gets of each run: its start, its values, its end."""
  import wandb

  runs = []
  init, log, finish = wandb.init, wandb.Run.log, wandb.Run.finish

  def noted_init(**options):
    runs.append({"start": options, "values": set()})
    return init(**options)

  def noted_log(self, values, step):
    runs[-1]["values"] |= {(step, *item) for item in values.items()}
    log(self, values, step=step)

  def noted_finish(self, exit_code):
    runs[-1]["exit"] = exit_code
    finish(self, exit_code=exit_code)

  monkeypatch.setattr(wandb, "init", noted_init)
  monkeypatch.setattr(wandb.Run, "log", noted_log)
  monkeypatch.setattr(wandb.Run, "finish", noted_finish)
  return runs


def test_wandb_gets_the_lines_and_a_resumed_run_goes_on_in_its_own(
  tmp_path, given, capfd
):
  run = counting_run(wandb="shapes")
  interrupt(run, tmp_path, batch=8)
  time.sleep(1)  # a run's folder is named by its second
  train_loop(run, tmp_path)
  killed, resumed = given
  run_id = json.loads((tmp_path / "wandb.json").read_text())["id"]
  for record in given:
    start = record["start"]
    assert (start["project"], start["id"]) == ("shapes", run_id)
    assert start["resume"] == "allow" and start["config"]["seed"] == 0
  assert (killed["exit"], resumed["exit"]) == (1, 0)
  assert resumed["values"] == {
    (line["step"], name, value)
    for line in read_json_lines(tmp_path / "metrics.jsonl")
    if line["step"] > 5
    for name, value in line.items()
    if name not in ("step", "kind", "time")
  }
  steps = {step for step, name, _ in killed["values"] if name == "loss"}
  assert steps == {2, 4, 6}
  # It took them: each has left its file.
  assert len([*tmp_path.glob("wandb/offline-run-*/run-*.wandb")]) == 2
  assert "failed" not in capfd.readouterr().err


def test_a_failure_of_wandb_is_said_once_and_ends_nothing(
  tmp_path, offline, monkeypatch, capfd
):
  import wandb

  def fail(*_, **__):
    raise ConnectionError("no route\nto anywhere")

  monkeypatch.setattr(wandb.Run, "log", fail)
  assert train_loop(counting_run(wandb="shapes"), tmp_path)
  said = capfd.readouterr().err
  words = "Weights & Biases failed, going on without it: no route\n"
  assert said.count(words) == 1
  assert list(losses(tmp_path)) == [2, 4, 6, 8, 10]
  monkeypatch.setattr(wandb, "init", fail)
  WandbRun("shapes", tmp_path, counting_run().objective.config).log(
    1, "train", {"loss": 1.0}
  )
  assert capfd.readouterr().err == words


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(BadInput, match=r"config\.log\.wandb.*mrd-jax\[wandb\]"):
    train_loop(counting_run(wandb="shapes"), tmp_path)
  assert list(tmp_path.iterdir()) == []
