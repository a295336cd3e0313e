"""Any CLIP's image tower serves the view systems, from every kind of file."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo_b_weights
from clips import VISION, load_teacher, make_clip, write
from safetensors.numpy import load_file, save_file

from mrd_jax import load_encoder
from mrd_jax.encoder import clip_files, published
from mrd_jax.encoder.encoder import fingerprint
from mrd_jax.errors import BadInput
from mrd_jax.models.resize import resize_bilinear
from mrd_jax.zoo import clip2point, openai_clip, pointclip, tensors
from mrd_jax.zoo.registry import identify

KEYS = json.loads((Path(__file__).parent / "keys/clip_keys.json").read_text())
CLOUD = zoo_b_weights.cloud("chair", 100)
# A tower that differs from OpenAI's in all that no tensor says: heads of 24.
OTHER = {
  "hidden_act": "gelu",
  "num_attention_heads": 2,
  "layer_norm_eps": 1e-2,
}


def unit(x):
  x = np.asarray(x, np.float64)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def error(found, expected):
  return abs(found - expected).max() / abs(expected).max()


def by_teacher(folder):
  """PointCLIP's embedding of `CLOUD`, by a teacher's own image tower."""
  towers = load_teacher(folder)._towers
  images = jax.jit(pointclip.depth_maps)(CLOUD)
  images = resize_bilinear(images, towers.model.size.image_size)
  views = jax.jit(towers.model.apply, static_argnames="method")(
    {"params": towers.params},
    jnp.repeat(images[:, None], 3, axis=1),
    method="image",
  )
  return unit(unit(views).sum(axis=0))


@pytest.mark.parametrize(("shards", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_a_folder_of_transformers(tmp_path, shards, dtype):
  folder = make_clip(tmp_path, vision=OTHER, shards=shards, dtype=dtype)
  encoder = load_encoder(folder)
  size = encoder.config.architecture
  assert encoder.config.system == "pointclip"
  assert (size.tower.vision.heads, size.tower.vision.epsilon) == (2, 1e-2)
  np.testing.assert_allclose(
    encoder.config.logit_scale, np.log(1 / 0.07), rtol=1e-2
  )
  found = encoder(CLOUD[None])[0]
  assert error(found, by_teacher(folder)) < 1e-5
  # Its own folder says all of it.
  encoder.save_pretrained(tmp_path / "again")
  again = load_encoder(tmp_path / "again")
  assert again.config == encoder.config
  assert fingerprint(again) == fingerprint(encoder)


def test_against_transformers_own(tmp_path):
  torch = pytest.importorskip("torch", reason="runs transformers' CLIPModel")
  from transformers import CLIPModel

  folder = make_clip(tmp_path, vision=OTHER)
  images = resize_bilinear(jax.jit(pointclip.depth_maps)(CLOUD), 32)
  pixels = torch.from_numpy(np.repeat(np.asarray(images)[:, None], 3, axis=1))
  model = CLIPModel.from_pretrained(folder).eval()
  with torch.no_grad():
    hidden = model.vision_model(pixel_values=pixels).pooler_output
    views = unit(model.visual_projection(hidden).numpy())
  found = load_encoder(folder)(CLOUD[None])[0]
  assert error(found, unit(views.sum(axis=0))) < 1e-5


def test_a_file_of_transformers(tmp_path):
  file = make_clip(tmp_path) / "model.safetensors"
  assert fingerprint(load_encoder(file)) == fingerprint(load_encoder(tmp_path))
  encoder = load_encoder(file, version=2)
  assert encoder.config.architecture.version == 2
  (tmp_path / "config.json").unlink()
  with pytest.raises(BadInput, match=r"put the config\.json that was"):
    load_encoder(file)


def open_clip(folder, **model):
  """Writes a CLIP of transformers' as open_clip would."""
  tower = clip_files.read(folder, folder / "config.json")
  whole = load_file(folder / "model.safetensors")
  text = {"token_embedding.weight": np.ones((9, 32), np.float32)}
  text |= {"logit_scale": whole["logit_scale"]}
  save_file(tower.state | text, folder / "open_clip_model.safetensors")
  vision = {
    "image_size": 32,
    "layers": 2,
    "width": 48,
    "head_width": 24,
    "mlp_ratio": 64 / 48 + 1e-4,
    "patch_size": 8,
  }
  config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {}} | model
  write(folder / "open_clip_config.json", {"model_cfg": config})


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_open_clips(tmp_path, activation):
  vision = {"hidden_act": activation, "num_attention_heads": 2}
  folder = make_clip(tmp_path, vision=vision)
  expected = load_encoder(folder)
  quick = {"quick_gelu": True} if activation == "quick_gelu" else {}
  open_clip(folder, **quick)
  for path in (folder, folder / "open_clip_model.safetensors"):
    found = load_encoder(path)
    assert fingerprint(found) == fingerprint(expected)
    assert found.config.architecture == expected.config.architecture
    assert found.config.logit_scale == expected.config.logit_scale
  (folder / "open_clip_config.json").unlink()
  assert load_encoder(folder).config == expected.config


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"vision_cfg": {"timm_model_name": "a"}}, "timm_model_name, which is not"),
    ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "no ResNet's"),
    ({"vision_cfg": {"layers": 2}}, "is no model_cfg of a CLIP .KeyError"),
    ({"vision_cfg": None}, "is no model_cfg of a CLIP"),
    ({"embed_dim": 24.0}, "must be whole numbers above 0"),
    ({"embed_dim": 25}, "visual.proj has shape"),
  ],
)
def test_configs_of_open_clip_that_do_not_fit(tmp_path, change, message):
  open_clip(make_clip(tmp_path), **change)
  with pytest.raises(BadInput, match=message) as raised:
    load_encoder(tmp_path)
  assert str(tmp_path) in str(raised.value)


def test_a_resnet_of_open_clip(tmp_path):
  shapes = KEYS["small_rn"]
  state = {
    key: np.asarray(zoo_b_weights.weight(f"small_rn.{key}", shape))
    for key, shape in shapes.items()
  }
  save_file(state, tmp_path / "open_clip_model.safetensors")
  vision = {"image_size": 224, "layers": [1, 2, 1, 1], "width": 16}
  model = {"embed_dim": 64, "vision_cfg": vision | {"patch_size": None}}
  write(tmp_path / "open_clip_config.json", {"model_cfg": model})
  config, _ = published.read(tmp_path)
  assert config.architecture == pointclip.infer(state)


@pytest.mark.slow
def test_clip2point_takes_a_clip(tmp_path):
  """It has OpenAI's names and 224 pixels; one of a teacher's serves."""
  sizes = {"image_size": 224, "patch_size": 32}
  folder = make_clip(tmp_path, vision=VISION | OTHER | sizes)
  tower = clip_files.read(folder, clip_files.find(folder))
  assert identify(tower.state, "a CLIP")[0] == "pointclip"
  size = clip2point.infer(tower.state)
  size = dataclasses.replace(size, tower=tower.size)
  model = clip2point.make(size)
  variables = tensors.to_variables(
    clip2point.table(size),
    model,
    tower.state | {"ln_final.weight": np.ones(3)},
    "a CLIP",
    unused=clip2point.is_unused,
  )
  points = np.concatenate([CLOUD, CLOUD], axis=1)[None]
  found = jax.jit(model.apply)(variables, points, np.array([100]))
  towers = load_teacher(folder)._towers
  views = jax.jit(towers.model.apply, static_argnames="method")(
    {"params": towers.params},
    clip2point._to_pixels(clip2point.depth_maps(CLOUD, 6)),
    method="image",
  )
  assert error(np.asarray(found[0]), unit(views).sum(axis=0)) < 1e-5
  with pytest.warns(UserWarning, match="loaded as clip2point, but it is not"):
    encoder = load_encoder("clip2point", weights=folder)
  assert encoder.config.architecture == dataclasses.replace(
    size, views=encoder.config.architecture.views
  )
  # A tower of other images is not CLIP2Point's.
  small = clip_files.read(make_clip(tmp_path / "b"), tmp_path / "b/config.json")
  assert clip2point.infer(small.state) is None


# OpenAI's own files are TorchScript archives.


def from_keys(torch, state):
  """A module with a module for each dot of the names, and no program."""
  root = torch.nn.Module()
  for key, value in state.items():
    *parents, name = key.split(".")
    module = root
    for parent in parents:
      if not hasattr(module, parent):
        module.add_module(parent, torch.nn.Module())
      module = getattr(module, parent)
    module.register_buffer(name, torch.from_numpy(np.array(value)))
  return root


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's of them
@pytest.mark.parametrize("name", ["small_rn", "small_vit"])
def test_an_archive_of_openais(tmp_path, name):
  torch = pytest.importorskip("torch", reason="writes a TorchScript archive")
  state = {
    key: zoo_b_weights.weight(f"{name}.{key}", shape)
    for key, shape in KEYS[name].items()
  }
  sizes = {"input_resolution": 224, "context_length": 77, "vocab_size": 64}
  module = from_keys(torch, state | sizes).half()
  torch.jit.save(torch.jit.script(module), tmp_path / "RN50.pt")
  found, scale = published.read_state(tmp_path / "RN50.pt")
  assert found.keys() == state.keys() | sizes.keys()
  assert scale == np.float16(state["logit_scale"])
  config, variables = published.read(tmp_path / "RN50.pt")
  assert config.system == "pointclip"
  rows = openai_clip.image_table(config.architecture.tower, path="views/")
  back = tensors.to_state(rows, variables)
  for key, value in back.items():
    expected = np.asarray(state[key]).astype("f2").astype("f4")
    np.testing.assert_array_equal(value, expected, err_msg=key)
