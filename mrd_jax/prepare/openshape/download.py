"""Fetches OpenShape's published training data, or any part of it.

The 205 GB come as 163 archives of up to 12.5 GB.
"""

import contextlib
import fnmatch
import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mrd_jax.errors import BadInput
from mrd_jax.io.archives import unpack_zip
from mrd_jax.io.download import check_space, fetch_missing, list_files
from mrd_jax.io.files import locked
from mrd_jax.prepare.openshape.lists import read_splits

REPOSITORY = "OpenShape/openshape-training-data"
META_DATA = "meta_data.zip"
PARTS = (
  "ShapeNet.tar.gz",
  "ABO.tar.gz",
  "3D-FUTURE.tar.gz",
  "Objaverse/*.tar.gz",
)
_NEVER = "rendered_images/"  # 37 GB for each part of Objaverse, of no use here


def download(
  destination: str | os.PathLike[str],
  *,
  parts: Sequence[str] | None = None,
  splits: Sequence[str] | None = None,
  repo_id: str = REPOSITORY,
  revision: str | None = None,
  endpoint: str | None = None,
) -> Path:
  """Fetches what is missing; the lists of `meta_data.zip` always, unpacked.

  Complete files are not fetched again, an unfinished one is continued, and a
  file that is not from here is never replaced.

  Args:
    destination: Folder to fetch into, the input of `openshape.convert`.
    parts: Names or patterns of archives ("ABO.tar.gz", "Objaverse/000-00*").
    splits: Without `parts`: only the archives that these splits name.  With
      neither, all four collections.
    repo_id: The dataset on the hub, "user/dataset".
    revision: Branch, tag or commit; None is the main branch.
    endpoint: Address of the hub; None is that of the variable HF_ENDPOINT, or
      the public one.

  Returns:
    `destination`.

  Raises:
    BadInput: when the hub cannot be reached or has no such dataset, revision
      or part, wants a login, sends something else than it lists; when the disk
      is too small; when a file of the same name is not the hub's, or another
      download is writing to the folder.
  """
  destination = Path(destination)
  commit, listed = list_files(repo_id, revision, endpoint)
  listed = {k: v for k, v in listed.items() if not k.startswith(_NEVER)}
  wanted = [listed[META_DATA]] if META_DATA in listed else []
  if not wanted:
    raise BadInput(
      f"{repo_id} holds no {META_DATA}, so it is not in OpenShape's layout"
    )
  if parts is not None or splits is None:
    for pattern in PARTS if parts is None else parts:
      found = fnmatch.filter(listed, pattern)
      if not found:
        raise BadInput(
          f"parts: {pattern!r} matches none of the {len(listed)} files of "
          f"{repo_id}; it has, for example, "
          f"{', '.join(sorted(listed, key=len)[:5])}"
        )
      wanted += [listed[name] for name in sorted(found)]
  refusal = (
    f"{destination}: another download is writing to it; wait for its end"
  )
  try:
    destination.mkdir(parents=True, exist_ok=True)
    held = contextlib.ExitStack()
    held.enter_context(locked(destination / ".download.lock", refusal))
  except OSError as error:
    raise BadInput(
      f"{destination}: cannot be written to ({error.strerror})"
    ) from None
  with held:
    fetch_missing(destination, wanted, repo_id, commit, endpoint)
    _unpack(destination / META_DATA)
    if parts is None and splits is not None:
      named: set[str] = set()
      for split in read_splits(destination, splits):
        for entry in split.entries:
          # A shape's archive is called by one folder or by two.
          folders = PurePosixPath(entry.path).parts[:-1]
          named.update(f"{folder}.tar.gz" for folder in folders)
          pairs = zip(folders, folders[1:], strict=False)
          named.update(f"{above}/{folder}.tar.gz" for above, folder in pairs)
      wanted = [listed[name] for name in sorted(named & listed.keys())]
      fetch_missing(destination, wanted, repo_id, commit, endpoint)
  return destination


def _unpack(archive: Path) -> None:
  """Unpacks `meta_data.zip` to `meta_data/`, which appears when complete.

  A folder that is there stays as it is.
  """
  folder = archive.with_name("meta_data")
  incomplete = archive.with_name("meta_data.incomplete")
  if folder.exists():
    return
  shutil.rmtree(incomplete, ignore_errors=True)  # of a killed run
  check = functools.partial(check_space, archive.parent)
  unpack_zip(archive, incomplete, check)
  inner = incomplete / "meta_data"  # the zip may hold the folder or its content
  os.rename(inner if inner.is_dir() else incomplete, folder)
  shutil.rmtree(incomplete, ignore_errors=True)
