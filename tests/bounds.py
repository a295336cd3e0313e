"""Measures how much memory a piece of work takes, and bounds its files."""

import contextlib
import gc
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

SPARE = 300e6  # bytes that any file may take, beside three times its own


def _status(field: str) -> int:
  """A field of this process's memory, in bytes."""
  lines = Path("/proc/self/status").read_text().splitlines()
  (line,) = (line for line in lines if line.startswith(f"{field}:"))
  return 1024 * int(line.split()[1])


def measure() -> Callable[[], int]:
  """Forgets the peak so far; returns what gives the bytes taken since, at most."""
  Path("/proc/self/clear_refs").write_text("5")
  before = _status("VmRSS")
  return lambda: _status("VmHWM") - before


@contextlib.contextmanager
def bounded(*files: Path) -> Iterator[None]:
  """Asserts that reading the files takes three times their size and 300 MB."""
  gc.collect()
  gc.freeze()  # so that the next time need not look through all of this again
  taken = measure()
  yield
  size = sum(file.stat().st_size for file in files)
  peak = taken()
  assert peak <= 3 * size + SPARE, f"{peak / 1e6:.0f} MB of {size / 1e6:.1f}"


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
  """Lets no file grow above a size in bytes, which is told as a full disk is."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
