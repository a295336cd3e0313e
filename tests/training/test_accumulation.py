"""A batch in parts: the gradient is that of the whole batch."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax.config.pretraining import LossConfig, PointBERTSize
from mrd_jax.data.examples import Examples
from mrd_jax.losses.mrd import init_dynamic_weights
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.parallel import sharding
from mrd_jax.training.pretraining import init_params, loss_of_examples

SIZE = PointBERTSize(
  32, 1, 2, 64, sa_dim=16, groups=8, radius=0.5, group_size=8
)
BATCH, POINTS, EMBED_DIM = 32, 64, 24


def make_examples(dtype) -> Examples:
  rng = np.random.default_rng(0)
  points = rng.normal(size=(BATCH, POINTS, 6))
  # Clouds of different spread, so that a part's statistics are not the whole's.
  points *= rng.uniform(0.1, 1, (BATCH, 1, 1))
  return Examples(
    points=jnp.asarray(points, jnp.float32),
    num_points=jnp.asarray(rng.integers(POINTS // 2, POINTS + 1, BATCH)),
    image=jnp.asarray(rng.normal(size=(BATCH, EMBED_DIM)), dtype),
    text=jnp.asarray(rng.normal(size=(BATCH, EMBED_DIM)), dtype),
    has_text=jnp.asarray(rng.random(BATCH) < 0.7),
  )


def gradients_of(encoder: PointBERT, loss: LossConfig, parts: int, mesh=None):
  """(params, batch_stats, examples) -> gradients, (metrics, statistics)."""
  return jax.jit(
    jax.grad(
      functools.partial(
        loss_of_examples,
        encoder=encoder,
        loss=loss,
        parts=parts,
        mesh=mesh,
        key=jax.random.key(2),
      ),
      has_aux=True,
    )
  )


def gradients(
  parts: int,
  *,
  dtype,
  fsdp: int | None,
  loss: LossConfig,
  remat="none",
  rows=slice(None),
):
  """Gradients, metrics and running statistics; `fsdp` None: no mesh."""
  layout = None
  if fsdp:
    devices = jax.devices()[: max(fsdp, 2)]
    layout = sharding.batch_sharding(sharding.make_mesh(fsdp, devices))
  encoder = PointBERT(
    SIZE, EMBED_DIM, dtype=dtype, remat=remat, batch_sharding=layout
  )
  params, batch_stats = init_params(encoder, loss, 14.28, jax.random.key(1))
  params["dynamic_weights"] = jax.tree.map(
    lambda x: x + jnp.array([0.3, -0.2]), init_dynamic_weights(loss)
  )
  params, batch_stats = jax.tree.map(
    lambda x: x.astype(dtype), (params, batch_stats)
  )
  examples = jax.tree.map(lambda x: x[rows], make_examples(dtype))
  if layout:
    examples = jax.device_put(examples, layout)
  found, (metrics, running) = gradients_of(
    encoder, loss, parts, layout and layout.mesh
  )(params, batch_stats, examples)
  return found, metrics, running


def relative_error(found, expected) -> float:
  """Largest, over the arrays, of |found - expected| / |expected|."""

  def error(a, b) -> float:
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))

  return max(jax.tree.leaves(jax.tree.map(error, found, expected)))


def without_noise(found):
  """Leaves out the biases before BatchNorm: their gradient is 0 + rounding."""
  point_net = found["encoder"]["point_net"]
  for i in range(3):
    del point_net[f"linear_{i}"]["bias"]
  return found


def assert_same(whole, found, tolerances: tuple[float, float]):
  """Gradients within the second, metrics and statistics within the first."""
  for expected, values in zip(whole[1:], found[1:], strict=True):
    assert relative_error(values, expected) < tolerances[0]
  whole, found = without_noise(whole[0]), without_noise(found[0])
  assert relative_error(found, whole) < tolerances[1]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("fsdp", "parts", "loss"),
  [
    # Contrast alone holds every sample against every other, too.
    (1, 4, LossConfig(intra=False, cross=False)),
    # One cloud at a time.
    pytest.param(None, 32, LossConfig(), marks=pytest.mark.long),
    pytest.param(
      *(4, 2, LossConfig(representation="partial_order")),
      marks=pytest.mark.long,
    ),
  ],
)
def test_the_gradient_is_that_of_the_whole_batch(x64, fsdp, parts, loss):
  """Within 1e-11, on one device, on two and on four."""
  make = functools.partial(gradients, dtype=jnp.float64, fsdp=fsdp, loss=loss)
  assert_same(make(1), make(parts), (1e-12, 1e-11))


@pytest.mark.slow
@pytest.mark.long
def test_in_float32_too():
  make = functools.partial(
    gradients, dtype=jnp.float32, fsdp=1, loss=LossConfig(), remat="blocks"
  )
  assert_same(make(1), make(4), (1e-5, 1e-4))


@pytest.mark.slow
@pytest.mark.long
def test_parts_on_their_own_would_give_another_gradient(x64):
  """What the tests above guard against: a mean of the parts' gradients."""
  whole, even, odd = (
    without_noise(
      gradients(1, dtype=jnp.float64, fsdp=None, loss=LossConfig(), rows=rows)[
        0
      ]
    )
    for rows in (slice(None), slice(0, None, 2), slice(1, None, 2))
  )
  mean = jax.tree.map(lambda a, b: (a + b) / 2, even, odd)
  assert relative_error(mean, whole) > 0.1


@pytest.mark.slow
def test_memory_is_that_of_a_part():
  """XLA's own count: eight parts need less than a third of the temporaries."""
  encoder = PointBERT(SIZE, EMBED_DIM)
  loss = LossConfig(intra=False, cross=False)
  params, batch_stats = jax.eval_shape(
    lambda key: init_params(encoder, loss, 14.28, key), jax.random.key(0)
  )

  def temporaries(parts: int) -> int:
    step = gradients_of(encoder, loss, parts)
    compiled = step.lower(params, batch_stats, make_examples(jnp.float32))
    return compiled.compile().memory_analysis().temp_size_in_bytes

  assert temporaries(8) < temporaries(1) / 3


@pytest.mark.gpu
def test_on_a_gpu_too():
  make = functools.partial(
    gradients, dtype=jnp.float32, fsdp=None, loss=LossConfig()
  )
  assert_same(make(1), make(2), (1e-5, 1e-4))


@pytest.mark.gpu
@pytest.mark.gpus
def test_over_gpus_too():
  make = functools.partial(gradients, 1, dtype=jnp.float32, loss=LossConfig())
  assert_same(make(fsdp=None), make(fsdp=2), (1e-5, 1e-4))


@pytest.mark.gpu
def test_a_step_on_a_gpu_is_as_exact_as_on_a_cpu():
  """Loss and gradients in float32, both against float64.

  Both round every operation by a factor 1 + d, |d| <= 2^-24; to first order
  an error is the sum of these d times sensitivities that both share.  They
  differ in how often a term of a sum is rounded: as often as there are terms,
  one after the other, or their logarithm in a tree.  The d being as good as
  random, the errors' ratio is at most the root of that of the counts.
  """
  cpu, gpu = jax.devices("cpu")[0], jax.devices()[0]
  loss = LossConfig()
  encoder = PointBERT(SIZE, EMBED_DIM)
  with jax.default_device(cpu):
    start = init_params(encoder, loss, 14.28, jax.random.key(1))
    examples = make_examples(jnp.float32)

  def run(device, dtype):
    wide = functools.partial(jax.tree.map, lambda x: np.asarray(x, dtype))
    features = {"image": wide(examples.image), "text": wide(examples.text)}
    inputs = (*wide(start), examples._replace(**features))
    step = gradients_of(encoder.clone(dtype=dtype), loss, 1)
    with jax.enable_x64(dtype == jnp.float64):
      found, (metrics, _) = step(*jax.device_put(inputs, device))
      return jax.device_get((without_noise(found), metrics["loss"]))

  exact = run(cpu, jnp.float64)
  on_cpu, on_gpu = (run(device, jnp.float32) for device in (cpu, gpu))
  terms = BATCH * SIZE.groups * SIZE.group_size  # the longest sum's
  factor = math.sqrt(terms / math.log2(terms))
  for found, near, value in zip(on_gpu, on_cpu, exact, strict=True):
    error = max(relative_error(near, value), 2**-24)
    assert relative_error(found, value) < factor * error
