"""Downloads of OpenShape's release that are cut, killed, or go wrong."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub.utils import WeakFileLock
from openshape_hub import CHUNK, assert_equal

from mrd_jax.errors import BadInput
from mrd_jax.prepare.openshape.download import download

BOTH = {"ABO.tar.gz", "meta_data.zip"}


@pytest.fixture
def folder(hub, remote, tmp_path):
  """A download of the lists alone; nothing has been asked for since."""
  folder = download(tmp_path / "data", parts=[])
  hub.asked_ranges()
  return folder


def fail_after(hub, folder, chunks):
  """Downloads an archive as far as that."""
  hub.cuts = [chunks * CHUNK] + [0] * 5
  with pytest.raises(BadInput, match=r"ABO\.tar\.gz cannot be fetched .*kept"):
    download(folder, parts=["ABO.tar.gz"])
  assert len(hub.asked_ranges()) == 6
  assert not (folder / "ABO.tar.gz").exists()


@pytest.mark.parametrize(
  ("ignores_ranges", "cuts", "starts"),
  [
    (False, [3 * CHUNK + 500, CHUNK], [3 * CHUNK, 4 * CHUNK]),
    (True, [4 * CHUNK], [4 * CHUNK]),
  ],
)
def test_a_dropped_connection_is_taken_up_again(
  hub, remote, folder, ignores_ranges, cuts, starts
):
  hub.ignores_ranges, hub.cuts = ignores_ranges, cuts
  download(folder, parts=["ABO.tar.gz"])
  ranges = [None, *(f"bytes={start}-" for start in starts)]
  assert hub.asked_ranges() == [("ABO.tar.gz", r) for r in ranges]
  assert_equal(folder, remote, BOTH)


def test_a_download_that_gave_up_goes_on(hub, remote, folder):
  fail_after(hub, folder, 4)
  download(folder, parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == [("ABO.tar.gz", f"bytes={4 * CHUNK}-")]
  assert_equal(folder, remote, BOTH)


def test_half_of_another_content_is_not_continued(hub, remote, folder):
  fail_after(hub, folder, 4)
  (remote / "ABO.tar.gz").write_bytes(b"another" * CHUNK)
  download(folder, parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == [("ABO.tar.gz", None)]
  assert_equal(folder, remote, BOTH)


def test_a_killed_download_goes_on(hub, remote, folder, tmp_path):
  program = (
    "from huggingface_hub import constants; import sys\n"
    f"constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}\n"
    "from mrd_jax.prepare.openshape.download import download\n"
    "download(sys.argv[1], parts=['ABO.tar.gz'], endpoint=sys.argv[2])"
  )
  hub.stall_after = 6 * CHUNK
  process = subprocess.Popen(
    [sys.executable, "-c", program, str(folder), hub.url],
    env={"NO_PROXY": "127.0.0.1", "HF_HOME": str(tmp_path / "home")},
    cwd=Path(__file__).parents[2],
    stderr=subprocess.DEVNULL,
  )
  assert hub.stalled.wait(60)
  deadline = time.monotonic() + 5  # the library begins anew after 10
  size = 0
  while size < 6 * CHUNK and time.monotonic() < deadline:
    time.sleep(0.01)
    size = sum(f.stat().st_size for f in folder.glob("ABO*.incomplete"))
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert hub.asked_ranges() == [("ABO.tar.gz", None)]
  assert size % CHUNK == 0 and size > 0
  assert not (folder / "ABO.tar.gz").exists()

  hub.stall_after = None
  download(folder, parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == [("ABO.tar.gz", f"bytes={size}-")]
  assert_equal(folder, remote, BOTH)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "hash is not the one"),
    (lambda c: c[:-7], "should be of size 100001 but has size 99994"),
    (lambda c: c + b"more", "should be of size 100001 but has size 100005"),
  ],
)
def test_something_else_than_is_listed(hub, remote, tmp_path, change, message):
  hub.lies["ABO.tar.gz"] = change((remote / "ABO.tar.gz").read_bytes())
  with pytest.raises(BadInput, match=rf"ABO\.tar\.gz.*{message}"):
    download(tmp_path / "data", parts=["ABO.tar.gz"])
  assert not (tmp_path / "data" / "ABO.tar.gz").exists()
  hub.lies = {}
  assert_equal(download(tmp_path / "data", parts=["ABO.tar.gz"]), remote, BOTH)


def test_too_small_a_disk(hub, folder, monkeypatch):
  usage = shutil.disk_usage(folder)._replace(free=15 * CHUNK)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
  with pytest.raises(
    BadInput, match=r"data: needs 0\.00 GB more and has 0\.00 GB free; free"
  ):
    download(folder, parts=["ABO.tar.gz", "S*"])
  assert hub.asked_ranges() == []  # before the start
  # What is there already needs no room.
  fail_after(hub, folder, 8)
  download(folder, parts=["ABO.tar.gz", "S*"])


def test_two_downloads_at_once(folder):
  with (
    WeakFileLock(folder / ".download.lock"),
    pytest.raises(BadInput, match="another download is writing"),
  ):
    download(folder, parts=[])


def test_a_place_that_is_a_file(hub, remote, tmp_path):
  (tmp_path / "data").write_text("")
  with pytest.raises(BadInput, match="data: cannot be written to"):
    download(tmp_path / "data", parts=[])
