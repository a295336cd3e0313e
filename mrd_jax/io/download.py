"""Fetches large files of a dataset on the Hugging Face hub, for good.

`hf_hub_download` of recent versions of huggingface_hub (2.4 does, 1.0 did not)
writes each attempt to a temporary file of its own and deletes it on failure, so
that a killed download begins at zero.  Here the library does the requests and
an unfinished file stays, under a name that holds the hash of its content: the
next run asks for the remaining bytes alone.  A file gets its own name when its
size and its hash are those that the hub lists.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from mrd_jax.errors import BadInput
from mrd_jax.io import hub
from mrd_jax.io.files import read_json, write_json
from mrd_jax.io.terminal import printable, say

RECORD_FILE = "download.json"  # {"files": {name: etag}} of what is complete


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


def list_files(
  repo_id: str, revision: str | None, endpoint: str | None
) -> tuple[str, Mapping[str, RemoteFile]]:
  """Lists a dataset of the hub.

  Args:
    repo_id: Its name, "user/dataset".
    revision: Branch, tag or commit; None is the main branch.
    endpoint: Address of the hub; None is the library's.

  Returns:
    The commit, and its files by their names.

  Raises:
    BadInput: if the hub does not answer, has no such dataset or revision, or
      lists what cannot be trusted.
  """
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
  try:
    yield
  except BadInput:
    raise
  except Exception as error:  # those of its HTTP library, too
    kept = "; what has come is kept, the same command goes on from there"
    reason = hub.explain(error, "dataset", revision, what, kept)
    raise BadInput(
      f"{repo_id}: {what} cannot be fetched from the Hugging Face hub: {reason}"
    ) from error


def fetch_missing(
  destination: Path,
  wanted: Collection[RemoteFile],
  repo_id: str,
  commit: str,
  endpoint: str | None,
) -> None:
  """Fetches all that is not complete; the space is checked before the start.

  Args:
    destination: Folder to fetch into; `RECORD_FILE` in it says what is there.
    wanted: The files, of `list_files`.
    repo_id: The dataset, "user/dataset".
    commit: Of `list_files`.
    endpoint: As for `list_files`.

  Raises:
    BadInput: if the disk is too small, a file is not the hub's, or one cannot
      be fetched or is not what the hub lists.
  """
  from huggingface_hub import hf_hub_url

  record_file = destination / RECORD_FILE
  etags = read_json(record_file)["files"] if record_file.is_file() else {}

  def write_record() -> None:
    content = {"repository": repo_id, "commit": commit, "files": etags}
    write_json(record_file, content)

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
  # Where the unfinished files are: of another content, under another name.
  partial = {
    file: destination / f"{file.name}.{file.etag[:16]}.incomplete"
    for file in missing
  }
  present = [path.stat().st_size for path in partial.values() if path.is_file()]
  needed = sum(file.size for file in missing) - sum(present)
  say(
    f"{destination}: {len(set(wanted)) - len(missing)} files are complete, "
    f"{len(missing)} to fetch, {needed / 1e9:.2f} GB"
  )
  check_space(destination, needed)
  for i, file in enumerate(missing, 1):
    name = file.name
    say(f"[{i}/{len(missing)}] {name}, {file.size / 1e9:.2f} GB")
    url = hf_hub_url(
      repo_id, name, repo_type="dataset", revision=commit, endpoint=endpoint
    )
    with _explained(repo_id, commit, name):
      _fetch(url, file, partial[file], destination / name)
    etags[name] = file.etag
    write_record()
  write_record()


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
        displayed_filename=printable(file.name),
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
  start = hashlib.sha256()
  if len(file.etag) != 64:  # as git hashes a file
    start = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
  with path.open("rb") as content:
    return hashlib.file_digest(content, lambda: start).hexdigest() == file.etag


def check_space(folder: Path, needed: int) -> None:
  """Raises BadInput unless the disk of `folder` has so many bytes."""
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise BadInput(
      f"{folder}: needs {needed / 1e9:.2f} GB more and has {free / 1e9:.2f} GB "
      "free; free some, name a folder on another disk, or fetch fewer parts"
    )
