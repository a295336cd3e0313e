"""CG3D's transformer against the original's outputs and files."""

import functools
import json
import math

import jax
import numpy as np
import pytest
import zoo_b_weights
import zoo_cases

from mrd_jax.models import knn_groups
from mrd_jax.zoo import cg3d, tensors

CASE = dict(np.load(zoo_cases.FOLDER / "cases" / "cg3d.npz"))
KEYS = json.loads((zoo_cases.FOLDER / "keys" / "cg3d_keys.json").read_text())


def case_of(points: int) -> zoo_cases.Case:
  state = {
    key: zoo_b_weights.weight(key, shape)
    for key, shape in KEYS["transformer"].items()
  }
  size = cg3d.infer(state)
  model = cg3d.make(size)
  variables = tensors.to_variables(
    cg3d.table(size), model, state, "cg3d", unused=cg3d.is_unused
  )
  xyz = CASE[f"points_{points}"]
  arrays = {
    "points": np.concatenate([xyz, np.full_like(xyz, 0.4)], axis=-1),
    "embedding": CASE[f"transformer_{points}"],
  }
  return zoo_cases.Case({}, arrays, size, model, variables)


@pytest.fixture(scope="module")
def case():
  return case_of(1024)


@pytest.mark.parametrize("points", [1024, 8192])
def test_the_embedding_and_its_stages_equal_the_originals(case, points):
  case = case if points == 1024 else case_of(points)
  zoo_cases.check_embedding(case)
  error = zoo_cases.relative_error(case.embedding, case.arrays["embedding"])
  assert error < zoo_cases.TOLERANCE
  tokens = case.outputs[1]["norm"]["__call__"][0][:, 1:4, :16]
  expected = CASE[f"transformer_{points}_tokens_first"]
  assert zoo_cases.relative_error(tokens, expected) < zoo_cases.TOLERANCE


@pytest.mark.parametrize("points", [1024, 8192])
def test_centres_equal_the_originals(points):
  xyz = CASE[f"points_{points}"]
  centers = [
    cloud[knn_groups.sample_centers(cloud, points, 64)] for cloud in xyz
  ]
  np.testing.assert_array_equal(centers, CASE[f"transformer_{points}_centers"])


@pytest.mark.parametrize("shape", ["chair", "blob"])
def test_half_of_a_clouds_points_equal_pointnet2s(shape):
  sample = jax.jit(
    functools.partial(knn_groups.sample_centers, num_samples=1024)
  )
  found = sample(zoo_b_weights.cloud(shape, 2048), 2048)
  np.testing.assert_array_equal(found, CASE[f"fps_{shape}_2048_to_1024"])


@pytest.mark.slow
def test_neither_padding_nor_a_batch_changes_an_embedding(case):
  zoo_cases.check_alone_and_padded(case)


def test_every_release_has_the_names_and_sizes():
  keys = {key: tuple(shape) for key, shape in KEYS["transformer"].items()}
  head = sum(math.prod(keys[key]) for key in keys if cg3d.is_unused(key))
  assert zoo_cases.parameters(cg3d, keys) == 22_463_543 - head


def test_another_network_is_not_taken():
  state = {key: np.zeros(shape) for key, shape in KEYS["pointmlp"].items()}
  assert cg3d.infer(state) is None
