"""What the watchdog says, and when; `test_operations.py` has real runs."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from mrd_jax.training.clock import Clock
from mrd_jax.training.watchdog import Child, Watchdog, child_processes, report

needs_proc = pytest.mark.skipif(
  not Path("/proc/self/stat").exists(), reason="needs /proc"
)


def lines_of(text: str) -> list[str]:
  return [x for x in text.splitlines() if x.startswith("watchdog: ")]


def wait_for(condition):
  deadline = time.monotonic() + 30
  while not (found := condition()):
    assert time.monotonic() < deadline
    time.sleep(0.01)
  return found


class Said:
  """All that was written to stderr so far."""

  def __init__(self, capfd):
    self._capfd, self._text = capfd, ""

  def __call__(self) -> list[str]:
    self._text += self._capfd.readouterr().err
    return lines_of(self._text)


def test_a_stall_is_reported_every_interval_and_its_end_once(capfd):
  said = Said(capfd)
  clock = Clock()
  clock.step = 7
  begin = time.monotonic()
  with closing(Watchdog(clock, 0.5)):
    clock.enter("input")
    wait_for(lambda: len(said()) >= 3)
    assert time.monotonic() - begin >= 1.5
    clock.enter("step")
    wait_for(lambda: "has moved on" in said()[-1])
    told = said()
    # It is there to tell of the next one, too.
    wait_for(lambda: len(said()) > len(told))
    assert "has not moved on" in said()[len(told)]
  *stalls, end = told
  assert all("process 0 of 1 has not moved on for" in x for x in stalls)
  assert re.search(r"has moved on after 0m0[123]s$", end)


def test_a_loop_that_moves_is_left_in_peace(capfd):
  clock = Clock()
  with closing(Watchdog(clock, 1.0)):
    for _ in range(25):  # batches of one long evaluation
      clock.enter("evaluation")
      time.sleep(0.1)
  assert capfd.readouterr().err == ""


def test_it_ends_with_the_run_at_once():
  before = threading.active_count()
  watchdog = Watchdog(Clock(), 600)
  assert threading.active_count() == before + 1
  begin = time.monotonic()
  watchdog.close()
  assert time.monotonic() - begin < 5
  assert threading.active_count() == before


def test_with_0_there_is_none():
  before = threading.active_count()
  with closing(Watchdog(Clock(), 0)):
    assert threading.active_count() == before


@pytest.mark.parametrize(
  ("stage", "words"),
  [
    ("start", "first state"),
    ("input", "waiting for the next batch"),
    ("compile", "compiling the first step"),
    ("step", "the devices, or for the other processes"),
    ("evaluation", "evaluating"),
    ("save", "saving"),
    ("results", "results"),
  ],
)
def test_a_report_says_where_the_loop_stands(stage, words):
  clock = Clock()
  clock.step = 12
  clock.enter(stage)
  first, second, *_ = report(clock, "process 1 of 2").splitlines()
  assert first == "watchdog: process 1 of 2 has not moved on for 0m00s"
  assert second.startswith(f"  after step 12, stage {stage}: ")
  assert words in second


def test_a_report_has_the_stacks_of_the_other_threads():
  ready, release = threading.Event(), threading.Event()

  def reads_from_a_slow_disk():
    ready.set()
    release.wait()

  thread = threading.Thread(target=reads_from_a_slow_disk, name="reader 3")
  thread.start()
  ready.wait()
  try:
    text = report(Clock(), "process 0 of 1")
  finally:
    release.set()
    thread.join()
  stack = text[text.index("  thread reader 3:") :]
  assert "in reads_from_a_slow_disk" in stack and "release.wait()" in stack
  assert threading.current_thread().name not in text


@pytest.fixture
def child():
  """A child with a child of its own, both asleep."""
  process = subprocess.Popen(
    [
      *(sys.executable, "-c"),
      "import subprocess, sys, time; "
      "p = subprocess.Popen([sys.executable, '-c', 'import time; "
      "time.sleep(100)']); print(p.pid, flush=True); time.sleep(100)",
    ],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout
  below = int(process.stdout.readline())
  yield process, below
  os.kill(below, signal.SIGKILL)
  process.kill()
  process.communicate()


@needs_proc
def test_children_are_found_with_their_state(child):
  process, below = child

  def state(pid: int) -> str | None:
    found = {child.pid: child for child in child_processes()}
    assert os.getpid() not in found and os.getppid() not in found
    return found[pid].state if pid in found else None

  wait_for(lambda: state(process.pid) == state(below) == "asleep")
  (found,) = [x for x in child_processes() if x.pid == process.pid]
  assert found.command.startswith(sys.executable) and "time" in found.command
  os.kill(process.pid, signal.SIGSTOP)
  wait_for(lambda: state(process.pid) == "stopped")
  assert f"    {process.pid} stopped" in report(Clock(), "process 0 of 1")
  process.kill()
  wait_for(lambda: state(process.pid) == "dead, not yet collected")
  process.wait()
  assert state(process.pid) is None


def write_process(root: Path, pid: int, stat: str, command: str = ""):
  folder = root / str(pid)
  folder.mkdir()
  (folder / "stat").write_text(stat)
  (folder / "cmdline").write_text(command)
  return folder


def test_odd_processes_are_read_too(tmp_path):
  me = os.getpid()
  write_process(tmp_path, me, f"{me} (python) S 1 0")
  disk = write_process(
    tmp_path, 100001, f"100001 (a) D (b) D {me} 0", "load\0--from\0disk\0"
  )
  (disk / "wchan").write_text("nfs_wait")
  nameless = write_process(tmp_path, 100002, f"100002 (kth read) Q {me} 0")
  (nameless / "wchan").write_text("0")
  write_process(tmp_path, 100003, "100003 (of another) S 1 0", "elsewhere")
  write_process(tmp_path, 100004, "torn")  # it ends while it is read
  (tmp_path / "100005").mkdir()
  (tmp_path / "self").mkdir()
  assert child_processes(tmp_path) == [
    Child(
      100001,
      "waiting for a disk or a network file system",
      "nfs_wait",
      "load --from disk",
    ),
    Child(100002, "Q", "", "kth read"),
  ]


def test_where_there_is_no_proc_no_children_are_known(tmp_path):
  assert child_processes(tmp_path / "none") == []
