"""Random kills, one after the other; in the end nothing has happened.

SIGKILL, or Ctrl-C once or twice, at any moment; now and then a second command
comes to the same folder before.

`make soak` kills 200 times; MRD_SOAK_KILLS and MRD_SOAK_SEED change the number
and repeat a run.  (When a kill falls depends on the machine, too: a seed
repeats what is done, not the moment.)
"""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs

KILLS = int(os.environ.get("MRD_SOAK_KILLS", "6"))
SEED = int(os.environ.get("MRD_SOAK_SEED", "0")) or random.randrange(1, 2**31)
START_SECONDS = 4.0  # about what it takes from the start to the first step
# A kill costs a run at least what it has not saved, and it moves on by a few
# steps between two; there must be steps left for the last one.
OPTIONS = (
  f"--config.train.steps={6 * KILLS + 40}",
  "--config.checkpoint.every_steps=2",
  "--config.eval.every_steps=40",
)


class Zygote:
  """Starts runs of two processes from one that has imported everything."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._started = 0
    self.errors = folder / "none"  # what the last ones started have said
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.zygote"],
      cwd=runs.REPOSITORY,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def _ask(self, *command) -> int:
    assert self._process.stdin and self._process.stdout
    self._process.stdin.write(json.dumps(command) + "\n")
    self._process.stdin.flush()
    return json.loads(self._process.stdout.readline())

  def start(self, arguments: list[str], count: int = 2) -> list[int]:
    self._started += 1
    self.errors = self._folder / f"stderr{self._started}"
    joining = runs.joining(count) if count > 1 else [[]]
    return [
      self._ask("start", [*arguments, *flags], str(self.errors))
      for flags in joining
    ]

  def wait(self, pids: list[int]) -> list[int]:
    return [self._ask("wait", pid) for pid in pids]

  def close(self) -> None:
    self._process.communicate()


@pytest.fixture
def zygote(tmp_path, monkeypatch):
  # Also what compiles quickly: every restart would do it again.
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  zygote = Zygote(tmp_path)
  yield zygote
  zygote.close()


def send(pids: list[int], number: signal.Signals) -> None:
  for pid in pids:
    os.kill(pid, number)


def refuse_a_second(
  zygote: Zygote, arguments: list[str], pids: list[int], workdir: Path
) -> None:
  """Starts it while the run stands still, perhaps in the middle of a save."""
  send(pids, signal.SIGSTOP)
  before = runs.on_disk(workdir)
  assert zygote.wait(zygote.start(arguments, count=1)) == [2]
  assert "another command is at work" in zygote.errors.read_text()
  assert runs.on_disk(workdir) == before
  send(pids, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.long
def test_random_kills_leave_no_trace(zygote, tmp_path, capsys):
  """Two processes; either or both are killed, at any moment of their life."""
  with capsys.disabled():
    print(f"\nMRD_SOAK_KILLS={KILLS} MRD_SOAK_SEED={SEED}", flush=True)
  draw = random.Random(SEED)
  data_dir = runs.make_data(tmp_path / "data")
  straight, killed = tmp_path / "straight", tmp_path / "killed"
  assert zygote.wait(
    zygote.start(runs.command(data_dir, straight, *OPTIONS)[3:])
  ) == [0, 0], zygote.errors.read_text()[-2000:]

  arguments = runs.command(data_dir, killed, *OPTIONS)[3:]
  happened = collections.Counter()
  for kill in range(KILLS):
    before = runs.last_step(killed)
    pids = zygote.start(arguments)
    said = zygote.errors
    trains = draw.random() > 0.3
    if not trains:
      time.sleep(draw.uniform(0, START_SECONDS))
    else:
      goal = before + draw.randint(1, 5)
      deadline = time.monotonic() + runs.PATIENCE
      while runs.last_step(killed) < goal and time.monotonic() < deadline:
        time.sleep(0.02)
      assert time.monotonic() < deadline, said.read_text()[-2000:]
      time.sleep(draw.uniform(0, 0.1))
      if draw.random() < 0.3:
        refuse_a_second(zygote, arguments, pids, killed)
        happened["second command"] += 1
    victims = draw.choice([pids[:1], pids[1:], pids])
    how = draw.choice(["SIGKILL", "SIGKILL", "Ctrl-C", "Ctrl-C twice"])
    happened[how] += 1
    send(victims, signal.SIGKILL if how == "SIGKILL" else signal.SIGINT)
    if how == "Ctrl-C" and trains:  # they save, and end by themselves
      assert zygote.wait(pids) == [130, 130], said.read_text()[-2000:]
      assert "Traceback" not in said.read_text()
      continue
    # What a launcher does when it sees it, sooner or later.
    time.sleep(draw.uniform(0, 0.5))
    if how == "Ctrl-C twice":
      send(victims, signal.SIGINT)
      time.sleep(draw.uniform(0, 0.5))
    send(pids, signal.SIGKILL)
    codes = zygote.wait(pids)
    assert 0 not in codes, f"kill {kill}: over before it could be killed"
    assert "damaged" not in said.read_text()
  with capsys.disabled():
    print(dict(happened), flush=True)
  assert zygote.wait(zygote.start(arguments)) == [0, 0]
  runs.assert_same_run(killed, straight)
