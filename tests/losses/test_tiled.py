"""The losses tile by tile against the dense form, and their promises."""

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from loss_batches import BATCHES, free_pairs, make_batch

from benchmarks import losses as benchmark
from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import mrd
from mrd_jax.losses.mrd import Embeddings
from mrd_jax.losses.terms import choose_form
from mrd_jax.parallel import sharding

# On two devices 28 rows each, on eight 7; tiles of 3 columns and 12 rows, or of
# 1 row and all columns, divide few of them.
SAMPLES, WIDTH, STRIPE = 56, 8, 3


def make_mesh(name: str) -> Mesh | None:
  """Of "none", or devices as "data x fsdp"."""
  if name == "none":
    return None
  data, fsdp = map(int, name.split("x"))
  return sharding.make_mesh(fsdp, jax.devices()[: data * fsdp])


@functools.cache
def gradient_function(config: LossConfig, mesh: str):
  """One compilation for all batches of a config and a type."""

  def loss(student, teachers):
    point, logit_scale, free = student
    return mrd.mrd_loss(
      config,
      Embeddings(point, *teachers),
      logit_scale,
      free,
      jax.random.key(3),
      mesh=make_mesh(mesh),
    )

  return jax.jit(
    jax.value_and_grad(loss, has_aux=True),
    # Without LLVM's optimisations it compiles sooner.
    compiler_options={"xla_backend_optimization_level": 0},
  )


def run(config: LossConfig, inputs, free, *, mesh: str, dtype):
  """Loss, metrics and gradients as float64 NumPy arrays."""
  wide = dtype == np.float64
  with jax.enable_x64(True) if wide else contextlib.nullcontext():
    (value, metrics), gradients = gradient_function(config, mesh)(
      (
        inputs["point"].astype(dtype),
        dtype(inputs["logit_scale"]),
        {name: pair.astype(dtype) for name, pair in free.items()},
      ),
      (
        inputs["image"].astype(dtype),
        inputs["text"].astype(dtype),
        inputs["has_text"],
      ),
    )
    assert {x.dtype for x in metrics.values()} == {np.dtype(dtype)}
    point, logit_scale, weights = gradients
    found = {"loss": value, "d point": point, "d logit_scale": logit_scale}
    if weights:
      found["d weights"] = jnp.concatenate(list(weights.values()))
    return jax.tree.map(
      lambda x: np.asarray(x, np.float64), (found, dict(metrics))
    )


def errors(config: LossConfig, found, expected) -> dict[str, float]:
  """Norm of the difference over the norm, for the loss and each gradient.

  The gradient of a dynamic weight is lambda w1 w2 (D1 - D2), so its rounding
  is that of D1 and D2, however near they are.
  """
  (values, _), (expected_values, metrics) = found, expected
  result = {}
  for name, value in expected_values.items():
    size = np.linalg.norm(value)
    if name == "d weights":
      terms = [x for key, x in metrics.items() if key.startswith("relation/")]
      size = max(size, config.relation_weight * np.max(terms) / 4)
    difference = np.linalg.norm(values[name] - value)
    result[name] = difference / (size if size else 1)
  return result


def assert_is_dense(config: LossConfig, batch_name: str, mesh: str):
  """Every value and gradient in float64."""
  inputs, free = make_batch(batch_name, SAMPLES, WIDTH), free_pairs(config)
  found = run(config, inputs, free, mesh=mesh, dtype=np.float64)
  dense = dataclasses.replace(config, form="dense", stripe=1)
  expected = run(dense, inputs, free, mesh="none", dtype=np.float64)
  for name, size in errors(config, found, expected).items():
    assert size < 1e-12, name
  (_, metrics), (_, dense_metrics) = found, expected
  assert metrics.keys() == dense_metrics.keys()
  for name, value in dense_metrics.items():
    # The terms of equal relations are differences that vanish.
    assert metrics[name] == pytest.approx(value, rel=1e-12, abs=1e-14), name
    if name.startswith("accuracy"):
      assert metrics[name] == value


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


def config_of(representation: str, **options) -> LossConfig:
  """The paper's terms; fewer where a program takes long to compile."""
  if representation == "partial_order":
    options = {"cross": False} | options
  return LossConfig(
    **{"representation": representation, "form": "gather", "stripe": STRIPE}
    | options
  )


@pytest.mark.parametrize("batch_name", BATCHES)
@pytest.mark.parametrize(
  "representation", ["similarity", "euclidean", slow("partial_order")]
)
def test_tiles_are_the_dense_form(representation, batch_name):
  assert_is_dense(config_of(representation), batch_name, "1x2")


@pytest.mark.gpu
@pytest.mark.gpus
def test_tiles_over_gpus_are_the_dense_form():
  assert_is_dense(config_of("similarity"), "random", "1x2")


VARIANTS = [
  ("similarity", {}, "2x4"),
  # On one device, with and without a mesh.
  slow("similarity", {}, "none"),
  slow("similarity", {}, "1x1"),
  # As many columns as there are, and one.
  slow("similarity", {"stripe": 512}, "1x2"),
  slow("similarity", {"stripe": 1}, "2x1"),
  slow(
    "similarity",
    {
      "cross_form": "matched",
      "intra_teacher": "image",
      "cross_scale": 0.0,
      "cross_diagonal": False,
    },
    "2x1",
  ),
  slow("similarity", {"intra": False, "cross": False}, "1x2"),
  slow("euclidean", {}, "none"),
  (
    "euclidean",
    {"intra_diagonal": False, "normalize_intra": False, "weighting": "fixed"},
    "1x2",
  ),
  slow("partial_order", {"intra_diagonal": False}, "none"),
  slow("partial_order", {"sampled_pairs": 5, "cross": True}, "2x2"),
]


@pytest.mark.parametrize("batch_name", ["correlated", "masked", "duplicates"])
@pytest.mark.parametrize(("representation", "options", "mesh"), VARIANTS)
def test_variants_are_the_dense_form_too(
  representation, options, mesh, batch_name
):
  assert_is_dense(config_of(representation, **options), batch_name, mesh)


@pytest.mark.parametrize("batch_name", BATCHES)
@pytest.mark.parametrize(
  "representation", ["similarity", slow("euclidean"), slow("partial_order")]
)
def test_float32_is_as_good_as_the_dense_form(representation, batch_name):
  """Within 1e-6, or as near to float64 as dense matrices in float32 are.

  At a scale of 99 an exponential has a hundred times the rounding error of its
  cosine: there the dense form itself is further from float64 than 1e-6.
  """
  config = config_of(representation)
  dense = dataclasses.replace(config, form="dense", stripe=1)
  inputs, free = make_batch(batch_name, SAMPLES, WIDTH), free_pairs(config)
  inputs = {
    name: x if x.dtype == bool else x.astype(np.float32)
    for name, x in inputs.items()
  }
  found = run(config, inputs, free, mesh="1x2", dtype=np.float32)
  near = run(dense, inputs, free, mesh="none", dtype=np.float32)
  exact = run(dense, inputs, free, mesh="none", dtype=np.float64)
  own = errors(config, near, exact)
  for name, size in errors(config, found, near).items():
    if size >= 1e-6:
      to_exact = errors(config, found, exact)[name]
      assert to_exact <= max(1e-6, 2 * own[name]), name


@pytest.mark.parametrize("form", ["dense", "gather"])
def test_teachers_are_constants(form):
  inputs = make_batch("random", SAMPLES, WIDTH)
  config = LossConfig(form=form, cross_form="matched")

  def loss(image, text):
    return mrd.mrd_loss(
      config,
      Embeddings(jnp.asarray(inputs["point"]), image, text, inputs["has_text"]),
      jnp.float32(2),
      mrd.init_dynamic_weights(config),
    )[0]

  gradients = jax.jit(jax.grad(loss, (0, 1)))(inputs["image"], inputs["text"])
  assert not any(g.any() for g in gradients)


def test_auto_is_dense_while_that_is_small():
  auto = LossConfig()
  assert choose_form(auto, 2590, 1) == "dense"
  assert choose_form(auto, 2591, 1) == "gather"
  assert choose_form(auto, 7327, 8) == "dense"
  assert choose_form(auto, 7328, 8) == "gather"
  for form in ("dense", "gather"):
    config = LossConfig(form=form)
    assert choose_form(config, 2, 8) == form
    assert choose_form(config, 2**20, 1) == form


@pytest.mark.parametrize(
  ("representation", "batch", "devices", "gib"),
  [
    ("similarity", 16384, 1, 1.0),
    slow("euclidean", 16384, 1, 1.0),
    slow("partial_order", 16384, 1, 1.0),
    slow("similarity", 65536, 8, 4.0),
    slow("euclidean", 65536, 8, 4.0),
    slow("partial_order", 65536, 8, 4.0),
  ],
)
def test_memory_of_large_batches(representation, batch, devices, gib):
  """Of the loss and its gradient with CLIP's 1,280 channels."""
  config = LossConfig(representation=representation, form="gather")
  program = benchmark.compiled(config, batch, 1280, devices)
  assert program.memory_analysis().temp_size_in_bytes <= gib * 2**30


def programs(*arguments: str) -> list[dict]:
  args = ["--devices=2", "--timed=", "--dim=32", "--stripe=16"]
  args += ["--cross_form=matched", *arguments]
  return benchmark.measure(benchmark.parse(args))["programs"]


@pytest.mark.parametrize("size", [512, slow(16384)])
def test_no_matrix_is_made_and_what_moves_is_linear(size):
  (program,) = programs("--forms=gather", f"--batch={size}")
  assert program["largest"] < size**2 / 8
  moved, expected = program["collectives"], program["expected"]
  for kind, total in moved.items():
    # Beside the features: some numbers a sample, and a few a device.
    least = expected.get(kind, 0)
    assert least <= total <= least + 100 * size + 200, (kind, moved)


@pytest.mark.parametrize("representation", ["similarity", "euclidean"])
def test_no_relation_is_computed_twice(representation):
  """PP, II, TT, PI, PT, IT and TI, whatever the terms."""
  config = LossConfig(representation=representation, form="dense")
  text = benchmark.compiled(config, 24, 40, 1).as_text()
  products = re.findall(r"= f32\[24,24\]\S* dot\(", text)
  assert len(products) == 7


def test_the_dense_form_has_the_matrix():
  (program,) = programs("--forms=dense", "--batch=512")
  assert program["largest"] >= 512**2 / 2
  assert program["temporaries"] > 10 * 4 * 512**2 / 2
