"""Weights & Biases: what it gets, and that it may fail."""

import collections
import dataclasses
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from counting import counting_run
from runs import losses

from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json_lines
from mrd_jax.training.log import MetricsWriter, WandbRun
from mrd_jax.training.loop import train_loop


def log_entries(content: bytes) -> Iterator[bytes]:
  """The entries of a .wandb file, a log in LevelDB's format.

  Blocks of 32 KiB hold parts: checksum, length, kind (whole, first, middle,
  last), bytes.  The first block starts with a header of seven bytes.
  """
  at, entry = 7, b""
  while at + 7 <= len(content):
    if -at % 2**15 < 7 and at % 2**15:  # no part fits into the rest of a block
      at += -at % 2**15
      continue
    _, length, kind = struct.unpack("<IHB", content[at : at + 7])
    entry += content[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):
      yield entry
      entry = b""


def wandb_records(workdir: Path) -> list[dict[str, list]]:
  """What was recorded, of every start: runs' ids, and (step, name, value)."""
  from wandb.proto import wandb_internal_pb2

  found = []
  for path in sorted(workdir.glob("wandb/offline-run-*/run-*.wandb")):
    run = collections.defaultdict(list)
    for data in log_entries(path.read_bytes()):
      record = wandb_internal_pb2.Record()
      record.ParseFromString(data)
      if record.run.run_id:
        run["run"].append((record.run.project, record.run.run_id))
        run["config"] += [
          (item.key, json.loads(item.value_json))
          for item in record.run.config.update
        ]
      for item in record.history.item:
        name = item.key or "/".join(item.nested_key)
        value = json.loads(item.value_json)
        run["values"].append((record.history.step.num, name, value))
      if record.HasField("exit"):
        run["exit"].append(record.exit.exit_code)
    found.append(run)
  return found


@pytest.fixture
def offline(monkeypatch):
  pytest.importorskip("wandb")
  for name, value in (
    ("MODE", "offline"),
    ("SILENT", "true"),
    ("X_DISABLE_STATS", "true"),
  ):
    monkeypatch.setenv(f"WANDB_{name}", value)


def test_wandb_gets_the_lines_and_a_resumed_run_goes_on_in_its_own(
  tmp_path, offline
):
  run = counting_run(wandb="shapes")

  def batches(start):
    yield from range(start, 8)
    raise KeyError

  with pytest.raises(KeyError):
    train_loop(dataclasses.replace(run, batches=batches), tmp_path)
  time.sleep(1)  # a run's folder is named by its second
  train_loop(run, tmp_path)
  killed, resumed = wandb_records(tmp_path)
  run_id = json.loads((tmp_path / "wandb.json").read_text())["id"]
  for record in (killed, resumed):
    assert set(record["run"]) == {("shapes", run_id)}
    assert ("seed", 0) in record["config"]
  assert (killed["exit"], resumed["exit"]) == ([1], [0])
  lines = read_json_lines(tmp_path / "metrics.jsonl")
  expected = {
    (line["step"], name, value)
    for line in lines
    if line["step"] > 5
    for name, value in line.items()
    if name not in ("step", "kind", "time")
  }
  found = {x for x in resumed["values"] if not x[1].startswith("_")}
  assert found == expected
  steps = {step for step, name, _ in killed["values"] if name == "loss"}
  assert steps == {2, 4, 6}


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
    1, {"loss": 1.0}
  )
  assert capfd.readouterr().err == words


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(BadInput, match=r"config\.log\.wandb.*mrd-jax\[wandb\]"):
    train_loop(counting_run(wandb="shapes"), tmp_path)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("process", "made"), [(0, 1), (1, 0)])
def test_only_the_first_process_writes(tmp_path, monkeypatch, process, made):
  started = []

  class Noted:
    def __init__(self, project, workdir, config):
      started.append(project)

    def close(self):
      pass

  monkeypatch.setattr("mrd_jax.training.log.WandbRun", Noted)
  monkeypatch.setattr("jax.process_index", lambda: process)
  MetricsWriter(
    tmp_path,
    counting_run(wandb="shapes").objective.config,
    num_steps=3,
    start_step=0,
    drop_start_evaluation=False,
  ).close()
  assert started == ["shapes"] * made
  assert len(list(tmp_path.iterdir())) == 2 * made
