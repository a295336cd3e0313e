"""The benchmark scripts run, at a size that takes seconds."""

from benchmarks import step


def test_step_benchmark_runs():
  result = step.measure(
    step.parse(["--points=300", "--embed_dim=32", "--rounds=1"])
  )
  assert result["step_ms"] > 0
  assert result["loss"] > 0
