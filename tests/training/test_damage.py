"""Poisoned and damaged data, and workers that stop or die."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import runs
from array_record.python.array_record_module import ArrayRecordWriter
from runs import (
  assert_same_run,
  command,
  wait_for_step,
  wait_until,
  worker_of,
)

from mrd_jax.data import dataset
from mrd_jax.data.batches import examine_batch
from mrd_jax.data.order import TrainOrder
from mrd_jax.errors import BadInput
from mrd_jax.prepare.job.shards import serialize_record
from mrd_jax.training import set_up
from mrd_jax.training.loop import NotFinite


def rewrite(data: Path, change) -> None:
  """Writes the training split again, past the checks, with changed records."""
  records = [dict(x) for x in dataset.open_split(data, "train")]
  (shard,) = data.glob("*train*array_record*")
  change(records)
  writer = ArrayRecordWriter(str(shard), "group_size:1")
  for record in records:
    writer.write(serialize_record(record, 32))
  writer.close()


@pytest.fixture
def copied(data_dir, tmp_path) -> Path:
  return Path(shutil.copytree(data_dir, tmp_path / "data"))


def poison(records):
  for row, value in ((17, np.nan), (40, 0), (80, np.inf)):
    feat = records[row]["image_feat"].copy()
    feat[:] = value
    records[row]["image_feat"] = feat


@pytest.mark.slow
def test_a_poisoned_batch_is_named(copied, tmp_path):
  rewrite(copied, poison)
  workdir = tmp_path / "run"
  config = runs.pretraining_config(
    copied,
    model={"depth": 1},
    loss={"intra": False, "cross": False},
    checkpoint={"every_steps": 1},
  )
  with runs.on_devices(1), pytest.raises(NotFinite) as error:
    set_up.train(config, workdir)
  found = json.loads((workdir / "not_finite.json").read_text())
  step, shapes = found["step"], found["shapes"]
  order, source = TrainOrder(108, 32, 0), dataset.open_split(copied, "train")
  assert shapes == examine_batch(source, order, step - 1)
  assert {17, 80} & {shape["row"] for shape in shapes}
  assert "loss" in found["terms"]
  line = str(error.value)
  assert re.match(rf"step {step}: .*\bloss\b.* not finite", line)
  assert f"bad shapes: '{shapes[0]['id']}' (2 of 2 image_feat " in line
  assert "not_finite.json has all" in line
  # Nothing of it was saved, and the batches before were clean.
  saved = [int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*")]
  assert max(saved, default=0) == step - 1
  for early in range(step - 1):
    assert not {17, 80} & set(order.rows(early).tolist())


def test_every_kind_of_damage_of_a_record_is_seen(copied):
  def change(records):
    poison(records)
    text = records[3]["text_feat"].copy()
    text[0, 5] = np.inf
    records[3]["text_feat"] = text
    records[4]["xyz"] = np.zeros_like(records[4]["xyz"])
    records[5]["scale"] = np.float32(0)
    records[6]["center"] = np.array([0, np.nan, 0], np.float32)

  rewrite(copied, change)
  source = dataset.open_split(copied, "train")
  found = examine_batch(source, TrainOrder(108, 108, 0), 2)
  count = len(source[3]["text_feat"])
  # The bad ones first, with what is wrong with them.
  assert {x["row"]: x["problems"] for x in found[:7]} == {
    3: [f"1 of {count} text_feat not finite"],
    4: ["all points coincide"],
    5: ["scale not positive"],
    6: ["center or scale not finite"],
    17: ["2 of 2 image_feat not finite"],
    40: ["2 of 2 image_feat zero"],
    80: ["2 of 2 image_feat not finite"],
  }
  assert not any(x["problems"] for x in found[7:])
  assert sorted(x["row"] for x in found) == list(range(108))
  assert all(x["id"] == source[x["row"]]["id"] for x in found)


def test_a_record_that_is_gone_is_said_to_be(copied):
  source = dataset.open_split(copied, "train")
  (shard,) = copied.glob("*train*array_record*")
  shard.unlink()
  found = examine_batch(source, TrainOrder(108, 8, 0), 0)
  assert len(found) == 8
  for shape in found:
    assert shape["id"] == ""
    assert f"record {shape['row']} of split 'train'" in shape["problems"][0]


def test_a_damaged_shard_is_named_at_the_start(copied, tmp_path):
  (shard,) = copied.glob("*train*array_record*")
  content = bytearray(shard.read_bytes())
  for i in range(len(content) // 8, len(content), 50):
    content[i] ^= 0xFF
  shard.write_bytes(content)
  with pytest.raises(BadInput, match="data.dir.*(damaged|cannot be read)"):
    run = set_up.set_up(set_up.Pretraining(runs.pretraining_config(copied)))
    list(run.batches(0))


# Real runs, as processes.


class Started:
  """A run, whose stderr goes to WORKDIR.stderr."""

  def __init__(self, data: Path, workdir: Path, *options: str):
    self.workdir = workdir
    self.errors = workdir.with_name(workdir.name + ".stderr")
    with self.errors.open("w") as errors:
      self.process = runs.start(
        command(data, workdir, *options), stdout=errors, stderr=errors
      )

  def wait_for_step(self, step: int) -> None:
    wait_for_step(self.process, self.workdir, step)

  def finish(self, expect: int = 0) -> str:
    code, said = self.process.wait(400), self.errors.read_text()
    assert code == expect, said
    return said


@pytest.fixture
def started(quick):
  """Starts runs like `straight`, of which nothing is left over."""
  all_of_them: list[Started] = []

  def start(data: Path, workdir: Path, *options: str) -> Started:
    all_of_them.append(Started(data, workdir, *quick, *options))
    return all_of_them[-1]

  yield start
  for run in all_of_them:
    run.process.kill()
    run.process.wait()


needs_proc = pytest.mark.skipif(
  not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"
)
WORKER = "--config.data.workers=1"


@pytest.mark.slow
@needs_proc
def test_a_stopped_worker_is_reported_and_the_run_goes_on(
  straight, started, data_dir, tmp_path
):
  run = started(
    data_dir, tmp_path / "run", WORKER, "--config.log.stall_seconds=2"
  )
  run.wait_for_step(3)
  worker = worker_of(run.process)
  os.kill(worker, signal.SIGSTOP)

  def reports() -> list[str]:
    stalls = re.split("(?=watchdog: )", run.errors.read_text())[1:]
    # A slow start may have been told, too.
    return [x for x in stalls if re.search("after step [1-9].*stage input", x)]

  wait_until(run.process, lambda: len(reports()) >= 2)
  os.kill(worker, signal.SIGCONT)
  said = run.finish()
  assert_same_run(run.workdir, straight)
  first, second, *_ = reports()
  step = int(re.search(r"after step (\d+), stage input", first)[1])
  assert 3 <= step < 60
  assert "process 0 of 1 has not moved on for 0m02s" in first
  assert re.search("for 0m0[45]s", second)  # again after a further interval
  assert "process_prefetch.py" in first  # what it waits for
  assert re.search(r"process 0 of 1 has moved on after \dm\d\ds\n", said)


@needs_proc
@pytest.mark.slow
def test_a_worker_does_not_outlive_a_killed_run(started, data_dir, tmp_path):
  run = started(data_dir, tmp_path / "run", WORKER)
  run.wait_for_step(3)
  worker = Path("/proc", str(worker_of(run.process)))
  run.process.kill()
  deadline = time.monotonic() + 20
  while worker.exists():
    assert time.monotonic() < deadline
    time.sleep(0.01)


@needs_proc
@pytest.mark.slow
def test_a_killed_worker_ends_the_run_which_can_be_repeated(
  straight, started, data_dir, tmp_path
):
  run = started(data_dir, tmp_path / "run", WORKER)
  run.wait_for_step(13)
  os.kill(worker_of(run.process), signal.SIGKILL)
  errors = run.finish(expect=1)
  assert "a data worker has died" in errors and "exit code -9" in errors
  assert "data.workers" in errors
  again = started(data_dir, run.workdir, WORKER).finish()
  assert "resumed from the checkpoint of step" in again
  assert_same_run(run.workdir, straight)


def truncate(shard: Path) -> None:
  os.truncate(shard, shard.stat().st_size // 3)


def overwrite(shard: Path) -> None:
  size = shard.stat().st_size
  with shard.open("r+b") as file:
    file.seek(size // 4)
    file.write(np.random.default_rng(0).bytes(size // 2))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("damage", "workers"),
  [
    pytest.param(overwrite, 0, marks=pytest.mark.long),
    pytest.param(truncate, 1, marks=pytest.mark.long),
    (Path.unlink, 1),
  ],
)
def test_a_shard_damaged_under_way_ends_the_run_until_it_is_restored(
  straight, started, copied, tmp_path, damage, workers
):
  (shard,) = copied.glob("*train*array_record*")
  content = shard.read_bytes()
  option = f"--config.data.workers={workers}"
  run = started(copied, tmp_path / "run", option)
  run.wait_for_step(12)
  damage(shard)
  if damage is Path.unlink:  # whoever has it open can still read it
    run.process.kill()
    run.process.wait()
    run = started(copied, run.workdir, option)
  errors = run.finish(expect=2)
  lines = [x for x in errors.splitlines() if x.startswith("error:")]
  assert len(lines) == 1
  assert re.match(
    rf"error: data\.dir: record \d+ of split 'train' in {copied}", lines[0]
  )
  assert "Traceback" not in errors
  shard.write_bytes(content)
  again = started(copied, run.workdir, option).finish()
  if (
    damage is not Path.unlink
  ):  # a kill may come before the first save is whole
    found = re.search(r"resumed from the checkpoint of step (\d+)", again)
    assert found and 10 <= int(found[1]) < 60
  assert_same_run(run.workdir, straight)
