"""Fetching OpenShape's release from a local stand-in for the hub."""

import collections
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import pytest
from hub import COMMITS, serving
from huggingface_hub import constants, file_download
from huggingface_hub.utils import WeakFileLock

from mrd_jax.errors import BadInput
from mrd_jax.prepare.openshape import download as module
from mrd_jax.prepare.openshape.download import REPOSITORY, download

NAME = f"datasets/{REPOSITORY}"
SHAPES = "/mnt/data/objaverse-processed/merged_for_training_final"
LISTS = {
  "train_all": ["Objaverse/000-001/a.npy", "ABO/b.npy"],
  "val": ["ShapeNet/0123/c.npy", "nowhere/d.npy"],
}
CHUNK = 10_000  # more than the 8 KB that Python keeps back


def zip_of(members: dict[str, str]) -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, text in members.items():
      archive.writestr(name, text)
  return file.getvalue()


def lists(prefix: str = "meta_data/") -> dict[str, str]:
  return {
    f"{prefix}split/{name}.json": json.dumps(
      [{"id": path, "data_path": f"{SHAPES}/{path}"} for path in paths]
    )
    for name, paths in LISTS.items()
  }


@pytest.fixture
def hub(tmp_path, monkeypatch):
  monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
  monkeypatch.setattr(
    file_download, "time", types.SimpleNamespace(sleep=lambda _: None)
  )
  with serving(tmp_path / "home", monkeypatch) as hub:
    yield hub


@pytest.fixture
def remote(hub, tmp_path) -> Path:
  """What the hub has: random archives in the release's layout."""
  folder = tmp_path / "remote"
  for i, name in enumerate(
    [
      "3D-FUTURE.tar.gz",
      "ABO.tar.gz",
      "Objaverse/000-000.tar.gz",
      "Objaverse/000-001.tar.gz",
      "Objaverse/000-010.tar.gz",
      "Objaverse_12.tar.gz",
      "README.md",
      "ShapeNet.tar.gz",
      "rendered_images/000-000.tar.gz",
    ]
  ):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    content = random.Random(i).randbytes(CHUNK * 10 + i)
    (folder / name).write_bytes(content)
  (folder / "meta_data.zip").write_bytes(zip_of(lists()))
  hub.repositories[NAME, COMMITS["main"]] = folder
  return folder


def fetched(folder: Path) -> set[str]:
  """The archives, and everything that should not be there."""
  ours = {"download.json", ".download.lock"}
  found = {f.relative_to(folder) for f in folder.rglob("*") if f.is_file()}
  return {
    f.as_posix()
    for f in found
    if f.parts[0] != "meta_data" and f.as_posix() not in ours
  }


def assert_equal(folder: Path, remote: Path, names: set[str]) -> None:
  assert fetched(folder) == names
  for name in names:
    assert (folder / name).read_bytes() == (remote / name).read_bytes()


def test_fetches_the_four_collections_and_nothing_else(hub, remote, tmp_path):
  folder = tmp_path / "new" / "data"
  assert download(folder) == folder
  names = {p.relative_to(remote).as_posix() for p in remote.rglob("*.gz")}
  names -= {"rendered_images/000-000.tar.gz", "Objaverse_12.tar.gz"}
  assert_equal(folder, remote, names | {"meta_data.zip"})
  for name, text in lists().items():
    assert (folder / name).read_text() == text
  asked = collections.Counter(path for _, path in hub.asked())
  assert asked.pop(f"/api/{NAME}?blobs=true") == 1  # once for all sizes
  commit = COMMITS["main"]  # though `main` may move meanwhile
  assert set(asked) == {
    f"/{NAME}/resolve/{commit}/{name}" for name in names | {"meta_data.zip"}
  }
  assert set(asked.values()) == {1}


@pytest.mark.parametrize(
  ("parts", "names"),
  [
    (["ABO.tar.gz"], {"ABO.tar.gz"}),
    (
      ["Objaverse/000-00*", "Objaverse/000-000.tar.gz"],
      {"Objaverse/000-000.tar.gz", "Objaverse/000-001.tar.gz"},
    ),
    ([], set()),
    (["meta_data.zip", "README.md"], {"README.md"}),
  ],
)
def test_fetches_parts(hub, remote, tmp_path, parts, names):
  folder = download(tmp_path / "data", parts=parts)
  assert_equal(folder, remote, names | {"meta_data.zip"})


@pytest.mark.parametrize(
  ("splits", "names"),
  [
    (["train"], {"Objaverse/000-001.tar.gz", "ABO.tar.gz"}),
    (["val"], {"ShapeNet.tar.gz"}),
  ],
)
def test_fetches_what_a_split_names(hub, remote, tmp_path, splits, names):
  folder = download(tmp_path / "data", splits=splits)
  assert_equal(folder, remote, names | {"meta_data.zip"})
  with pytest.raises(BadInput, match="splits: nothing not in"):
    download(tmp_path / "data", splits=["nothing"])


def test_complete_files_are_not_fetched_again(hub, remote, tmp_path, capsys):
  folder = download(tmp_path / "data", parts=["ABO.tar.gz"])
  hub.asked_ranges()
  times = {f: f.stat().st_mtime_ns for f in folder.rglob("*.*z*")}
  assert len(times) == 2
  capsys.readouterr()
  download(folder, parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == []
  assert {f: f.stat().st_mtime_ns for f in times} == times
  assert "2 files are complete, 0 to fetch, 0.00 GB" in capsys.readouterr().out
  download(folder, parts=["A*", "S*"])
  assert hub.asked_ranges() == [("ShapeNet.tar.gz", None)]


def test_a_file_that_somebody_put_there(hub, remote, tmp_path):
  folder = tmp_path / "data"
  folder.mkdir()
  for name in ("ABO.tar.gz", "meta_data.zip"):
    shutil.copy(remote / name, folder)
  download(folder, parts=["ABO.tar.gz"])
  assert hub.asked_ranges() == []
  # Its hash is computed once: the next run knows it.
  recorded = json.loads((folder / "download.json").read_text())["files"]
  assert recorded.keys() == {"ABO.tar.gz", "meta_data.zip"}

  other = bytearray((remote / "ShapeNet.tar.gz").read_bytes())
  other[-1] ^= 1
  for content in (other, other[:-1]):
    (folder / "ShapeNet.tar.gz").write_bytes(content)
    with pytest.raises(BadInput, match=r"ShapeNet\.tar\.gz: differs from"):
      download(folder, parts=["*.tar.gz"])
    assert (folder / "ShapeNet.tar.gz").read_bytes() == content
  assert hub.asked_ranges() == []


def test_a_newer_revision_replaces_what_was_fetched(hub, remote, tmp_path):
  folder = download(tmp_path / "data", parts=["ABO.tar.gz"])
  newer = tmp_path / "newer"
  shutil.copytree(remote, newer)
  newer_content = (newer / "ABO.tar.gz").read_bytes()[::-1]
  (newer / "ABO.tar.gz").write_bytes(newer_content)
  hub.repositories[NAME, COMMITS["v1"]] = newer
  hub.asked_ranges()
  download(folder, parts=["ABO.tar.gz"], revision="v1")
  assert hub.asked_ranges() == [("ABO.tar.gz", None)]
  assert_equal(folder, newer, {"ABO.tar.gz", "meta_data.zip"})


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


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"repo_id": "user/none"}, "no such dataset, .* hf auth login"),
    ({"revision": "v2"}, "there is no revision 'v2'"),
    ({"repo_id": "a/b/c"}, "that is no name of a dataset"),
    ({"parts": ["abo*"]}, r"parts: 'abo\*' matches none .* ABO\.tar\.gz"),
    ({"parts": ["rendered_images/*"]}, "matches none"),
  ],
)
def test_what_the_hub_does_not_have(hub, remote, tmp_path, options, message):
  with pytest.raises(BadInput, match=message):
    download(tmp_path / "data", **options)
  assert not (tmp_path / "data").exists()


def test_a_dataset_in_another_layout(hub, remote, tmp_path):
  (remote / "meta_data.zip").unlink()
  with pytest.raises(BadInput, match=r"holds no meta_data\.zip"):
    download(tmp_path / "data")


def test_a_list_that_points_out_of_its_folder(
  hub, remote, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    "hub.describe",
    lambda *_: {"rfilename": "Objaverse/../../x.tar.gz", "size": 1},
  )
  with pytest.raises(BadInput, match="points out of its folder"):
    download(tmp_path / "data")


def test_a_file_that_has_gone_meanwhile(hub, remote, tmp_path, monkeypatch):
  listing = module.list_files

  def list_and_remove(*args):
    listed = listing(*args)
    (remote / "ABO.tar.gz").unlink()
    return listed

  monkeypatch.setattr(module, "list_files", list_and_remove)
  with pytest.raises(BadInput, match=r"ABO\.tar\.gz .*: there is no file ABO"):
    download(tmp_path / "data", parts=["ABO.tar.gz"])


def test_gated(hub, remote, tmp_path):
  hub.gated.add(NAME)
  with pytest.raises(BadInput, match=r"meta_data\.zip .* ask for it on its"):
    download(tmp_path / "data")


def test_a_hub_that_fails(hub, remote, tmp_path):
  hub.failing = 500
  with pytest.raises(BadInput, match=r"HfHubHTTPError: .*500.*; what has come"):
    download(tmp_path / "data")


def test_no_network(hub, remote, tmp_path, monkeypatch):
  hub.stop()
  with pytest.raises(BadInput, match="ConnectError: .*refused"):
    download(tmp_path / "data")
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  with pytest.raises(BadInput, match="OfflineModeIsEnabled"):
    download(tmp_path / "data")
  assert not (tmp_path / "data").exists()


def test_another_endpoint(hub, remote, tmp_path, monkeypatch):
  url = hub.url
  for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
    value = getattr(constants, name).replace(url, "http://127.0.0.1:1")
    monkeypatch.setattr(constants, name, value)
  with pytest.raises(BadInput, match="refused"):
    download(tmp_path / "data", parts=[])
  download(tmp_path / "data", parts=[], endpoint=url)


def test_who_has_logged_in_is_known(hub, remote, tmp_path):
  (tmp_path / "home").mkdir()
  (tmp_path / "home" / "token").write_text("hf_of_this_test")
  download(tmp_path / "data", parts=[])
  assert set(hub.tokens) == {"Bearer hf_of_this_test"}


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


def test_meta_data_without_its_folder(hub, remote, tmp_path):
  (remote / "meta_data.zip").write_bytes(zip_of(lists(prefix="")))
  folder = download(tmp_path / "data", parts=[])
  assert (folder / "meta_data" / "split" / "val.json").is_file()
  # The unpacked folder is left alone, whatever was changed in it.
  (folder / "meta_data" / "split" / "val.json").write_text("mine")
  download(folder, parts=[])
  assert (folder / "meta_data" / "split" / "val.json").read_text() == "mine"


def test_half_unpacked_is_unpacked_anew(hub, remote, tmp_path):
  half = tmp_path / "data" / "meta_data.incomplete" / "meta_data"
  half.mkdir(parents=True)
  (half / "half").write_text("")
  folder = download(tmp_path / "data", parts=[])
  names = {f.name for f in (folder / "meta_data").rglob("*")}
  assert names == {"split", "train_all.json", "val.json"}
  assert fetched(folder) == {"meta_data.zip"}


@pytest.mark.parametrize(
  "name", ["meta_data/../../evil", "/tmp/evil", "..\\evil", "a/.."]
)
def test_a_zip_that_points_out_of_its_folder(hub, remote, tmp_path, name):
  (remote / "meta_data.zip").write_bytes(zip_of(lists() | {name: "evil"}))
  with pytest.raises(
    BadInput, match=r"meta_data\.zip: .* nothing was unpacked"
  ):
    download(tmp_path / "data", parts=[])
  assert fetched(tmp_path / "data") == {"meta_data.zip"}
  assert not (tmp_path / "data" / "meta_data").exists()
  assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("damage", [0, 60, -30])
def test_a_damaged_zip(hub, remote, tmp_path, damage):
  content = bytearray((remote / "meta_data.zip").read_bytes())
  content[damage : damage + 20 or None] = bytes(20)
  (remote / "meta_data.zip").write_bytes(content)
  with pytest.raises(BadInput, match=r"meta_data\.zip: cannot be unpacked"):
    download(tmp_path / "data", parts=[])
  assert not (tmp_path / "data" / "meta_data").exists()
