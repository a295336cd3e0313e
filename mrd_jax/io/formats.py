"""Finds the modules that read file formats, and chooses one by a suffix."""

import contextlib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mrd_jax.errors import BadInput
from mrd_jax.io.files import check_shortage


def find_formats(package: ModuleType) -> dict[str, Any]:
  """Finds the modules of a package that read a file format.

  Such a module has a function `read`, and `SUFFIXES`; what has no `read` is
  passed over.

  Returns:
    The module of each suffix, in the order of the modules' names.
  """
  formats = {}
  for found in pkgutil.iter_modules(package.__path__):
    module = importlib.import_module(f"{package.__name__}.{found.name}")
    if hasattr(module, "read"):
      formats |= dict.fromkeys(module.SUFFIXES, module)
  return formats


@contextlib.contextmanager
def chosen(formats: Mapping[str, Any], path: Path) -> Iterator[Any]:
  """Yields the format of a file; whatever the block raises names the file.

  Args:
    formats: Of `find_formats`.
    path: The file; its suffix, in any case, says the format.

  Raises:
    BadInput: if the suffix is unknown, the file is missing, or the block
      raises anything.
  """
  suffix = path.suffix.lower()
  if suffix not in formats:
    raise BadInput(
      f"{path}: suffix {path.suffix!r} is unknown, must be one of "
      f"{', '.join(formats)}"
    )
  if not path.is_file():
    raise BadInput(f"{path}: no such file")
  try:
    yield formats[suffix]
  except BadInput as error:
    raise BadInput(f"{path}: {error}") from None
  except BaseException as error:  # every library has its own for damaged files
    # What goes wrong in Rust, as in lazrs, is no Exception.
    is_panic = type(error).__name__ == "PanicException"
    if not isinstance(error, Exception) and not is_panic:
      raise
    check_shortage(error)
    reason = str(error).partition("\n")[0]
    raise BadInput(
      f"{path}: cannot be read as {suffix} ({type(error).__name__}: {reason}); "
      "it is damaged, cut off or in another format, so write it anew"
    ) from None
