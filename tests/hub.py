"""A local stand-in for the Hugging Face hub.

It serves /{repository}/resolve/{revision}/{file} as the hub does: HEAD, then
GET, with X-Repo-Commit and ETag, ranges, and the hub's error codes; and
/api/{models|datasets}/{repository}[/{revision|tree}/{revision}], its files.
"""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(http.server.ThreadingHTTPServer):
  """Serves the folders of `repositories`, and keeps what was asked for.

  Attributes:
    repositories: {(name, commit): folder}; a dataset is "datasets/user/name".
    commits: {branch or tag: commit}, of every repository.
    requests: (method, path) in order.
    ranges: Of every GET of a file (path, what "range" asked for or None).
    failing: Status of every answer, 0 to serve.
    gated: Names whose files are refused.
    cuts: For as many GETs of a file, bytes after which the connection closes;
      each is used once.
    stall_after: Bytes of a file after which nothing more comes; None: never.
    stalled: Set when that has happened.
    stopped: Set at the end.
    ignores_ranges: Whether a range is answered with the whole file.
    lies: {file: content that is sent instead of it}.
    tokens: Every "authorization" that was sent.
  """

  daemon_threads = True

  def __init__(self):
    super().__init__(("127.0.0.1", 0), Handler)
    self.repositories: dict[tuple[str, str], Path] = {}
    self.commits = dict(COMMITS)
    self.requests: list[tuple[str, str]] = []
    self.ranges: list[tuple[str, str | None]] = []
    self.failing = 0
    self.gated: set[str] = set()
    self.cuts: list[int] = []
    self.stall_after: int | None = None
    self.stalled = threading.Event()
    self.stopped = threading.Event()
    self.ignores_ranges = False
    self.lies: dict[str, bytes] = {}
    self.tokens: list[str | None] = []
    self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
    self._thread.start()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self.server_port}"

  def asked(self) -> list[tuple[str, str]]:
    """What was asked for since the last call."""
    asked, self.requests = self.requests, []
    return asked

  def asked_ranges(self) -> list[tuple[str, str | None]]:
    """File name and range of every GET of a file since the last call."""
    ranges, self.ranges = self.ranges, []
    return ranges

  def stop(self) -> None:
    self.stopped.set()
    if self._thread.is_alive():
      self.shutdown()
      self._thread.join()
      self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
  server: Hub

  def log_message(self, *_):
    pass

  def answer(self) -> None:
    hub = self.server
    hub.requests.append((self.command, self.path))
    hub.tokens.append(self.headers["authorization"])
    path = urllib.parse.urlsplit(urllib.parse.unquote(self.path)).path[1:]
    if is_list := path.startswith("api/"):
      path = path[len("api/") :].removeprefix("models/")
      name, _, revision = path.replace("/tree/", "/revision/").partition(
        "/revision/"
      )
      revision, file = revision or "main", ""
    else:
      name, _, rest = path.partition("/resolve/")
      revision, _, file = rest.partition("/")
    commit = hub.commits.get(revision, revision)
    folder = hub.repositories.get((name, commit))
    if hub.failing:
      self.reply(hub.failing)
    elif name not in {name for name, _ in hub.repositories}:
      self.reply(401, {"X-Error-Code": "RepoNotFound"})
    elif folder is None:
      self.reply(404, {"X-Error-Code": "RevisionNotFound"})
    elif is_list:
      content: object
      files = [describe(folder, f) for f in folder.rglob("*") if f.is_file()]
      if "/tree/" in self.path:
        content = [tree_entry(file) for file in files]
      else:
        content = {"id": name, "sha": commit, "siblings": files}
      self.reply(200, {}, json.dumps(content).encode())
    elif name in hub.gated:
      self.reply(403, {"X-Error-Code": "GatedRepo"})
    elif not (folder / file).is_file():
      headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
      self.reply(404, headers)
    else:
      content = hub.lies.get(file, (folder / file).read_bytes())
      etag = hashlib.sha256(content).hexdigest()
      headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
      self.reply_file(file, headers, content)

  do_HEAD = do_GET = answer

  def reply_file(self, file: str, headers, content: bytes) -> None:
    """All of it or the range that was asked for, if nothing was to happen."""
    hub = self.server
    status, whole, wanted = 200, len(content), self.headers["range"]
    if self.command == "GET":
      hub.ranges.append((file, wanted))
    if wanted and not hub.ignores_ranges:
      start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
      if start >= whole:
        self.reply(416)
        return
      status, content = 206, content[start:]
      headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
    if self.command == "HEAD" or not (hub.cuts or hub.stall_after is not None):
      self.reply(status, headers, content)
      return
    self.start(status, headers, len(content))
    if hub.stall_after is not None:
      self.wfile.write(content[: hub.stall_after])
      hub.stalled.set()
      hub.stopped.wait()
      return
    self.wfile.write(content[: hub.cuts.pop(0)])
    self.close_connection = True

  def reply(self, status: int, headers=None, content: bytes = b"") -> None:
    self.start(status, headers or {}, len(content))
    if self.command == "GET":
      self.wfile.write(content)

  def start(self, status: int, headers, length: int) -> None:
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header("Content-Length", str(length))
    self.end_headers()


def describe(folder: Path, file: Path) -> dict[str, Any]:
  """A line of the list: large files by SHA-256, .json and .md as git does."""
  content = file.read_bytes()
  line: dict[str, Any] = {
    "rfilename": file.relative_to(folder).as_posix(),
    "size": len(content),
    "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
  }
  if file.suffix not in (".json", ".md"):
    line["blobId"] = "0" * 40  # of the pointer
    sha256 = hashlib.sha256(content).hexdigest()
    line["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
  return line


def tree_entry(line: dict[str, Any]) -> dict[str, object]:
  """The same, as the tree of a repository has it."""
  entry = {"type": "file", "path": line["rfilename"], "size": line["size"]}
  entry["oid"] = line["blobId"]
  if "lfs" in line:
    entry["lfs"] = line["lfs"] | {"oid": line["lfs"]["sha256"]}
  return entry


@contextlib.contextmanager
def serving(home: Path, monkeypatch) -> Iterator[Hub]:
  """The hub, and this process as its user with an empty home of Hugging Face.

  The library reads its environment when it is imported, so its constants are
  replaced: nothing real is read, written or reached.
  """
  hub = Hub()
  for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  for name, value in {
    "ENDPOINT": hub.url,
    "HUGGINGFACE_CO_URL_TEMPLATE": hub.url
    + "/{repo_id}/resolve/{revision}/{filename}",
    "HF_HOME": str(home),
    "HF_HUB_CACHE": str(home / "hub"),
    "HF_TOKEN_PATH": str(home / "token"),
    "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    "HF_HUB_DISABLE_TELEMETRY": True,
    "HF_HUB_OFFLINE": False,
  }.items():
    assert hasattr(constants, name)
    monkeypatch.setattr(constants, name, value)
  huggingface_hub.close_session()
  try:
    yield hub
  finally:
    hub.stop()
    huggingface_hub.close_session()
