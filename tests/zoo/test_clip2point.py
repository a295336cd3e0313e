"""CLIP2Point: its depth maps against PyTorch3D's, and the encoder."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo_b_weights import cloud, weight

from mrd_jax.models.view_system import ViewEncoder
from mrd_jax.zoo import clip2point, openai_clip, tensors
from mrd_jax.zoo.registry import identify

HERE = Path(__file__).parent
KEYS = json.loads((HERE / "keys/clip_keys.json").read_text())
CASE = np.load(HERE / "cases/clip2point-10-first.npz")


def visual(name):
  """The shapes of an image tower, as the file of pre-training names them."""
  return {
    f"point_model.{key.removeprefix('visual.')}": tuple(shape)
    for key, shape in KEYS[name].items()
    if key.startswith("visual.")
  }


STATE = {key: weight(key, shape) for key, shape in visual("small_vit").items()}
SIZE = dataclasses.replace(clip2point.infer(STATE), views=10)
MODEL = clip2point.make(SIZE)
VARIABLES = tensors.to_variables(
  clip2point.table(SIZE),
  MODEL,
  STATE | {"image_model.proj": np.zeros(1), "weights": np.zeros(())},
  "a file",
  unused=clip2point.is_unused,
)
apply = jax.jit(MODEL.apply)
draw = jax.jit(clip2point.depth_maps, static_argnums=1)


def embed(clouds, num_points=None):
  clouds = np.stack(clouds)
  points = np.concatenate([clouds, 0 * clouds], axis=-1)
  if num_points is None:
    num_points = [clouds.shape[1]] * len(clouds)
  return np.asarray(apply(VARIABLES, points, np.array(num_points, np.int32)))


@pytest.mark.parametrize("views", [6, 10])
def test_cameras_are_the_authors_to_the_bit(views):
  np.testing.assert_array_equal(
    clip2point._ROTATIONS[views], CASE[f"R_{views}"]
  )


def test_depth_maps_are_pytorch3ds():
  expected = CASE["depth_10_plain_first"][0]
  found = np.asarray(draw(CASE["points"][0], 10))
  np.testing.assert_array_equal(found < 0, expected < 0)
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("shape", ["torus", "blob"])
def test_depth_maps_against_every_pixel_and_point(shape):
  """The same definition, with no thought about which pixels are near."""
  points = cloud(shape, 300)
  found = np.asarray(draw(points, 6))
  centers = clip2point._CENTER_S
  for rotation, image in zip(CASE["R_6"], found, strict=True):
    x, y, z = (
      (points[:, None, :] * rotation.T).astype(np.float32).sum(axis=-1).T
    )
    square = (centers[:, None, None] - y) ** 2 + (centers[:, None] - x) ** 2
    depth = np.where(square < 4e-4, z + 1, np.inf).min(axis=-1)
    depth = np.where(np.isinf(depth), -1, depth)
    assert (abs(image - depth) > 1e-6).sum() <= 1  # an edge may round


def test_points_behind_the_camera_and_beside_the_image_are_not_drawn():
  points = jnp.array([[0, 0, 1.2], [0, 1.5, 0], [0.3, 0.1, 0]])
  front = np.asarray(draw(points, 6))[0]
  assert 0 < (front >= 0).sum() <= 25
  assert front.max() == 1


def test_embedding_is_the_sum_of_the_views_unit_embeddings():
  points = CASE["points"][0]
  pixels = []
  for depth in CASE["depth_10_plain_first"][0]:
    hit = depth > 0
    nearest = min(1, depth[hit].min())
    grey = (depth - nearest) / depth.max() * 200 / 255
    grey = np.where(hit, grey, 1)[:, :, None]
    mean = [0.48145466, 0.4578275, 0.40821073]
    std = [0.26862954, 0.26130258, 0.27577711]
    pixels.append(((grey - mean) / std).transpose(2, 0, 1))
  encoder = ViewEncoder(SIZE.tower)
  rows = openai_clip.image_table(SIZE.tower, SIZE.prefix)
  variables = tensors.to_tree(rows, STATE)
  expected = np.asarray(
    encoder.apply(variables, np.array(pixels, np.float32)[:, None], jnp.ones(1))
  )
  np.testing.assert_allclose(np.linalg.norm(expected, axis=-1), 1, rtol=1e-5)
  expected = expected.sum(axis=0)
  found = embed([points])[0]
  assert abs(found - expected).max() / abs(expected).max() < 1e-5
  # As they are, CLIP's mean and deviation left out, they are far from it.
  plain = encoder.apply(
    variables,
    np.array(CASE["depth_10_plain_first"][0, :, None, None])
    * np.ones((1, 1, 3, 1, 1), np.float32),
    jnp.ones(1),
  ).sum(axis=0)
  assert abs(plain - expected).max() / abs(expected).max() > 1e-2


@pytest.mark.slow
def test_padding_and_batch_change_nothing():
  one, two = cloud("chair", 200), cloud("torus", 300)
  padded = np.full((300, 3), np.nan, np.float32)
  padded[:200] = one
  both = embed([padded, two], [200, 300])
  np.testing.assert_allclose(both[0], embed([one])[0], rtol=0, atol=1e-5)
  np.testing.assert_allclose(both[1], embed([two])[0], rtol=0, atol=1e-5)
  draws = jax.jit(clip2point.depth_maps, static_argnums=1)
  np.testing.assert_array_equal(
    draws(padded, 10, jnp.int32(200)), draws(one, 10)
  )


def test_published_file():
  shapes = visual("ViT-B/32")
  state = {
    key: jax.ShapeDtypeStruct(shape, jnp.float32)
    for key, shape in shapes.items()
  }
  size = clip2point.infer(state)
  assert (size.views, size.prefix) == (6, "point_model.")
  table = clip2point.table(size)
  assert tensors._expected_shapes(table, clip2point.make(size)) == shapes
  assert len(table) == 152
  assert sum(map(np.prod, shapes.values())) == 87_849_216
  # The tower alone, without a prefix.
  bare = {key.removeprefix("point_model."): x for key, x in state.items()}
  assert clip2point.infer(bare) == dataclasses.replace(size, prefix="")
  assert {row.key for row in clip2point.table(clip2point.infer(bare))} == set(
    bare
  )


def test_other_files_are_not_its():
  assert clip2point.infer({}) is None
  whole = {key: np.zeros(shape) for key, shape in KEYS["small_vit"].items()}
  assert clip2point.infer(whole).prefix == "visual."  # if it is asked for
  assert identify(whole, "a file")[0] == "pointclip"
  assert clip2point.infer(whole | {"text.proj": np.zeros((2, 2))}) is None
  few_shot = {key.replace("point_", "pre_"): x for key, x in STATE.items()}
  assert clip2point.infer(few_shot) is None


def test_unknown_number_of_views():
  with pytest.raises(ValueError, match="views is 7, must be 10 or 6"):
    clip2point.depth_maps(jnp.zeros((4, 3)), 7)
