"""Units at work, here and on Beam: shards, kills, and what goes on where."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import runs
from openshape_bundle import make_sample, npy_bytes, write_archives
from prepared import contents
from units import Count, Crash, record, serialize

from mrd_jax.errors import BadInput
from mrd_jax.prepare.__main__ import main
from mrd_jax.prepare.job import beam, engine, shards
from mrd_jax.prepare.job.engine import Engine
from mrd_jax.prepare.job.shards import ShardWriter

UNITS = [Count("one", 0, 7), Count("two", 7, 3), Count("none", 10, 0)]


def children(parent: int) -> list[int]:
  """The workers of a process."""
  found = []
  for path in Path("/proc").glob("[0-9]*/cmdline"):
    pid = int(path.parent.name)
    with contextlib.suppress(OSError):  # it has ended
      if b"spawn_main" in path.read_bytes() and stat(pid)[1] == str(parent):
        found.append(pid)
  return found


def stat(pid: int) -> list[str]:
  """State and parent of a process, and more; none if it has ended."""
  try:
    text = Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return ["", ""]
  return text.rpartition(")")[2].split()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
  """The shards of `UNITS`, made by one worker."""
  folder = tmp_path_factory.mktemp("whole")
  engine.run(UNITS, folder, serialize, Engine(workers=1))
  return folder


def test_one_and_several_workers_make_the_same(whole, tmp_path):
  stems = engine.run(UNITS, tmp_path, serialize, Engine(workers=2))
  assert not children(os.getpid())
  assert contents(tmp_path) == contents(whole)
  commits = engine.read_commits(tmp_path, stems)
  assert [len(commit.rejects) for commit in commits] == [1, 1, 0]
  assert [c.problems for c in commits][2] == ["none is through"]
  counts = [[(s.split, s.records) for s in c.shards] for c in commits]
  assert counts == [[("a", 6), ("b", 6)], [("a", 2), ("b", 2)], []]
  without_text = [s.without_text for c in commits for s in c.shards]
  assert without_text == [3, 3, 1, 1]  # shapes 0, 2, 6 and 8
  assert commits[0].most == {"xyz": 50, "image_feat": 3, "text_feat": 1}
  stored = list(shards.read_files(tmp_path, commits[1]))
  assert stored == [
    (split, serialize(record(index))) for split in "ab" for index in (7, 8)
  ]


def test_a_unit_goes_on_with_its_missing_shard(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "SHARD_ITEMS", 3)
  unit = Count("unit", 0, 10)
  folder, undisturbed = tmp_path / "parts", tmp_path / "undisturbed"
  engine.run([unit], undisturbed, serialize)
  with pytest.raises(Crash):
    crash = dataclasses.replace(unit, crash_at=7)
    engine.run([crash], folder, serialize)
  left = contents(folder)
  commits = {name for name in left if name.endswith(".json")}
  assert commits == {"unit-00000.json", "unit-00001.json"}
  assert not any("tmp" in name for name in left)
  (folder / "unit-00002-a.array_record.tmp-1").write_text("of a killed run")
  times = {name: (folder / name).stat().st_mtime_ns for name in left}
  engine.run([unit], folder, serialize)
  assert contents(folder) == contents(undisturbed)
  # What was finished was not made again.
  assert times == {name: (folder / name).stat().st_mtime_ns for name in left}


def test_a_fault_of_the_program_ends_all_workers_at_once(tmp_path):
  slow = Count("slow", 10, 100, seconds=1)
  with pytest.raises(Crash, match="item 1"):
    units = [Count("unit", 0, 2, crash_at=1), slow]
    engine.run(units, tmp_path, serialize, Engine(workers=2))
  assert not children(os.getpid())
  assert not any("tmp" not in name for name in contents(tmp_path))


def test_a_shard_that_is_not_committed_leaves_nothing(tmp_path):
  with pytest.raises(Crash), ShardWriter(tmp_path, "x", serialize) as writer:
    writer.add("a", record(0))
    raise Crash
  assert not list(tmp_path.iterdir())


def test_equal_records_are_equal_bytes():
  """A protobuf map is written in any order unless it is asked not to."""
  code = (
    "import units, hashlib;"
    "print(hashlib.sha256(units.serialize(units.record(1))).hexdigest())"
  )
  one, other = (runs.output_of(code, hash_seed) for hash_seed in (1, 2))
  assert one and one == other


@pytest.mark.parametrize("unit", [0, 1])  # the first one, or that in progress
def test_a_worker_that_dies_ends_the_job(tmp_path, unit):
  """Of memory, for instance; the same command then goes on."""

  def kill() -> None:
    while len(found := children(os.getpid())) < 2 or (
      len(list(tmp_path.glob("*.done"))) < unit
    ):
      time.sleep(0.01)
    os.kill(found[0], signal.SIGKILL)

  threading.Thread(target=kill, daemon=True).start()
  units = [Count(str(i), i, 3, seconds=0.05) for i in range(6)]
  with pytest.raises(BadInput, match="a worker process ended.*--workers=1"):
    engine.run(units, tmp_path, serialize, Engine(workers=2))
  assert not children(os.getpid())
  engine.run(units, tmp_path, serialize, Engine(workers=1))
  assert len(list(tmp_path.glob("*.done"))) == 6


def test_a_killed_job_ends_with_the_same_bytes(tmp_path, capfd):
  """SIGKILL of the whole command, twice, wherever it is by then."""
  samples = [npy_bytes(make_sample(i, points=1500)) for i in range(25)]
  root = write_archives(tmp_path / "in", dict.fromkeys("abcd", samples))

  def arguments(output: str) -> list[str]:
    paths = ["--input", str(root), "--output", str(tmp_path / output)]
    return ["openshape", *paths, "--workers=2"]

  assert main(arguments("undisturbed")) == 0
  assert not capfd.readouterr().err
  command = [sys.executable, "-m", "mrd_jax.prepare", *arguments("killed")]
  work = tmp_path / "killed.incomplete" / "shards"
  workers: list[int] = []
  for finished in range(1, 3):  # so many units
    process = subprocess.Popen(command, cwd=runs.REPOSITORY)
    while process.poll() is None:
      if len(list(work.glob("*.done"))) >= finished:
        workers = children(process.pid)
        process.kill()
        break
      time.sleep(0.005)
    process.wait()
  deadline = time.monotonic() + 20
  # Z: it has ended, and nobody has waited for it.
  while any(stat(pid)[0] not in ("", "Z") for pid in workers):
    assert time.monotonic() < deadline  # they end with who started them
    time.sleep(0.05)
  assert main(arguments("killed")) == 0
  assert contents(tmp_path / "killed") | {"job.json": b""} == contents(
    tmp_path / "undisturbed"
  ) | {"job.json": b""}
  assert not (tmp_path / "killed.incomplete").exists()
  # Once more: nothing to do.
  out = capfd.readouterr().out
  assert main(arguments("killed")) == 0
  assert capfd.readouterr().out == out
  assert json.loads((tmp_path / "killed" / "job.json").read_text())


# On Beam.


@pytest.fixture
def apache_beam():
  return pytest.importorskip("apache_beam")


def test_beam_makes_the_same(whole, tmp_path, apache_beam):
  stems = engine.run(
    UNITS, tmp_path, serialize, Engine(beam_runner="DirectRunner")
  )
  assert contents(tmp_path) == contents(whole)
  assert stems == ["one-00000", "two-00000", "none-00000"]


def test_options_reach_the_runner(apache_beam):
  given = "flink_master=host:8081,environment_type=LOOPBACK, parallelism=8"
  runner, options = beam.runner_and_options("FlinkRunner", given)
  assert type(runner).__name__ == "FlinkRunner"
  values = options.get_all_options()
  assert values["flink_master"] == "host:8081"
  assert values["environment_type"] == "LOOPBACK"
  assert values["parallelism"] == 8
  _, options = beam.runner_and_options("DirectRunner", "save_main_session")
  assert options.get_all_options()["save_main_session"] is True


@pytest.mark.parametrize(
  ("where", "words"),
  [
    (Engine(beam_runner="NoSuchRunner"), "--beam_runner: NoSuchRunner"),
    (Engine(beam_options="direct_num_workers=x"), "invalid int value: 'x'"),
  ],
)
def test_unknown_runners_and_options(tmp_path, apache_beam, where, words):
  with pytest.raises(BadInput, match=words):
    engine.run(UNITS, tmp_path, serialize, where)


def test_without_beam(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(BadInput, match=r"pip install mrd-jax\[beam\]"):
    engine.run(UNITS, tmp_path, serialize, Engine(beam_runner="FlinkRunner"))
