"""Reads .npz files: archives of arrays, of which none may be a pickle."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib.npyio import NpzFile

from mrd_jax.errors import BadInput
from mrd_jax.io.archives import TooCostly, check_expanded, stored_start
from mrd_jax.io.files import check_shortage


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Reads a .npy header: shape, whether in Fortran's order, type.

  Raises:
    ValueError: if it is none.
  """
  version = np.lib.format.read_magic(stream)
  if version == (1, 0):
    return np.lib.format.read_array_header_1_0(stream)
  if version == (2, 0):
    return np.lib.format.read_array_header_2_0(stream)
  raise ValueError(f"unsupported .npy version {version}")


@contextlib.contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[NpzFile]:
  """Opens an .npz file, whose arrays are read when they are asked for.

  Raises:
    Exception: of many kinds, if it is damaged, or an array a pickle.
  """
  # Of a torn archive NumPy would leave a file open that it opened itself.
  with open(path, "rb") as file:
    if not zipfile.is_zipfile(file):
      raise zipfile.BadZipFile("not a zip archive")
    with zipfile.ZipFile(file) as archive:
      check_expanded(archive, os.path.getsize(path))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
      yield arrays


def read_npz(
  path: str | os.PathLike[str], remedy: str
) -> dict[str, np.ndarray]:
  """Reads the arrays of an .npz file.

  Args:
    path: The file.
    remedy: How to mend it, the end of the message.

  Raises:
    BadInput: naming the file and the remedy, if it cannot be read, is damaged
      or holds a pickle.
  """
  with _explained(path, remedy), open_npz(path) as arrays:
    return dict(arrays)


def map_npz(
  path: Path, remedy: str
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """Opens an .npz file; what is stored uncompressed is mapped, not read.

  Args:
    path: The file.
    remedy: How to mend it, the end of the message.

  Returns:
    The arrays, and the CRC-32 of each as the archive says it: what is mapped
    is not held against it.

  Raises:
    BadInput: as `read_npz`.
  """
  arrays, checksums = {}, {}
  with _explained(path, remedy), zipfile.ZipFile(path) as archive:
    check_expanded(archive, os.path.getsize(path))
    for member in archive.infolist():
      name = member.filename.removesuffix(".npy")
      checksums[name] = member.CRC
      with archive.open(member) as file:
        shape, in_columns, dtype = read_header(file)
        header = file.tell()
      if dtype.hasobject:
        raise BadInput(
          f"{path}: {member.filename} is a pickle, which could run code and is "
          f"never opened; {remedy}"
        )
      if member.compress_type != zipfile.ZIP_STORED or not shape or 0 in shape:
        with archive.open(member) as file:
          arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        continue
      with path.open("rb") as file:
        start = stored_start(file, member) + header
      order = "F" if in_columns else "C"
      arrays[name] = np.memmap(path, dtype, "r", start, shape, order)
  return arrays, checksums


@contextlib.contextmanager
def _explained(path: str | os.PathLike[str], remedy: str) -> Iterator[None]:
  """Says of damage which file has it, and how to mend it."""
  try:
    yield
  except BadInput:
    raise
  except TooCostly as error:
    raise BadInput(f"{path} is {error}, or {remedy}") from None
  except Exception as error:  # what damage leads to is anything
    check_shortage(error)
    raise BadInput(
      f"{path} cannot be read as .npz ({error}); it is damaged or cut off: "
      f"{remedy}"
    ) from None
