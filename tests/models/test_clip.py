"""CLIP's towers against PyTorch's, and the reading of its files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clips import make_clip, write
from safetensors.numpy import load_file, save_file

from benchmarks.teacher import SIZES
from mrd_jax.errors import BadInput
from mrd_jax.models.clip import CLIP
from mrd_jax.teachers import files
from mrd_jax.teachers.weights import load_params, read_size


def load(folder, dtype="float32"):
  """Module, parameters on one device, and their hash."""
  size, weights = read_size(folder / "config.json"), files.find_weights(folder)
  model = CLIP(size, jnp.dtype(dtype))
  return model, *load_params(weights, size, model.dtype, jnp.asarray)


def inputs(size):
  """Pixels, and texts whose end is in the middle, padded right and left."""
  rng = np.random.default_rng(0)
  side, length = size.image_size, size.context
  pixels = rng.normal(size=(3, 3, side, side)).astype(np.float32)
  end = size.vocabulary - 1 if size.eos_token_id is None else size.eos_token_id
  ids = rng.integers(0, size.vocabulary, (3, length))
  ids[ids == end] = 0
  mask = np.ones_like(ids)
  ids[0, 4:], mask[0, 5:] = end, 0  # the first of them counts
  ids[1, -1], mask[1, :3] = end, 0
  ids[2, 6] = end
  return pixels, ids.astype(np.int32), mask.astype(np.int32)


def ours(folder, dtype="float32"):
  model, params, _ = load(folder, dtype)
  pixels, ids, mask = inputs(model.size)
  run = jax.jit(model.apply, static_argnames="method")
  image = run({"params": params}, pixels, method="image")
  text = run({"params": params}, ids, mask, method="text")
  assert image.dtype == text.dtype == jnp.float32
  return np.asarray(image), np.asarray(text)


def theirs(folder):
  torch = pytest.importorskip("torch")
  from transformers import CLIPModel

  model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
  arrays = inputs(read_size(folder / "config.json"))
  pixels, ids, mask = map(torch.from_numpy, arrays)
  with torch.no_grad():
    image = model.get_image_features(pixels)
    text = model.get_text_features(ids, attention_mask=mask)
  return image.pooler_output.numpy(), text.pooler_output.numpy()


def relative(found, expected):
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


SHAPES = {
  "quick_gelu, legacy end": {"text": {"eos_token_id": 2}},
  "gelu, heads of 20 and 10": {
    "text": {
      "hidden_act": "gelu",
      "hidden_size": 60,
      "num_attention_heads": 3,
      "layer_norm_eps": 1e-3,
      "vocab_size": 600,  # ids above that of the end
    },
    "vision": {
      "hidden_act": "gelu",
      "hidden_size": 40,
      "num_attention_heads": 4,
      "num_hidden_layers": 3,
      "image_size": 30,  # does not divide into patches
      "layer_norm_eps": 1e-2,
    },
    "embed_dim": 7,
  },
  "other activations": {
    "text": {"hidden_act": "gelu_new", "vocab_size": 600, "eos_token_id": 2},
    "vision": {"hidden_act": "silu", "image_size": 8},
  },
  "heads of 104": {"vision": {"hidden_size": 208, "num_attention_heads": 2}},
  "bigG, two layers": {
    "text": {
      "hidden_size": 1280,
      "intermediate_size": 5120,
      "num_attention_heads": 20,
      "hidden_act": "gelu",
    },
    "vision": {
      "hidden_size": 1664,
      "intermediate_size": 8192,
      "num_attention_heads": 16,
      "image_size": 224,
      "patch_size": 14,
      "hidden_act": "gelu",
    },
    "embed_dim": 1280,
  },
}


@pytest.mark.parametrize(
  "shape",
  [
    *list(SHAPES)[:-1],
    pytest.param(list(SHAPES)[-1], marks=[pytest.mark.slow, pytest.mark.long]),
  ],
)
def test_equals_pytorch(tmp_path, shape):
  folder = make_clip(tmp_path, **SHAPES[shape])
  for found, expected in zip(ours(folder), theirs(folder), strict=True):
    assert relative(found, expected) < 1e-5
    # The rows differ, so that equality says something.
    assert relative(found[0], found[1]) > 0.1
  (tmp_path / "model.safetensors").unlink()  # bigG's is of half a gigabyte


def test_bfloat16_is_near(tmp_path):
  folder = make_clip(tmp_path, vision={"num_hidden_layers": 8})
  for rough, exact in zip(ours(folder, "bfloat16"), ours(folder), strict=True):
    norms = np.linalg.norm(rough, axis=1) * np.linalg.norm(exact, axis=1)
    assert ((rough * exact).sum(axis=1) / norms).min() > 0.9999
    assert 1e-5 < relative(rough, exact) < 0.02
  _, params, _ = load(folder, "bfloat16")
  kinds = {
    path[-1].key: leaf.dtype
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  assert kinds["weight"] == kinds["token_embedding"] == jnp.bfloat16
  assert kinds["bias"] == kinds["scale"] == kinds["class_embedding"]
  assert kinds["bias"] == jnp.float32


def test_published_sizes():
  counts = {}
  for name, size in SIZES.items():
    shapes = jax.eval_shape(CLIP(size).init, jax.random.key(0), *inputs(size))
    counts[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert counts == {
    "b32": 151_277_313,
    "b16": 149_620_737,
    "l14": 427_616_513,
    "bigg": 2_539_567_105,
  }


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_types_and_shards(tmp_path, dtype):
  one = load(make_clip(tmp_path / "one", dtype=dtype))
  many = load(make_clip(tmp_path / "many", dtype=dtype, shards=3))
  other = load(make_clip(tmp_path / "other", dtype=dtype, seed=1))
  assert len(files.find_weights(tmp_path / "many")) == 3
  same(one[1], many[1])
  assert one[2] == many[2] != other[2]
  exact = load(make_clip(tmp_path / "exact"))
  found, weight = (
    x[1]["vision"]["layers"]["fc1"]["weight"] for x in (one, exact)
  )
  rounded = weight.astype(dtype).astype(jnp.float32)
  np.testing.assert_array_equal(found, rounded)
  assert (exact[2] == one[2]) == (dtype == "float32")


def test_reads_what_pytorch_saves(tmp_path):
  pytest.importorskip("torch")
  from transformers import CLIPModel

  folder = make_clip(tmp_path / "a")
  model = CLIPModel.from_pretrained(folder)
  model.save_pretrained(tmp_path / "b", max_shard_size="100KB")
  assert len(files.find_weights(tmp_path / "b")) > 1
  a, b = load(folder), load(tmp_path / "b")
  assert a[0] == b[0] and a[2] == b[2]
  same(a[1], b[1])


def test_old_configs(tmp_path):
  folder = make_clip(tmp_path)
  config = json.loads((folder / "config.json").read_text())
  size = read_size(folder / "config.json")
  assert size.eos_token_id == size.vocabulary - 1
  # What OpenAI's L/14 has: a second dict that wins, with its defaults.
  config["text_config_dict"] = {"hidden_size": 64, "num_attention_heads": 4}
  config["vision_config_dict"] = None
  write(folder / "config.json", config)
  old = read_size(folder / "config.json")
  assert (old.text.width, old.text.heads, old.context) == (64, 4, 77)
  assert (old.vocabulary, old.eos_token_id) == (49408, 49407)
  assert old.vision == size.vision


def test_position_ids_are_ignored(tmp_path):
  folder = make_clip(tmp_path)
  expected = load(folder)
  tensors = load_file(folder / "model.safetensors")
  for tower in ("text_model", "vision_model"):
    tensors[f"{tower}.embeddings.position_ids"] = np.arange(9)[None]
  save_file(tensors, folder / "model.safetensors")
  found = load(folder)
  assert found[2] == expected[2]
  same(found[1], expected[1])


FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x: {}, f"the tensor {FC1} is missing"),
    (
      lambda x: {FC1: x.T.copy()},
      rf"{FC1} has shape \(48, 64\), .* says \(64,",
    ),
    (
      lambda x: {FC1: x * np.nan},
      f"the tensor {FC1} holds NaN or infinite val",
    ),
    (
      lambda x: {FC1: x.astype(np.int8)},
      f"{FC1} is of type I8, must be one of",
    ),
    (
      lambda x: {FC1: x, "vision_model.extra": x},
      "the tensor vision_model.extra is not one of",
    ),
  ],
)
def test_refuses_other_tensors(tmp_path, change, message):
  folder = make_clip(tmp_path, shards=2)
  path = holder(folder)
  tensors = load_file(path)
  tensors |= change(tensors.pop(FC1))
  save_file(tensors, path)
  with pytest.raises(BadInput, match=rf"{path.name}.*: {message}"):
    load(folder)


def holder(folder):
  """The file that FC1 is in."""
  return next(p for p in files.find_weights(folder) if FC1 in load_file(p))


def test_refuses_damaged_files(tmp_path):
  folder = make_clip(tmp_path)
  path = folder / "model.safetensors"
  whole = path.read_bytes()
  for damaged in (b"", b"nothing of this", whole[:-4], whole + b"more"):
    path.write_bytes(damaged)
    with pytest.raises(BadInput, match=r"model\.safetensors cannot be read as"):
      load(folder)


def test_refuses_a_tensor_that_comes_twice(tmp_path):
  folder = make_clip(tmp_path, shards=2)
  first = holder(folder)
  (second,) = set(files.find_weights(folder)) - {first}
  save_file(load_file(second) | {FC1: load_file(first)[FC1]}, second)
  with pytest.raises(BadInput, match=f"{FC1} is in .*, too"):
    load(folder)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "siglip"}, "model_type is 'siglip', must be 'clip'"),
    ({"projection_dim": 0}, "projection_dim is 0"),
    ({"projection_dim": "many"}, "projection_dim"),
    ({"text_config": {"hidden_act": "mish"}}, "hidden_act is 'mish', must be"),
    ({"text_config": {"eos_token_id": [1, 2]}}, r"eos_token_id is \[1, 2\]"),
    ({"text_config": {"num_hidden_layers": -1}}, "num_hidden_layers is -1"),
    ({"vision_config": {"num_channels": 4}}, "num_channels is 4, must be 3"),
    ({"vision_config": {"num_attention_heads": 5}}, "heads"),
    ({"vision_config": {"patch_size": 300}}, "patch_size is above image_size"),
    ({"vision_config": {"image_size": [32, 32]}}, "image_size is"),
  ],
)
def test_refuses_other_configs(tmp_path, change, message):
  folder = make_clip(tmp_path)
  path = folder / "config.json"
  config = json.loads(path.read_text())
  for key, value in change.items():
    config[key] = config[key] | value if isinstance(value, dict) else value
  write(path, config)
  with pytest.raises(BadInput, match=rf"config\.json: .*{message}"):
    read_size(path)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_refuses_a_config_that_is_none(tmp_path, text):
  path = tmp_path / "config.json"
  path.write_text(text, encoding="latin1")
  problem = r"config\.json: (is not JSON|model_type is None)"
  with pytest.raises(BadInput, match=problem):
    read_size(path)
