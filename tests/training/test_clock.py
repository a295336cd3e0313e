"""Times and memory in metrics.jsonl, and what the watchdog says of a stall."""

import re
import threading
import time
import types

import numpy as np
import pytest
from counting import counting_run

from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.io.files import read_json_lines
from mrd_jax.training.clock import Clock, memory
from mrd_jax.training.loop import train_loop
from mrd_jax.training.watchdog import watchdog

PARTS = ("input", "step", "evaluation", "save", "compile")


@pytest.fixture
def hand(monkeypatch):
  """A clock that is set by hand."""

  class Hand:
    now = 100.0

  monkeypatch.setattr("time.monotonic", lambda: Hand.now)
  return Hand


def test_the_stages_of_a_lap_add_up_to_it(hand):
  clock = Clock()
  hand.now += 1
  clock.enter("step")
  clock.lap()
  hand.now += 2
  with clock.stage("compile"):
    hand.now += 4
    with pytest.raises(KeyError), clock.stage("input"):
      hand.now += 8
      raise KeyError
    hand.now += 16
  hand.now += 32
  no_seconds = {"seconds/evaluation": 0, "seconds/save": 0}
  assert clock.lap() == no_seconds | {
    "seconds/input": 8,
    "seconds/step": 34,
    "seconds/compile": 20,
  }
  hand.now += 3
  assert clock.position == ("step", 163)
  assert clock.lap() == no_seconds | {"seconds/input": 0, "seconds/step": 3}


def test_a_stage_decorates_a_call_each_time_it_is_made(hand):
  clock = Clock()
  clock.enter("step")

  def items():
    for n in range(2):
      hand.now += 5
      assert clock.position.stage == "input"
      yield n

  read = clock.stage("input")(items().__next__)
  assert [read(), read()] == [0, 1]
  assert clock.lap()["seconds/input"] == 10
  assert clock.position.stage == "step"


def test_memory_grows_with_what_is_held():
  before = memory()
  assert before.keys() == {"memory/host_gib"}  # a CPU tells nothing
  held = np.ones(2**25)  # a quarter of a GiB
  grown = memory()["memory/host_gib"] - before["memory/host_gib"]
  assert grown == pytest.approx(held.nbytes / 2**30, abs=0.1)


def test_memory_is_that_of_the_fullest_device(monkeypatch):
  def device(in_use: int, peak: int):
    stats = {"bytes_in_use": in_use * 2**30, "peak_bytes_in_use": peak * 2**30}
    return types.SimpleNamespace(memory_stats=lambda: stats)

  monkeypatch.setattr("jax.local_devices", lambda: [device(3, 4), device(1, 8)])
  sizes = memory()
  assert (sizes["memory/in_use_gib"], sizes["memory/peak_gib"]) == (3, 8)


def test_every_line_splits_the_wall_time_since_the_one_before(
  tmp_path, monkeypatch, hand
):
  plain = counting_run()

  def batches(start):
    for n in range(start, 10):
      hand.now += 1
      yield n

  def step_fn(state, batch):
    hand.now += 70 if batch == 0 else 10  # the first compiles
    return plain.step_fn(state, batch)

  def slow(call, seconds: int):
    def slowly(*arguments):
      hand.now += seconds
      return call(*arguments)

    return slowly

  run = counting_run(batches=batches, step_fn=step_fn)
  evaluate = slow(run.objective.evaluate, 200)
  monkeypatch.setattr(run.objective, "evaluate", evaluate)
  monkeypatch.setattr(Checkpoints, "save", slow(Checkpoints.save, 300))
  train_loop(run, tmp_path)
  lines = [
    line
    for line in read_json_lines(tmp_path / "metrics.jsonl")
    if line["kind"] == "train"
  ]
  assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
  seconds = {
    part: [line.get(f"seconds/{part}") for line in lines] for part in PARTS
  }
  # Metrics of a step are read while the next is under way: a line has the
  # input and the step of the one after it, not its own.
  assert seconds == {
    "input": [3, 2, 2, 2, 1],
    "step": [20, 20, 20, 20, 10],
    # Those of steps 0 and 5; the last one follows on the last line.
    "evaluation": [200, 0, 200, 0, 0],
    "save": [0, 0, 300, 0, 0],
    "compile": [70, None, None, None, None],
  }
  assert all(line["memory/host_gib"] > 0.01 for line in lines)


# The watchdog.


class Said:
  """All that was written to stderr so far."""

  def __init__(self, capfd):
    self._capfd, self.text = capfd, ""

  def lines(self) -> list[str]:
    self.text += self._capfd.readouterr().err
    return [x for x in self.text.splitlines() if x.startswith("watchdog: ")]

  def wait_for(self, count: int) -> list[str]:
    deadline = time.monotonic() + 30
    while len(self.lines()) < count:
      assert time.monotonic() < deadline, self.text
      time.sleep(0.01)
    return self.lines()


def test_a_stall_is_reported_every_interval_and_its_end_once(capfd):
  said = Said(capfd)
  clock = Clock()
  clock.step = 7
  begin = time.monotonic()
  release = threading.Event()

  def reads_from_a_slow_disk():
    release.wait()

  reader = threading.Thread(target=reads_from_a_slow_disk)
  reader.start()
  with watchdog(clock, 0.3):
    clock.enter("input")
    said.wait_for(3)
    assert time.monotonic() - begin >= 0.9
    clock.enter("step")
    *stalls, end = said.wait_for(4)
    # It is there to tell of the next one, too.
    assert "has not moved on" in said.wait_for(5)[4]
  release.set()
  reader.join()
  assert all("process 0 of 1 has not moved on for" in x for x in stalls)
  assert re.search(r"has moved on after 0m0[0123]s$", end)
  # The step, the stage, and the stacks of all threads.
  first = said.text.split("watchdog: ")[1]
  assert "  after step 7, stage input: waiting for the next batch\n" in first
  assert "in reads_from_a_slow_disk\n" in first
  assert "in test_a_stall_is_reported" in first


def test_a_loop_that_moves_is_left_in_peace(capfd):
  clock = Clock()
  with watchdog(clock, 0.5):
    for _ in range(10):  # batches of one long evaluation
      clock.enter("evaluation")
      time.sleep(0.1)
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("stall_seconds", "more"), [(0, 0), (600, 1)])
def test_it_ends_with_the_run_at_once(stall_seconds, more):
  before = threading.active_count()
  begin = time.monotonic()
  with watchdog(Clock(), stall_seconds):
    assert threading.active_count() == before + more
  assert time.monotonic() - begin < 5
  assert threading.active_count() == before


def test_the_loop_enters_the_stages_that_the_watchdog_names(
  tmp_path, monkeypatch
):
  """Of each it says in words what the loop does there."""
  entered = {"start"}
  enter = Clock.enter

  def note(self, stage):
    entered.add(stage)
    enter(self, stage)

  monkeypatch.setattr(Clock, "enter", note)
  train_loop(counting_run(num_steps=2), tmp_path)
  from mrd_jax.training.watchdog import DOING

  assert DOING.keys() == entered
