"""Fetches a model's files from a local stand-in for the hub."""

import socket
import time

import numpy as np
import pytest
from encoders import cloud, make_encoder
from hub import COMMITS
from huggingface_hub import constants

from mrd_jax.encoder import Encoder
from mrd_jax.errors import BadInput
from mrd_jax.io.hub import Repository

NEWER = "c" * 40


def publish(hub, folder, weights, commit=COMMITS["main"]):
  folder.mkdir()
  (folder / "config.json").write_text("{}")
  (folder / "weights").write_text(weights)
  (folder / "README.md").write_text("what nobody asks for")
  hub.repositories["user/model", commit] = folder
  return folder


@pytest.fixture
def model(hub, tmp_path):
  return publish(hub, tmp_path / "model", "first")


def fetch(name="user/model", revision=None):
  return Repository(name, revision).get("weights").read_text()


def refused(reason, *args):
  """At once: the library would wait for 23 seconds, by trying five times."""
  start = time.monotonic()
  sentence = (
    f"^{args[0] if args else 'user/model'} is neither a folder nor a model "
    f"that could be fetched from the Hugging Face hub: {reason}$"
  )
  with pytest.raises(BadInput, match=sentence):
    fetch(*args)
  assert time.monotonic() - start < 10


def test_fetches_files_of_one_commit_and_keeps_them(hub, model, tmp_path):
  assert fetch() == "first"
  asked = {path for method, path in hub.asked() if method == "GET"}
  assert asked == {
    "/user/model/resolve/main/config.json",
    # Of the commit that `main` was, though it may have moved meanwhile.
    f"/user/model/resolve/{COMMITS['main']}/weights",
  }
  assert set(hub.tokens) == {None}
  assert fetch() == "first"
  assert "GET" not in {method for method, _ in hub.asked()}
  hub.stop()
  assert fetch() == fetch(revision=COMMITS["main"]) == "first"
  assert len([*(tmp_path / "home" / "hub").rglob("weights")]) == 1


def test_fetches_the_newest_or_what_is_asked_for(hub, model, tmp_path):
  assert fetch() == "first"
  publish(hub, tmp_path / "newer", "second", NEWER)
  publish(hub, tmp_path / "tagged", "third", COMMITS["v1"])
  hub.commits["main"] = NEWER
  assert fetch() == "second"
  assert fetch(revision=COMMITS["main"]) == "first"
  hub.asked()
  assert fetch(revision="v1") == fetch(revision=COMMITS["v1"]) == "third"
  assert all("main" not in path for _, path in hub.asked())


def test_lists_names(hub, model):
  repository = Repository("user/model", None)
  assert repository.names() == {"config.json", "weights", "README.md"}
  hub.stop()
  cached = Repository("user/model", None)
  assert cached.names() == {"config.json"} and not cached.answers


def test_who_has_logged_in_is_known(hub, model, tmp_path):
  (tmp_path / "home").mkdir()
  (tmp_path / "home" / "token").write_text("hf_of_this_test")
  fetch()
  assert set(hub.tokens) == {"Bearer hf_of_this_test"}


@pytest.mark.parametrize(
  ("source", "revision", "reason"),
  [
    ("user/none", None, "there is no such repository, .* hf auth login"),
    ("user/model", "v2", "there is no revision 'v2'"),
    ("runs/my/model", None, "that is no name of a repository"),
  ],
)
def test_what_the_hub_does_not_have(hub, model, source, revision, reason):
  refused(reason, source, revision)


@pytest.mark.parametrize("name", ["config.json", "weights"])
def test_a_file_that_is_missing(hub, model, name):
  (model / name).unlink()
  refused(f"there is no file {name} in it")


def test_gated(hub, model):
  hub.gated.add("user/model")
  refused("its owners grant access one by one; .* hf auth login")


def test_no_network(hub, model, monkeypatch):
  def getaddrinfo(*_, **__):
    raise socket.gaierror(-3, "Temporary failure in name resolution")

  hub.stop()
  refused("ConnectError: .*refused.*; config.json is not in the cache either")
  monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
  refused("ConnectError: .*name resolution.*")


def test_a_hub_that_fails(hub, model):
  hub.failing = 503
  refused("HfHubHTTPError: .*503.*")
  hub.failing = 0
  assert fetch() == "first"
  hub.failing = 503  # then the cache will do
  assert fetch() == "first"


def test_offline_mode_uses_the_cache_alone(hub, model, monkeypatch):
  fetch()
  hub.asked()
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert fetch() == "first"
  refused("OfflineModeIsEnabled: .*", "user/other")
  assert hub.asked() == []


def test_half_a_model_in_the_cache_is_not_enough(hub, model):
  Repository("user/model", None)
  hub.stop()
  refused("ConnectError: .*; weights is not in the cache either")


def test_an_encoder_of_the_hub(hub, tmp_path, monkeypatch):
  encoder = make_encoder()
  encoder.save_pretrained(tmp_path / "model")
  hub.repositories["user/model", COMMITS["main"]] = tmp_path / "model"
  found = Encoder.from_pretrained("user/model")
  assert found.config == encoder.config
  np.testing.assert_array_equal(found([cloud(99)]), encoder([cloud(99)]))
  (tmp_path / "model" / "model.safetensors").write_bytes(b"not tensors")
  hub.commits["main"] = NEWER
  hub.repositories["user/model", NEWER] = tmp_path / "model"
  with pytest.raises(BadInput, match=r"model\.safetensors cannot be read as"):
    Encoder.from_pretrained("user/model")
  old = Encoder.from_pretrained("user/model", revision=COMMITS["main"])
  assert old.config == encoder.config
  # A folder comes before a repository.
  hub.asked()
  monkeypatch.chdir(tmp_path)
  make_encoder(seed=1, step=9).save_pretrained("user/model")
  assert Encoder.from_pretrained("user/model").config.step == 9
  assert hub.asked() == []
