"""OpenShape's SparseConv against a dense convolution in float64."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo_b_weights import cloud, colours, weight
from zoo_cases import FOLDER, TOLERANCE, parameters, unit
from zoo_cases import relative_error as error

from mrd_jax.errors import BadInput
from mrd_jax.models import site_pooling, sparse_conv
from mrd_jax.zoo import spconv, tensors

KEYS = json.loads((FOLDER / "keys" / "sparse_keys.json").read_text())
CASES = np.load(FOLDER / "cases" / "sparse_dense.npz")
VOXEL = 0.08
PARAMETERS = {  # in OpenShape's classes
  "MinkResNet34": 41_327_104,
  "MinkResNet": 33_747_840,
  "MinkResNet11": 29_045_760,
}


@functools.cache
def state_of(kind: str) -> tensors.State:
  return {key: weight(key, shape) for key, shape in KEYS[kind].items()}


@functools.cache
def load(kind: str):
  """The program of a class, and its variables."""
  state = state_of(kind)
  size = spconv.infer(state)
  assert size == spconv.SIZES[kind]
  model = spconv.make(dataclasses.replace(size, voxel_size=VOXEL))
  variables = tensors.to_variables(
    spconv.table(size), model, state, kind, unused=spconv.is_unused
  )

  @jax.jit
  def apply(variables, points_BN6, num_points_B):
    return model.apply(
      variables,
      points_BN6,
      num_points_B,
      train=False,
      capture_intermediates=True,
    )

  return apply, jax.device_put(variables)


def embed(kind: str, points_BN6, num_points_B=None, variables=None):
  """Embeddings, and what each layer gave."""
  apply, own = load(kind)
  if num_points_B is None:
    num_points_B = [points_BN6.shape[1]] * len(points_BN6)
  counts_B = jnp.array(num_points_B, jnp.int32)
  y_BD, state = apply(variables or own, jnp.asarray(points_BN6), counts_B)
  return np.asarray(y_BD), state["intermediates"]


def with_colours(xyz):
  return np.concatenate([xyz, colours(xyz)], axis=-1).astype(np.float32)


def case(kind: str, shape: str):
  """A cloud and its expected embedding, by name, and stages."""
  xyz = CASES[f"{shape}_{VOXEL}_xyz"]
  points = np.concatenate([xyz, CASES[f"{shape}_{VOXEL}_features"][:, 3:]], 1)
  prefix = f"{kind}_{shape}_{VOXEL}_"
  return points[None], {
    key.removeprefix(prefix): CASES[key]
    for key in CASES.files
    if key.startswith(prefix)
  }


LONG = (pytest.mark.slow, pytest.mark.long)


@pytest.mark.parametrize(
  ("kind", "shape"),
  [
    pytest.param("MinkResNet", "chair", marks=pytest.mark.slow),
    pytest.param("MinkResNet", "torus", marks=LONG),
    pytest.param("MinkResNet", "blob", marks=LONG),
    pytest.param("MinkResNet34", "torus", marks=pytest.mark.slow),
  ],
)
def test_stages_and_embedding_are_the_dense_ones(kind, shape):
  points, expected = case(kind, shape)
  y_BD, stages = embed(kind, points)
  assert error(unit(y_BD[0]), unit(expected["embedding"])) < TOLERANCE

  sites, row_BN, _ = sparse_conv.voxelize(
    points[..., :3], jnp.array([1024]), VOXEL
  )
  assert sites.start_A[-1] == expected["voxels_1"]
  row = np.asarray(row_BN)[0, :64]  # the case has the voxels of these points
  means = np.asarray(site_pooling.point_means(points, row_BN))
  assert error(means[row], expected["voxel_features"]) < 1e-6
  stem = jax.nn.relu(stages["stem"]["__call__"][0][0])
  assert error(stem[row], expected["stem"]) < 1e-6
  for stage, layers in enumerate(spconv.SIZES[kind].layers):
    stride = 2 ** (stage + 1)
    sites, parent_R = sparse_conv.coarsen(sites)
    assert sites.start_A[-1] == expected[f"voxels_{stride}"]
    row = np.asarray(parent_R)[row]
    x_RC = stages[f"block_{stage}_{layers - 1}"]["__call__"][0][0]
    assert error(x_RC[row], expected[f"stage{stride}"]) < 1e-6
    if stage == 1:
      x_RC = jax.nn.leaky_relu(stages["head_1"]["__call__"][0][0])
      pooled = site_pooling.max_and_mean(x_RC, sites)[0]
      assert error(pooled, expected["pooled"]) < 1e-6


@pytest.mark.parametrize("kind", KEYS)
def test_tables_hold_the_published_tensors(kind):
  keys = {key: tuple(shape) for key, shape in KEYS[kind].items()}
  assert parameters(spconv, keys) == PARAMETERS[kind]


@pytest.mark.slow
def test_other_sizes_are_read_from_the_shapes():
  state = dict(state_of("MinkResNet11"))
  state["conv0p1s1.kernel"] = np.zeros((125, 3, 32), np.float32)
  state["final.3.linear.weight"] = np.zeros((512, 1024), np.float32)
  assert spconv.infer(state) == spconv.Size((1, 1, 1, 1), 3, 512)
  assert spconv.infer({"cls_token": np.zeros(3)}) is None
  assert spconv.infer(state | {"conv0p1s1.kernel": np.zeros(3)}) is None
  model = spconv.make(spconv.SIZES["MinkResNet11"])
  with pytest.raises(BadInput, match="conv0p1s1.kernel has shape"):
    tensors.to_variables(
      spconv.table(spconv.SIZES["MinkResNet11"]), model, state, "file"
    )


@pytest.mark.slow
def test_padding_batch_and_order_change_nothing():
  first = with_colours(cloud("chair", 256))
  second = with_colours(cloud("blob", 200))
  noise = np.full((56, 6), np.nan, np.float32)
  batch = np.stack([first, np.concatenate([second, noise])])
  (of_first, of_second), _ = embed("MinkResNet11", batch, [256, 200])
  (alone,), _ = embed("MinkResNet11", second[None])
  # Products of other numbers of rows are summed in another order, as those of
  # another order of points are.
  assert error(of_second, alone) < 2e-6
  (alone, reverse), _ = embed("MinkResNet11", np.stack([first, first[::-1]]))
  assert error(of_first, alone) < 2e-6
  assert error(reverse, alone) < 2e-6


@pytest.mark.slow
def test_scattered_voxels_do_not_overflow():
  """Each voxel is alone at every stride, as if it were its cloud's only one.

  32 such clouds are several sparse tensors, one after the other.
  """
  rng = np.random.default_rng(0)
  cell = np.stack(np.unravel_index(np.arange(32), (4, 4, 2)), axis=1)
  voxel = 64 * cell - 100 + rng.integers(0, 16, (32, 3))
  points = with_colours((voxel + 0.5) * VOXEL)
  together, stages = embed("MinkResNet11", points[None])
  assert np.isfinite(together).all()
  _, alone = embed("MinkResNet11", points[:, None])

  sites, row_BN, _ = sparse_conv.voxelize(
    points[None, :, :3], jnp.array([32]), VOXEL
  )
  row_N = np.asarray(row_BN)[0]
  for stage in range(4):
    sites, parent_R = sparse_conv.coarsen(sites)
    assert sites.start_A[-1] == 32
    row_N = np.asarray(parent_R)[row_N]
    name = f"block_{stage}_0"
    x_RC = stages[name]["__call__"][0][0][row_N]
    expected = alone[name]["__call__"][0].reshape(32, -1)
    assert error(x_RC, expected) < 1e-6


@pytest.mark.slow
def test_what_is_too_wide_is_refused_alone():
  points = np.stack([with_colours(cloud("torus", 256))] * 2)
  points[1, 7, :3] = 100, 0, 0
  y_BD, _ = embed("MinkResNet11", points)
  assert np.isfinite(y_BD[0]).all()
  assert np.isnan(y_BD[1]).all()
  with pytest.raises(ValueError, match="train must be False"):
    spconv.make(spconv.Size()).apply(
      {}, points, jnp.array([256, 256]), train=True
    )


@pytest.mark.slow
def test_it_computes_in_half_precision():
  points = with_colours(cloud("torus", 256))[None]
  size = dataclasses.replace(spconv.SIZES["MinkResNet11"], voxel_size=VOXEL)
  model = spconv.make(size, jnp.bfloat16)
  _, variables = load("MinkResNet11")
  half = jax.jit(functools.partial(model.apply, train=False))(
    variables, points, jnp.array([256])
  )
  full, _ = embed("MinkResNet11", points)
  assert half.dtype == jnp.float32
  assert 1e-5 < error(half, full) < 3e-2


@pytest.mark.parametrize(
  "mistake",
  [
    lambda kernel: kernel[::-1],  # mirrored
    lambda kernel: (  # z fastest
      kernel.reshape(*[round(len(kernel) ** (1 / 3))] * 3, *kernel.shape[1:])
      .swapaxes(0, 2)
      .reshape(kernel.shape)
    ),
  ],
)
def test_a_mistake_shows(mistake):
  points, expected = case("MinkResNet", "torus")
  _, variables = load("MinkResNet")
  wrong = jax.tree.map(lambda x: mistake(x) if x.ndim == 3 else x, variables)
  y_BD, _ = embed("MinkResNet", points, variables=wrong)
  assert error(unit(y_BD[0]), unit(expected["embedding"])) > 1e-2
