"""What the tests of published systems share: their cases and key lists."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import zoo_weights

from mrd_jax.models import knn_groups
from mrd_jax.zoo import tensors

FOLDER = Path(__file__).parent
TOLERANCE = 1e-5  # of the largest absolute value


def key_list(name: str) -> dict[str, tuple[int, ...]]:
  """The shapes of a released file's tensors, by key."""
  content = json.loads((FOLDER / "keys" / f"{name}.json").read_text())
  return {key: tuple(shape) for key, shape in content.items()}


def relative_error(found: Any, expected: np.ndarray) -> float:
  """The largest difference over the largest absolute value."""
  return float(np.abs(found - expected).max() / np.abs(expected).max())


def unit(x: Any) -> np.ndarray:
  x = np.asarray(x, np.float64)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@dataclasses.dataclass
class Case:
  """A reference case, and our model with its weights."""

  meta: dict[str, Any]
  arrays: dict[str, np.ndarray]
  size: Any
  model: nn.Module
  variables: Any

  @functools.cached_property
  def embed(self) -> Any:
    """The compiled model, which also returns what its modules return."""
    return jax.jit(
      lambda variables, points, counts: self.model.apply(
        variables,
        points,
        counts,
        train=False,
        capture_intermediates=True,
        mutable="intermediates",
      )
    )

  @functools.cached_property
  def outputs(self) -> Any:
    """What the case's clouds give."""
    return self(self.arrays["points"])

  @property
  def embedding(self) -> jax.Array:
    return self.outputs[0]

  def check_stages(self, **modules: str) -> None:
    """Checks stages of the case against modules' outputs ("a/b")."""
    for stage, path in modules.items():
      found = self.outputs[1]
      for name in (*path.split("/"), "__call__"):
        found = found[name]
      expected = self.arrays[f"stage_{stage}"]
      # The case keeps the first tokens only.
      error = relative_error(found[0][:, : expected.shape[1]], expected)
      assert error < TOLERANCE, stage

  def __call__(self, points: np.ndarray, counts: Any = None) -> Any:
    """Embeds clouds: (B, D), and every module's output."""
    counts = [points.shape[1]] * len(points) if counts is None else counts
    embedding, found = self.embed(
      self.variables, points, np.array(counts, np.int32)
    )
    return embedding, found["intermediates"]


def load(system: ModuleType, name: str, **sizes: Any) -> Case:
  """Loads a case; `sizes` are those that no file says."""
  arrays = dict(np.load(FOLDER / "cases" / f"{name}.npz"))
  meta = json.loads((FOLDER / "cases" / f"{name}.json").read_text())
  state = zoo_weights.state_dict(meta["state_dict"], **meta["weights"])
  config = meta["config"]
  size = dataclasses.replace(
    system.infer(state),
    groups=config["groups"],
    group_size=config["group_size"],
    **sizes,
  )
  model = system.make(size)
  variables = tensors.to_variables(
    system.table(size), model, state, name, unused=system.is_unused
  )
  return Case(meta, arrays, size, model, variables)


def check_embedding(case: Case) -> None:
  """Checks the embeddings, each after it is made unit length."""
  for found, expected in zip(
    case.embedding, case.arrays["embedding"], strict=True
  ):
    assert relative_error(unit(found), unit(expected)) < TOLERANCE


def check_groups(case: Case) -> None:
  """Checks that centres and neighbours are the case's."""
  size = case.size

  @jax.jit
  @jax.vmap
  def group(xyz_N3):
    center_G = knn_groups.sample_centers(xyz_N3, len(xyz_N3), size.groups)
    return center_G, knn_groups.nearest_neighbours(
      xyz_N3, xyz_N3[center_G], len(xyz_N3), size.group_size
    )

  center, neighbours = group(case.arrays["points"][..., :3])
  np.testing.assert_array_equal(center, case.arrays["center_index"])
  np.testing.assert_array_equal(
    np.sort(neighbours), np.sort(case.arrays["neighbour_index"])
  )


def check_alone_and_padded(case: Case) -> None:
  """Checks that neither padding nor the rest of a batch changes a cloud's."""
  points = case.arrays["points"]
  together = case.embedding
  near = np.full((len(points), 76, 6), 0.01, np.float32)
  padded = np.concatenate([points, near], axis=1)
  for cloud, expected in zip(padded, together, strict=True):
    alone, _ = case(cloud[None], [points.shape[1]])
    assert relative_error(alone[0], expected) < 2e-6
    cloud[points.shape[1] :] = -0.3
    again, _ = case(cloud[None], [points.shape[1]])
    np.testing.assert_array_equal(again, alone)


def check_mistake(case: Case, name: str, embedding: Any) -> None:
  """Checks that a mistake costs what it costs the original."""
  found = [
    relative_error(row, expected)
    for row, expected in zip(embedding, case.arrays["embedding"], strict=True)
  ]
  np.testing.assert_allclose(
    found, case.meta["changes_if"][name], rtol=0.005, atol=2e-6
  )


def last_point_first(points: np.ndarray) -> np.ndarray:
  """The clouds as sampling from their last point would start."""
  return np.roll(points, 1, axis=1)


def parameters(system: ModuleType, keys: dict[str, tuple[int, ...]]) -> int:
  """Checks a table against a released file's keys and shapes.

  Returns:
    How many parameters the model has.
  """
  zero = np.zeros((), np.float32)
  size = system.infer({k: np.broadcast_to(zero, s) for k, s in keys.items()})
  rows = system.table(size)
  expected = tensors._expected_shapes(rows, system.make(size))
  assert {row.key for row in rows} <= keys.keys()
  for key, shape in keys.items():
    if not key.endswith("num_batches_tracked"):
      assert (key in expected) != system.is_unused(key), key
      assert expected.get(key, shape) == shape, key
  return sum(
    math.prod(expected[row.key])
    for row in rows
    if row.path.startswith("params/")
  )
