"""The estimate of a step's memory, beside programs that XLA compiled."""

import dataclasses
import functools
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from benchmarks.targets import TARGETS, standing_in
from mrd_jax.config.pretraining import SIZES, LossConfig
from mrd_jax.config.shared import Attention, Remat
from mrd_jax.finetune import start as starts
from mrd_jax.finetune.classification import Classification
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding
from mrd_jax.training import memory
from mrd_jax.training.pretraining import Pretraining
from mrd_jax.training.set_up import set_up

# GiB that XLA assigns buffers of, on each device, in the programs that
# `python -m benchmarks.compiled --targets h200` compiles with these options
# (2026-11-27, jax 0.10.2, batch 512 x 10,000); some with fewer blocks.
KERNELS = (
  ({"size": "t"}, 2.07),
  ({"size": "s"}, 29.25),
  ({"size": "m"}, 34.02),
  ({"size": "b"}, 58.13),
  ({"size": "m", "remat": "blocks"}, 7.45),
  ({"size": "b", "remat": "blocks"}, 12.30),
  ({"size": "m", "depth": 2}, 7.17),
)
# The same at 4b7a7c0, before the mini-PointNet had kernels: what GPUs before
# Hopper still run.
PORTABLE = (
  ({"size": "t"}, 7.89),
  ({"size": "s"}, 43.14),
  ({"size": "m"}, 48.67),
  ({"size": "b"}, 72.95),
  ({"size": "l", "fsdp": 8}, 23.62),
  ({"size": "m", "remat": "blocks"}, 22.27),
  ({"size": "m", "depth": 2}, 20.26),
  ({"size": "m", "depth": 2, "remat": "blocks"}, 20.11),
  ({"size": "m", "depth": 2, "remat": "all"}, 15.68),
  ({"size": "m", "depth": 2, "attention": "xla"}, 28.33),
  ({"size": "m", "depth": 2, "accumulate": 2}, 10.33),
  ({"size": "m", "depth": 2, "fsdp": 8}, 2.53),
  ({"size": "m", "depth": 2, "batch": 128, "dtype": "float32"}, 8.98),
)
# For eight chips of a TPU, each with its own state.
TPU = (
  ({"size": "t", "devices": 8}, 1.88),
  ({"size": "m", "devices": 8}, 11.47),
)


@functools.cache
def parameters(size: str, depth: int) -> int:
  encoder = PointBERT(dataclasses.replace(SIZES[size], depth=depth), 1280)
  shapes = jax.eval_shape(
    functools.partial(encoder.init, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 2, 6), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )
  return sum(x.size for x in jax.tree.leaves(shapes["params"]))


def step_of(
  size: str,
  *,
  depth: int = 0,
  remat: Remat = "none",
  attention: Attention = "auto",
  accumulate: int = 1,
  batch: int = 512,
  dtype: str = "bfloat16",
  fsdp: int = 1,
  devices: int = 0,
) -> memory.Step:
  """A step on as many devices as share its state, unless more are given."""
  depth = depth or SIZES[size].depth
  architecture = dataclasses.replace(SIZES[size], depth=depth)
  return memory.Step(
    PointBERT(
      architecture,
      1280,
      dtype=jnp.dtype(dtype),
      remat=remat,
      attention=attention,
    ),
    parameters(size, depth),
    copies=3,
    batch_size=batch,
    mesh=sharding.make_mesh(fsdp, jax.devices()[: devices or fsdp]),
    loss=LossConfig(),
    parts=accumulate,
  )


@pytest.mark.parametrize(
  ("target", "options", "gib"),
  [("h200", *row) for row in KERNELS]
  + [("a100", *row) for row in PORTABLE]
  + [("v5p", *row) for row in TPU],
  ids=str,
)
def test_the_estimate_is_near_the_compiled_program(target, options, gib):
  step = step_of(**options)
  with standing_in(TARGETS[target]):
    assert step.bytes() / memory.GIB == pytest.approx(gib, rel=0.15)


@pytest.fixture
def small_devices(monkeypatch):
  """Devices that say that JAX has a thousand bytes of them."""
  monkeypatch.setattr(
    type(jax.devices()[0]), "memory_stats", lambda self: {"bytes_limit": 1000}
  )


@pytest.mark.usefixtures("small_devices")
def test_a_run_that_will_not_fit_says_so_first(data_dir, labelled_dir):
  changes = {"model": {"remat": "blocks"}, "train": {"batch_size": 48}}
  run = set_up(Pretraining(runs.pretraining_config(data_dir, **changes)))
  said = run.summary.splitlines()[-2]
  assert said.startswith("warning: a step takes about 0.0 GiB on each device")
  # Of 6 clouds on each of 8 devices only a half; they are no GPUs.
  found = re.findall(r"([\w.]+=\S+) \(0\.0 GiB\)", said)
  assert found == ["train.accumulate=2", "train.batch_size=24"]
  config = runs.finetuning_config(labelled_dir)
  start = starts.load("", "latest", config.scratch)
  run = set_up(Classification(config, *start))
  said = run.summary.splitlines()[-2]
  found = re.findall(r"([\w.]+=\S+) \(0\.0 GiB\)", said)
  assert found == ["model.remat='blocks'", "train.batch_size=8"]


def test_a_run_on_a_cpu_says_nothing(data_dir):
  run = set_up(Pretraining(runs.pretraining_config(data_dir)))
  assert "warning" not in run.summary


def on_gpu(step: memory.Step, gib: float) -> memory.Step:
  stats = {"bytes_limit": int(gib * memory.GIB)}
  gpu = types.SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
  mesh: Any = types.SimpleNamespace(
    size=1,
    shape={"fsdp": 1},
    local_devices=[gpu],
    devices=np.array([gpu]),
  )
  return dataclasses.replace(step, mesh=mesh)


def test_remedies_come_with_what_they_take_the_cheapest_first(monkeypatch):
  """L on one card of 80 GB."""
  step = on_gpu(step_of("l"), 59.3)
  with standing_in(TARGETS["h100"]):
    said = memory.warning(step)
    fraction = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    names = re.findall(r"([\w.]+)=(\S+) \(", said)
    assert names == [
      (fraction, "0.92"),
      ("model.remat", "'blocks'"),
      ("train.accumulate", "4"),
      ("train.batch_size", "128"),
    ]
    assert "where JAX has 59.3" in said
    figures = [float(x) for x in re.findall(r"([\d.]+) GiB", said)]
    assert figures[1] == pytest.approx(59.3 / 0.75 * 0.92, abs=0.1)
    encoder = step.encoder.clone(remat="blocks")
    for gib, changes in zip(
      (figures[0], *figures[2:]),
      (
        {},
        {"encoder": encoder},
        {"parts": 4},
        {"batch_size": 128},
      ),
      strict=True,
    ):
      expected = dataclasses.replace(step, **changes).bytes() / memory.GIB
      assert gib == pytest.approx(expected, abs=0.06)
    monkeypatch.setenv(fraction, "")
    assert f"{fraction}=0.92 (" in memory.warning(step)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", ".8")  # its other name
    assert "XLA_CLIENT_MEM_FRACTION=0.92 (" in memory.warning(step)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", ".92")
    assert "FRACTION" not in memory.warning(step)
    assert not memory.warning(on_gpu(step, 200))
