"""The mini-PointNet's kernels against its portable form.

On CPU the kernels run in Pallas' Mosaic GPU interpreter, and are lowered for a
Hopper GPU as far as that goes without one.  Both forms round to bfloat16 at the
same places, so that what they return differs in the order of sums alone;
gradients are held against float64's.
"""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.errors import BadInput
from mrd_jax.models import mini_pointnet, sampling_kernel
from mrd_jax.models.mini_pointnet import MiniPointNet
from mrd_jax.parallel import devices
from mrd_jax.parallel.sharding import batch_sharding, make_mesh

PORTABLE = mini_pointnet._Activations
KERNELS = mini_pointnet._RecomputedActivations
INTERPRETED = functools.partial(KERNELS, interpret=True)


@pytest.fixture
def transposed_operands(monkeypatch):
  """The interpreter of jax 0.10 multiplies no transposed matrices."""
  if not jax.__version__.startswith("0.10."):
    return
  from jax._src.pallas.mosaic.interpret import utils
  from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks as callbacks
  from jax._src.state.types import TransposeTransform

  def wgmma(*, token, device_id, thread_id, acc_dtype, **operands):
    memory = callbacks._get_shared_memory()
    thread = memory.get_global_thread_id(int(device_id), int(thread_id))

    def key(name):
      found = operands[f"{name}_allocation_key_as_array"]
      return callbacks.HostAllocationKey.from_array(found)

    def read(name):
      transforms = callbacks._remove_noop_transforms(
        operands[f"{name}_transforms"]
      )
      indices = [t for t in transforms if not isinstance(t, TransposeTransform)]
      place = utils.to_range(jax.tree.map(int, indices))
      matrix, _, _ = memory.get_buffer_content(
        key(name), place, thread, logging_info=None
      )
      assert matrix is not None
      return matrix.T if len(indices) < len(transforms) else matrix

    product = np.matmul(read("a"), read("b"), dtype=acc_dtype)
    memory.store_buffer_content(
      key("acc"), (), read("acc") + product, thread, logging_info=None
    )
    return token

  monkeypatch.setattr(callbacks, "wgmma", wgmma)


def make(batch, groups, group_size, features):
  """Points of which some repeat, as in a ball of few, and layers."""
  rng = np.random.default_rng(0)
  x_BGKC = rng.normal(size=(batch, groups, group_size, 9)) * 0.5
  x_BGKC[:, ::2, -group_size // 4 :] = x_BGKC[:, ::2, :1]
  x_BGKC = np.asarray(x_BGKC.astype(jnp.bfloat16), np.float64)
  layers, fan_in = [], 9
  for width in (64, 64, features):
    layers.append(
      (
        rng.uniform(-1, 1, (fan_in, width)) * fan_in**-0.5,
        rng.normal(size=width) * 0.1,
        rng.uniform(0.5, 1.5, width),
        rng.normal(size=width) * 0.1,
      )
    )
    fan_in = width
  return x_BGKC, layers


def everything(activations, dtype, x_BGKC, layers):
  """Embeddings, statistics, and gradients of a function of both."""
  wide = jnp.promote_types(dtype, jnp.float32)
  layers = jax.tree.map(lambda x: jnp.asarray(x, wide), layers)
  x_BGKC = jnp.asarray(x_BGKC, dtype)

  def loss(layers):
    y_BGO, moments = mini_pointnet._embed(
      x_BGKC, layers, None, with_moments=True, activations=activations
    )
    pull_BGO = np.random.default_rng(1).normal(size=y_BGO.shape)
    total = (y_BGO.astype(wide) * pull_BGO.astype(wide)).sum()
    return total + sum((m**2).sum() for m in jax.tree.leaves(moments)), (
      y_BGO,
      moments,
    )

  found, seen = jax.jit(jax.grad(loss, has_aux=True))(layers)
  return jax.tree.map(lambda x: np.asarray(x, np.float64), (found, seen))


def check(shape, kernels, exact_dtype):
  """Neither results nor gradients are off by twice what bfloat16 costs."""
  x_BGKC, layers = make(*shape)
  with jax.enable_x64(exact_dtype == jnp.float64):
    exact = everything(PORTABLE, exact_dtype, x_BGKC, layers)
  portable = everything(PORTABLE, jnp.bfloat16, x_BGKC, layers)
  found = everything(kernels, jnp.bfloat16, x_BGKC, layers)
  names = [jax.tree_util.keystr(k) for k, _ in jax.tree.leaves_with_path(exact)]
  # A bias before a norm has gradient zero but for rounding.
  scale = max(np.linalg.norm(x) for x in jax.tree.leaves(exact[0]))
  for name, a, b, c in zip(
    names, *map(jax.tree.leaves, (exact, portable, found)), strict=True
  ):
    ours, theirs = np.linalg.norm(c - a), np.linalg.norm(b - a)
    assert ours <= 2 * theirs + 1e-6 * scale, (name, ours, theirs)


@pytest.mark.slow
def test_interpreted_kernels_cost_no_more_than_bfloat16(transposed_operands):
  check((2, 3, 64, 72), INTERPRETED, jnp.float64)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_interpreted_kernels_equal_the_portable_form(
  transposed_operands, depth
):
  """Sums of one layer or two, and maxima of three, of the same weights."""
  x_BGKC, layers = make(1, 2, 128, 130)
  folded = [
    (jnp.float32(kernel * scale), jnp.float32(shift))
    for kernel, _, scale, shift in layers[:depth]
  ]

  def results(folded, activations):
    x = activations(jnp.asarray(x_BGKC, jnp.bfloat16))
    for layer in folded[:2]:
      x.add(*layer)
    return x.moments() if depth < 3 else x.pool(folded[2][0])

  def both(activations, transform):
    form = functools.partial(results, activations=activations)
    y, backward = jax.vjp(transform(form), folded)
    pull = jax.tree.map(
      lambda y: np.random.default_rng(2).normal(size=y.shape).astype(y.dtype), y
    )
    return y, backward(pull)

  # Compiled for a CPU, the portable form leaves roundings out.
  kernels, portable = both(INTERPRETED, jax.jit), both(PORTABLE, lambda f: f)
  for found, expected, tolerance in zip(
    kernels, portable, (1e-4, 5e-3), strict=True
  ):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
      a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
      assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def lower(model, shape, platform, *, layout=None, gradient=False):
  """The text of a model in training, or of its gradient."""
  x_BGKC = jax.ShapeDtypeStruct((*shape, 9), jnp.bfloat16, sharding=layout)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), x_BGKC
  )

  def loss(params, stats, x_BGKC):
    y, updates = model.apply(
      {"params": params, "batch_stats": stats},
      x_BGKC,
      train=True,
      mutable=("batch_stats",),
    )
    return y.astype(jnp.float32).sum(), updates

  return (
    jax.jit(jax.grad(loss, has_aux=True) if gradient else loss)
    .trace(variables["params"], variables["batch_stats"], x_BGKC)
    .lower(lowering_platforms=(platform,))
    .as_text()
  )


def activations(text, rows):
  """Products that read or write a row of 64 for every point."""
  return re.findall(rf"dot_general.*tensor<{rows}x64xbf16>", text)


@pytest.mark.slow
def test_the_gradient_lowers_for_hopper_and_keeps_no_activations(hopper):
  model = MiniPointNet(96, jnp.bfloat16)
  text = lower(model, (16, 4, 256), "cuda", gradient=True)
  # Forward and backward: sums of two layers' activations, and maxima.
  assert text.count("@mosaic_gpu_v2") == 6
  assert not activations(text, 16 * 4 * 256)


def test_each_device_computes_its_clouds_in_kernels_on_hopper_only(hopper):
  layout = batch_sharding(make_mesh(1))
  model = MiniPointNet(256, jnp.bfloat16, batch_sharding=layout)
  text = lower(model, (16, 4, 64), "cuda", layout=layout)
  assert text.count("@mosaic_gpu_v2") == 3
  assert "tensor<2x256x16xbf16>" in text
  assert "all_gather" not in text
  assert not activations(text, 16 * 4 * 64)
  text = lower(model, (16, 4, 64), "cpu", layout=layout)
  assert "mosaic" not in text
  assert activations(text, 16 * 4 * 64)


@pytest.mark.parametrize(
  ("capability", "dtype", "group_size", "taken"),
  [
    ("9.0", jnp.bfloat16, 64, True),
    ("9.0", jnp.bfloat16, 256, True),
    ("9.0", jnp.bfloat16, 96, False),
    ("9.0", jnp.bfloat16, 320, False),
    ("9.0", jnp.float32, 64, False),
    ("8.0", jnp.bfloat16, 64, False),
    ("10.0", jnp.bfloat16, 64, False),  # its matrix units are other ones
  ],
)
def test_which_devices_and_shapes_take_the_kernels(
  monkeypatch, capability, dtype, group_size, taken
):
  device = SimpleNamespace(platform="gpu", compute_capability=capability)
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  takes_kernel = mini_pointnet.takes_kernel
  assert takes_kernel("auto", dtype, group_size) is taken
  assert not takes_kernel("xla", dtype, group_size)
  if taken:
    assert takes_kernel("kernel", dtype, group_size)
  else:
    with pytest.raises(BadInput, match="model.point_net is 'kernel', which"):
      takes_kernel("kernel", dtype, group_size)


@pytest.mark.gpu
@pytest.mark.parametrize(
  "shape", [(64, 64, 256, 96), (64, 384, 64, 256)], ids=["t", "m"]
)
def test_kernels_equal_the_portable_form_on_the_device(shape):
  if not sampling_kernel.is_supported() or devices.cuda_capability() >= 10:
    pytest.skip("needs a Hopper GPU")
  with jax.default_matmul_precision("highest"):
    check(shape, KERNELS, jnp.float32)
