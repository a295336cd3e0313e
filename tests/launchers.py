"""What tests of several processes share: options, curves, where runs stop."""

import re
from pathlib import Path

import numpy as np
from runs import REPOSITORY, losses

LAUNCH = REPOSITORY / "launch"


def assert_same_curve(
  workdir: Path, curve: dict[int, float], rtol: float = 5e-3
) -> None:
  """Same batches whatever computes, so the losses differ by rounding alone."""
  found = losses(workdir)
  assert list(found) == list(curve) == list(range(1, 21))
  np.testing.assert_allclose(
    list(found.values()), list(curve.values()), rtol=rtol
  )


def options(data_dir: Path, workdir: Path) -> list[str]:
  return [
    "--config=configs/debug.py",
    f"--config.data.dir={data_dir}",
    "--config.eval.every_steps=20",
    "--workdir",
    str(workdir),
  ]


def stopped_at(output: str, workdir: Path) -> int:
  """The one step at which all have stopped, before the end of the run."""
  (step,) = re.findall(r"asked to stop at step (\d+)", output)
  assert step == "0" or (workdir / "checkpoints" / step).exists()
  assert not (workdir / "results.json").exists()
  return int(step)


def children(pid: int) -> list[int]:
  found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
  commands = {int(x): Path(f"/proc/{x}/cmdline").read_bytes() for x in found}
  return sorted(x for x, command in commands.items() if b"mrd_jax" in command)


def slowed(arguments: list[str], piece: str, mark: Path) -> list[str]:
  """The command with a slow piece of work; see tests/slow_main.py."""
  at = arguments.index("mrd_jax.main")
  slow_main = ["tests.slow_main", piece, str(mark)]
  return [*arguments[:at], *slow_main, *arguments[at + 1 :]]
