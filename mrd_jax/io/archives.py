"""Unpacks and reads archives that a stranger may have made."""

import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mrd_jax.errors import BadInput
from mrd_jax.io.files import out_of_room

SPARE = 300_000_000  # bytes of memory that any file may take


class TooCostly(ValueError):
  """What is in a file would take far more memory than the file has bytes."""


def check_expanded(archive: zipfile.ZipFile, size: int) -> None:
  """Checks an archive whose members are to be read into memory.

  Args:
    archive: Open.
    size: Bytes of its file.

  Raises:
    TooCostly: if they have more than three times its size and 300 MB.
  """
  expanded = sum(member.file_size for member in archive.infolist())
  if expanded > 3 * size + SPARE:
    raise TooCostly(
      f"refused: its {size:,} bytes expand to {expanded:,}; write it anew "
      "without compression"
    )


def stored_start(file: BinaryIO, member: zipfile.ZipInfo) -> int:
  """Finds where in a zip archive the content of a member begins.

  Raises:
    ValueError: if no member is there.
  """
  # The member's own header (APPNOTE.TXT of the zip format, 4.3.7): 30 bytes,
  # the last four of them the lengths of the name and of the extra field, which
  # may differ from those in the archive's directory.
  file.seek(member.header_offset)
  header = file.read(30)
  if len(header) < 30 or not header.startswith(b"PK\3\4"):
    raise ValueError("a member of the archive is not where it should be")
  return member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))


def points_out(name: str) -> bool:
  """Says whether a member's name leads out of the folder of the archive."""
  path = PurePosixPath(name.replace("\\", "/"))
  return path.is_absolute() or ".." in path.parts


def unpack_zip(
  archive: Path, folder: Path, check_space: Callable[[int], None]
) -> None:
  """Unpacks a zip archive into a new folder.

  Args:
    archive: The archive.
    folder: Is made.
    check_space: Given the bytes that will be written; may raise to stop.

  Raises:
    BadInput: naming the archive, if it is damaged, or a member points out of
      the folder; then nothing is written.
  """
  try:
    with zipfile.ZipFile(archive) as members:
      for member in members.infolist():
        if points_out(member.filename):
          raise BadInput(
            f"{archive}: its member {member.filename!r} points out of the "
            "folder; nothing was unpacked, do not trust where it came from"
          )
      check_space(sum(member.file_size for member in members.infolist()))
      members.extractall(folder)
  except (BadInput, PermissionError):
    raise
  except Exception as error:  # what damage leads to is anything
    if out_of_room(error):
      raise
    raise BadInput(
      f"{archive}: cannot be unpacked ({error}); remove it and fetch it again"
    ) from error


def tar_members(
  archive: Path, is_wanted: Callable[[str], object], largest: int
) -> Iterator[tuple[str, bytes]]:
  """Reads files of a tar archive, front to back.

  Args:
    archive: The archive, compressed or not.
    is_wanted: Given a member's name, says whether to read it.
    largest: Bytes, of which no more are read of a member, whatever it claims.

  Yields:
    Name and content of each.

  Raises:
    BadInput: naming the archive, if it is damaged or cut off.
  """
  try:
    with tarfile.open(archive, "r|*") as tar:
      for member in tar:
        if member.isfile() and is_wanted(member.name):
          file = tar.extractfile(member)
          assert file is not None  # because it is a file
          yield member.name, file.read(largest)
  except Exception as error:  # what damage leads to is anything
    raise BadInput(
      f"{archive}: damaged or incomplete ({error}); what came before the "
      "damage was used, fetch it again for the rest"
    ) from error
