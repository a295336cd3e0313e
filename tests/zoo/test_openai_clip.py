"""OpenAI's names of CLIP: tables, sizes, and both towers' numbers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo_b_weights import weight

from mrd_jax.models.clip import CLIPText
from mrd_jax.models.clip_resnet import ResNetSize
from mrd_jax.models.view_system import ViewEncoder
from mrd_jax.zoo import openai_clip, tensors

HERE = Path(__file__).parent
KEYS = json.loads((HERE / "keys/clip_keys.json").read_text())
CASE = np.load(HERE / "cases/clip_resnet_small.npz")


def small(name):
  """The state dict of a small CLIP of the cases."""
  return {
    key: weight(f"{name}.{key}", shape) for key, shape in KEYS[name].items()
  }


def embed(tower, state, pixels):
  """The unit embedding of each of (B, 3, S, S) images."""
  variables = tensors.to_tree(openai_clip.image_table(tower), state)
  embed = jax.jit(ViewEncoder(tower).apply)
  return embed(variables, pixels[:, None], jnp.ones(1))


def error(found, expected):
  return abs(np.asarray(found) - expected).max() / abs(expected).max()


@pytest.mark.parametrize(
  ("name", "parameters"),
  [
    ("RN50", 38_316_896),
    ("RN101", 56_259_936),
    ("ViT-B/32", 87_849_216),
    ("ViT-B/16", 86_192_640),
    ("small_rn", None),
    ("small_vit", None),
  ],
)
def test_tables_are_the_published_keys(name, parameters):
  shapes = {key: tuple(shape) for key, shape in KEYS[name].items()}
  state = {
    key: jax.ShapeDtypeStruct(shape, jnp.float32)
    for key, shape in shapes.items()
  }
  tower, text = openai_clip.image_size(state), openai_clip.text_size(state)
  table = openai_clip.image_table(tower)
  side = tower.image_size
  variables = jax.eval_shape(
    ViewEncoder(tower).init,
    jax.random.key(0),
    jnp.zeros((1, 1, 3, side, side)),
    jnp.ones(1),
  )
  ids = jnp.zeros((1, 2), int)
  text_variables = jax.eval_shape(
    CLIPText(text).init, jax.random.key(0), ids, ids
  )
  found = {}
  for rows, tree in (
    (table, variables),
    (openai_clip.text_table(text), text_variables),
  ):
    zeros = jax.tree.map(
      lambda x: np.broadcast_to(np.float32(0), x.shape), tree
    )
    for row in rows:
      found |= {
        key: value.shape
        for key, value in tensors.to_state([row], zeros).items()
      }
  unnamed = [key for key in shapes if key.endswith("num_batches_tracked")]
  assert found.keys() == shapes.keys() - {"logit_scale", *unnamed}
  assert all(shapes[key] == shape for key, shape in found.items())
  if parameters:
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    assert count == parameters


@pytest.mark.parametrize("name", ["small_rn", "small_vit"])
def test_round_trip_is_bitwise(name):
  state = small(name)
  rows = openai_clip.image_table(openai_clip.image_size(state))
  rows += openai_clip.text_table(openai_clip.text_size(state))
  back = tensors.to_state(rows, tensors.to_tree(rows, state))
  assert len(back) == len(rows)
  for key, value in back.items():
    np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_texts_of_a_file_with_a_resnet():
  state = small("small_rn")
  size = openai_clip.text_size(state)
  variables = tensors.to_tree(openai_clip.text_table(size), state)
  ids = CASE["ids"].astype(np.int32)
  found = jax.jit(CLIPText(size).apply)(variables, ids, np.ones_like(ids))
  assert error(found, CASE["small_rn_text"]) < 1e-5


def test_slips_text_tower_has_the_same_names():
  shapes = {key: tuple(shape) for key, shape in KEYS["slip_text"].items()}
  state = {
    f"module.{key}": np.broadcast_to(np.float32(0), shape)
    for key, shape in shapes.items()
  }
  size = openai_clip.text_size(state, "module.")
  assert (size.embed_dim, size.text.depth, size.text.heads) == (512, 12, 8)
  keys = {row.key for row in openai_clip.text_table(size, "module.")}
  left = {"module.image_projection", "module.logit_scale"}
  assert keys == state.keys() - left


def test_transformer_against_pytorch():
  torch = pytest.importorskip("torch")
  state = small("small_vit")
  tower = openai_clip.image_size(state)
  pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224))
  pixels = pixels.astype(np.float32)

  def get(key):
    return torch.from_numpy(state[f"visual.{key}"])

  def norm(x, key):
    width = (x.shape[-1],)
    weight, bias = get(f"{key}.weight"), get(f"{key}.bias")
    return torch.nn.functional.layer_norm(x, width, weight, bias)

  def linear(x, key):
    return x @ get(f"{key}.weight").T + get(f"{key}.bias")

  x = torch.nn.functional.conv2d(
    torch.from_numpy(pixels), get("conv1.weight"), stride=32
  )
  cls = get("class_embedding").expand(2, 1, -1)
  x = torch.cat([cls, x.flatten(2).transpose(1, 2)], 1)
  x = norm(x + get("positional_embedding"), "ln_pre")
  for i in range(tower.vision.depth):
    block = f"transformer.resblocks.{i}"
    attention = torch.nn.MultiheadAttention(128, 2, batch_first=True)
    attention.load_state_dict(
      {key: get(f"{block}.attn.{key}") for key in attention.state_dict()}
    )
    y = norm(x, f"{block}.ln_1")
    x = x + attention(y, y, y)[0]
    y = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
    x = x + linear(y * torch.sigmoid(1.702 * y), f"{block}.mlp.c_proj")
  x = norm(x[:, 0], "ln_post") @ get("proj")
  expected = (x / x.norm(dim=-1, keepdim=True)).detach().numpy()
  assert error(embed(tower, state, pixels), expected) < 1e-5


def test_resnet_of_other_depths_and_image_sizes():
  state = small("small_rn")
  tower = openai_clip.image_size(state)
  assert tower == ResNetSize(64, 16, (1, 2, 1, 1), 224)
  fewer = {key: value for key, value in state.items() if "layer2.1" not in key}
  fewer["visual.attnpool.positional_embedding"] = state[
    "visual.attnpool.positional_embedding"
  ][:17]
  tower = openai_clip.image_size(fewer)
  assert tower == ResNetSize(64, 16, (1, 1, 1, 1), 128)
  assert embed(tower, fewer, np.zeros((1, 3, 128, 128))).shape == (1, 64)


@pytest.mark.parametrize("name", ["small_rn", "small_vit"])
def test_what_is_no_clip_has_no_size(name):
  state = small(name)
  assert openai_clip.image_size({}) is None
  assert openai_clip.text_size({}) is None
  for key in list(state):
    if key.startswith("visual.") and key.endswith(
      ("positional_embedding", "conv1.weight", "proj", "c_proj.weight")
    ):
      for bad in (np.float32(0), np.zeros((0, 0)), np.zeros((1, 64))):
        openai_clip.image_size(state | {key: bad})  # whatever it says
