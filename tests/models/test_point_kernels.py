"""The sampling kernel against the portable form, index for index.

On CPU the kernel runs in Pallas' Mosaic GPU interpreter, and is lowered for a
Hopper GPU as far as that goes without one.  Coordinates are multiples of
2^-10, so that every squared distance is exact in float32 however the multiply
and the add are fused: ties are real, and an index can only differ because the
rule differs.
"""

import functools
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.experimental.pallas
import jax.numpy as jnp
import numpy as np
import pytest
from clouds import lattice

from mrd_jax.models import point_ops, sampling_kernel
from mrd_jax.models.sampling_kernel import (
  MAX_POINTS,
  farthest_point_sample_batch,
)
from mrd_jax.parallel.sharding import batch_sharding, make_mesh


def surfaces(seed: int, batch: int, points: int):
  """Spheres of many radii, rounded to the lattice."""
  rng = np.random.default_rng(seed)
  xyz = rng.normal(size=(batch, points, 3))
  xyz *= np.linspace(0.2, 1, batch)[:, None, None]
  xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True).max(axis=1, keepdims=True)
  return (np.round(xyz * 1024) / 1024).astype(np.float32)


# Most have one shape, so that one compilation serves them.
CLOUDS = {
  # name: (xyz, counts, samples)
  "random": (lattice(0, 4, 600), [600] * 4, 12),
  "surfaces": (surfaces(1, 4, 600), [600] * 4, 12),
  # Few levels: duplicates, and equal distances in every row and thread.
  "ties": (lattice(2, 4, 600, levels=2), [600] * 4, 12),
  "one_repeated_point": (np.full((4, 600, 3), 0.25, np.float32), [600] * 4, 12),
  "padded": (lattice(3, 4, 600), [599, 513, 512, 255], 12),
  "fewer_points_than_samples": (lattice(4, 4, 600), [12, 11, 2, 1], 12),
  "whole_rows": (lattice(5, 1, 512), [512], 8),
  "more_samples_than_threads": (lattice(6, 1, 200), [200], 131),
  "one_sample": (lattice(7, 2, 100), [100, 30], 1),
}


@functools.partial(jax.jit, static_argnums=(2, 3))
def interpreted(xyz, counts, samples, x_in_registers):
  return farthest_point_sample_batch(
    xyz, counts, samples, x_in_registers=x_in_registers, interpret=True
  )


@functools.partial(jax.jit, static_argnums=2)
def portable(xyz, counts, samples):
  return jax.vmap(
    lambda x_N3, n: point_ops.farthest_point_sample(x_N3, n, samples)
  )(xyz, counts)


@pytest.mark.parametrize("x_in_registers", [True, False])
@pytest.mark.parametrize("name", CLOUDS)
def test_interpreted_kernel_equals_the_portable_form(name, x_in_registers):
  xyz, counts, samples = CLOUDS[name]
  counts = np.asarray(counts, np.int32)
  chosen = interpreted(xyz, counts, samples, x_in_registers)
  assert chosen.dtype == jnp.int32
  np.testing.assert_array_equal(chosen, portable(xyz, counts, samples))


def lower(sample, *shape):
  return (
    jax.jit(sample)
    .trace(
      jax.ShapeDtypeStruct((*shape, 3), jnp.float32),
      jax.ShapeDtypeStruct(shape[:1], jnp.int32),
    )
    .lower(lowering_platforms=("cuda",))
    .as_text()
  )


@pytest.mark.parametrize(
  ("points", "x_in_registers"),
  [(100, None), (10_000, None), (10_000, False), (MAX_POINTS, None)],
)
def test_lowers_for_hopper(hopper, points, x_in_registers):
  # Mosaic GPU refuses more shared memory than a multiprocessor has.
  text = lower(
    functools.partial(
      farthest_point_sample_batch,
      num_samples=512,
      x_in_registers=x_in_registers,
    ),
    512,
    points,
  )
  rows = -(-points // 256)
  assert text.count("@mosaic_gpu_v2") == 1
  assert f"tensor<512x3x{rows}x256xf32>" in text


def test_each_device_samples_its_shard(hopper):
  batch = batch_sharding(make_mesh(1))
  sample = jax.shard_map(
    functools.partial(farthest_point_sample_batch, num_samples=16),
    mesh=batch.mesh,
    in_specs=(batch.spec, batch.spec),
    out_specs=batch.spec,
  )
  text = lower(sample, 16, 300)
  assert "@mosaic_gpu_v2" in text
  assert "tensor<2x3x2x256xf32>" in text
  assert "all_gather" not in text


def test_coordinates_get_no_gradient_through_the_choice(hopper):
  def spread(xyz_BN3, counts):
    index = farthest_point_sample_batch(xyz_BN3, counts, 16)
    return (jnp.take_along_axis(xyz_BN3, index[..., None], axis=1) ** 2).sum()

  # Pallas has no derivative of the kernel: tracing one would raise.
  assert "@mosaic_gpu_v2" in lower(jax.grad(spread), 2, 300)


def test_refuses_a_cloud_that_does_not_fit():
  n = MAX_POINTS + 1
  with pytest.raises(ValueError, match="16385 points.*at most 16384"):
    farthest_point_sample_batch(jnp.zeros((1, n, 3)), jnp.full(1, n), 8)


@pytest.mark.parametrize(
  ("platform", "capability", "supported"),
  [
    ("gpu", "9.0", True),
    ("gpu", "10.0", True),
    ("gpu", "8.0", False),
    ("gpu", "gfx942", False),  # what ROCm says
    ("cpu", None, False),
    ("tpu", "9.0", False),
  ],
)
def test_support_by_device_and_only_with_mosaic_gpu(
  monkeypatch, platform, capability, supported
):
  device = SimpleNamespace(platform=platform, compute_capability=capability)
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  assert sampling_kernel.is_supported() is supported
  monkeypatch.delattr(jax.experimental.pallas, "mosaic_gpu", raising=False)
  monkeypatch.setitem(sys.modules, "jax.experimental.pallas.mosaic_gpu", None)
  assert not sampling_kernel.is_supported()


def test_importing_the_module_does_not_import_pallas():
  code = (
    "import sys; from mrd_jax.models import sampling_kernel; "
    "assert not sampling_kernel.is_supported(); "
    "assert 'jax.experimental.pallas' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("x_in_registers", [True, False])
@pytest.mark.parametrize(
  "make", [lattice, surfaces], ids=["lattice", "surfaces"]
)
def test_kernel_equals_the_portable_form_on_the_device(make, x_in_registers):
  if not sampling_kernel.is_supported():
    pytest.skip("needs a Hopper or newer GPU")
  xyz = make(8, 512, 10_000)
  counts = np.random.default_rng(9).integers(1, 10_001, 512, np.int32)
  counts[::2] = 10_000
  sample = functools.partial(
    farthest_point_sample_batch, x_in_registers=x_in_registers
  )
  chosen = jax.jit(sample, static_argnums=2)(xyz, counts, 512)
  np.testing.assert_array_equal(chosen, portable(xyz, counts, 512))
