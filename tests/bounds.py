"""Measures how much memory a piece of work takes."""

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path


def _status(field: str) -> int:
  """A field of this process's memory, in bytes."""
  lines = Path("/proc/self/status").read_text().splitlines()
  (line,) = (line for line in lines if line.startswith(f"{field}:"))
  return 1024 * int(line.split()[1])


@contextlib.contextmanager
def bounded(*files: Path) -> Iterator[None]:
  """Asserts that reading the files takes three times their size and 300 MB."""
  gc.collect()
  Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
  before = _status("VmRSS")
  yield
  taken = _status("VmHWM") - before
  size = sum(file.stat().st_size for file in files)
  assert taken <= 3 * size + 300e6, f"{taken / 1e6:.0f} MB of {size / 1e6:.1f}"
