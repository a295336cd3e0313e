"""CG3D's PointMLP against the original's outputs and files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo_b_weights
import zoo_cases

from mrd_jax.zoo import cg3d, cg3d_pointmlp, tensors

CASE = dict(np.load(zoo_cases.FOLDER / "cases" / "cg3d.npz"))
KEYS = json.loads((zoo_cases.FOLDER / "keys" / "cg3d_keys.json").read_text())
STATE = {
  key: zoo_b_weights.weight(key, shape)
  for key, shape in KEYS["pointmlp"].items()
}


@pytest.fixture(scope="module")
def case():
  size = cg3d_pointmlp.infer(STATE)
  assert size == cg3d_pointmlp.Size()
  model = cg3d_pointmlp.make(size)
  variables = tensors.to_variables(
    cg3d_pointmlp.table(size), model, STATE, "cg3d"
  )
  xyz = CASE["points_1024"]
  arrays = {
    "points": np.concatenate([xyz, np.full_like(xyz, 0.4)], axis=-1),
    "embedding": CASE["pointmlp_1024"],
  }
  return zoo_cases.Case({}, arrays, size, model, variables)


def test_the_embedding_equals_the_originals(case):
  zoo_cases.check_embedding(case)
  error = zoo_cases.relative_error(case.embedding, case.arrays["embedding"])
  assert error < zoo_cases.TOLERANCE


@pytest.mark.slow
def test_sampling_from_another_point_shows(case):
  embedding, _ = case(zoo_cases.last_point_first(case.arrays["points"]))
  for found, expected in zip(embedding, CASE["pointmlp_1024"], strict=True):
    error = zoo_cases.relative_error(
      zoo_cases.unit(found), zoo_cases.unit(expected)
    )
    assert error > 100 * zoo_cases.TOLERANCE


def test_the_release_has_the_names_and_sizes():
  keys = {key: tuple(shape) for key, shape in KEYS["pointmlp"].items()}
  assert zoo_cases.parameters(cg3d_pointmlp, keys) == 13_095_360


def test_the_two_networks_of_cg3d_are_told_apart():
  state = {k: np.zeros(s) for k, s in KEYS["transformer"].items()}
  assert cg3d_pointmlp.infer(state) is None
  assert cg3d.infer(STATE) is None


@pytest.fixture(scope="module")
def small():
  """A network of one stage, and its variables."""
  size = cg3d_pointmlp.Size(16, 1, 1, 8, groups=(32,), group_size=24)
  model = cg3d_pointmlp.make(size)
  variables = jax.jit(model.init, static_argnames="train")(
    jax.random.key(0), jnp.zeros((1, 64, 6)), jnp.array([64]), train=False
  )
  return model, variables


def test_neither_padding_nor_a_batch_changes_an_embedding(small):
  """Also of a cloud with fewer points than the stage leaves."""
  model, variables = small
  apply = jax.jit(lambda *args: model.apply(variables, *args, train=False))
  points = np.random.default_rng(0).normal(size=(2, 64, 6)).astype(np.float32)
  points[0, 40:] = 9
  points[1, 20:] = 0
  together = apply(points, jnp.array([40, 20]))
  for cloud, count, expected in zip(points, (40, 20), together, strict=True):
    alone = apply(cloud[None, :count], jnp.array([count]))
    assert zoo_cases.relative_error(alone[0], expected) < zoo_cases.TOLERANCE


def test_it_trains(small):
  model, variables = small
  points = np.random.default_rng(0).normal(size=(2, 64, 6)).astype(np.float32)

  def loss(params):
    embedding, updated = model.apply(
      variables | {"params": params},
      points,
      jnp.array([64, 64]),
      train=True,
      mutable="batch_stats",
    )
    return (embedding**2).sum(), updated

  gradient, updated = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
  assert all(jnp.any(x != 0) for x in jax.tree.leaves(gradient))
  changed = jax.tree.map(
    lambda a, b: bool(jnp.any(a != b)),
    updated["batch_stats"],
    variables["batch_stats"],
  )
  assert all(jax.tree.leaves(changed))
