"""PointCLIP and PointCLIP V2: depth maps, logits, prompts."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo_b_weights import cloud, weight

from mrd_jax.errors import BadInput
from mrd_jax.io.plain_values import read_items
from mrd_jax.models.clip import CLIP, CLIPSize, TowerSize
from mrd_jax.models.resize import resize_bilinear
from mrd_jax.zoo import pointclip, tensors

HERE = Path(__file__).parent
KEYS = json.loads((HERE / "keys/clip_keys.json").read_text())
V1 = np.load(HERE / "cases/pointclip-v1.npz")
V2 = np.load(HERE / "cases/pointclip-v2-first.npz")
CASE = np.load(HERE / "cases/clip_resnet_small.npz")
STATE = {
  key: weight(f"small_rn.{key}", shape)
  for key, shape in KEYS["small_rn"].items()
}
SIZES = {
  1: pointclip.infer(STATE),
  2: dataclasses.replace(
    pointclip.infer(STATE),
    version=2,
    view_weights=pointclip.RELEASES["pointclip-v2"].on["modelnet40"][
      "view_weights"
    ],
  ),
}
VARIABLES = tensors.to_variables(
  pointclip.table(SIZES[1]),
  pointclip.make(SIZES[1]),
  STATE,
  "a file",
  unused=pointclip.is_unused,
)
APPLY = {
  version: jax.jit(pointclip.make(size).apply)
  for version, size in SIZES.items()
}
draw = jax.jit(pointclip.depth_maps, static_argnums=1)


def embed(version, clouds, num_points=None):
  clouds = np.asarray(clouds)
  points = np.concatenate([clouds, 0 * clouds], axis=-1)
  if num_points is None:
    num_points = [clouds.shape[1]] * len(clouds)
  num_points = np.array(num_points, np.int32)
  return np.asarray(APPLY[version](VARIABLES, points, num_points))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def error(found, expected):
  return abs(found - expected).max() / abs(expected).max()


def test_rotations_are_the_authors_to_the_bit():
  for found, expected in (
    (pointclip._ROTATIONS_1, V1["v1_rotation"]),
    (pointclip._ROTATIONS_2, V2["v2_rotation"]),
    (pointclip._TILTS_2, V2["v2_rotation2"]),
  ):
    np.testing.assert_array_equal(found, expected)


def test_depth_maps_of_the_first_version():
  expected = V1["v1_depth_first"][0]
  found = np.asarray(draw(V1["points"][0], 1))
  np.testing.assert_array_equal(found > 0, expected > 0)
  np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)
  mean = resize_bilinear(found, 224)[0].mean()
  np.testing.assert_allclose(mean, V1["v1_input_mean"][0], rtol=1e-5)


def test_depth_maps_of_the_second_version():
  expected = V2["v2_image_first"][0]
  found = np.asarray(draw(V2["points"][0], 2))
  np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)
  row = resize_bilinear(found, 224)[:, 112]
  np.testing.assert_allclose(
    row, V2["v2_input_row112_first"][0], rtol=0, atol=5e-7
  )


@pytest.mark.parametrize("version", [1, 2])
def test_views_and_logits(version):
  views = unit(CASE[f"small_rn_v{version}_views"])
  weights = np.array(SIZES[version].view_weights or [1] * views.shape[1])
  found = embed(version, CASE["points"])
  expected = (weights[:, None] * views).sum(axis=1)
  assert error(found, expected) < 1e-5
  scale = {1: np.exp(STATE["logit_scale"]), 2: 100}[version]
  logits = found @ unit(CASE["small_rn_text"]).T
  logits *= scale / np.sqrt(len(weights))
  assert error(logits, CASE[f"small_rn_v{version}_logits"]) < 1e-5
  # Other weights of the views, or another version's, show.
  assert error(views.mean(axis=1) * weights.sum(), expected) > (
    1e-4 if version == 2 else -1
  )
  other = embed(3 - version, CASE["points"])
  assert error(unit(other), unit(expected)) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_padding_and_batch_change_nothing(version):
  one, two = cloud("chair", 200), cloud("torus", 300)
  padded = np.full((300, 3), np.nan, np.float32)
  padded[:200] = one
  both = embed(version, [padded, two], [200, 300])
  for found, points in zip(both, (one, two), strict=True):
    np.testing.assert_allclose(
      found, embed(version, [points])[0], rtol=0, atol=1e-5
    )
  np.testing.assert_array_equal(
    draw(padded, version, jnp.int32(200)), draw(one, version)
  )


@pytest.mark.parametrize("version", [1, 2])
def test_points_that_are_one_and_points_far_away(version):
  images = draw(jnp.full((5, 3), 0.2), version)
  assert np.isfinite(images).all()
  far = draw(jnp.array([[9.0, 0, 0], [0, 9, 0], [0, 0, -9]]), version)
  assert np.isfinite(far).all()


def test_unknown_version():
  with pytest.raises(ValueError, match="version is 3, must be 1 or 2"):
    pointclip.depth_maps(jnp.zeros((4, 3)), 3)


@pytest.mark.parametrize("name", ["RN50", "RN101", "ViT-B/32", "ViT-B/16"])
def test_published_files(name):
  state = {
    key: jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    for key, shape in KEYS[name].items()
  }
  size = pointclip.infer(state)
  assert size.tower.image_size == 224
  found = tensors._expected_shapes(pointclip.table(size), pointclip.make(size))
  left = {
    key
    for key in state
    if pointclip.is_unused(key) or key.endswith("num_batches_tracked")
  }
  assert found == {key: x.shape for key, x in state.items() if key not in left}


def test_other_files_are_not_its():
  assert pointclip.infer({}) is None
  assert pointclip.infer(STATE | {"pc_projection": np.zeros((2, 2))}) is None
  text = {key: x for key, x in STATE.items() if "visual." not in key}
  assert pointclip.infer(text) is None


def test_a_file_with_a_tensor_of_another_shape_is_refused():
  state = STATE | {"visual.layer2.0.conv1.weight": np.zeros((32, 63, 1, 1))}
  size = pointclip.infer(state)
  with pytest.raises(BadInput, match="layer2.0.conv1.weight has shape"):
    tensors.to_variables(
      pointclip.table(size),
      pointclip.make(size),
      state,
      "a file",
      unused=pointclip.is_unused,
    )


@pytest.mark.slow
def test_a_teachers_tower_serves():
  tower = TowerSize(48, 2, 3, 64, "gelu", 1e-5)
  clip_size = CLIPSize(24, tower, 32, 8, tower, 50, 77, None)
  clip = CLIP(clip_size)
  pixels, ids = jnp.zeros((1, 3, 32, 32)), jnp.ones((1, 2), int)
  params = jax.jit(clip.init)(jax.random.key(0), pixels, ids, ids)["params"]
  part = {name: params[name] for name in ("vision", "visual_projection")}
  points = cloud("chair", 100)
  model = pointclip.make(pointclip.Size(clip_size))
  found = jax.jit(model.apply)(
    {"params": {"views": part}},
    jnp.concatenate([points, points], axis=1)[None],
    jnp.array([100]),
  )
  images = resize_bilinear(draw(points, 1), 32)[:, None]
  views = jax.jit(clip.apply, static_argnames="method")(
    {"params": params}, jnp.repeat(images, 3, axis=1), method="image"
  )
  assert error(np.asarray(found[0]), unit(views).sum(axis=0)) < 1e-5


PROMPTS = """
best_prompt_weight = {}
best_prompt_weight['toys_rn50_test_prompts'] = ['A bear, grey.', "A \\d doll."]
best_prompt_weight['toys_rn50_test_weights'] = [1, .5, 0, 1, 1, 1, 1, 1, 1, 1]
"""


def test_prompts_are_read(tmp_path):
  path = tmp_path / "best_param.py"
  path.write_text("# A comment.\n" + PROMPTS)
  found = pointclip.read_prompts(path)
  assert found == {
    "toys_rn50": (
      ("A bear, grey.", "A \\d doll."),
      (1.0, 0.5, 0.0, *[1.0] * 7),
    )
  }
  path.write_text(
    f"best_prompt_weight = {read_items(path, 'best_prompt_weight', '')!r}"
  )
  assert pointclip.read_prompts(path) == found


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("", "holds no prompts; give PointCLIP V2's best_param.py"),
    ("best_prompt_weight = {}", "holds no prompts"),
    ("best_prompt_weight = [", "is no Python source"),
    ("a\0b", "is no Python source"),
    ("(" * 9999, "is no Python source"),
    ("import os", "line 1 must give best_prompt_weight plain values"),
    ("best_prompt_weight = 3", "line 1 must give"),
    ("best_prompt_weight = {[]: 1}", "line 1 must give"),
    ("\nbest_prompt_weight['a'] = open('b')", "line 2 must give"),
    ("best_prompt_weight[open('b')] = 1", "line 1 must give"),
    ("best_prompt_weight['a'] = " + "-" * 5000 + "1", "best_param.py: "),
    ("best_prompt_weight = {3: []}", "3 is no name of prompts or weights"),
    ("best_prompt_weight['a'] = []", "'a' is no name of prompts or weights"),
    (PROMPTS.replace("grey.'", "grey.', ' '"), "with a sentence a class"),
    (PROMPTS.replace("'A bear, grey.'", "1"), "with a sentence a class"),
    (PROMPTS.replace(".5", "1e999"), "a list of 10 numbers, one a view"),
    (PROMPTS.replace(".5", "9" * 400), "a list of 10 numbers, one a view"),
    (PROMPTS.replace(".5", "'1'"), "a list of 10 numbers, one a view"),
    (PROMPTS.replace(", .5", ""), "a list of 10 numbers, one a view"),
    (PROMPTS.rpartition("best")[0], "toys_rn50_test_weights must be a list"),
    ("#" * 2**18 + "\n", "has more than 262,144 bytes"),
  ],
)
def test_what_holds_no_prompts_is_refused(tmp_path, source, message):
  path = tmp_path / "best_param.py"
  path.write_text(source)
  with pytest.raises(BadInput) as refused:
    pointclip.read_prompts(path)
  assert message in str(refused.value)
  assert str(refused.value).startswith(str(path))
  assert "\n" not in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path):
  with pytest.raises(BadInput, match="cannot be read"):
    pointclip.read_prompts(tmp_path / "none.py")
  os.mkfifo(tmp_path / "pipe.py")
  for path in (tmp_path / "pipe.py", tmp_path):
    with pytest.raises(BadInput, match="is no file"):
      pointclip.read_prompts(path)


def test_nothing_of_the_file_is_run(tmp_path):
  path, proof = tmp_path / "best_param.py", tmp_path / "proof"
  for source in (
    f"open({str(proof)!r}, 'w')",
    f"best_prompt_weight = {{'a': open({str(proof)!r}, 'w')}}",
  ):
    path.write_text(source)
    with pytest.raises(BadInput):
      pointclip.read_prompts(path)
  assert not proof.exists()
