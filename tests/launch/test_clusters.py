"""The launchers for SLURM, TPU pods and Kubernetes, without a cluster.

Stand-ins of their commands start real processes, or note what they were asked
to do.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from launchers import LAUNCH, assert_same_curve, options, stopped_at
from runs import REPOSITORY, finish, wait_for_step, wait_until

# ---- slurm.sbatch

SBATCH = ("bash", LAUNCH / "slurm.sbatch")

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
    | dict.fromkeys(["SLURM_PROCID", "SLURM_LOCALID"], str(i))
    | dict.fromkeys(["SLURM_NODEID", "SLURM_STEP_ID"], "0")
    | {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"},
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
def slurm(tmp_path, monkeypatch, stand_in) -> Path:
  """A job of two tasks; where its requeueing is noted."""
  stand_in("srun", SRUN)
  stand_in("scancel", SCANCEL)
  stand_in("scontrol", SCONTROL)
  port = 0
  while port < 61440:  # JAX makes the port of the job's number
    port = np.random.default_rng().integers(61440, 65536)
    with socket.socket() as free:
      if free.connect_ex(("localhost", int(port))) == 0:
        port = 0
  monkeypatch.setenv("SLURM_JOB_ID", str(port - 61440))
  monkeypatch.setenv("SLURM_NTASKS", "2")
  monkeypatch.setenv("WAIT", "60")
  monkeypatch.setenv("TASKS", str(tmp_path / "tasks"))
  monkeypatch.setenv("REQUEUED", str(tmp_path / "requeued"))
  return tmp_path / "requeued"


@pytest.mark.slow
@pytest.mark.long
def test_a_job_stops_before_its_time_and_is_requeued(
  data_dir, tmp_path, curve, spawn, slurm
):
  """JAX finds the tasks' processes by what SLURM tells them."""
  workdir = tmp_path / "run"
  command = (*SBATCH, *options(data_dir, workdir))
  process = spawn(*command)
  wait_for_step(process, workdir, 3)
  process.send_signal(signal.SIGUSR1)  # as --signal=B:USR1@300
  output = finish(process)
  assert "forcing job termination" not in output
  step = stopped_at(output, workdir)
  assert slurm.read_text() == f"requeue {os.environ['SLURM_JOB_ID']}\n"
  slurm.unlink()
  output = finish(spawn(*command, SLURM_RESTART_COUNT="1"))
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
  tmp_path, spawn, slurm, noting, plan, variables, code, requeued
):
  command = (*SBATCH, "--workdir", tmp_path / "a run", "--x=y")
  finish(spawn(*command, PLAN=plan, WAIT="1", **variables), expect=code)
  assert slurm.exists() == requeued
  command, environment = noting("start")[0]
  assert command[:3] == ["-m", "mrd_jax.main", "--distributed"]
  assert command[3:] == ["--workdir", str(tmp_path / "a run"), "--x=y"]
  assert "JAX_COORDINATOR_ADDRESS" not in environment
  assert environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == ".92"


@pytest.mark.parametrize("flag", ["--workdir={}", "--workdir {}"])
def test_a_finished_job_is_not_requeued(tmp_path, spawn, slurm, noting, flag):
  (tmp_path / "results.json").write_text("{}")
  flags = flag.format(tmp_path).split()
  finish(spawn(*SBATCH, "finetune", *flags))
  assert not slurm.exists()
  assert noting("start")[0][0][1] == "mrd_jax.finetune"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_to_the_batch_script_reach_the_tasks(
  tmp_path, spawn, slurm, noting, number
):
  process = spawn(*SBATCH, f"--workdir={tmp_path}", PLAN="wait wait")
  noting("start", wait_for=2)
  wait_until(process, (tmp_path / "tasks").exists)
  process.send_signal(number)
  finish(process)
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


def test_a_job_wants_a_workdir(spawn, slurm):
  output = finish(spawn(*SBATCH, "--config=x"), expect=1)
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
def pod(tmp_path, monkeypatch, stand_in, spawn):
  """Runs tpu_pod.sh with a stand-in for gcloud; returns what it was asked."""
  stand_in("gcloud", GCLOUD)
  monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
  monkeypatch.setenv("ZONE", "us-central2-b")

  def run(*arguments: str) -> tuple[list, str]:
    output = finish(spawn(LAUNCH / "tpu_pod.sh", "pod", *arguments))
    calls = (tmp_path / "calls").read_text().splitlines()
    return [json.loads(line) for line in calls], output

  return run


def script_of(call: list[str]) -> str:
  """What a worker is told to run."""
  (script,) = (x for x in call if x.startswith("--command="))
  return script.removeprefix("--command=")


def test_a_pod_gets_the_commit_and_one_command(pod, monkeypatch):
  monkeypatch.setenv("PYTHON", "python3.12")
  calls, output = pod("--workdir=/mnt/a b", "--config=configs/mrd_b.py")
  for call in calls:
    assert call[:3] == ["compute", "tpus", "tpu-vm"]
    assert "--worker=all" in call and "--zone=us-central2-b" in call
  copy, install, run = calls
  assert copy[3] == "scp" and copy[5] == "pod:mrd_jax.tar.gz"
  assert {"setup.py", "mrd_jax/main.py", "configs/mrd_b.py"} <= set(copy[-1])
  assert not Path(copy[4]).exists()  # it cleans up
  for call in (install, run):
    assert call[3:5] == ["ssh", "pod"]
  script = script_of(install)
  assert "python3.12 -m venv .venv" in script and "-e '.[tpu]'" in script
  words = shlex.split(script_of(run))
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
  pod, stand_in, tmp_path, codes, starts
):
  """What a worker is told, run here."""
  calls, _ = pod("finetune", "--workdir=a b")
  home = tmp_path / "home"
  python = home / "mrd_jax" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  noting = stand_in(
    "python",
    "import sys\n"
    "print(sys.argv[1:], flush=True)\n"
    "starts = len(open('mrd.log').readlines())\n"
    f"sys.exit({codes!r}[starts - 1])",
  )
  python.symlink_to(noting)
  script = script_of(calls[-1]).replace("sleep 30", "sleep 0.1")
  subprocess.run(["bash", "-n", "-c", script], check=True)
  subprocess.run(["bash", "-c", script], cwd=home, check=True)
  pid = int((home / "mrd_jax" / "mrd.pid").read_text())
  while Path(f"/proc/{pid}").exists():
    time.sleep(0.05)
  lines = (home / "mrd_jax" / "mrd.log").read_text().splitlines()
  expected = ["-m", "mrd_jax.finetune", "--distributed", "--workdir=a b"]
  assert lines == [str(expected)] * starts


def test_a_pod_wants_its_zone(spawn, monkeypatch):
  monkeypatch.delenv("ZONE", raising=False)
  assert "set ZONE" in finish(spawn(LAUNCH / "tpu_pod.sh", "pod"), expect=1)


# ---- jobset.yaml


@pytest.fixture(scope="module")
def jobset() -> dict:
  yaml = pytest.importorskip("yaml")
  return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


@pytest.fixture(scope="module")
def workers(jobset) -> dict:
  (workers,) = jobset["spec"]["replicatedJobs"]
  return workers


@pytest.fixture(scope="module")
def container(workers) -> dict:
  pod = workers["template"]["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  return container


def test_the_jobset_is_one_of_its_kind(jobset, workers, container):
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
  assert container["resources"]["limits"]["nvidia.com/gpu"] >= 1
  assert {x["name"] for x in container["volumeMounts"]} == {
    x["name"] for x in pod["volumes"]
  }


def test_the_pods_know_each_other(jobset, workers, container):
  variables = {x["name"]: x for x in container["env"]}
  # JobSet's name of a pod: jobset-job-index of the job-index of the pod, in a
  # headless service with the name of the jobset.
  name = jobset["metadata"]["name"]
  host, port = variables["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
  assert host == f"{name}-{workers['name']}-0-0.{name}" and int(port) > 1023
  count = workers["template"]["spec"]["completions"]
  assert variables["JAX_NUM_PROCESSES"]["value"] == str(count)
  index = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
  assert index == (
    "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  )
  assert variables["XLA_PYTHON_CLIENT_MEM_FRACTION"]["value"] == ".92"
  assert len(variables) == 4


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
  container, spawn, noting, tmp_path, plan, term, results, codes
):
  script, workdir, *arguments = container["args"]
  assert f"--workdir={workdir}" in arguments
  if results:
    (tmp_path / "results.json").write_text("{}")
  pods = [
    spawn(
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
    finish(pod, expect=code)
  assert len(noting("term")) == 2 * term


def test_the_shipped_config_is_there(container):
  (config,) = (
    x.removeprefix("--config=")
    for x in container["args"]
    if x.startswith("--config=")
  )
  assert (REPOSITORY / config).exists()
