"""How processes join, fail and end together: real ones, on this machine."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from runs import PATIENCE, free_port, read_until

import mrd_jax.evaluate.__main__
import mrd_jax.finetune.__main__
import mrd_jax.main
from mrd_jax.cli import JOINING, exit_code
from mrd_jax.errors import BadInput
from mrd_jax.parallel import processes

ADDRESS, COUNT, INDEX = VARIABLES = (
  "JAX_COORDINATOR_ADDRESS",
  "JAX_NUM_PROCESSES",
  "JAX_PROCESS_ID",
)
DEFAULTS = {name: default for name, _, default, _ in JOINING}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
  """This machine may itself be a part of one."""
  for name in list(os.environ):
    if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_")) or name in VARIABLES:
      monkeypatch.delenv(name)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.fixture
def joined(monkeypatch):
  """Notes what JAX is asked instead of asking it."""
  asked = []
  with monkeypatch.context() as patch:
    patch.setattr(
      "jax.distributed.initialize",
      lambda *args, **kwargs: asked.append((*args, kwargs)),
    )
    patch.setattr("jax.config.update", lambda *args: asked.append(args))
    yield asked


def run(work=lambda: 0, **flags) -> int:
  return processes.run(work, exit_code, **DEFAULTS | flags)


def test_alone_it_only_works(joined):
  assert run(lambda: 7) == 7
  with pytest.raises(ZeroDivisionError):
    run(lambda: 1 // 0)
  assert not joined


@pytest.mark.parametrize(
  ("flags", "variables", "asks"),
  [
    (("a:1", 3, 2), (None, None, None), ("a:1", 3, 2, "deactivate")),
    ((None, None, None), ("b:2", "3", "0"), ("b:2", 3, 0, "deactivate")),
    (("a:1", None, 1), ("b:2", "3", "0"), ("a:1", 3, 1, "deactivate")),
    (("a:1", 3, 0), ("b:2", "2", "1"), ("a:1", 3, 0, "deactivate")),
    (("[::1]:80", 1, 0), (None, None, None), ("[::1]:80", 1, 0, "deactivate")),
    ((None, None, None), ("b:2", None, None), ("b:2", None, None, None)),
    ((None, None, None), (None, None, None), (None, None, None, None)),
  ],
)
def test_flags_then_variables_then_the_cluster(
  joined, monkeypatch, flags, variables, asks
):
  for name, value in zip(VARIABLES, variables, strict=True):
    if value is not None:
      monkeypatch.setenv(name, value)
  names = ("coordinator", "num_processes", "process_id")
  named = dict(zip(names, flags, strict=True))
  options = {"distributed": True, "join_seconds": 9, "heartbeat_seconds": 8}
  assert run(**named, **options) == 0
  service, (*found, options) = joined
  # Before the rest, so that SIGTERM stays with Python.
  assert service == ("jax_enable_preemption_service", False)
  assert (*found, options["cluster_detection_method"]) == asks
  assert options["heartbeat_timeout_seconds"] == 8
  assert options["initialization_timeout"] > 9  # ours comes first
  for thread in threading.enumerate():
    if isinstance(thread, threading.Timer):
      thread.join(1)
      assert not thread.is_alive()


@pytest.mark.parametrize(
  ("flags", "variables", "message"),
  [
    ({"distributed": False, "process_id": 0}, {}, "--distributed; add it"),
    ({"distributed": False, "coordinator": "a:1"}, {}, "--distributed; add it"),
    ({"coordinator": "a:1", "num_processes": 2}, {}, "--process_id missing"),
    ({"coordinator": "a:1", "process_id": 0}, {}, "--num_processes missing"),
    ({"process_id": 1}, {}, "--coordinator and --num_processes missing"),
    ({}, {COUNT: "2", INDEX: "0"}, "--coordinator missing.*JAX_COORD"),
    ({}, {ADDRESS: "a:1", COUNT: "two", INDEX: "0"}, "PROCESSES is 'two'"),
    ({}, {ADDRESS: "a:1", COUNT: "2", INDEX: "-1"}, "PROCESS_ID is '-1'"),
    ({}, {ADDRESS: "a:1", COUNT: "2", INDEX: "2"}, "is 2 of 2 processes"),
    ({}, {ADDRESS: "node1"}, "'node1', must be HOST:PORT"),
    ({"coordinator": "a:b"}, {}, "'a:b', must be HOST:PORT"),
    ({"process_id": -1}, {ADDRESS: "a:1", COUNT: "2"}, "is -1 of 2 processes"),
  ],
)
def test_bad_settings_are_named(joined, monkeypatch, flags, variables, message):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(BadInput, match=message):
    run(lambda: pytest.fail("it worked"), **{"distributed": True} | flags)
  assert not joined


# What a process of the tests below runs: WORK is put in.
SCRIPT = """
import functools, jax, os, signal, sys, time
from mrd_jax.parallel import agree, processes
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
# Who relies on JAX's own patience at the end shall fail.
jax.distributed.initialize = functools.partial(
  jax.distributed.initialize, shutdown_timeout_seconds=2
)
from mrd_jax.cli import JOINING, exit_code
from mrd_jax.errors import BadInput, RunFailed
flags = {name: default for name, _, default, _ in JOINING}
flags |= dict(distributed=True, join_seconds=60, heartbeat_seconds=10)
flags |= eval(sys.argv[1])
def work():
  me = jax.process_index()
  def meet(answer=False):
    return agree.first_says(answer)
  meet()
  print("met", flush=True)
  WORK
  return 0
sys.exit(exit_code(lambda: processes.run(work, exit_code, **flags)))
"""


@pytest.fixture
def start(spawn) -> Callable[..., subprocess.Popen]:
  """Starts the script with some work and flags."""

  def start(work: str, flags: dict, **variables: str) -> subprocess.Popen:
    script = SCRIPT.replace("WORK", work.strip().replace("\n", "\n  "))
    return spawn(sys.executable, "-c", script, repr(flags), **variables)

  return start


@pytest.fixture
def pair(start):
  """Starts two that know each other."""

  def pair(work: str) -> list[subprocess.Popen]:
    both = {"coordinator": f"localhost:{free_port()}", "num_processes": 2}
    return [start(work, both | {"process_id": index}) for index in range(2)]

  return pair


def end(process: subprocess.Popen) -> tuple[int, str, str]:
  out, errors = process.communicate(timeout=PATIENCE)
  return process.returncode, out, errors


def sentence(process: subprocess.Popen) -> str:
  """The one line of a process that ended with bad input."""
  code, out, errors = end(process)
  assert (code, out) == (2, ""), errors
  (line,) = errors.strip().splitlines()
  return line


def test_who_cannot_be_joined_is_a_sentence(start):
  """Several at a time: they only wait."""
  port = free_port()
  lost = {"num_processes": 2, "join_seconds": 3}
  with socket.create_server(("localhost", 0)) as taken:
    address = f"localhost:{taken.getsockname()[1]}"
    started = [
      start("", lost | {"coordinator": where, "process_id": index})
      for where, index in (
        (f"localhost:{port}", 1),
        (f"localhost:{port + 1}", 0),
        ("no-host.invalid:1", 1),
        (address, 0),
      )
    ]
    started.append(start("", {}))
    started.append(start("", {}, JAX_COORDINATOR_ADDRESS="localhost:1"))
    absent, alone, unknown, busy, *nothing = map(sentence, started)
  assert "process 1 of 2 waited 3 s and not all have come to" in absent
  assert f"localhost:{port};" in absent and "--join_seconds" in absent
  assert "process 0 of 2 waited 3 s" in alone
  assert "no-host.invalid:1" in unknown
  assert f"{address}, where process 0 cannot listen" in busy
  for line in nothing:
    assert "no cluster is recognised here" in line
    assert all(name in line for name in (*VARIABLES, "--process_id"))


@pytest.mark.parametrize(
  ("main", "options"),
  [
    (mrd_jax.main.main, ["--config=configs/debug.py", "--workdir=OUT"]),
    (
      mrd_jax.evaluate.__main__.main,
      ["--suite=zero_shot", "--data=x", "--checkpoint=x", "--output=OUT"],
    ),
    (
      mrd_jax.finetune.__main__.main,
      ["--config=configs/finetune/base.py", "--checkpoint=x", "--workdir=OUT"],
    ),
  ],
)
def test_the_verbs_have_the_flags(main, options, tmp_path, capsys):
  options = [x.replace("OUT", str(tmp_path)) for x in options]
  for flags, message in (
    (["--distributed", "--process_id=0"], "--num_processes missing"),
    (["--num_processes=2"], "add it"),
  ):
    assert main([*options, *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
  assert not list(tmp_path.iterdir())


def test_slurm_and_open_mpi_are_found(start):
  work = "print(me, jax.process_count(), flush=True)"
  slurm = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "JAX_COORDINATOR_PORT": str(free_port()),
  }
  open_mpi = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "JAX_COORDINATOR_PORT": str(free_port()),
  }
  started = [
    start(work, {}, **cluster, **dict.fromkeys(names, str(index)))
    for cluster, names in (
      (slurm, ("SLURM_PROCID", "SLURM_LOCALID")),
      (open_mpi, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")),
    )
    for index in range(2)
  ]
  for index, process in enumerate(started):
    code, out, errors = end(process)
    assert code == 0 and f"{index % 2} 2" in out, errors


def test_all_end_when_the_first_has_written(pair):
  """It may take longer than the others have patience for."""
  work = """
answer = meet(me == 0)
assert answer and not meet(me == 1)
time.sleep(4 * (me == 0))
print("written", time.time(), flush=True)
"""
  found = [end(process) for process in pair(work)]
  assert [code for code, _, _ in found] == [0, 0], found


@pytest.mark.slow
def test_a_failure_keeps_its_exit_code(pair):
  """JAX alone would wait for the others and turn it into an abort."""
  wait = "\nwhile True: meet(); time.sleep(.05)"
  memory = "jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: a lot')"
  save = """
if me: os._exit(3)
while True:
  try: meet()
  except Exception as error: raise RunFailed('save') from error
"""
  alone = [
    (pair("if me: raise BadInput('mine')" + wait), 2, "\nerror: mine\n"),
    (pair("if me: 1 // 0" + wait), 1, "ZeroDivisionError"),
    (pair(f"if me: raise {memory}"), 1, "a lot"),
  ]
  both = pair("time.sleep(me); raise BadInput('ours')")
  saving, _ = pair(save)
  began = time.monotonic()
  for (_, second), expected, words in alone:
    code, _, errors = end(second)
    assert code == expected and words in f"\n{errors}", errors
  code, _, errors = end(saving)  # tells of its save, but as lost
  assert code == 75 and "error: save" in errors or code == -signal.SIGABRT
  for process in both:  # the first goes last, and aborts nobody
    code, _, errors = end(process)
    assert code == 2 and errors.endswith("error: ours\n"), errors
  for (first, _), _, _ in alone:
    code, _, errors = end(first)
    assert code in (75, -signal.SIGABRT), errors
  assert time.monotonic() - began < 60


def test_sigkill_of_one_ends_the_other(pair):
  work = "while True: meet(); time.sleep(.05)"
  pairs = [pair(work) for _ in range(2)]
  for process in (*pairs[0], *pairs[1]):
    read_until(process, "met")
  began = time.monotonic()
  for victim, both in enumerate(pairs):
    both[victim].kill()
  for victim, both in enumerate(pairs):
    code, _, errors = end(both[1 - victim])
    assert code in (75, -signal.SIGABRT), errors
    end(both[victim])
  # The heartbeat's 10 seconds, and the machine's own delays.
  assert time.monotonic() - began < 40


def test_sigterm_comes_to_python(pair):
  """JAX's preemption service would take it from a handler set before."""
  work = """
print("ready", flush=True)
began = time.monotonic()
while me and time.monotonic() < began + 3: time.sleep(.1)
"""
  first, second = pair(work)
  read_until(second, "ready")
  time.sleep(0.5)
  second.send_signal(signal.SIGTERM)
  (_, _, _), (code, out, errors) = map(end, (first, second))
  assert code == 0 and "asked" in out, errors
