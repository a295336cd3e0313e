"""What a GPU measures in one call: on a CPU, and when measurements fail."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from benchmarks import on_gpu

# A benchmark that prints, and fails in the way that is its option.
STUB = """
import os, signal, subprocess, sys, time
def parse(options):
  return __import__("argparse").Namespace(how=options[0])
def measure(args):
  print("to be seen by no one", flush=True)
  if args.how == "raise":
    raise ValueError("two\\nlines")
  if args.how == "exit":
    sys.exit("no such form")
  if args.how == "die":
    print("what it said last", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
  if args.how == "hang":
    subprocess.run(["sleep", "3600"])
  return {"how": args.how, "pid": os.getpid(), "env": [os.environ[x] for x in (
    "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION"
  )]}
"""
SMI = """#!/bin/sh
while true; do
  echo "now, A card, 580.1, 1980, 2619, 312.50, 41, [N/A]"; sleep 0.02
done
"""


def read(folder: Path) -> dict[str, dict]:
  lines = (folder / "rows.jsonl").read_text().splitlines()
  return {row["row"]: row for row in map(json.loads, lines)}


def test_a_failure_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
  (tmp_path / "stub.py").write_text(STUB)
  monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{runs.REPOSITORY}")
  (tmp_path / "nvidia-smi").write_text(SMI)
  (tmp_path / "nvidia-smi").chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
  names = ("first", "second", "raise", "exit", "die", "third", "hang", "fourth")
  jobs = [
    on_gpu.Job(name, "jax", 3 if name == "hang" else 60, "stub", [name])
    for name in names
  ]
  jobs.append(on_gpu.Job("beside", "torch", 60, "stub", ["beside"]))
  failed = on_gpu.measure(jobs, tmp_path, seconds=300, rehearsal=False)
  assert failed == ["raise", "exit", "die", "hang"]
  rows = read(tmp_path)
  assert list(rows) == ["before", *names, "beside", "after"]
  assert rows["raise"]["failed"] == "ValueError: two lines"
  assert rows["exit"]["failed"] == "SystemExit: no such form"
  assert rows["die"]["failed"].endswith("with -9: what it said last")
  assert rows["hang"]["failed"] == "late after 3 s"
  assert rows["before"]["driver"] == "580.1"
  figures = {"sm_mhz": 1980, "memory_mhz": 2619, "watts": 312.5, "celsius": 41}
  assert rows["hang"]["gpu"] == figures
  assert rows["after"] == rows["before"] | {"row": "after"}
  assert figures.items() < rows["after"].items()
  # A process of its own after a failure, and for PyTorch.
  pids = [rows[x]["pid"] for x in ("first", "second", "third", "fourth")]
  assert pids[0] == pids[1] and len({*pids, rows["beside"]["pid"]}) == 4
  assert rows["first"]["env"] == ["cuda", "3", ".92"]
  assert rows["beside"]["env"] == ["cpu", "3", ".92"]
  failed = on_gpu.measure(jobs[:2], tmp_path, seconds=4, rehearsal=False)
  assert failed == ["first", "second"]
  assert read(tmp_path)["second"]["failed"] == "no time left"


def test_each_measurement_is_one_that_its_script_understands(tmp_path):
  pytest.importorskip("torch", reason="it measures PyTorch, too")
  jobs = on_gpu.all_jobs(tmp_path)
  assert len({job.name for job in jobs}) == len(jobs)
  for job in jobs:
    assert job.module in on_gpu.TINY and job.place in on_gpu.PLATFORMS
    if job.module != "pytest":
      importlib.import_module(job.module).parse(job.options)


def test_without_a_gpu_it_ends_with_the_sentence(tmp_path):
  ended = subprocess.run(
    ["benchmarks/on_gpu.sh", tmp_path],
    cwd=runs.REPOSITORY,
    env=os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""},
    capture_output=True,
    text=True,
  )
  assert ended.returncode == 1, ended.stderr
  assert ended.stdout.splitlines()[-1] == "failed: machine"
  rows = read(tmp_path)
  assert "JAX_PLATFORMS names 'cuda', which" in rows["machine"]["failed"]
  assert list(rows)[1:] == ["machine", "after"]


@pytest.mark.slow
@pytest.mark.long  # all of it, in miniature
def test_a_rehearsal_in_which_a_peer_fails(tmp_path):
  pytest.importorskip("torch", reason="it measures PyTorch, too")
  ended = subprocess.run(
    ["benchmarks/on_gpu.sh", tmp_path, "--rehearse"],
    cwd=runs.REPOSITORY,
    # Without a compiler torch.compile fails; the kernel does on any CPU.
    env=os.environ
    | {"PYTHON": sys.executable, "CXX": "/bin/false", "GPU_SECONDS": "1000"},
    stdout=subprocess.PIPE,
    text=True,
  )
  assert ended.returncode == 1
  *lines, last = ended.stdout.splitlines()
  rows = read(tmp_path)
  assert [json.loads(line) for line in lines] == list(rows.values())
  failed = [
    *("compile sampling kernel", "sampling kernel"),
    "train m compile at 64",
  ]
  assert last == f"failed: {'; '.join(failed)}"
  jobs = on_gpu.rehearsal(on_gpu.all_jobs(tmp_path))
  compiled = {
    f"compile {job.name}"
    for job in jobs
    if job.place == "jax" and job.module in on_gpu.COMPILED
  }
  named = {job.name for job in jobs}
  assert set(rows) == {"before", "machine", "after"} | named | compiled
  assert "nvidia-smi is not here" in rows["before"]["said"]
  for name in failed:
    assert "\n" not in rows[name]["failed"]
  for name in named - {*failed, "tests"}:
    assert {"failed", "options"} & set(rows[name]) == {"options"}, name
  for form in ("eager", "tuned"):
    for work in ("train", "infer"):
      row = rows[f"{work} m {form} at 64"]
      assert 0 < row["differences"][form] < 1e-5
  assert rows["query sort"]["query"]["equal"]["sort"] == 1
  assert rows["step m xla"]["step_ms"] > 0
  assert rows["tests"]["said"].startswith("2/")
