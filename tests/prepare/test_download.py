"""Fetching OpenShape's release from a local stand-in for the hub."""

import collections
import json
import shutil

import pytest
from hub import COMMITS
from huggingface_hub import constants
from openshape_hub import NAME, assert_equal, fetched, lists, zip_of

from mrd_jax.errors import BadInput
from mrd_jax.prepare.openshape import download as module
from mrd_jax.prepare.openshape.download import download


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
  outside = {"rfilename": "Objaverse/../../x.tar.gz", "size": 1}
  monkeypatch.setattr("hub.describe", lambda *_: outside)
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
