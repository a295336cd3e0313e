"""The rule by which a state is laid out."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs import debug
from mrd_jax.checkpoint.checksum import by_path
from mrd_jax.config.pretraining import Config
from mrd_jax.errors import BadInput
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding
from mrd_jax.training.optimizer import make_optimizer
from mrd_jax.training.pretraining import init_params
from mrd_jax.training.state import make_state


def test_parameters_moments_and_average_are_split_alike():
  config = Config.from_dict(debug.get_config())
  size = dataclasses.replace(config.model.size, depth=1)
  mesh = sharding.make_mesh(4)
  assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
  init, abstract = make_state(
    functools.partial(init_params, PointBERT(size, 24), config.loss, 14.28),
    make_optimizer(config.optimizer, steps_per_epoch=5, num_steps=10),
    keep_average=True,
    seed=0,
    mesh=mesh,
  )
  state = init()
  leaves = by_path(state)
  copies: dict[str, list] = {}
  held = whole = 0
  for name, leaf in leaves.items():
    divisible = any(n and n % 4 == 0 for n in leaf.shape)
    part = leaf.addressable_shards[0].data.size
    assert part == leaf.size / (4 if divisible else 1), name
    held, whole = held + part, whole + leaf.size
    if "encoder" in name:
      copies.setdefault(name.split("encoder", 2)[-1], []).append(leaf)
  # The parameter, its average, and both moments.
  assert sum(len(x) == 4 for x in copies.values()) > 20
  for name, found in copies.items():
    assert len({leaf.sharding for leaf in found}) == 1, name
  kernel = leaves["params/encoder/block_0/qkv/kernel"]
  assert kernel.shape == (32, 384)
  assert kernel.sharding.spec == P(None, "fsdp")  # the longer one
  assert held < 0.3 * whole
  assert jax.tree.leaves(sharding.shardings_of(abstract)) == [
    x.sharding for x in jax.tree.leaves(state)
  ]


def test_rows_of_a_process_come_back_in_order():
  layout = sharding.batch_sharding(sharding.make_mesh(2))
  rows = np.arange(24).reshape(24, 1)
  there = sharding.to_global(rows, layout)
  assert there.sharding == layout
  np.testing.assert_array_equal(sharding.to_local(there), rows)


def test_a_mesh_of_some_devices():
  assert sharding.make_mesh(2, jax.devices()[:4]).devices.shape == (2, 2)
  with pytest.raises(BadInput, match="mesh.fsdp is 3.*the 4 devices"):
    sharding.make_mesh(3, jax.devices()[:4])
