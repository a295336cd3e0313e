"""Finds a teacher's files, in a folder or on the hub; names what is missing."""

import json

import pytest
from clips import load_teacher, make_clip, write
from hub import COMMITS

from mrd_jax.errors import BadInput


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("config.json", r"/config\.json does not exist; a model is"),
    ("preprocessor_config.json", r"/preprocessor_config\.json does not exist"),
    ("vocab.json", r"/vocab\.json does not exist, and no tokenizer\.json"),
    ("merges.txt", r"/merges\.txt does not exist, and no tokenizer\.json"),
    ("model.safetensors", r"/model\.safetensors does not exist; a model is"),
  ],
)
def test_a_file_is_missing(tmp_path, name, message):
  folder = make_clip(tmp_path)
  (folder / name).unlink()
  with pytest.raises(BadInput, match=f"^{tmp_path}{message}"):
    load_teacher(folder)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("pytorch_model.bin", r"is a pickle.*name a revision.*save_pretrained"),
    ("pytorch_model-00001-of-00002.bin", "is a pickle"),
    ("open_clip_model.safetensors", "has open_clip's own names"),
  ],
)
def test_weights_of_another_kind(tmp_path, name, message):
  folder = make_clip(tmp_path)
  (folder / "model.safetensors").rename(folder / name)
  with pytest.raises(BadInput, match=rf"/model\.safetensors.*{message}"):
    load_teacher(folder)
  with pytest.raises(BadInput, match="is a file; name the folder"):
    load_teacher(folder / name)


def test_shards(tmp_path):
  folder = make_clip(tmp_path, shards=2)
  index = folder / "model.safetensors.index.json"
  (folder / "model-00002-of-00002.safetensors").unlink()
  with pytest.raises(BadInput, match=r"00002\.safetensors does not exist"):
    load_teacher(folder)
  for text in ("{}", "[", '{"weight_map": ["a"]}'):
    index.write_text(text)
    with pytest.raises(BadInput, match=r"index\.json is not an index"):
      load_teacher(folder)
  for name in ("../a.safetensors", "a.bin", 1):
    write(index, {"weight_map": {"a": name}})
    with pytest.raises(BadInput, match="no .safetensors file of this folder"):
      load_teacher(folder)


def test_a_tokenizer_of_another_model(tmp_path):
  with pytest.raises(BadInput, match="tokenizer has the token .* vocab_size 9"):
    load_teacher(make_clip(tmp_path / "a", text={"vocab_size": 9}))
  with pytest.raises(
    BadInput, match="ends a text with token .* eos_token_id 7"
  ):
    load_teacher(make_clip(tmp_path / "b", text={"eos_token_id": 7}))
  folder = make_clip(tmp_path / "c")
  (folder / "vocab.json").write_text("{")
  with pytest.raises(BadInput, match="its tokenizer cannot be read"):
    load_teacher(folder)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_code_of_a_model_is_never_run(tmp_path, file, monkeypatch):
  """Nor is anybody asked whether to."""
  monkeypatch.setattr("builtins.input", lambda *_: "y")
  folder = make_clip(tmp_path / "clip")
  trace = tmp_path / "executed"
  (folder / "payload.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
  said = json.loads((folder / file).read_text())
  if file == "config.json":
    said |= {"model_type": "other", "auto_map": {"AutoConfig": "payload.A"}}
  else:
    said |= {"tokenizer_class": "A"}
    said |= {"auto_map": {"AutoTokenizer": ["payload.A", "payload.A"]}}
  write(folder / file, said)
  with pytest.raises(BadInput) as error:
    load_teacher(folder)
  assert not trace.exists()
  assert "trust_remote_code" not in str(error.value)


@pytest.mark.parametrize("shards", [1, 2])
def test_from_the_hub(hub, tmp_path, clip_teacher, shards):
  folder = make_clip(tmp_path / "clip", shards=shards)
  hub.repositories["user/clip", COMMITS["main"]] = folder
  found = load_teacher("user/clip")
  digest = clip_teacher.name.partition(" ")[2]
  assert found.name == f"user/clip@{'a' * 12} {digest}"
  assert found.fingerprint == clip_teacher.fingerprint
  weights = [path for _, path in hub.asked() if path.endswith(".safetensors")]
  # All of one commit, though `main` may have moved meanwhile.
  assert weights and all("/resolve/" + "a" * 40 in path for path in weights)
  hub.asked_ranges()
  load_teacher("user/clip", revision="a" * 40)
  assert hub.asked_ranges() == []  # no file is fetched twice
  hub.stop()
  assert load_teacher("user/clip").name == found.name


def test_what_the_hub_does_not_have(hub, tmp_path):
  folder = make_clip(tmp_path / "clip")
  hub.repositories["user/clip", COMMITS["main"]] = folder
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  with pytest.raises(
    BadInput, match=r"^user/clip: model\.safetensors does not exist.*refs/pr"
  ):
    load_teacher("user/clip")
  assert not any(path.endswith(".bin") for _, path in hub.asked())
  (folder / "vocab.json").unlink()
  (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
  hub.repositories["user/new", COMMITS["main"]] = folder
  with pytest.raises(BadInput, match=r"/vocab\.json does not exist"):
    load_teacher("user/new")
  hub.stop()  # with half a model in the cache
  sentence = (
    r"^user/clip is neither a folder nor a CLIP model that could be fetched "
    r"from the Hugging Face hub: \w+: .*refused.*; model\.safetensors is not in "
    r"the cache either; where there is a network, fetch config\.json, "
    r"model\.safetensors .* and name that folder instead$"
  )
  with pytest.raises(BadInput, match=sentence):
    load_teacher("user/clip")
