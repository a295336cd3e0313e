"""The encoder against its PyTorch twin: same weights, same clouds."""

import dataclasses
import functools

import pytest

pytest.importorskip("torch", reason="parity tests need the torch extra")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from encoders import variable_shapes
from flax import traverse_util
from jax import export
from weights import make_twin, surface_clouds, to_flax

from mrd_jax.config.pretraining import SIZES, PointBERTSize
from mrd_jax.models import mini_pointnet
from mrd_jax.models.layers import Linear
from mrd_jax.models.point_ops import Groups
from mrd_jax.models.pointbert import Block, PointBERT, gathered_parameters
from mrd_jax.parallel import sharding

TINY = PointBERTSize(
  48, 2, 2, 96, sa_dim=24, groups=16, radius=0.4, group_size=12
)
EMBED_DIM = 40
TOLERANCE = 1e-5  # relative, float32


def relative_error(ours, theirs) -> float:
  theirs = np.asarray(theirs)
  return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(
  ("size", "count"),
  [
    ("t", 5_100_768),
    ("s", 21_895_744),
    ("m", 32_326_080),
    ("b", 86_235_328),
    ("l", 303_839_168),
  ],
)
def test_parameter_counts(size, count):
  params = variable_shapes(SIZES[size], 1280)["params"]
  assert sum(x.size for x in jax.tree.leaves(params)) == count


@functools.cache
def jitted(model: PointBERT):
  """One program for a model and its arguments' shapes, whoever asks."""
  return jax.jit(model.apply, static_argnames=("train", "mutable"))


def both(size, clouds, counts=None, *, train, embed_dim=EMBED_DIM):
  """Runs both on the same weights.

  Returns:
    (our embeddings, our new statistics or None), (the twin's, its state).
  """
  twin = make_twin(size, embed_dim)
  variables = to_flax(twin.state_dict())
  counts = [clouds.shape[1]] * len(clouds) if counts is None else counts
  ours = jitted(PointBERT(size, embed_dim))(
    variables,
    jnp.asarray(clouds),
    jnp.asarray(counts),
    train=train,
    mutable=("batch_stats",) if train else False,
  )
  twin.train(train)
  with torch.no_grad():
    points = torch.tensor(clouds)
    theirs = twin(points[..., :3], points, torch.tensor(counts)).numpy()
  embeddings, updates = ours if train else (ours, None)
  return (embeddings, updates), (theirs, twin.state_dict())


LARGE = {"embed_dim": 1280}


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
  ("size", "clouds", "options"),
  [
    pytest.param(TINY, (0, 3, 200), {}, id="tiny"),
    pytest.param(TINY, (1, 4, 200), {"counts": [200, 150, 30, 5]}, id="padded"),
    pytest.param(SIZES["t"], (0, 3, 2048), {}, id="t"),
    *(
      pytest.param(SIZES[name], (0, 2, 10_000), LARGE, id=name, marks=marks)
      for name, marks in (
        ("m", pytest.mark.slow),
        ("l", (pytest.mark.slow, pytest.mark.long)),
      )
    ),
  ],
)
def test_embeddings_equal_the_twin(size, clouds, options, train):
  (ours, _), (theirs, _) = both(
    size, surface_clouds(*clouds), **options, train=train
  )
  assert relative_error(ours, theirs) < TOLERANCE


def test_running_statistics_equal_the_twin():
  clouds = surface_clouds(2, 4, 200)
  (_, updates), (_, state) = both(TINY, clouds, train=True)
  expected = to_flax(state)["batch_stats"]
  count = 4 * TINY.groups * TINY.group_size
  before = to_flax(make_twin(TINY, EMBED_DIM).state_dict())
  for name, stats in updates["batch_stats"]["point_net"].items():
    twin = expected["point_net"][name]
    old = before["batch_stats"]["point_net"][name]["var"]
    # PyTorch records the unbiased variance, we the biased one.
    biased = 0.9 * old + (twin["var"] - 0.9 * old) * (count - 1) / count
    np.testing.assert_allclose(
      stats["mean"], twin["mean"], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(stats["var"], biased, rtol=1e-4)


@functools.cache
def gradient_of(model: PointBERT):
  """Of the mean square of embeddings, at the twin's weights: clouds -> tree."""
  variables = to_flax(make_twin(TINY, EMBED_DIM).state_dict())

  def loss(params, clouds):
    out, _ = model.apply(
      variables | {"params": params},
      clouds,
      jnp.full(len(clouds), clouds.shape[1]),
      train=True,
      mutable=("batch_stats",),
    )
    return (out**2).mean()

  return functools.partial(jax.jit(jax.grad(loss)), variables["params"])


def test_gradients_equal_the_twin():
  clouds = surface_clouds(3, 4, 200)
  twin = make_twin(TINY, EMBED_DIM)
  twin.train()
  points = torch.tensor(clouds)
  (twin(points[..., :3], points) ** 2).mean().backward()
  expected = to_flax({name: p.grad for name, p in twin.named_parameters()})
  expected = expected["params"]
  found = gradient_of(PointBERT(TINY, EMBED_DIM))(clouds)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
  jax.tree.map(
    # A bias before BatchNorm has gradient zero but for rounding, so errors
    # are measured against the largest gradient of all.
    lambda ours, theirs: np.testing.assert_allclose(
      ours, theirs, rtol=1e-3, atol=2e-5 * largest
    ),
    found,
    expected,
  )


def test_remat_changes_no_gradient():
  """Of the blocks and of the mini-PointNet."""
  clouds = surface_clouds(3, 4, 200)  # of a program that is compiled already
  expected = gradient_of(PointBERT(TINY, EMBED_DIM))(clouds)
  found = gradient_of(PointBERT(TINY, EMBED_DIM, remat="all"))(clouds)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    found,
    expected,
  )


def test_bfloat16_stays_close_and_keeps_float32_parameters():
  clouds = jnp.asarray(surface_clouds(5, 4, 200))
  counts = jnp.full(4, 200)
  model = PointBERT(TINY, EMBED_DIM)
  variables = to_flax(make_twin(TINY, EMBED_DIM).state_dict())
  half = model.clone(dtype=jnp.bfloat16)
  made = jax.eval_shape(
    lambda: half.init(jax.random.key(0), clouds, counts, train=False)
  )
  assert {x.dtype for x in jax.tree.leaves(made)} == {jnp.dtype("float32")}
  exact = jitted(model)(variables, clouds, counts, train=False, mutable=False)
  rounded = jitted(half)(variables, clouds, counts, train=False, mutable=False)
  assert rounded.dtype == jnp.float32
  cosine = (exact * rounded).sum(-1) / (
    jnp.linalg.norm(exact, axis=-1) * jnp.linalg.norm(rounded, axis=-1)
  )
  assert cosine.min() > 0.999
  assert relative_error(rounded, exact) > TOLERANCE  # it did round


def test_one_exported_program_is_right_on_every_platform():
  clouds, counts = jnp.asarray(surface_clouds(5, 4, 200)), jnp.full(4, 200)
  variables = to_flax(make_twin(TINY, EMBED_DIM).state_dict())
  embed = functools.partial(PointBERT(TINY, EMBED_DIM).apply, train=False)
  exported = export.export(jax.jit(embed), platforms=("cpu", "cuda", "tpu"))(
    variables, clouds, counts
  )
  found = export.deserialize(exported.serialize()).call(
    variables, clouds, counts
  )
  expected = embed(variables, clouds, counts)
  assert relative_error(found, expected) < TOLERANCE


def test_gathering_rounds_what_linear_rounds_and_no_gradient():
  rng = np.random.default_rng(0)
  rounded = [("lift", "kernel"), ("block_0", "qkv", "kernel")]
  kept = [
    ("block_0", "qkv", "bias"),
    ("block_0", "mlp_norm", "scale"),
    ("point_net", "linear_0", "kernel"),
    ("projection", "kernel"),
  ]
  flat = {
    ("encoder", *path): jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    for path in rounded + kept
  }

  def gather(flat, fsdp=2, dtype=jnp.bfloat16):
    mesh = sharding.make_mesh(fsdp, jax.devices()[:2])
    params = traverse_util.unflatten_dict(flat)
    return traverse_util.flatten_dict(gathered_parameters(params, mesh, dtype))

  found, backward = jax.vjp(jax.jit(gather), flat)
  for path, array in flat.items():
    expected = array
    if path[1:] in rounded:
      expected = array.astype(jnp.bfloat16).astype(jnp.float32)
      assert (expected != array).any()
    np.testing.assert_array_equal(found[path], expected)
  (gradients,) = backward(flat)
  jax.tree.map(np.testing.assert_array_equal, gradients, flat)
  for options in ({"fsdp": 1}, {"dtype": jnp.float32}):
    same = jax.jit(functools.partial(gather, **options))(flat)
    jax.tree.map(np.testing.assert_array_equal, same, flat)


def test_the_statistics_gradient_has_no_common_error_in_bfloat16():
  """A rounding that is the same in every row would not average out."""
  rng = np.random.default_rng(0)
  x_RC = jnp.asarray(rng.random((2**15, 4)), jnp.bfloat16)
  g_CC = jnp.asarray(rng.random((4, 4)), jnp.float32)
  _, backward = jax.vjp(mini_pointnet._gram, x_RC)
  (found,) = backward(g_CC)
  exact = np.asarray(x_RC, np.float64)
  mean = (exact @ np.asarray(g_CC + g_CC.T, np.float64)).mean(0)
  error = np.abs(np.asarray(found, np.float64).mean(0) / mean - 1).max()
  assert error < 5e-5
  once = exact @ np.asarray((g_CC + g_CC.T).astype(jnp.bfloat16), np.float64)
  assert np.abs(once.mean(0) / mean - 1).max() > 5e-4


def test_no_gradient_is_summed_in_bfloat16():
  """Such a sum stops growing at a few hundred times its terms.

  The one exception counts the equal maxima of a group, exact up to 256.
  """
  gradient = gradient_of(PointBERT(TINY, EMBED_DIM, dtype=jnp.bfloat16))

  def equations(jaxpr):
    for equation in jaxpr.eqns:
      yield equation
      for value in jax.tree.leaves(list(equation.params.values())):
        value = getattr(value, "jaxpr", value)
        if hasattr(value, "eqns"):
          yield from equations(value)

  program = jax.make_jaxpr(gradient)(jnp.ones((4, 50, 6)))
  sums = [
    equation.invars[0].aval
    for equation in equations(program.jaxpr)
    if equation.primitive.name == "reduce_sum"
  ]
  assert len(sums) > 20
  rounded = [x.shape for x in sums if x.dtype == jnp.bfloat16]
  assert rounded == [(4, TINY.groups, TINY.group_size, TINY.sa_dim)]


def test_a_bias_gradient_of_many_rows():
  layer = Linear(3, dtype=jnp.bfloat16)
  x = jnp.ones((100_000, 2), jnp.bfloat16)
  params = layer.init(jax.random.key(0), x)
  gradient = jax.grad(lambda p: layer.apply(p, x).astype(jnp.float32).sum())
  bias = gradient(params)["params"]["bias"]
  np.testing.assert_allclose(bias, np.full(3, 100_000), rtol=1e-3)


def test_initialization_is_pytorchs():
  """Bounds of the uniform draws are 1 / sqrt(fan_in); the cls token N(0, 1)."""
  size = dataclasses.replace(SIZES["t"], depth=1)
  groups = Groups(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 4, 9)))
  params = PointBERT(size, 1280).init(
    jax.random.key(0), groups, train=False, method="embed"
  )["params"]
  for layer, fan_in in (
    (params["block_0"]["mlp_out"], size.mlp_dim),
    (params["lift"], size.sa_dim + 3),
    (params["proj"], size.width),
  ):
    for name in ("kernel", "bias"):
      bound = fan_in**-0.5
      largest = np.abs(layer[name]).max()
      assert 0.95 * bound < largest <= bound
  assert 0.85 < params["cls_token"].std() < 1.15


@pytest.mark.gpu
def test_cudnn_attention_equals_xla():
  clouds = jnp.asarray(surface_clouds(6, 4, 200))
  counts = jnp.full(4, 200)
  xla = PointBERT(TINY, EMBED_DIM, dtype=jnp.bfloat16, attention="xla")
  variables = xla.init(jax.random.key(0), clouds, counts, train=False)
  expected = xla.apply(variables, clouds, counts, train=False)
  found = xla.clone(attention="cudnn").apply(
    variables, clouds, counts, train=False
  )
  assert relative_error(found, expected) < 0.02


def gradients_of_a_block(dtype, attention):
  """Of parameters and tokens, M's block at M's length."""
  size = SIZES["m"]
  length = 1 + size.groups
  block = Block(
    *(size.heads, size.mlp_dim, dtype, jnp.float32, attention), length=length
  )
  x, weights = np.random.default_rng(0).normal(size=(2, 8, length, size.width))
  x = jnp.pad(jnp.asarray(x, jnp.bfloat16), ((0, 0), (0, 1), (0, 0)))
  params = block.init(jax.random.key(0), x.astype(dtype))

  def total(params, x):
    return (block.apply(params, x.astype(dtype))[:, :length] * weights).sum()

  return jax.jit(jax.grad(total, argnums=(0, 1)))(params, x.astype(jnp.float32))


def gradients_of_an_encoder(dtype, attention):
  """Of parameters, T on clouds of 2,048 points."""
  model = PointBERT(SIZES["t"], EMBED_DIM, dtype=dtype, attention=attention)
  counts = jnp.full(8, 2048)
  groups = model.group(jnp.asarray(surface_clouds(6, 8, 2048)), counts)
  variables = model.init(jax.random.key(0), groups, train=False, method="embed")
  weights = np.random.default_rng(0).normal(size=(8, EMBED_DIM))

  def total(params):
    embeddings, _ = model.apply(
      variables | {"params": params},
      groups,
      train=True,
      mutable=["batch_stats"],
      method="embed",
    )
    return (embeddings * weights).sum()

  return jax.jit(jax.grad(total))(variables["params"])


@pytest.mark.gpu
@pytest.mark.parametrize(
  "gradients", [gradients_of_a_block, gradients_of_an_encoder]
)
def test_cudnns_gradients_are_as_near_as_the_portable_forms(gradients):
  exact = gradients(jnp.float32, "xla")

  def error(attention: str) -> float:
    found = gradients(jnp.bfloat16, attention)
    difference = jax.tree.map(lambda a, b: a - b, found, exact)
    return float(optax.tree.norm(difference) / optax.tree.norm(exact))

  portable = error("xla")
  assert 0 < portable < 0.1
  assert error("cudnn") < 2 * portable
