"""Finds the sample files of an OpenShape bundle, unpacked or in archives.

The split lists name files by absolute paths of the authors' machine
(`/mnt/data/...`), so a path is matched by its end.  An archive is named after
the folder that it holds (`ABO.tar.gz`, `Objaverse/000-000.tar.gz`), so what
is not unpacked is looked for in the archive that has the name of one of its
folders, and every archive is read once, front to back, by one worker.
"""

import collections
import dataclasses
import functools
import io
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mrd_jax.errors import BadInput
from mrd_jax.io.archives import tar_members
from mrd_jax.io.safe_pickle import load_npy
from mrd_jax.prepare.job.engine import Item, Outcome

_ARCHIVES = ("*.tar.gz", "*.tgz", "*.tar")
_FILES_PER_UNIT = 4096
_LARGEST_SAMPLE = 2**28  # bytes; OpenShape's have 300 KB
_LONGEST_PATH = 4096  # characters; Linux has no longer ones
Components = tuple[str, ...]  # of a path, without / and .

# What makes outcomes of a path and its content, or of what went wrong:
# `BadInput` where a file is damaged or unsafe, `FileNotFoundError` where there
# is none.
Convert = Callable[[str, Any], Iterable[Outcome]]


@dataclasses.dataclass(frozen=True)
class FilesUnit:
  """Unpacked files.

  Attributes:
    name: Of the unit.
    files: (path in the lists, file or None where there is none).
    convert: Makes outcomes of a file.
  """

  name: str
  files: Sequence[tuple[str, Path | None]]
  convert: Convert

  def items(self) -> Iterator[Item]:
    for path, file in self.files:
      if file is None:
        missing = f"{path}: not under the input folder, and no archive for it"
        yield functools.partial(self.convert, path, FileNotFoundError(missing))
      else:
        name = os.fspath(file)
        yield functools.partial(_read, self.convert, path, file, name)


@dataclasses.dataclass(frozen=True)
class ArchivesUnit:
  """Archives, one after the other.

  Attributes:
    name: Of the unit.
    archives: The archives.
    paths: What to find in them, as the lists name it.
    convert: Makes outcomes of a file.
  """

  name: str
  archives: Sequence[Path]
  paths: Sequence[str]
  convert: Convert

  def items(self) -> Iterator[Item]:
    wanted: dict[str, list[str]] = collections.defaultdict(list)
    for path in self.paths:
      wanted[PurePosixPath(path).name].append(path)
    for archive in self.archives:
      if not wanted:
        break
      members = tar_members(
        archive, lambda name: _match(name, wanted), _LARGEST_SAMPLE
      )
      try:
        # What claims to be larger is cut off, and then unreadable.
        for name, content in members:
          path = _match(name, wanted)
          assert path is not None
          last = PurePosixPath(path).name
          wanted[last].remove(path)
          if not wanted[last]:
            del wanted[last]
          file, name = io.BytesIO(content), f"{archive}:{name}"
          yield functools.partial(_read, self.convert, path, file, name)
          if not wanted:
            break
      except BadInput as error:
        yield functools.partial(list, [str(error)])
    names = ", ".join(map(str, self.archives))
    for paths in wanted.values():
      for path in paths:
        missing = FileNotFoundError(f"{path}: not in {names}")
        yield functools.partial(self.convert, path, missing)


def plan(
  root: Path,
  paths: Iterable[str],
  root_remap: tuple[str, str] | None,
  make_convert: Callable[[Sequence[str]], Convert],
) -> list[FilesUnit | ArchivesUnit]:
  """Divides the paths of the lists into units.

  Args:
    root: The bundle's folder.
    paths: `data_path` entries of the split lists, without repetition.
    root_remap: (old, new): paths that begin with `old` begin with `new`
      instead, a folder (relative to `root`, unless absolute).  Without it,
      the longest end of a path that exists under `root` is taken.
    make_convert: Given the paths of a unit, what converts them.

  Returns:
    Units that together give every path once: files in the order of the lists,
    then archives by their names.
  """
  known_prefixes: list[Components] = []
  found = {p: _find(root, p, root_remap, known_prefixes) for p in paths}
  of_archive = _assign([p for p, file in found.items() if not file], root)
  in_archives = {path for paths in of_archive.values() for path in paths}
  files = [(p, file) for p, file in found.items() if p not in in_archives]
  units: list[FilesUnit | ArchivesUnit] = []
  for start in range(0, len(files), _FILES_PER_UNIT):
    part = files[start : start + _FILES_PER_UNIT]
    convert = make_convert([path for path, _ in part])
    units.append(FilesUnit(f"files-{start:09d}", part, convert))
  for index, (group, inside) in enumerate(of_archive.items()):
    name = f"archive-{index:04d}-{_stem(group[0])}"
    units.append(ArchivesUnit(name, group, inside, make_convert(inside)))
  return units


def _assign(
  paths: Sequence[str], root: Path
) -> Mapping[tuple[Path, ...], list[str]]:
  """Says in which archives each path is looked for, if in any."""
  named: dict[str, tuple[Path, ...]] = {}
  for archive in archives(root):
    named[_stem(archive)] = (*named.get(_stem(archive), ()), archive)
  assigned: dict[tuple[Path, ...], list[str]] = collections.defaultdict(list)
  for path in paths:
    folders = reversed(_components(path)[:-1])
    stem = next((folder for folder in folders if folder in named), None)
    if stem is not None and ".." not in _components(path):
      assigned[named[stem]].append(path)
  if named and not assigned:  # not named after folders: then all in all
    inside = [path for path in paths if ".." not in _components(path)]
    if inside:
      assigned[tuple(a for group in named.values() for a in group)] = inside
  return dict(sorted(assigned.items()))


def archives(root: Path) -> list[Path]:
  """Returns all archives of a bundle."""
  return sorted(
    archive
    for pattern in _ARCHIVES
    for archive in [*root.glob(pattern), *root.glob(f"*/{pattern}")]
  )


def _stem(archive: Path) -> str:
  return archive.name.split(".")[0]


def _components(path: str) -> Components:
  return tuple(p for p in PurePosixPath(path).parts if p not in ("/", "."))


def _find(
  root: Path,
  path: str,
  root_remap: tuple[str, str] | None,
  known_prefixes: list[Components],
) -> Path | None:
  """Returns the unpacked file, or None; remembers which prefix it dropped."""
  parts = _components(path)
  if ".." in parts:  # a list must not point out of its bundle
    return None
  if len(path) > _LONGEST_PATH:  # no file, but as many tries as it has parts
    return None
  if root_remap and path.startswith(root_remap[0]):
    rest = path[len(root_remap[0]) :].lstrip("/")
    file = root / root_remap[1] / rest
    return file if os.path.isfile(file) else None
  known = [len(p) for p in known_prefixes if parts[: len(p)] == p]
  for drop in (*known, *range(len(parts))):
    file = root.joinpath(*parts[drop:])
    # Unlike Path's, this bears a name that is too long for any file.
    if os.path.isfile(file):
      if drop not in known:
        known_prefixes.append(parts[:drop])
      return file
  return None


def _read(
  convert: Convert, path: str, file: Path | io.BytesIO, name: str
) -> Iterable[Outcome]:
  try:
    loaded = load_npy(file, name)
  except BadInput as error:
    loaded = error
  return convert(path, loaded)


def _match(member: str, wanted: dict[str, list[str]]) -> str | None:
  """Returns the wanted path that ends like `member`, or the reverse."""
  inside = _components(member)[::-1]
  matches = [
    path
    for path in wanted.get(inside[0] if inside else "", ())
    if all(map(operator.eq, inside, _components(path)[::-1]))
  ]
  return matches[0] if len(matches) == 1 else None  # never guess
