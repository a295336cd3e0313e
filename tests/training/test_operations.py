"""Watching a run: its times, its trace, what is stuck, what was poisoned."""

import collections
import dataclasses
import gzip
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from runs import REPOSITORY, assert_same_run

from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.data import dataset
from mrd_jax.data.batches import WorkerLost, _until_lost, examine_batch
from mrd_jax.data.order import TrainOrder
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json_lines
from mrd_jax.prepare.job.shards import serialize_record
from mrd_jax.training import clock as profiling
from mrd_jax.training.clock import Clock, memory
from mrd_jax.training.log import WandbRun
from mrd_jax.training.loop import NotFinite, Run, train_loop

PARTS = ("input", "step", "evaluation", "save", "compile")


# Times and memory.


class Time:
  """A clock that is set by hand."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_the_stages_of_a_lap_add_up_to_it(monkeypatch):
  time_ = Time(monkeypatch)
  clock = Clock()
  time_.now += 1
  clock.enter("step")
  clock.lap()
  time_.now += 2
  with clock.stage("compile"):
    time_.now += 4
    with pytest.raises(KeyError), clock.stage("input"):
      time_.now += 8
      raise KeyError
    time_.now += 16
  time_.now += 32
  assert clock.lap() == {
    "seconds/input": 8,
    "seconds/step": 34,
    "seconds/evaluation": 0,
    "seconds/save": 0,
    "seconds/compile": 20,
  }
  time_.now += 3
  assert clock.position == ("step", 163)
  assert clock.lap() == {
    "seconds/input": 0,
    "seconds/step": 3,
    "seconds/evaluation": 0,
    "seconds/save": 0,
  }


def test_a_stage_decorates_a_call_each_time_it_is_made(monkeypatch):
  time_ = Time(monkeypatch)
  clock = Clock()
  clock.enter("step")

  def items():
    for n in range(2):
      time_.now += 5
      assert clock.position.stage == "input"
      yield n

  read = clock.stage("input")(items().__next__)
  assert [read(), read()] == [0, 1]
  assert clock.lap()["seconds/input"] == 10
  assert clock.position.stage == "step"


def test_memory_grows_with_what_is_held():
  before = memory()
  assert before.keys() == {"memory/host_gib"}  # a CPU tells nothing
  held = np.ones(2**26)  # half a GiB
  grown = memory()["memory/host_gib"] - before["memory/host_gib"]
  assert grown == pytest.approx(held.nbytes / 2**30, abs=0.1)


def test_memory_is_that_of_the_fullest_device(monkeypatch):
  class Device:
    def __init__(self, in_use, peak):
      self.stats = {"bytes_in_use": in_use * 2**30, "peak_bytes_in_use": peak}

    def memory_stats(self):
      return self.stats

  monkeypatch.setattr(
    "jax.local_devices", lambda: [Device(3, 2**32), Device(1, 2**33)]
  )
  sizes = memory()
  assert (sizes["memory/in_use_gib"], sizes["memory/peak_gib"]) == (3, 8)


@dataclasses.dataclass(frozen=True)
class CountConfig:
  """Any frozen dataclass is a config to the loop."""

  goal: int


def counting_run(**changes) -> Run:
  """A run of ten steps whose state counts."""

  def evaluate(state, is_last, keep_going):
    keep_going()
    return {"val/top1": 0.5}, None

  add = jax.jit(lambda step: step + 1)
  state = TrainState(jax.numpy.int32(0), {}, {}, {}, {})
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  run = Run(
    config=CountConfig(goal=10),
    data={"name": "numbers"},
    summary="counts",
    init=lambda: state,
    abstract_state=jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state
    ),
    step_fn=lambda state, batch: (
      dataclasses.replace(state, step=add(state.step)),
      {"loss": batch},
    ),
    batches=lambda start: iter(range(start, 10)),
    evaluate=evaluate,
    describe=lambda step, scores: "",
    write_results=lambda *_: None,
    open_checkpoints=lambda workdir: Checkpoints(
      workdir / "checkpoints", keep_latest=9, keep_best=0, best_metric=""
    ),
    num_steps=10,
    batch_size=1,
    evaluate_every=5,
    save_every=5,
    log_every=2,
  )
  return dataclasses.replace(run, **changes)


def train_lines(workdir: Path) -> list[dict]:
  lines = read_json_lines(workdir / "metrics.jsonl")
  return [line for line in lines if line["kind"] == "train"]


def test_every_line_splits_the_wall_time_since_the_one_before(tmp_path):
  run = counting_run()

  def batches(start):
    for n in range(start, 10):
      time.sleep(0.05)
      yield n

  def step_fn(state, batch):
    time.sleep(0.2 if batch == 0 else 0.02)  # the first compiles
    return run.step_fn(state, batch)

  def evaluate(state, is_last, keep_going):
    time.sleep(0.3)
    return run.evaluate(state, is_last, keep_going)

  train_loop(
    dataclasses.replace(
      run, batches=batches, step_fn=step_fn, evaluate=evaluate
    ),
    tmp_path,
  )
  lines = train_lines(tmp_path)
  assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
  for line, before in zip(lines[1:], lines[:-1], strict=True):
    total = sum(line.get(f"seconds/{part}", 0) for part in PARTS)
    assert total == pytest.approx(line["time"] - before["time"], abs=0.1)
    assert "seconds/compile" not in line
    assert line["memory/host_gib"] > 0.01
  # A sleep is at least as long as it should be; on a busy machine longer.
  assert lines[0]["seconds/compile"] >= 0.2
  # Metrics of a step are read while the next is under way: a line has the
  # input and the step of the one after it, not its own.
  for line in lines[1:-1]:
    assert line["seconds/input"] >= 0.1
    assert line["seconds/step"] >= 0.04
  evaluation = [line["seconds/evaluation"] for line in lines]
  # Those of steps 0 and 5; the last one follows on the last line.
  assert [x >= 0.3 for x in evaluation] == [True, False, True, False, False]
  assert [evaluation[i] for i in (1, 3, 4)] == [0, 0, 0]
  assert lines[2]["seconds/save"] > 0 == lines[1]["seconds/save"]


# The profile.


def traced_steps(workdir: Path) -> list[list[int]]:
  """The steps that are marked in every trace, in the order of the traces."""
  found = []
  for path in sorted((workdir / "profile").glob("**/*.trace.json.gz")):
    assert list(path.parent.glob("*.xplane.pb"))
    with gzip.open(path) as file:
      events = json.load(file)["traceEvents"]
    assert len(events) > 10
    found.append(
      [int(e["args"]["step_num"]) for e in events if e.get("name") == "train"]
    )
  return found


def test_the_window_is_traced(tmp_path):
  train_loop(counting_run(profile="4:7"), tmp_path)
  assert traced_steps(tmp_path) == [[5, 6, 7]]


def test_a_window_may_reach_beyond_the_end(tmp_path):
  train_loop(counting_run(profile="8:50"), tmp_path)
  assert traced_steps(tmp_path) == [[9, 10]]


def test_a_run_that_goes_on_inside_the_window_traces_the_rest(tmp_path):
  run = counting_run(profile="3:7")

  def batches(start):
    yield from range(start, 6)
    raise KeyError

  with pytest.raises(KeyError):
    train_loop(dataclasses.replace(run, batches=batches), tmp_path)
  # What was traced before the failure is there, and nothing is still traced.
  assert traced_steps(tmp_path) == [[4, 5, 6, 7]]
  time.sleep(1)  # a trace's folder is named by its second
  train_loop(run, tmp_path)  # from the checkpoint of step 5
  assert traced_steps(tmp_path)[1:] == [[6, 7]]


def test_a_window_beyond_the_end_is_refused(tmp_path):
  with pytest.raises(BadInput, match="config.profile is '10:12'.*10 steps"):
    train_loop(counting_run(profile="10:12"), tmp_path)
  assert not (tmp_path / "config.json").exists()


# Weights & Biases.


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
    assert ("goal", 10) in record["config"]
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
  assert len(train_lines(tmp_path)) == 5
  monkeypatch.setattr(wandb, "init", fail)
  WandbRun("shapes", tmp_path, {}).log(1, {"loss": 1.0})
  assert capfd.readouterr().err == words


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(BadInput, match=r"config\.log\.wandb.*mrd-jax\[wandb\]"):
    train_loop(counting_run(wandb="shapes"), tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_writes_to_wandb(tmp_path, monkeypatch):
  """The second comes as far as its writer, where the test stops it."""
  made = []

  def stop(*_, **arguments):
    made.append((arguments["enabled"], arguments["mirror"]))
    raise KeyError

  monkeypatch.setattr("mrd_jax.training.loop.WandbRun", lambda *_: "W&B")
  monkeypatch.setattr("mrd_jax.training.loop.MetricsWriter", stop)
  for process in (0, 1):
    monkeypatch.setattr("jax.process_index", lambda n=process: n)
    with pytest.raises(KeyError):
      train_loop(counting_run(wandb="shapes"), tmp_path)
  assert made == [(True, "W&B"), (False, None)]


# Real runs.


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
  """Runs of one program compile it once: the field at work."""
  return tmp_path_factory.mktemp("compiled") / "cache"


OPTIONS = (
  "--config.train.steps=60",
  "--config.checkpoint.every_steps=10",
  "--config.eval.every_steps=60",
  # What is quick to compile; it is not about the losses.
  "--config.model.depth=1",
  "--config.loss.intra=False",
  "--config.loss.cross=False",
)


@pytest.fixture(scope="module")
def start(data_dir, cache):
  """Starts a run, whose stderr goes to WORKDIR.stderr.

  Not into a pipe, which is at its end only when the workers have ended too.
  """
  processes = []

  def start(workdir: Path, *options: str, data: Path = data_dir):
    errors = workdir.with_name(workdir.name + ".stderr")
    with errors.open("w") as file:
      process = subprocess.Popen(
        [
          *(sys.executable, "-m", "mrd_jax.main"),
          *("--config", "configs/debug.py", "--workdir", str(workdir)),
          *(f"--config.data.dir={data}", f"--config.compile_cache={cache}"),
          *(*OPTIONS, *options),
        ],
        cwd=REPOSITORY,
        env=os.environ
        | {
          "JAX_PLATFORMS": "cpu",
          "JAX_NUM_CPU_DEVICES": "1",
          "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stderr=file,
      )
    processes.append(Started(process, errors))
    return processes[-1]

  yield start
  for started in processes:
    started.process.kill()
    started.process.wait()


class Started(NamedTuple):
  """A run, and where its stderr goes."""

  process: subprocess.Popen
  errors: Path

  def kill(self) -> None:
    self.process.kill()
    self.process.wait()

  def wait_for(self, condition) -> None:
    deadline = time.monotonic() + 240
    while not condition():
      assert self.process.poll() is None, self.errors.read_text()
      assert time.monotonic() < deadline
      time.sleep(0.01)

  def wait_for_step(self, workdir: Path, step: int) -> None:
    path = workdir / "metrics.jsonl"

    def reached() -> bool:
      lines = read_json_lines(path) if path.exists() else []
      return bool(lines) and lines[-1]["step"] >= step

    self.wait_for(reached)


def finish(started: Started, expect: int = 0) -> str:
  code = started.process.wait(timeout=240)
  errors = started.errors.read_text()
  assert code == expect, errors
  return errors


def worker_of(started: Started) -> int:
  """The data worker's process, which multiprocessing has spawned."""
  for stat in Path("/proc").glob("[0-9]*/stat"):
    try:
      parent = int(stat.read_text().rpartition(")")[2].split()[1])
      command = (stat.parent / "cmdline").read_text()
    except OSError:
      continue
    if parent == started.process.pid and "spawn_main" in command:
      return int(stat.parent.name)
  raise LookupError


def assert_ends_equal(workdir: Path, straight: Path) -> None:
  assert load_on_one_device(workdir / "checkpoints", best_metric=None)[0] == 60
  assert_same_run(workdir, straight)


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory) -> Path:
  """A run that nothing disturbs, the first to compile."""
  workdir = tmp_path_factory.mktemp("straight")
  finish(start(workdir))
  return workdir


needs_proc = pytest.mark.skipif(
  not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"
)


@pytest.mark.slow
def test_a_second_start_compiles_nothing_anew(straight, start, cache, tmp_path):
  def programs():
    return {path.name for path in cache.glob("*-cache")}

  before = programs()
  assert any("train_step" in name or "lambda" in name for name in before)
  finish(start(tmp_path))
  assert programs() == before
  assert_ends_equal(tmp_path, straight)
  first, second = (
    train_lines(path)[0]["seconds/compile"] for path in (straight, tmp_path)
  )
  assert second < first


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").touch()
  folder = str(tmp_path / "file" / "cache")
  with (
    pytest.raises(BadInput, match="config.compile_cache: .*file/cache cannot"),
    profiling.compile_cache(folder),
  ):
    pass


def test_the_cache_is_jaxs_own_again_afterwards(tmp_path):
  before = jax.config.jax_compilation_cache_dir
  with profiling.compile_cache(""):
    assert jax.config.jax_compilation_cache_dir == before
  with pytest.raises(KeyError), profiling.compile_cache(str(tmp_path)):
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    raise KeyError
  assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.slow
@needs_proc
def test_a_stopped_worker_is_reported_and_the_run_goes_on(
  straight, start, tmp_path
):
  process = start(
    tmp_path, "--config.data.workers=1", "--config.log.stall_seconds=2"
  )
  process.wait_for_step(tmp_path, 3)
  worker = worker_of(process)
  os.kill(worker, signal.SIGSTOP)
  process.wait_for(
    lambda: process.errors.read_text().count(f"{worker} stopped") >= 2
  )
  os.kill(worker, signal.SIGCONT)
  errors = finish(process)
  assert_ends_equal(tmp_path, straight)
  reports = re.split("(?=watchdog: )", errors)[1:]
  stuck = [x for x in reports if f"{worker} stopped" in x]
  assert len(stuck) >= 2  # again after a further interval
  step = int(re.search(r"after step (\d+), stage input", stuck[0])[1])
  assert 3 <= step < 60
  assert "process 0 of 1 has not moved on for 0m02s" in stuck[0]
  assert re.search("for 0m0[45]s", stuck[1])
  assert "spawn_main" in stuck[0]
  assert "thread MainThread" in stuck[0]
  assert "process_prefetch.py" in stuck[0]  # what it waits for
  after = reports[reports.index(stuck[-1]) + 1]
  assert re.match(
    r"watchdog: process 0 of 1 has moved on after \dm\d\ds\n", after
  )


@needs_proc
@pytest.mark.slow
def test_a_worker_does_not_outlive_a_killed_run(straight, start, tmp_path):
  process = start(tmp_path, "--config.data.workers=1")
  process.wait_for_step(tmp_path, 3)
  worker = Path("/proc", str(worker_of(process)))
  process.kill()
  deadline = time.monotonic() + 20
  while worker.exists():
    assert time.monotonic() < deadline
    time.sleep(0.01)


@needs_proc
@pytest.mark.slow
def test_a_killed_worker_ends_the_run_which_can_be_repeated(
  straight, start, tmp_path
):
  process = start(tmp_path, "--config.data.workers=1")
  process.wait_for_step(tmp_path, 13)
  os.kill(worker_of(process), signal.SIGKILL)
  errors = finish(process, expect=1)
  assert "a data worker has died" in errors and "exit code -9" in errors
  assert "data.workers" in errors
  again = finish(start(tmp_path, "--config.data.workers=1"))
  assert "resumed from the checkpoint of step" in again
  assert_ends_equal(tmp_path, straight)


def test_another_error_of_the_reader_stays_what_it_is():
  def reader():
    yield 1
    raise RuntimeError("something else")

  batches = _until_lost(reader())
  assert next(batches) == 1
  with pytest.raises(RuntimeError, match="something else") as error:
    next(batches)
  assert not isinstance(error.value, WorkerLost)


# Poisoned and damaged data.


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


def test_a_poisoned_batch_is_named(copied, start, tmp_path):
  rewrite(copied, poison)
  ids = [record["id"] for record in dataset.open_split(copied, "train")]
  workdir = tmp_path / "run"
  options = ("--config.checkpoint.every_steps=1",)
  errors = finish(start(workdir, *options, data=copied), expect=1)
  found = json.loads((workdir / "not_finite.json").read_text())
  step = found["step"]
  order = TrainOrder(108, 32, 0)
  rows = set(order.rows(step - 1).tolist())
  bad = {17: "not finite", 40: "zero", 80: "not finite"}
  assert rows & {17, 80} and "loss" in found["terms"]
  # The ids of all, the bad ones first, with what is wrong with them.
  assert {shape["row"] for shape in found["shapes"]} == rows
  assert all(shape["id"] == ids[shape["row"]] for shape in found["shapes"])
  suspicious = [shape for shape in found["shapes"] if shape["problems"]]
  assert suspicious == found["shapes"][: len(suspicious)]
  assert {shape["row"] for shape in suspicious} == rows & bad.keys()
  for shape in suspicious:
    assert shape["problems"] == [f"2 of 2 image_feat {bad[shape['row']]}"]
  (line,) = errors.strip().splitlines()[-1:]
  assert re.match(rf"error: step {step}: .*\bloss\b.* not finite", line)
  assert re.search(
    rf"holds bad shapes: '{suspicious[0]['id']}' \(2 of 2 image_feat", line
  )
  assert "not_finite.json has all" in line
  assert line.count("image_feat") == len(suspicious)
  # Nothing of it was saved, and the batches before were clean.
  saved = [int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*")]
  assert max(saved, default=0) == step - 1
  for early in range(step - 1):
    assert not {17, 80} & set(order.rows(early).tolist())


def shapes(problems: list[str], count: int = 20) -> list[dict]:
  return [{"row": n, "id": f"s{n}", "problems": problems} for n in range(count)]


@pytest.mark.parametrize(
  ("found", "words"),
  [
    (
      shapes(["zero"]),
      r"bad shapes: 's0' \(zero\), .*'s7' \(zero\) and 12 more; .* Mend them",
    ),
    (
      shapes([], 2),
      r"no visibly bad shapes: 's0', 's1'; .*all\. Start again in another",
    ),
  ],
)
def test_a_bad_batch_is_told_in_a_few_words(tmp_path, found, words):
  asked = []

  def examine(step):
    asked.append(step)
    return found

  run = counting_run(examine=examine)

  def step_fn(state, batch):
    state, metrics = run.step_fn(state, batch)
    return state, metrics | {"intra": float("nan") if batch == 6 else 1.0}

  with pytest.raises(NotFinite, match=f"^step 7: intra not finite.*{words}"):
    train_loop(dataclasses.replace(run, step_fn=step_fn), tmp_path)
  assert asked == [6]
  saved = json.loads((tmp_path / "not_finite.json").read_text())
  assert saved == {"step": 7, "terms": ["intra"], "shapes": found}


def test_every_kind_of_damage_of_a_record_is_seen(copied):
  def change(records):
    text = records[3]["text_feat"].copy()
    text[0, 5] = np.inf
    records[3]["text_feat"] = text
    records[4]["xyz"] = np.zeros_like(records[4]["xyz"])
    records[5]["scale"] = np.float32(0)
    records[6]["center"] = np.array([0, np.nan, 0], np.float32)

  rewrite(copied, change)
  source = dataset.open_split(copied, "train")
  order = TrainOrder(108, 108, 0)
  found = examine_batch(source, order, 2)
  count = len(source[3]["text_feat"])
  assert {x["row"]: x["problems"] for x in found[:4]} == {
    3: [f"1 of {count} text_feat not finite"],
    4: ["all points coincide"],
    5: ["scale not positive"],
    6: ["center or scale not finite"],
  }
  assert not any(x["problems"] for x in found[4:])
  assert sorted(x["row"] for x in found) == list(range(108))


def test_a_record_that_is_gone_is_said_to_be(copied):
  source = dataset.open_split(copied, "train")
  (shard,) = copied.glob("*train*array_record*")
  shard.unlink()
  found = examine_batch(source, TrainOrder(108, 8, 0), 0)
  assert len(found) == 8
  for shape in found:
    assert shape["id"] == ""
    assert f"record {shape['row']} of split 'train'" in shape["problems"][0]


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
  [(overwrite, 0), (overwrite, 1), (truncate, 0), (truncate, 1)],
)
def test_a_shard_damaged_under_way_ends_the_run_until_it_is_restored(
  straight, start, copied, tmp_path, damage, workers
):
  (shard,) = copied.glob("*train*array_record*")
  content = shard.read_bytes()
  workdir = tmp_path / "run"
  option = f"--config.data.workers={workers}"
  process = start(workdir, option, data=copied)
  process.wait_for_step(workdir, 12)
  damage(shard)
  errors = finish(process, expect=2)
  lines = [x for x in errors.splitlines() if x.startswith("error:")]
  assert len(lines) == 1
  assert re.match(
    rf"error: data\.dir: record \d+ of split 'train' in {copied}", lines[0]
  )
  assert "Traceback" not in errors
  shard.write_bytes(content)
  again = finish(start(workdir, option, data=copied))
  step = int(re.search(r"resumed from the checkpoint of step (\d+)", again)[1])
  assert 10 <= step < 60
  assert_ends_equal(workdir, straight)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_between_two_starts_is_named(
  straight, start, copied, tmp_path, workers
):
  (shard,) = copied.glob("*train*array_record*")
  workdir = tmp_path / "run"
  option = f"--config.data.workers={workers}"
  process = start(workdir, option, data=copied)
  process.wait_for_step(workdir, 12)
  hidden = shard.rename(tmp_path / "hidden")
  process.kill()
  errors = finish(start(workdir, option, data=copied), expect=2)
  assert re.search(rf"error: data\.dir: record \d+ .* in {copied} .*", errors)
  assert "Traceback" not in errors
  hidden.rename(shard)
  finish(start(workdir, option, data=copied))
  assert_ends_equal(workdir, straight)
