"""The loop, with a run that counts: what it does when, and where it stops."""

import contextlib
import dataclasses
import json
import os
import signal
import time

import numpy as np
import pytest
from counting import counting_run
from runs import losses

from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.cli import exit_code
from mrd_jax.io.files import read_json_lines
from mrd_jax.parallel import sharding
from mrd_jax.parallel.stop import Preemption
from mrd_jax.training.loop import NotFinite, one_ahead, train_loop

EVENTS = [
  *("evaluate 0", "batch 0", "step 0", "batch 1", "step 1", "save 2"),
  *("batch 2", "step 2", "evaluate 3", "save 3 with scores"),
  *("batch 3", "step 3", "save 4", "batch 4", "step 4", "evaluate 5 at last"),
  *("save 5 with scores", "all is saved", "results (5, {'val/top1': 0.5})"),
]


def short_run(events: list[str]):
  return counting_run(events, num_steps=5, every=(3, 2))


def test_the_loop_evaluates_saves_reads_and_steps(tmp_path, capfd):
  assert train_loop(short_run(events := []), tmp_path)
  assert events == EVENTS
  said = capfd.readouterr().err.splitlines()
  assert said[:2] == ["counts", "step 0: 0 is 0.5"]
  logged = list(losses(tmp_path).items())
  assert logged == [(2, 1), (4, 3), (5, 4)]  # and the last
  before = read_json_lines(tmp_path / "metrics.jsonl")
  # Repeated: it was killed before it had its results, or it had them.
  assert train_loop(short_run(events := []), tmp_path)
  assert events == ["evaluate 5 at last", *EVENTS[-2:]]
  (tmp_path / "results.json").write_text("{}")
  assert train_loop(short_run(events := []), tmp_path)
  assert events == ["all is saved"]
  after = read_json_lines(tmp_path / "metrics.jsonl")
  assert [x | {"time": 0} for x in after] == [x | {"time": 0} for x in before]


@pytest.mark.parametrize(
  ("polls", "before", "goes_on_with"),
  [
    (2, "evaluate 0", "evaluate 0"),  # before the first step
    (3, "save 1", "batch 1"),
    (5, "save 3", "evaluate 3"),  # during it: its scores are made up for
    (7, "save 4", "batch 4"),  # saved already
    (8, "save 5", "evaluate 5 at last"),
  ],
)
def test_the_loop_stops_before_the_next_piece_of_work(
  tmp_path, monkeypatch, polls, before, goes_on_with
):
  """No step is done twice, and nothing is left out."""
  poll = Preemption.poll
  events = []

  def stop(self):
    nonlocal polls
    polls -= 1
    if not polls:
      self._signalled = True
    poll(self)

  with monkeypatch.context() as patch:
    patch.setattr(Preemption, "poll", stop)
    assert not train_loop(short_run(events), tmp_path)
  assert events[-2:] == [before, "all is saved"]
  assert train_loop(short_run(after := []), tmp_path)
  assert after[0] == goes_on_with
  done = [x for x in events + after if x.startswith("step")]
  assert done == [x for x in EVENTS if x.startswith("step")]
  evaluated = {x for x in events + after if x.startswith("evaluate")}
  assert evaluated == {x for x in EVENTS if x.startswith("evaluate")}
  assert after[-1] == EVENTS[-1]
  # Scores that a stop kept from a checkpoint have been added to it.
  again = Checkpoints(
    tmp_path / "checkpoints", keep_latest=9, keep_best=1, best_metric="val/top1"
  )
  with contextlib.closing(again):
    assert again.has_scores(3) and again.has_scores(5)
    assert again.best_step() == 5  # the newest of equals


@pytest.mark.usefixtures("in_the_foreground")
@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)]
)
def test_a_signal_ends_the_wait_for_a_stuck_reader(tmp_path, number, code):
  """The last step is saved; Ctrl-C tells scripts to stop, SIGTERM does not."""

  def batches(start):
    yield from range(start, 3)
    os.kill(os.getpid(), number)
    time.sleep(60)

  run = dataclasses.replace(counting_run(), batches=batches)
  begun = time.monotonic()
  assert exit_code(lambda: train_loop(run, tmp_path) * 99) == code
  assert time.monotonic() - begun < 30
  assert (tmp_path / "checkpoints" / "3").is_dir()
  assert train_loop(counting_run(events := []), tmp_path)
  assert events[0] == "batch 3"


@pytest.mark.usefixtures("in_the_foreground")
def test_a_second_interrupt_ends_at_once(monkeypatch):
  ended = []
  monkeypatch.setattr("os._exit", ended.append)
  with contextlib.closing(Preemption()):
    os.kill(os.getpid(), signal.SIGINT)
    assert not ended
    os.kill(os.getpid(), signal.SIGINT)
    assert ended == [130]


def test_batches_are_on_the_devices_one_ahead():
  given = iter([np.full((8, 2), n) for n in range(3)])
  split = sharding.batch_sharding(sharding.make_mesh(1))
  found = one_ahead(given, split)
  first = next(found)
  assert first.sharding == split and first[0, 0] == 0
  assert next(given)[0, 0] == 2  # 1 is waiting
  assert [x[0, 0].item() for x in found] == [1]


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
def test_a_bad_batch_is_told_in_a_few_words(
  tmp_path, monkeypatch, found, words
):
  asked = []

  def examine(source, order, step):
    asked.append(step)
    return found

  monkeypatch.setattr("mrd_jax.training.loop.examine_batch", examine)
  run = counting_run()

  def step_fn(state, batch):
    state, metrics = run.step_fn(state, batch)
    return state, metrics | {"intra": float("nan") if batch == 6 else 1.0}

  with pytest.raises(NotFinite, match=f"^step 7: intra not finite.*{words}"):
    train_loop(dataclasses.replace(run, step_fn=step_fn), tmp_path)
  assert asked == [6]
  saved = json.loads((tmp_path / "not_finite.json").read_text())
  assert saved == {"step": 7, "terms": ["intra"], "shapes": found}
