"""Traces of some steps, and the cache of compiled programs."""

import gzip
import json
import time
from pathlib import Path

import jax
import pytest
from counting import counting_run, interrupt

from mrd_jax.errors import BadInput
from mrd_jax.training.loop import train_loop
from mrd_jax.training.profile import compile_cache


def traced_steps(workdir: Path) -> list[list[int]]:
  """The steps that are marked in every trace, in the order of the traces."""
  found = []
  for path in sorted((workdir / "profile").glob("**/*.trace.json.gz")):
    assert list(path.parent.glob("*.xplane.pb"))
    with gzip.open(path) as file:
      events = json.load(file)["traceEvents"]
    assert len(events) > 10
    found.append(
      [int(e["args"]["step_num"]) for e in events if e.get("name") == "train"]
    )
  return found


@pytest.mark.parametrize(
  ("window", "steps"),
  [("4:7", [5, 6, 7]), ("8:50", [9, 10])],
  ids=["the window", "up to the end"],
)
def test_the_window_is_traced(tmp_path, window, steps):
  train_loop(counting_run(profile=window), tmp_path)
  assert traced_steps(tmp_path) == [steps]


def test_a_run_that_goes_on_inside_the_window_traces_the_rest(tmp_path):
  run = counting_run(profile="3:7")
  interrupt(run, tmp_path, batch=6)
  # What was traced before the failure is there, and nothing is still traced.
  assert traced_steps(tmp_path) == [[4, 5, 6, 7]]
  time.sleep(1)  # a trace's folder is named by its second
  train_loop(run, tmp_path)  # from the checkpoint of step 5
  assert traced_steps(tmp_path)[1:] == [[6, 7]]


def test_a_window_beyond_the_end_is_refused(tmp_path):
  with pytest.raises(BadInput, match="config.profile is '10:12'.*10 steps"):
    train_loop(counting_run(profile="10:12"), tmp_path)
  assert not (tmp_path / "config.json").exists()


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").touch()
  folder = str(tmp_path / "file" / "cache")
  with (
    pytest.raises(BadInput, match="config.compile_cache: .*file/cache cannot"),
    compile_cache(folder),
  ):
    pass


def test_the_cache_is_jaxs_own_again_afterwards(tmp_path):
  before = jax.config.jax_compilation_cache_dir
  with compile_cache(""):
    assert jax.config.jax_compilation_cache_dir == before
  with pytest.raises(KeyError), compile_cache(str(tmp_path)):
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    raise KeyError
  assert jax.config.jax_compilation_cache_dir == before
