"""Several processes that hold one folder together."""

import sys

import pytest
import runs

# Holds its folder, and does nothing else, until there is a file "end" in it.
HOLDER = """
import argparse, pathlib, sys, time
from mrd_jax import cli
parser = argparse.ArgumentParser()
parser.add_argument("--workdir", type=pathlib.Path)
cli.add_joining(parser)
args = parser.parse_args()
def work():
  print("holds", flush=True)
  while not (args.workdir / "end").exists():
    time.sleep(.05)
  return 0
sys.exit(cli.joint_exit_code(args, work))
"""


@pytest.mark.slow
def test_a_second_run_of_two_is_refused_by_both(tmp_path):
  """The two of the first are one, and go on to their end."""
  workdir = tmp_path / "run"
  holder = [sys.executable, "-c", HOLDER, "--workdir", str(workdir)]
  first = runs.start_together(holder, 2)
  try:
    for process in first:
      runs.read_until(process, "holds")
    before = runs.on_disk(tmp_path)
    again = runs.start_together(runs.command(tmp_path, workdir), 2)
    said = [runs.finish(process, expect=2) for process in again]
    assert said[0].startswith("error: --workdir: another command is at work")
    assert said[0].count("\n") == 1 and said[1] == said[0]
    assert runs.on_disk(tmp_path) == before
    assert (workdir / "lock").exists()  # it is the first run's
  finally:
    (workdir / "end").touch()
  for process in first:
    assert runs.finish(process) == ""
  assert [path.name for path in workdir.iterdir()] == ["end"]
