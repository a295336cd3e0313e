"""The benchmark scripts run, at a size that takes seconds."""

import numpy as np
import pytest
from clips import make_clip

from benchmarks import memory, prepare, step


def test_step_benchmark_runs():
  result = step.measure(
    step.parse(["--points=300", "--embed_dim=32", "--rounds=1"])
  )
  assert result["step_ms"] > 0
  assert result["loss"] > 0


@pytest.mark.slow  # half a minute: three processes import all there is
def test_prepare_benchmark_runs(tmp_path, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")  # one device: what it starts compiles
  clip, work = make_clip(tmp_path / "clip"), tmp_path / "work"
  work.mkdir()
  args = prepare.parse(
    ["--meshes=4", "--subdivisions=1", "--texture=64", "--points=100"]
    + ["--views=2", "--image_size=40", "--batch=2", "--rounds=1"]
    + ["--workers=2", f"--model={clip}", f"--dir={work}"]
  )
  result = prepare.measure(args)
  assert not list(work.iterdir())
  counts = {step: len(times) for step, times in result["drafts"].items()}
  assert counts == dict.fromkeys(prepare.DRAFTING, 4) | {
    "read .glb": 2,
    "read .obj": 2,
  }
  features = result["features"]
  assert features.shape == (8, 24)
  assert (np.diff(features, axis=0) != 0).any(axis=1).all()
  assert result["difference"] < 1e-6  # each image went where it belongs
  one, many = (result["ways"][way][0] for way in prepare.WAYS)
  assert one["processes"] == 1
  assert many["processes"] == min(2, prepare.os.cpu_count() or 1)
  for row in (one, many):
    assert 0 < row["start-up s"] < row["whole s"]
    assert 0 < 8 / row["images/s"] < row["whole s"]
    assert 0.05 < row["peak GiB"] < 20
  table = prepare.tables(result, args)
  assert all(f"| {key} | " in table for key in (*prepare.DRAFTING, *one))


@pytest.mark.slow
def test_memory_benchmark_runs(capsys):
  args = ["--sizes=t", "--batch=16", "--points=300", "--embed_dim=32"]
  rows = memory.main(memory.parse([*args, "--fsdp=1,8", "--average"]))
  assert [row["devices"] for row in rows] == [8, 8]
  whole, split = (row["arguments GiB"] for row in rows)
  # Parameters, two moments and the average are 0.08 GiB: most of it is split.
  assert split < whole / 3
  assert all(row["temporaries GiB"] > 0 for row in rows)
  assert "| T | 8 | 8 | none | 1 | " in capsys.readouterr().out
