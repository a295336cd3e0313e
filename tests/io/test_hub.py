"""`Encoder.from_pretrained` against a local stand-in for the hub."""

import socket
import time

import huggingface_hub
import numpy as np
import pytest
from encoders import cloud, make_encoder
from hub import COMMITS
from huggingface_hub import constants

from mrd_jax.encoder.encoder import Encoder
from mrd_jax.errors import BadInput


@pytest.fixture
def model(hub, tmp_path) -> Encoder:
  """A model that the hub has as "user/model"."""
  encoder = make_encoder()
  encoder.save_pretrained(tmp_path / "model")
  hub.repositories["user/model", COMMITS["main"]] = tmp_path / "model"
  return encoder


def assert_same(found: Encoder, expected: Encoder) -> None:
  assert found.config == expected.config
  np.testing.assert_array_equal(found([cloud(99)]), expected([cloud(99)]))


def resolve(revision: str, file: str) -> str:
  return f"/user/model/resolve/{revision}/{file}"


def test_fetches_a_model_and_keeps_it(hub, model, tmp_path):
  assert_same(Encoder.from_pretrained("user/model"), model)
  asked = hub.asked()
  assert {path for method, path in asked if method == "GET"} == {
    resolve("main", "config.json"),
    # Of the commit that `main` was, though it may have moved meanwhile.
    resolve(COMMITS["main"], "model.safetensors"),
  }
  assert all("README" not in path for _, path in asked)
  assert set(hub.tokens) == {None}

  assert_same(Encoder.from_pretrained("user/model"), model)
  assert "GET" not in {method for method, _ in hub.asked()}

  hub.stop()
  assert_same(Encoder.from_pretrained("user/model"), model)
  pinned = Encoder.from_pretrained("user/model", revision=COMMITS["main"])
  assert_same(pinned, model)
  found = list((tmp_path / "home" / "hub").rglob("model.safetensors"))
  assert len(found) == 1


def test_fetches_the_newest(hub, model, tmp_path):
  Encoder.from_pretrained("user/model")
  newer = make_encoder(seed=1, step=9)
  newer.save_pretrained(tmp_path / "newer")
  hub.commits["main"] = "c" * 40
  hub.repositories["user/model", "c" * 40] = tmp_path / "newer"
  assert_same(Encoder.from_pretrained("user/model"), newer)
  old = Encoder.from_pretrained("user/model", revision=COMMITS["main"])
  assert_same(old, model)


def test_fetches_the_revision_that_is_asked_for(hub, model, tmp_path):
  tagged = make_encoder(seed=1, embed_dim=None)
  tagged.save_pretrained(tmp_path / "tagged")
  hub.repositories["user/model", COMMITS["v1"]] = tmp_path / "tagged"
  for revision in ("v1", COMMITS["v1"]):
    found = Encoder.from_pretrained("user/model", revision=revision)
    assert_same(found, tagged)
  assert all("main" not in path for _, path in hub.asked())
  found = Encoder.from_pretrained("user/model", dtype="bfloat16")
  assert found.model.dtype == "bfloat16" and found.config == model.config


def test_who_has_logged_in_is_known(hub, model, tmp_path):
  (tmp_path / "home").mkdir()
  (tmp_path / "home" / "token").write_text("hf_of_this_test")
  Encoder.from_pretrained("user/model")
  assert set(hub.tokens) == {"Bearer hf_of_this_test"}


def test_a_folder_comes_before_a_repository(hub, model, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  local = make_encoder(seed=1, step=9)
  local.save_pretrained("user/model")
  assert_same(Encoder.from_pretrained("user/model"), local)
  assert hub.asked() == []


REFUSED = (
  r"^{} is neither a folder nor a model that could be fetched from the "
  r"Hugging Face hub: {}$"
)


@pytest.mark.parametrize(
  ("source", "revision", "reason"),
  [
    ("user/none", None, "there is no such repository, .* hf auth login"),
    ("user/model", "v2", "there is no revision 'v2'"),
    ("runs/my/model", None, "that is no name of a repository"),
  ],
)
def test_what_the_hub_does_not_have(hub, model, source, revision, reason):
  with pytest.raises(BadInput, match=REFUSED.format(source, reason)):
    Encoder.from_pretrained(source, revision=revision)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_repository_that_holds_no_model(hub, model, tmp_path, name):
  (tmp_path / "model" / name).unlink()
  reason = f"there is no file {name} in it"
  with pytest.raises(BadInput, match=REFUSED.format("user/model", reason)):
    Encoder.from_pretrained("user/model")


def test_a_fetched_file_is_checked(hub, model, tmp_path):
  (tmp_path / "model" / "model.safetensors").write_bytes(b"not tensors")
  with pytest.raises(BadInput, match=r"model\.safetensors cannot be read as"):
    Encoder.from_pretrained("user/model")


def refused_at_once(source: str, reason: str) -> None:
  """The library would wait for 23 seconds, by trying five times more."""
  start = time.monotonic()
  with pytest.raises(BadInput, match=REFUSED.format(source, reason)):
    Encoder.from_pretrained(source)
  assert time.monotonic() - start < 10


def test_no_network(hub, model):
  hub.stop()
  refused_at_once("user/model", "ConnectError: .*refused.*")


def test_no_name_service(hub, model, monkeypatch):
  def getaddrinfo(*_, **__):
    raise socket.gaierror(-3, "Temporary failure in name resolution")

  monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
  refused_at_once("user/model", "ConnectError: .*name resolution.*")


def test_a_hub_that_fails(hub, model):
  hub.failing = 503
  refused_at_once("user/model", "HfHubHTTPError: .*503.*")
  hub.failing = 0
  assert_same(Encoder.from_pretrained("user/model"), model)
  hub.failing = 503  # then the cache will do
  assert_same(Encoder.from_pretrained("user/model"), model)


def test_offline_mode_uses_the_cache_alone(hub, model, monkeypatch):
  Encoder.from_pretrained("user/model")
  hub.asked()
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert_same(Encoder.from_pretrained("user/model"), model)
  refused_at_once("user/other", "OfflineModeIsEnabled: .*")
  assert hub.asked() == []


def test_half_a_model_in_the_cache_is_not_enough(hub, model, tmp_path):
  huggingface_hub.hf_hub_download("user/model", "config.json")
  hub.stop()
  refused_at_once("user/model", "ConnectError: .*")
