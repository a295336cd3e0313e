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


def test_a_dropped_connection_is_taken_up_again(hub, remote, tmp_path):
  download(tmp_path / "data", parts=[])
  hub.asked_ranges()
  hub.cuts = [3 * CHUNK + 500, CHUNK]
  folder = download(tmp_path / "data", parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == [
    ("ABO.tar.gz", None),
    ("ABO.tar.gz", f"bytes={3 * CHUNK}-"),
    ("ABO.tar.gz", f"bytes={4 * CHUNK}-"),
  ]
  assert_equal(folder, remote, {"ABO.tar.gz", "meta_data.zip"})


def test_a_download_that_gave_up_goes_on(hub, remote, tmp_path):
  folder = download(tmp_path / "data", parts=[])
  hub.asked_ranges()
  hub.cuts = [4 * CHUNK] + [0] * 5
  with pytest.raises(BadInput, match=r"ABO\.tar\.gz cannot be fetched .*kept"):
    download(folder, parts=["ABO.tar.gz"])
  assert len(hub.asked_ranges()) == 6
  assert not (folder / "ABO.tar.gz").exists()

  download(folder, parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == [("ABO.tar.gz", f"bytes={4 * CHUNK}-")]
  assert_equal(folder, remote, {"ABO.tar.gz", "meta_data.zip"})


def test_a_server_without_ranges(hub, remote, tmp_path):
  hub.ignores_ranges = True
  download(tmp_path / "data", parts=[])
  hub.asked_ranges()
  hub.cuts = [4 * CHUNK]
  folder = download(tmp_path / "data", parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == [
    ("ABO.tar.gz", None),
    ("ABO.tar.gz", f"bytes={4 * CHUNK}-"),
  ]
  assert_equal(folder, remote, {"ABO.tar.gz", "meta_data.zip"})


def test_a_killed_download_goes_on(hub, remote, tmp_path):
  folder = download(tmp_path / "data", parts=[])
  program = (
    "from huggingface_hub import constants; import sys\n"
    f"constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}\n"
    "from mrd_jax.prepare.openshape.download import download\n"
    "download(sys.argv[1], parts=['ABO.tar.gz'], endpoint=sys.argv[2])"
  )
  hub.asked_ranges()
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
  assert_equal(folder, remote, {"ABO.tar.gz", "meta_data.zip"})


def test_half_of_another_content_is_not_continued(hub, remote, tmp_path):
  folder = download(tmp_path / "data", parts=[])
  hub.cuts = [4 * CHUNK] + [0] * 5
  with pytest.raises(BadInput):
    download(folder, parts=["ABO.tar.gz"])
  (remote / "ABO.tar.gz").write_bytes(b"another" * CHUNK)
  hub.asked_ranges()
  download(folder, parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == [("ABO.tar.gz", None)]
  assert_equal(folder, remote, {"ABO.tar.gz", "meta_data.zip"})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "hash is not the one"),
    (lambda c: c[:-7], "should be of size 100001 but has size 99994"),
    (lambda c: c + b"more", "should be of size 100001 but has size 100005"),
  ],
)
def test_something_else_than_is_listed(hub, remote, tmp_path, change, message):
  content = (remote / "ABO.tar.gz").read_bytes()
  hub.lies["ABO.tar.gz"] = change(content)
  with pytest.raises(BadInput, match=rf"ABO\.tar\.gz.*{message}"):
    download(tmp_path / "data", parts=["ABO.tar.gz"])
  assert not (tmp_path / "data" / "ABO.tar.gz").exists()
  hub.lies = {}
  folder = download(tmp_path / "data", parts=["ABO.tar.gz"])
  assert_equal(folder, remote, {"ABO.tar.gz", "meta_data.zip"})


def test_too_small_a_disk(hub, remote, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)

  def disk_usage(_):
    return usage._replace(free=15 * CHUNK)

  download(tmp_path / "data", parts=[])
  hub.asked_ranges()
  monkeypatch.setattr(shutil, "disk_usage", disk_usage)
  with pytest.raises(
    BadInput, match=r"data: needs 0\.00 GB more and has 0\.00 GB free; free"
  ):
    download(tmp_path / "data", parts=["ABO.tar.gz", "S*"])
  assert hub.asked_ranges() == []  # before the start
  # What is there already needs no room.
  hub.cuts = [8 * CHUNK] + [0] * 5
  with pytest.raises(BadInput, match="kept"):
    download(tmp_path / "data", parts=["ABO.tar.gz"])
  download(tmp_path / "data", parts=["ABO.tar.gz", "S*"])


def test_two_downloads_at_once(hub, remote, tmp_path):
  (tmp_path / "data").mkdir()
  with (
    WeakFileLock(tmp_path / "data" / ".download.lock"),
    pytest.raises(BadInput, match="another download is writing"),
  ):
    download(tmp_path / "data", parts=[])


def test_a_place_that_is_a_file(hub, remote, tmp_path):
  (tmp_path / "data").write_text("")
  with pytest.raises(BadInput, match="data: cannot be written to"):
    download(tmp_path / "data", parts=[])
