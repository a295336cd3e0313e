"""Fetches OpenShape's published training data, or any part of it, for good.

The 205 GB come as 163 archives of up to 12.5 GB.  `hf_hub_download` of recent
versions of huggingface_hub (2.4 does, 1.0 did not) writes each attempt to a
temporary file of its own and deletes it on failure, so that a killed download
begins at zero.  Here the library does the requests and an unfinished file
stays, under a name that holds the hash of its content: the next run asks for
the remaining bytes alone.  A file gets its own name when its size and its hash
are those that the hub lists.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json
from mrd_jax.prepare.openshape.lists import read_splits

REPOSITORY = "OpenShape/openshape-training-data"
META_DATA = "meta_data.zip"
PARTS = (
  "ShapeNet.tar.gz",
  "ABO.tar.gz",
  "3D-FUTURE.tar.gz",
  "Objaverse/*.tar.gz",
)
RECORD_FILE = "download.json"  # {"files": {name: etag}} of what is complete
_NEVER = "rendered_images/"  # 37 GB for each part of Objaverse, of no use here


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """A file as the hub lists it.

  Attributes:
    name: Path in the repository.
    size: Bytes.
    etag: SHA-256 of the content (large files), or git's SHA-1.
  """

  name: str
  size: int
  etag: str


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
  commit, listed = _list(repo_id, revision, endpoint)
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
  with _locked(destination):
    _fetch_missing(destination, wanted, repo_id, commit, endpoint)
    _unpack(destination / META_DATA)
    if parts is None and splits is not None:
      named = {
        name
        for split in read_splits(destination, splits)
        for entry in split.entries
        for name in _archives_of(entry.path)
      }
      wanted = [listed[name] for name in sorted(named & listed.keys())]
      _fetch_missing(destination, wanted, repo_id, commit, endpoint)
  return destination


def _archives_of(path: str) -> Iterator[str]:
  """What an archive of this shape may be called: by one folder, or by two."""
  folders = PurePosixPath(path).parts[:-1]
  for i, folder in enumerate(folders):
    yield f"{folder}.tar.gz"
    yield f"{folders[i - 1]}/{folder}.tar.gz"


def _list(
  repo_id: str, revision: str | None, endpoint: str | None
) -> tuple[str, Mapping[str, RemoteFile]]:
  """The commit, and all its files but the renders."""
  from huggingface_hub import HfApi

  with _explained(repo_id, revision, "its list of files"):
    info = HfApi(endpoint=endpoint).dataset_info(
      repo_id, revision=revision, files_metadata=True
    )
  listed = {}
  for sibling in info.siblings or ():
    name = sibling.rfilename
    etag = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
      raise BadInput(
        f"{repo_id} lists {name!r}, which points out of its folder; do not "
        "trust it"
      )
    if name.startswith(_NEVER):
      continue
    if sibling.size is None or etag is None or info.sha is None:
      raise BadInput(
        f"{repo_id}: the hub tells no size or hash of {name}; unset "
        "HF_ENDPOINT to ask the public hub"
      )
    listed[name] = RemoteFile(name, sibling.size, etag)
  return info.sha or "", listed


@contextlib.contextmanager
def _explained(repo_id: str, revision: str | None, what: str) -> Iterator[None]:
  """Turns what the library raises into one sentence."""
  from huggingface_hub import errors

  try:
    yield
  except BadInput:
    raise
  except Exception as error:  # those of its HTTP library, too
    reasons = {
      errors.GatedRepoError: "its owners grant access one by one; ask for it "
      "on its page and log in with hf auth login",
      errors.RepositoryNotFoundError: "there is no such dataset, unless it is "
      "private: log in with hf auth login",
      errors.RevisionNotFoundError: f"there is no revision {revision!r}",
      errors.EntryNotFoundError: "there is no such file",
      Exception: " ".join(f"{type(error).__name__}: {error}".split())
      + "; what has come is kept, the same command goes on from there",
    }
    reason = next(v for k, v in reasons.items() if isinstance(error, k))
    raise BadInput(
      f"{repo_id}: {what} cannot be fetched from the Hugging Face hub: {reason}"
    ) from error


@contextlib.contextmanager
def _locked(destination: Path) -> Iterator[None]:
  """Makes the folder; one download at a time writes to it."""
  import filelock
  from huggingface_hub.utils import WeakFileLock

  try:
    destination.mkdir(parents=True, exist_ok=True)
    lock = WeakFileLock(destination / ".download.lock", timeout=1)
    held = contextlib.ExitStack()
    held.enter_context(lock)
  except filelock.Timeout:
    raise BadInput(
      f"{destination}: another download is writing to it; wait for its end"
    ) from None
  except OSError as error:
    raise BadInput(
      f"{destination}: cannot be written to ({error.strerror})"
    ) from None
  with held:
    yield


def _fetch_missing(
  destination: Path,
  wanted: Collection[RemoteFile],
  repo_id: str,
  commit: str,
  endpoint: str | None,
) -> None:
  """Fetches all that is not complete; the space is checked before the start."""
  from huggingface_hub import hf_hub_url

  record_file = destination / RECORD_FILE
  etags = read_json(record_file)["files"] if record_file.is_file() else {}
  missing = []
  for file in dict.fromkeys(wanted):
    path = destination / file.name
    if not path.is_file():
      missing.append(file)
    elif file.name not in etags:  # somebody put it there: if it fits, good
      if path.stat().st_size != file.size or not _is_content_of(path, file):
        raise BadInput(
          f"{path}: differs from the file on the hub ({path.stat().st_size:,} "
          f"bytes, not {file.size:,}, or another hash) and was not fetched "
          "from here; remove it, or name another folder"
        )
      etags[file.name] = file.etag
    elif etags[file.name] != file.etag or path.stat().st_size != file.size:
      missing.append(file)
  partial = {file: _partial(destination, file) for file in missing}
  needed = sum(file.size for file in missing) - sum(
    path.stat().st_size for path in partial.values() if path.is_file()
  )
  print(
    f"{destination}: {len(set(wanted)) - len(missing)} files are complete, "
    f"{len(missing)} to fetch, {needed / 1e9:.2f} GB",
    flush=True,
  )
  _check_space(destination, needed)
  for i, file in enumerate(missing, 1):
    print(
      f"[{i}/{len(missing)}] {file.name}, {file.size / 1e9:.2f} GB", flush=True
    )
    url = hf_hub_url(
      repo_id,
      file.name,
      repo_type="dataset",
      revision=commit,
      endpoint=endpoint,
    )
    with _explained(repo_id, commit, file.name):
      _fetch(url, file, partial[file], destination / file.name)
    etags[file.name] = file.etag
    _write_record(record_file, repo_id, commit, etags)
  _write_record(record_file, repo_id, commit, etags)


def _partial(destination: Path, file: RemoteFile) -> Path:
  """Where the unfinished file is: of another content, under another name."""
  path = destination / file.name
  return path.with_name(f"{path.name}.{file.etag[:16]}.incomplete")


def _fetch(url: str, file: RemoteFile, partial: Path, path: Path) -> None:
  """Fetches the rest of a file, checks the whole, and gives it its name."""
  from huggingface_hub.file_download import http_get
  from huggingface_hub.utils import build_hf_headers

  path.parent.mkdir(parents=True, exist_ok=True)
  for outdated in path.parent.glob(f"{path.name}.*.incomplete"):
    if outdated != partial:
      outdated.unlink()
  with partial.open("ab") as output:
    try:
      http_get(
        url,
        output,
        resume_size=output.tell(),
        # Not compressed on the way: a range would not be one of the file.
        headers=build_hf_headers() | {"Accept-Encoding": "identity"},
        expected_size=file.size,
        displayed_filename=file.name,
      )
    finally:
      output.flush()
      if output.tell() > file.size:
        partial.unlink()
  if not _is_content_of(partial, file):
    partial.unlink()
    raise BadInput(
      f"{file.name}: all {file.size:,} bytes came, but their hash is not the "
      "one that the hub lists, so they are thrown away; fetch it again"
    )
  os.replace(partial, path)


def _is_content_of(path: Path, file: RemoteFile) -> bool:
  start = (
    hashlib.sha256()
    if len(file.etag) == 64
    else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
  )
  with path.open("rb") as content:
    return hashlib.file_digest(content, lambda: start).hexdigest() == file.etag


def _write_record(
  path: Path, repo_id: str, commit: str, etags: Mapping[str, str]
) -> None:
  written = path.with_name(f"{path.name}.incomplete")
  content = {"repository": repo_id, "commit": commit, "files": etags}
  written.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
  os.replace(written, path)


def _check_space(folder: Path, needed: int) -> None:
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise BadInput(
      f"{folder}: needs {needed / 1e9:.2f} GB more and has {free / 1e9:.2f} GB "
      "free; free some, name a folder on another disk, or fetch fewer parts"
    )


def _unpack(archive: Path) -> None:
  """Unpacks `meta_data.zip` to `meta_data/`, which appears when complete.

  A folder that is there stays as it is.
  """
  folder, incomplete = (
    archive.with_name(name) for name in ("meta_data", "meta_data.incomplete")
  )
  if folder.exists():
    return
  shutil.rmtree(incomplete, ignore_errors=True)  # of a killed run
  try:
    with zipfile.ZipFile(archive) as members:
      for member in members.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
          raise BadInput(
            f"{archive}: its member {member.filename!r} points out of the "
            "folder; nothing was unpacked, do not trust where it came from"
          )
      _check_space(
        archive.parent, sum(member.file_size for member in members.infolist())
      )
      members.extractall(incomplete)
  except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
    raise BadInput(
      f"{archive}: cannot be unpacked ({error}); remove it and fetch it again"
    ) from error
  inner = incomplete / "meta_data"  # the zip may hold the folder or its content
  os.rename(inner if inner.is_dir() else incomplete, folder)
  shutil.rmtree(incomplete, ignore_errors=True)
