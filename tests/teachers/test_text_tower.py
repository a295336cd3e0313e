"""Text towers of files without Hugging Face's names, against PyTorch."""

import json
import math
import re

import clips
import ml_dtypes
import numpy as np
import pytest
from hub import COMMITS
from safetensors.numpy import save_file
from text_towers import CONTEXT, DEPTH, DIM, WIDTH, state

from mrd_jax.errors import BadInput
from mrd_jax.teachers.prompts import class_features
from mrd_jax.teachers.text_tower import TextTower

TEXTS = [
  "a photo of the red chair",
  "table",
  "y " * 25,
  "x" * 90,  # longer than the context
  "the shape",
]


@pytest.fixture
def folder(tmp_path):
  """A folder that holds a tokenizer."""
  clips.make_tokenizer(tmp_path, clips.TEXT)
  return tmp_path


def write(folder, tensors=None, prefix="", name="clip.safetensors"):
  """Writes a tower, its names after a prefix."""
  tensors = state() if tensors is None else tensors
  path = folder / name
  others = "logit_scale", "visual.proj"
  save_file(
    {k if k in others else prefix + k: v for k, v in tensors.items()}, path
  )
  return path


def load(path, **options):
  return TextTower.from_file(path, **{"batch_size": 1} | options)


def expected(tensors, folder, gelu=False):
  """The equations of the paper in float64: raw features of `TEXTS`."""
  torch = pytest.importorskip("torch")
  from transformers import CLIPTokenizer

  get = {k: torch.tensor(v.astype(np.float64)) for k, v in tensors.items()}

  def norm(x, key):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * get[f"{key}.weight"] + get[f"{key}.bias"]

  def linear(x, key, dash="."):
    return x @ get[f"{key}{dash}weight"].T + get[f"{key}{dash}bias"]

  rows = []
  tokenizer = CLIPTokenizer.from_pretrained(folder)
  encoded = tokenizer(TEXTS, truncation=True, max_length=CONTEXT)
  for ids in encoded.input_ids:  # one at a time, without padding
    x = get["token_embedding.weight"][ids]
    x = x + get["positional_embedding"][: len(ids)]
    later = torch.ones(len(ids), len(ids)).triu(1).bool()
    for i in range(DEPTH):
      block = f"transformer.resblocks.{i}"
      y = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.in_proj", "_")
      heads = []
      for head in range(WIDTH // 64):
        q, k, v = (
          part[:, 64 * head : 64 * head + 64] for part in y.split(WIDTH, -1)
        )
        scores = (q @ k.T / 8).masked_fill(later, -math.inf)
        heads.append(scores.softmax(-1) @ v)
      x = x + linear(torch.cat(heads, -1), f"{block}.attn.out_proj")
      y = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
      if gelu:
        y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
      else:
        y = y * torch.sigmoid(1.702 * y)
      x = x + linear(y, f"{block}.mlp.c_proj")
    rows.append(norm(x[-1], "ln_final") @ get["text_projection"])
  return torch.stack(rows).numpy()


def error(found, expected):
  assert found.shape == expected.shape and found.dtype == np.float32
  return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("layout", ["openai", "slip", "ulip", "open_clip"])
def test_against_pytorch(folder, layout):
  torch = pytest.importorskip("torch")
  if layout == "openai":
    path = write(folder)
  elif layout == "open_clip":
    write(folder, prefix="text.", name="open_clip_model.safetensors")
    path = folder
  else:
    weights = {f"module.{k}": torch.tensor(v) for k, v in state().items()}
    if layout == "ulip":
      weights["module.point_encoder.cls_pos"] = torch.ones(1, 1, 8)
    path = folder / "checkpoint.pt"
    torch.save({"state_dict": weights, "epoch": 3, "best_acc1": 0.5}, path)
  tower = load(path)
  raw = expected(state(), folder, gelu=layout == "open_clip")
  assert error(tower.text_features(TEXTS, unit=False), raw) < 1e-5
  unit = raw[:1] / np.linalg.norm(raw[:1])
  assert error(tower.text_features(TEXTS[:1]), unit) < 1e-5
  assert tower.throughput.texts == 6 and tower.throughput.truncated == 1
  assert re.fullmatch(
    re.escape(path.name) + r" \(sha256 [0-9a-f]{12}\)", tower.name
  )
  assert (tower.embed_dim, tower.dtype) == (DIM, "float32")


def test_a_teacher_has_raw_features_too(clip_teacher):
  raw = clip_teacher.text_features(TEXTS[:2], unit=False)
  length = np.linalg.norm(raw, axis=1, keepdims=True)
  assert abs(length - 1).min() > 0.1
  assert error(clip_teacher.text_features(TEXTS[:2]), raw / length) < 1e-6


def test_the_config_says_the_activation(folder):
  pytest.importorskip("torch")
  path = write(folder)
  config = folder / "open_clip_config.json"
  for quick in (True, False):
    model = {"text_cfg": {"heads": 2}} | ({"quick_gelu": True} if quick else {})
    clips.write(config, {"model_cfg": model})
    raw = expected(state(), folder, gelu=not quick)
    assert error(load(path).text_features(TEXTS, unit=False), raw) < 1e-5
  for field, value in (
    ("heads", 4),
    ("pool_type", "last"),
    ("no_causal_mask", True),
  ):
    clips.write(config, {"model_cfg": {"text_cfg": {field: value}}})
    with pytest.raises(BadInput, match=rf"config\.json: {field} of text_cfg"):
      load(path)
  for content in ({}, {"model_cfg": 3}, {"model_cfg": {"text_cfg": []}}):
    clips.write(config, content)
    with pytest.raises(BadInput, match=r"config\.json has no text_cfg"):
      load(path)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_widened(folder, kind):
  half = np.dtype(getattr(ml_dtypes, kind, kind))
  halves = {key: value.astype(half) for key, value in state().items()}
  whole = {key: value.astype(np.float32) for key, value in halves.items()}
  one = load(write(folder, halves, name="half.safetensors"))
  other = load(write(folder, whole))
  found = one.text_features(TEXTS, unit=False)
  np.testing.assert_array_equal(found, other.text_features(TEXTS, unit=False))
  assert one.fingerprint == other.fingerprint
  if kind == "float16":
    rough = load(folder / "half.safetensors", dtype="bfloat16")
    rough_found = rough.text_features(TEXTS[:2], unit=False)
    assert 1e-4 < error(rough_found, found[:2]) < 0.1


def test_the_fingerprint_is_of_all_that_decides(folder):
  path = write(folder)
  found = {load(path).fingerprint}
  assert load(write(folder, name="renamed.safetensors")).fingerprint in found
  image = state() | {"visual.proj": np.zeros((8, DIM), np.float32)}
  assert load(write(folder, image)).fingerprint in found
  bias = state()["ln_final.bias"] + 1
  found.add(load(write(folder, state() | {"ln_final.bias": bias})).fingerprint)
  write(folder)
  config = folder / "open_clip_config.json"
  clips.write(config, {"model_cfg": {"text_cfg": {}}})
  found.add(load(path).fingerprint)
  config.unlink()
  vocabulary = json.loads((folder / "vocab.json").read_text())
  turned = {"q": vocabulary["z"], "z": vocabulary["q"]}
  clips.write(folder / "vocab.json", vocabulary | turned)
  found.add(load(path).fingerprint)
  assert len(found) == 4


def test_the_tokenizer_is_elsewhere(folder, hub):
  path = folder / "weights"
  path.mkdir()
  path = write(path)
  named = load(path, tokenizer=folder)
  openai = "openai/clip-vit-base-patch32"
  sentence = (
    f"^{openai} is neither a folder nor a tokenizer that could be fetched .*"
  )
  with pytest.raises(BadInput, match=sentence):
    load(path)
  served = folder / "served"
  served.mkdir()
  clips.make_tokenizer(served, clips.TEXT)
  clips.write(served / "config.json", {"model_type": "clip"})
  (served / "model.safetensors").write_bytes(b"large")
  for name in (openai, "user/tokenizer"):
    hub.repositories[name, COMMITS["main"]] = served
  assert load(path).fingerprint == named.fingerprint
  found = load(path, tokenizer="user/tokenizer")
  assert found.fingerprint == named.fingerprint
  assert not any(name.endswith("tensors") for _, name in hub.asked())
  hub.stop()
  assert load(path).fingerprint == named.fingerprint
  with pytest.raises(BadInput, match="user/other is neither.* --tokenizer$"):
    load(path, tokenizer="user/other")
  with pytest.raises(BadInput, match="holds no tokenizer; .* --tokenizer$"):
    load(path, tokenizer=path.parent)


def test_a_tokenizer_of_another_model(folder):
  short = state()["token_embedding.weight"][:400]
  with pytest.raises(BadInput, match="has the token 538, the shapes of .* 400"):
    load(write(folder, state() | {"token_embedding.weight": short}))
  more = np.zeros((600, WIDTH), np.float32)
  with pytest.raises(BadInput, match="ends a text with token 538, .* 599"):
    load(write(folder, state() | {"token_embedding.weight": more}))


def test_files_that_cannot_be_used(folder, tmp_path):
  torch = pytest.importorskip("torch")
  without = state().copy()
  del without["transformer.resblocks.1.ln_2.bias"]
  block = "transformer.resblocks.0"
  for tensors, message in (
    (without, "lacks transformer.resblocks.1.ln_2.bias$"),
    (
      state() | {f"{block}.ls_1.gamma": np.ones(WIDTH, np.float32)},
      f"also holds {block}.ls_1.gamma$",
    ),
    (
      state() | {"ln_final.bias": np.zeros(3, np.float32)},
      r"ln_final.bias has shape \(3,\), must be \(128,\)",
    ),
    (
      state() | {"ln_final.bias": np.full(WIDTH, np.nan, np.float32)},
      "ln_final.bias holds NaN",
    ),
    (
      state() | {"ln_final.bias": np.zeros(WIDTH, np.int8)},
      "ln_final.bias is not of float64, .* not quantised$",
    ),
    (
      {"a": np.zeros(2), "b": np.zeros(2), "visual.proj": np.zeros(2)},
      "holds no text tower of CLIP; it holds a, b, visual.proj$",
    ),
  ):
    with pytest.raises(BadInput, match=rf"clip\.safetensors:? {message}"):
      load(write(folder, tensors))
  with pytest.raises(BadInput, match="also holds text.cls_emb$"):
    load(write(folder, state() | {"cls_emb": np.zeros((1, WIDTH))}, "text."))
  tensors = {k: torch.tensor(v) for k, v in without.items()}
  torch.save(tensors, folder / "a.pt")
  with pytest.raises(BadInput, match=r"a\.pt lacks transformer"):
    load(folder / "a.pt")
  for name, message in (
    ("none.safetensors", r"none\.safetensors cannot be read"),
    ("none.pt", r"none\.pt cannot be read"),
    (".", r"open_clip_model\.safetensors does not exist"),
  ):
    with pytest.raises(BadInput, match=message):
      load(folder / name)


def test_sums_of_raw_features(folder, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
  tower = load(write(folder))
  names, templates = ["red chair", "table"], ["{}.", "a photo of {}"]
  found = class_features(tower, names, templates, pooling="sum")
  raw = tower.text_features(
    [t.format(name) for name in names for t in templates], unit=False
  )
  np.testing.assert_allclose(
    found, raw.reshape(2, 2, -1).sum(1), rtol=1e-5, atol=1e-5
  )
  for _ in range(2):  # the second is the cache's
    mean = class_features(tower, names, templates)
    np.testing.assert_allclose(np.linalg.norm(mean, axis=1), 1, atol=1e-6)
    again = class_features(tower, names, templates, pooling="sum")
    np.testing.assert_array_equal(again, found)
  with pytest.raises(BadInput, match="pooling is 'max', must be"):
    class_features(tower, names, templates, pooling="max")


def test_a_sentence_for_each_class(folder, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
  tower = load(write(folder))
  names, sentences = ["chair", "table"], ["the red {} shape", "of the table"]
  found = class_features(tower, names, (), sentences=sentences)
  assert error(found, tower.text_features(sentences)) < 1e-6
  other = class_features(tower, names, (), sentences=sentences[::-1])
  np.testing.assert_allclose(other, found[::-1], atol=1e-6)
  raw = class_features(tower, names, (), sentences=sentences, pooling="sum")
  assert error(raw, tower.text_features(sentences, unit=False)) < 1e-6
  for given, templates, message in (
    (["one"], (), "sentences is 1 for 2 classes; give one for each"),
    ("ab", (), "sentences is one text for 2 classes"),
    (sentences, ["{}"], "sentences and templates are given"),
  ):
    with pytest.raises(BadInput, match=message):
      class_features(tower, names, templates, sentences=given)
