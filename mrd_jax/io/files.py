"""Writes files whole or not at all, locks folders, and reads JSON."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrd_jax.errors import BadInput


@contextlib.contextmanager
def replacing(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
  """Yields a name beside `path` for a file that then takes its place.

  What is written under that name reaches the disk before the one rename, so
  after a kill or a power cut `path` is the old file or the new one, whole.  If
  the block raises, `path` stays as it was and nothing is left beside it.  The
  name ends in `suffix`: give writers that look at it a file object or a format.
  """
  temporary = path.with_name(path.name + suffix)
  try:
    yield temporary
    with temporary.open("rb") as file:
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
  """Holds a lock file for one process; a killed one lets go by itself.

  Args:
    path: The file, in a folder that exists; it stays.
    refusal: What to say if another process holds it.

  Raises:
    BadInput: `refusal`, at once, before anything else is touched.
    OSError: if the file cannot be made.
  """
  with path.open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
        raise FileNotFoundError  # who held it has removed the folder
    except (BlockingIOError, FileNotFoundError):
      raise BadInput(refusal) from None
    yield


def walk(root: Path) -> Iterator[Path]:
  """Yields all files below a folder, but hidden ones, sorted in each folder.

  Folders that are symbolic links are followed, but not one to a folder in which
  it lies itself.

  Raises:
    BadInput: naming the folder that cannot be read.
  """

  def files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
      return
    try:
      paths = sorted(folder.iterdir())
    except OSError as error:
      raise BadInput(f"{folder}: cannot be read ({error.strerror})") from None
    for path in paths:
      if path.name.startswith("."):
        continue
      if path.is_dir():
        yield from files(path, (*above, real))
      elif path.is_file():
        yield path

  return files(root, ())


def write_text(path: Path, text: str) -> None:
  """Writes a text file, whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, remedy: str = "fetch it again") -> Any:
  """Returns the content of a JSON file.

  Raises:
    BadInput: naming the file and the remedy, if it cannot be read or is no
      JSON.
  """
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  except (ValueError, RecursionError) as error:
    raise BadInput(f"{path}: is not JSON ({error}); {remedy}") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
  """Reads the lines of a metrics.jsonl, without a last one that a kill tore."""
  lines = []
  for line in path.read_text().splitlines():
    try:
      lines.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return lines
