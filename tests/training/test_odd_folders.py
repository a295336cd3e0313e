"""Runs in folders whose names are patterns, or cannot be decoded."""

import os
from pathlib import Path

import pytest
from counting import counting_run, interrupt

from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.training.loop import train_loop


# The last stands for any é under an ASCII locale: Python keeps its bytes.
@pytest.mark.parametrize("name", ["a[1]", "b*c?", os.fsdecode(b"\xff")])
def test_a_run_goes_on_in_a_folder_of_any_name(tmp_path, name):
  workdir = Path(tmp_path, name)
  workdir.mkdir()
  interrupt(counting_run(), workdir, batch=7)
  assert train_loop(counting_run(events := []), workdir)
  assert events[0] == "batch 5"  # that of step 5 was read
  step, state = load_on_one_device(workdir / "checkpoints", best_metric=None)
  assert step == state["step"] == 10
