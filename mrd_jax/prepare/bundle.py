"""Finds the sample files of an OpenShape bundle, unpacked or in archives.

The split lists name files by absolute paths of the authors' machine
(`/mnt/data/...`), so a path is matched by its end.  Each archive is read once,
front to back, whatever the order of the lists.
"""

import collections
import io
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mrd_jax.errors import BadInput
from mrd_jax.prepare.safe_pickle import load_npy

_ARCHIVES = ("*.tar.gz", "*.tgz", "*.tar")
Parts = tuple[str, ...]


def read_samples(
  root: Path,
  paths: Collection[str],
  root_remap: tuple[str, str] | None,
  problems: list[str],
) -> Iterator[tuple[str, Any]]:
  """Reads every path once: files in the given order, then archives in theirs.

  Args:
    root: The bundle's folder.
    paths: `data_path` entries of the split lists, without repetition.
    root_remap: (old, new): paths that begin with `old` begin with `new`
      instead, a folder (relative to `root`, unless absolute).  Without it,
      the longest end of a path that exists under `root` is taken.
    problems: Unreadable archives are appended here.

  Yields:
    (path, what the file holds), or (path, exception): `BadInput` where the
    file is damaged or unsafe, `FileNotFoundError` where there is none.
  """
  pending: list[str] = []
  known_prefixes: list[Parts] = []
  for path in paths:
    file = _find(root, path, root_remap, known_prefixes)
    if file is None:
      pending.append(path)
    else:
      yield path, _load(file, os.fspath(file))
  yield from _read_archives(root, pending, problems)


def _parts(path: str) -> Parts:
  return tuple(p for p in PurePosixPath(path).parts if p not in ("/", "."))


def _find(
  root: Path,
  path: str,
  root_remap: tuple[str, str] | None,
  known_prefixes: list[Parts],
) -> Path | None:
  """Returns the unpacked file, or None; remembers which prefix it dropped."""
  parts = _parts(path)
  if ".." in parts:  # a list must not point out of its bundle
    return None
  if root_remap and path.startswith(root_remap[0]):
    rest = path[len(root_remap[0]) :].lstrip("/")
    file = root / root_remap[1] / rest
    return file if file.is_file() else None
  for prefix in known_prefixes:
    if parts[: len(prefix)] == prefix:
      file = root.joinpath(*parts[len(prefix) :])
      if file.is_file():
        return file
  for drop in range(len(parts)):
    file = root.joinpath(*parts[drop:])
    if file.is_file():
      known_prefixes.append(parts[:drop])
      return file
  return None


def _load(file: Path | io.BytesIO, name: str) -> Any:
  try:
    return load_npy(file, name)
  except BadInput as error:
    return error


def _read_archives(
  root: Path, pending: list[str], problems: list[str]
) -> Iterator[tuple[str, Any]]:
  wanted: dict[str, list[str]] = collections.defaultdict(list)
  for path in pending:
    wanted[PurePosixPath(path).name].append(path)
  archives = _archives(root, pending)
  for archive in archives:
    if not wanted:
      break
    try:
      with tarfile.open(archive, "r|*") as tar:
        for member in tar:
          path = _match(member.name, wanted) if member.isfile() else None
          if path is not None:
            content = tar.extractfile(member)
            assert content is not None  # because it is a file
            data = io.BytesIO(content.read())
            _forget(path, wanted)
            yield path, _load(data, f"{archive}:{member.name}")
            if not wanted:
              break
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
      problems.append(
        f"{archive}: damaged or incomplete ({error}); what came before the "
        "damage was used, fetch it again for the rest"
      )
  for paths in wanted.values():
    for path in paths:
      yield (
        path,
        FileNotFoundError(
          f"{path}: not under {root}, nor in its {len(archives)} archives"
        ),
      )


def _archives(root: Path, pending: list[str]) -> list[Path]:
  """All archives; first those that have the name of a wanted folder."""
  found = {
    archive
    for pattern in _ARCHIVES
    for archive in [*root.glob(pattern), *root.glob(f"*/{pattern}")]
  }
  folders = {part for path in pending for part in _parts(path)[:-1]}
  return sorted(found, key=lambda a: (a.name.split(".")[0] not in folders, a))


def _match(member: str, wanted: dict[str, list[str]]) -> str | None:
  """Returns the wanted path that ends like `member`, or the reverse."""
  inside = _parts(member)
  if not inside:
    return None
  matches = []
  for path in wanted.get(inside[-1], ()):
    parts = _parts(path)
    common = min(len(parts), len(inside))
    if parts[-common:] == inside[-common:]:
      matches.append(path)
  return matches[0] if len(matches) == 1 else None  # never guess


def _forget(path: str, wanted: dict[str, list[str]]) -> None:
  name = PurePosixPath(path).name
  wanted[name].remove(path)
  if not wanted[name]:
    del wanted[name]
