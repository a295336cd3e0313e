"""Writes files whole or not at all, locks outputs, and reads JSON."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.io.terminal import say


@contextlib.contextmanager
def replacing(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
  """Yields a name beside `path` for a file that then takes its place.

  What is written under that name reaches the disk before the one rename, so
  after a kill or a power cut `path` is the old file or the new one, whole.  If
  the block raises, `path` stays as it was and nothing is left beside it.  The
  name ends in `suffix`: give writers that look at it a file object or a format.
  """
  temporary = path.with_name(path.name + suffix)
  with naming(path):
    try:
      yield temporary
      with temporary.open("rb") as file:
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
  """Names a file that is written in the error of a full disk.

  A write that fails does not say where.
  """
  try:
    yield
  except BaseException as error:
    if code := out_of_room(error):
      raise OSError(code, os.strerror(code), str(path)) from error
    raise


def out_of_room(error: BaseException | None) -> int:
  """Finds the errno of a full disk or quota, or a size limit, in an error.

  Libraries word it in errors of their own, or raise another while they close
  the file.

  Returns:
    The errno; 0 if it is something else.
  """
  while error is not None:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      if getattr(error, "errno", 0) == code or os.strerror(code) in str(error):
        return code
    error = error.__cause__ or error.__context__
  return 0


LOCK = "lock"  # its file in a folder that one command holds
# What a file system says that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock_beside(output: Path) -> Path:
  """Returns the lock of an output that is a file, OUTPUT.lock beside it."""
  return output.parent / f"{output.name}.lock"


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
  """Holds a lock file for one process; a killed one lets go by itself.

  The file is removed at the end.  A file system that has no locks is said.

  Args:
    path: The file, in a folder that exists.
    refusal: What to say if another process holds it.

  Raises:
    BadInput: `refusal`, at once, before anything else is touched.
    OSError: if the file cannot be made.
  """
  # Whoever made it a pipe is not waited for.
  file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o666)
  with os.fdopen(file, "a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
        raise FileNotFoundError  # who held it has removed it
    except (BlockingIOError, FileNotFoundError):
      raise BadInput(refusal) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      say(
        f"{path.parent} is on a file system without locks: start no second "
        "command on it",
        error=True,
      )
    try:
      yield
    finally:
      with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def held(flag: str, lock: Path) -> Iterator[None]:
  """Holds the place of an output for one command, and makes its folder.

  A folder that it made and that stayed empty is removed at the end, so that a
  command that is refused leaves nothing.

  Args:
    flag: What named the output, such as "--output".
    lock: The lock's file: `LOCK` in a folder, or `lock_beside` a file.

  Raises:
    BadInput: if another command holds it, or the folder cannot be made or
      written to.
  """
  folder = lock.parent
  missing = [x for x in (folder, *folder.parents) if not os.path.lexists(x)]
  output = folder if lock.name == LOCK else lock.with_suffix("")
  refusal = (
    f"{flag}: another command is at work on {output}; wait for its end, or "
    "name another place"
  )
  try:
    with contextlib.ExitStack() as stack:
      try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(lock, refusal))
      except OSError as error:
        why, place = error.strerror, folder
        if error.errno == errno.ENAMETOOLONG and output != folder:
          place, why = output, f"{why} with .lock behind it"
        if isinstance(error, FileExistsError):
          why = "a file, or a link to nothing, has this name"
        raise BadInput(
          f"{flag}: {place} cannot be made or written to ({why}); name "
          "another place"
        ) from None
      yield
  finally:
    for made in missing:
      with contextlib.suppress(OSError):
        made.rmdir()


def check_shortage(error: BaseException) -> None:
  """Raises RunFailed if an error is for want of open files, not of damage."""
  if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
    raise RunFailed(
      f"{error.filename} cannot be opened: {str(error.strerror).lower()}; allow "
      "this process more of them (ulimit -n 4096)"
    ) from None


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


def parse_json(text: str | bytes) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError: if it is none, or nested too deeply.
  """
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError("nested too deeply") from None


def read_json(path: Path, remedy: str = "fetch it again") -> Any:
  """Returns the content of a JSON file.

  Raises:
    BadInput: naming the file and the remedy, if it cannot be read or is no
      JSON.
  """
  if path.exists() and not path.is_file():  # a pipe would be waited for
    raise BadInput(f"{path}: is no file; {remedy}")
  try:
    return parse_json(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  except ValueError as error:
    raise BadInput(f"{path}: is not JSON ({error}); {remedy}") from error


def read_fields(path: Path, remedy: str) -> dict[str, Any]:
  """Returns the dict of a JSON file.

  Raises:
    BadInput: as `read_json`, and if it holds something else.
  """
  values = read_json(path, remedy)
  if not isinstance(values, dict):
    raise BadInput(f"{path}: must be a dict of fields; {remedy}")
  return values


def read_json_lines(path: Path) -> list[dict[str, Any]]:
  """Reads the objects of a .jsonl, up to the first line that a kill tore."""
  lines = []
  for line in path.read_bytes().splitlines():
    try:
      found = parse_json(line)
    except ValueError:
      break
    if not isinstance(found, dict):
      break
    lines.append(found)
  return lines
