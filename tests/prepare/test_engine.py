"""Units on Beam: shards, kills, and what goes on where."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from openshape_bundle import make_sample, npy_bytes, write_archives
from runs import REPOSITORY

from mrd_jax.data.records import ImageKind, Shape, TextKind, encode
from mrd_jax.errors import BadInput
from mrd_jax.prepare.job import engine, shards
from mrd_jax.prepare.job.engine import BeamConfig
from mrd_jax.prepare.job.shards import Reject, ShardWriter, serialize_record

DIM = 4
serialize = functools.partial(serialize_record, embed_dim=DIM)


def record(index: int):
  rng = np.random.default_rng(index)
  shape = Shape(
    id=f"shape{index}",
    xyz=rng.normal(size=(50, 3)).astype(np.float32),
    rgb=rng.uniform(size=(50, 3)).astype(np.float32),
    image_feat=rng.normal(size=(2, DIM)).astype(np.float32),
    image_kind=[ImageKind.VIEW] * 2,
    texts=["a"] * (index % 2),
    text_feat=np.ones((index % 2, DIM), np.float32),
    text_kind=[TextKind.RAW] * (index % 2),
  )
  return encode(shape)


class Crash(Exception):
  pass


@dataclasses.dataclass(frozen=True)
class Count:
  """Items first .. first + count - 1; every fifth is refused."""

  name: str
  first: int
  count: int
  crash_at: int = -1

  def items(self):
    for index in range(self.first, self.first + self.count):
      yield functools.partial(self.item, index)
    yield functools.partial(list, [f"{self.name} is through"])

  def item(self, index):
    if index == self.crash_at:
      raise Crash(f"item {index}")
    if index % 5 == 4:
      return [Reject("a", "file", str(index), None, "fifth", "of five")]
    return [("a", record(index)), ("b", record(index))]


def contents(folder: Path) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_one_and_several_workers_make_the_same(tmp_path, monkeypatch):
  # The workers are other processes, and must find the class `Count`.
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["tests", "tests/prepare"]))
  units = [Count("one", 0, 7), Count("two", 7, 3), Count("none", 10, 0)]
  engine.run(units, tmp_path / "many", serialize, BeamConfig())
  alone = BeamConfig(options="direct_num_workers=1")
  engine.run(units[:1], tmp_path / "few", serialize, alone)
  engine.run(units, tmp_path / "few", serialize, alone)
  assert contents(tmp_path / "many") == contents(tmp_path / "few")
  commits = engine.commits(units, tmp_path / "many")
  assert [len(commit.rejects) for commit in commits] == [1, 1, 0]
  assert [c.problems for c in commits][2] == ["none is through"]
  counts = [[(s.split, s.records) for s in c.shards] for c in commits]
  assert counts == [[("a", 6), ("b", 6)], [("a", 2), ("b", 2)], []]
  without_text = [s.without_text for c in commits for s in c.shards]
  assert without_text == [3, 3, 1, 1]  # shapes 0, 2, 6 and 8
  assert commits[0].most == {"xyz": 50, "image_feat": 2, "text_feat": 1}
  stored = list(shards.read_files(tmp_path / "many", commits[1]))
  assert stored == [
    (split, serialize(record(index))) for split in "ab" for index in (7, 8)
  ]


def test_a_unit_goes_on_with_its_missing_shard(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "SHARD_ITEMS", 3)
  unit = Count("unit", 0, 10)
  engine.make_unit(unit, make(tmp_path / "whole"), serialize)
  folder = make(tmp_path / "parts")
  with pytest.raises(Crash):
    engine.make_unit(dataclasses.replace(unit, crash_at=7), folder, serialize)
  left = contents(folder)
  assert {n for n in left if n.endswith(".json")} == {
    "unit-00000.json",
    "unit-00001.json",
  }
  assert not any("tmp" in name for name in left)
  (folder / "unit-00002-a.tmp-1").write_text("of a killed run")
  times = {name: (folder / name).stat().st_mtime_ns for name in left}
  monkeypatch.setattr(engine, "pipeline_options", lambda *_: in_memory())
  engine.run([unit], folder, serialize, BeamConfig())
  assert contents(folder) == contents(tmp_path / "whole")
  # What was finished was not made again.
  assert times == {name: (folder / name).stat().st_mtime_ns for name in left}


def in_memory():
  from apache_beam.options.pipeline_options import PipelineOptions

  return "DirectRunner", PipelineOptions(["--direct_running_mode=in_memory"])


def make(folder: Path) -> Path:
  folder.mkdir()
  return folder


def test_a_fault_of_the_program_is_not_hidden(tmp_path):
  with pytest.raises(Exception, match="item 1"):
    unit = Count("unit", 0, 2, crash_at=1)
    engine.run([unit], tmp_path, serialize, BeamConfig())


def test_a_shard_that_is_not_committed_leaves_nothing(tmp_path):
  with pytest.raises(Crash), ShardWriter(tmp_path, "x", serialize) as writer:
    writer.add("a", record(0))
    raise Crash
  with ShardWriter(tmp_path, "y", serialize) as writer:
    writer.add("a", record(0))
  assert not list(tmp_path.iterdir())
  assert not shards.is_committed(tmp_path, "y")


def test_equal_records_are_equal_bytes():
  """A protobuf map is written in any order unless it is asked not to."""
  code = (
    "import sys; sys.path[:0] = ['tests', 'tests/prepare']; import test_engine as t, hashlib;"
    "print(hashlib.sha256(t.serialize(t.record(1))).hexdigest())"
  )
  hashes = {
    subprocess.run(
      [sys.executable, "-c", code],
      cwd=REPOSITORY,
      env=os.environ | {"PYTHONHASHSEED": str(seed)},
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for seed in range(3)
  }
  assert len(hashes) == 1


def test_options_reach_the_runner():
  given = "flink_master=host:8081,environment_type=LOOPBACK, parallelism=8"
  runner, options = engine.pipeline_options(BeamConfig("FlinkRunner", given), 9)
  assert type(runner).__name__ == "FlinkRunner"
  values = options.get_all_options()
  assert values["flink_master"] == "host:8081"
  assert values["environment_type"] == "LOOPBACK"
  assert values["parallelism"] == 8
  _, options = engine.pipeline_options(
    BeamConfig(options="save_main_session"), 2
  )
  assert options.get_all_options()["save_main_session"] is True
  runner, options = engine.pipeline_options(BeamConfig(), units=1)
  assert options.get_all_options()["direct_num_workers"] == 1
  _, options = engine.pipeline_options(BeamConfig(), units=1000)
  assert options.get_all_options()["direct_num_workers"] == os.cpu_count()


@pytest.mark.parametrize(
  ("config", "words"),
  [
    (BeamConfig("NoSuchRunner"), "--beam_runner: NoSuchRunner"),
    (BeamConfig(options="direct_num_workers=x"), "invalid int value: 'x'"),
  ],
)
def test_unknown_runners_and_options(config, words):
  with pytest.raises(BadInput, match=words):
    engine.pipeline_options(config, 2)


def test_a_killed_job_ends_with_the_same_bytes(tmp_path):
  """SIGKILL of the whole command, three times, wherever it is by then."""
  root = write_archives(
    tmp_path / "in",
    {
      f"part{a}": [
        npy_bytes(make_sample(100 * a + i, points=1500)) for i in range(60)
      ]
      for a in range(4)
    },
  )
  command = [sys.executable, "-m", "mrd_jax.prepare", "openshape"]

  def start(output: str) -> subprocess.Popen:
    return subprocess.Popen(
      [*command, "--input", str(root), "--output", str(tmp_path / output)],
      cwd=REPOSITORY,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  undisturbed = start("undisturbed")
  _, errors = undisturbed.communicate(timeout=120)
  assert undisturbed.returncode == 0, errors
  assert not errors  # Beam is quiet
  work = tmp_path / "killed.incomplete" / "shards"
  for finished in range(1, 4):  # so many units
    process = start("killed")
    while process.poll() is None:
      if len(list(work.glob("*.done"))) >= finished:
        process.send_signal(signal.SIGKILL)
        break
      time.sleep(0.005)
    process.communicate()
  deadline = time.monotonic() + 20
  while workers_of(process.pid) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not workers_of(process.pid)  # they end with who started them
  process = start("killed")
  out, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  assert contents(tmp_path / "killed") | {"job.json": b""} == contents(
    tmp_path / "undisturbed"
  ) | {"job.json": b""}
  assert not (tmp_path / "killed.incomplete").exists()
  # Once more: nothing to do.
  again = start("killed")
  assert again.communicate(timeout=60)[0] == out
  assert json.loads((tmp_path / "killed" / "job.json").read_text())


@pytest.mark.parametrize("delay", [0, 2.5])  # before it has work, and with it
def test_a_worker_that_dies_ends_the_job(tmp_path, delay):
  """Of memory, for instance; Beam would wait for it for ever."""
  code = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path[:0] = ["tests", "tests/prepare"]
import test_engine as t
os.environ["PYTHONPATH"] = "tests:tests/prepare"
def kill():
  while not (found := t.workers_of(os.getpid())):
    time.sleep(0.05)
  time.sleep(float(sys.argv[2]))
  os.kill(int(found[0]), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
units = [t.Slow(str(i), i, 3) for i in range(6)]
t.engine.run(units, Path(sys.argv[1]), t.serialize, t.BeamConfig())
"""
  process = subprocess.run(
    [sys.executable, "-c", code, tmp_path / "shards", str(delay)],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert process.returncode in (1, 2)  # a traceback of this script, or not
  assert "a worker process ended (return code -9" in process.stderr
  assert "direct_num_workers=1" in process.stderr


class Slow(Count):
  def item(self, index):
    time.sleep(1)
    return super().item(index)


def workers_of(pid: int) -> list[str]:
  """Commands that were started as workers of the process `pid`."""
  found = []
  for path in Path("/proc").glob("[0-9]*/cmdline"):
    try:
      words = path.read_bytes().split(b"\0")
    except OSError:  # it has ended
      continue
    if b"mrd_jax.prepare.job.worker" in words and str(pid).encode() in words:
      found.append(path.parent.name)
  return found
