"""The losses by blocks against the dense form, the twin, and their promises."""

import contextlib
import dataclasses
import functools
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from benchmarks import collectives
from benchmarks import losses as benchmark
from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import mrd
from mrd_jax.losses.mrd import Embeddings
from mrd_jax.losses.terms import choose_form
from mrd_jax.parallel import sharding

# On eight devices 7 rows each, on one 56; tiles of 3 columns and 24 rows
# divide none of them.
SAMPLES, WIDTH, STRIPE = 56, 8, 3

BATCHES = (
  "random",
  "correlated",
  "duplicates",
  "masked",
  "one_text",
  "no_text",
  "huge_scale",
  "student_is_teacher",
)


def batch(name: str) -> dict[str, np.ndarray]:
  """Raw embeddings; the hard ones are named by what is hard about them."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  point, image, text = rng.normal(size=(3, SAMPLES, WIDTH))
  has_text = np.ones(SAMPLES, bool)
  scale = 14.28
  if name == "correlated":
    image, text = point + 0.3 * image, point + 0.5 * text
  elif name == "duplicates":  # on one device and on two
    for x in (point, image, text):
      x[[3, 40]] = x[2]
    image[[5, 50]] = image[2]
  elif name == "masked":  # no row of the first device has one
    has_text = rng.random(SAMPLES) < 0.5
    has_text[:8] = False
    text[~has_text] = 0
  elif name == "one_text":
    has_text[1:] = False
  elif name == "no_text":
    has_text[:] = False
    text[:] = 0
  elif name == "huge_scale":
    scale = 99.0
  elif name == "student_is_teacher":
    point = image.copy()
  return {
    "point": point,
    "image": image,
    "text": text,
    "has_text": has_text,
    "logit_scale": np.log(scale),
  }


def make_mesh(name: str) -> Mesh | None:
  if name == "none":
    return None
  if name == "1x1":
    devices = np.array(jax.devices()[:1]).reshape(1, 1)
    return Mesh(devices, sharding.BATCH, axis_types=(AxisType.Auto,) * 2)
  return sharding.make_mesh(int(name[-1]))


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


def free_pairs(config: LossConfig) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(7)
  return {name: rng.normal(size=2) for name in mrd.init_dynamic_weights(config)}


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
  inputs, free = batch(batch_name), free_pairs(config)
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


# The paper's terms; fewer where a program takes long to compile.
REPRESENTATIONS = {
  "similarity": {},
  "euclidean": {},
  "partial_order": {"cross": False},
}


def config_of(representation: str, form: str) -> LossConfig:
  return LossConfig(
    representation=representation,
    form=form,
    stripe=STRIPE,
    **REPRESENTATIONS[representation],
  )


@pytest.mark.parametrize("batch_name", BATCHES)
@pytest.mark.parametrize(
  ("representation", "form", "mesh"),
  [
    ("similarity", "gather", "fsdp=4"),
    ("similarity", "ring", "fsdp=1"),
    ("euclidean", "gather", "fsdp=4"),
    pytest.param("euclidean", "ring", "fsdp=1", marks=pytest.mark.slow),
    pytest.param("partial_order", "gather", "fsdp=4", marks=pytest.mark.slow),
    pytest.param("partial_order", "ring", "fsdp=1", marks=pytest.mark.slow),
  ],
)
def test_blocks_are_the_dense_form(representation, form, mesh, batch_name):
  config = config_of(representation, form)
  assert_is_dense(config, batch_name, mesh)


VARIANTS = [
  # On one device, with and without a mesh.
  ({"form": "gather"}, "none"),
  pytest.param({"form": "gather"}, "1x1", marks=pytest.mark.slow),
  pytest.param({"form": "ring"}, "1x1", marks=pytest.mark.slow),
  # As many columns as there are, and one.
  pytest.param(
    {"form": "gather", "stripe": 512}, "fsdp=2", marks=pytest.mark.slow
  ),
  pytest.param({"form": "ring", "stripe": 1}, "fsdp=8", marks=pytest.mark.slow),
  pytest.param(
    {
      "form": "ring",
      "keep_diagonal": True,
      "cross_form": "matched",
      "relation_scale": 5.0,
    },
    "fsdp=2",
    marks=pytest.mark.slow,
  ),
  (
    {
      "representation": "euclidean",
      "form": "gather",
      "keep_diagonal": True,
      "normalize_intra": False,
      "weighting": "fixed",
    },
    "fsdp=2",
  ),
  pytest.param(
    {
      "representation": "partial_order",
      "form": "gather",
      "keep_diagonal": True,
    },
    "none",
    marks=pytest.mark.slow,
  ),
  pytest.param(
    {
      "representation": "partial_order",
      "form": "ring",
      "sampled_pairs": 5,
      "intra": False,
    },
    "fsdp=1",
    marks=pytest.mark.slow,
  ),
  pytest.param(
    {"representation": "partial_order", "form": "gather", "sampled_pairs": 5},
    "fsdp=4",
    marks=pytest.mark.slow,
  ),
  pytest.param(
    {"form": "gather", "intra": False, "cross": False},
    "fsdp=1",
    marks=pytest.mark.slow,
  ),
]


@pytest.mark.parametrize("batch_name", ["correlated", "masked", "duplicates"])
@pytest.mark.parametrize(("options", "mesh"), VARIANTS)
def test_variants_are_the_dense_form_too(options, mesh, batch_name):
  assert_is_dense(LossConfig(**{"stripe": STRIPE} | options), batch_name, mesh)


@pytest.mark.parametrize("batch_name", BATCHES)
@pytest.mark.parametrize(
  ("representation", "form"),
  [
    ("similarity", "gather"),
    pytest.param("similarity", "ring", marks=pytest.mark.slow),
    pytest.param("euclidean", "gather", marks=pytest.mark.slow),
    pytest.param("euclidean", "ring", marks=pytest.mark.slow),
    pytest.param("partial_order", "gather", marks=pytest.mark.slow),
    pytest.param("partial_order", "ring", marks=pytest.mark.slow),
  ],
)
def test_float32_is_as_good_as_the_dense_form(representation, form, batch_name):
  """Within 1e-6, or as near to float64 as dense matrices in float32 are.

  At a scale of 99 an exponential has a hundred times the rounding error of its
  cosine: there the dense form itself is further from float64 than 1e-6.
  """
  config = config_of(representation, form)
  dense = dataclasses.replace(config, form="dense", stripe=1)
  inputs, free = batch(batch_name), free_pairs(config)
  inputs = {
    name: x if x.dtype == bool else x.astype(np.float32)
    for name, x in inputs.items()
  }
  mesh = "fsdp=4" if form == "gather" else "fsdp=1"
  found = run(config, inputs, free, mesh=mesh, dtype=np.float32)
  near = run(dense, inputs, free, mesh="none", dtype=np.float32)
  exact = run(dense, inputs, free, mesh="none", dtype=np.float64)
  own = errors(config, near, exact)
  for name, size in errors(config, found, near).items():
    if size >= 1e-6:
      to_exact = errors(config, found, exact)[name]
      assert to_exact <= max(1e-6, 2 * own[name]), name


@pytest.mark.parametrize(
  ("representation", "form", "mesh"),
  [
    ("similarity", "gather", "fsdp=4"),
    ("euclidean", "gather", "fsdp=4"),
    ("partial_order", "ring", "fsdp=1"),
  ],
)
def test_blocks_are_the_twin(representation, form, mesh):
  pytest.importorskip("torch", reason="parity tests need the torch extra")
  import test_losses

  config = config_of(representation, form)
  inputs, free = batch("masked"), free_pairs(config)
  found = run(config, inputs, free, mesh=mesh, dtype=np.float64)
  value, terms, (point, logit_scale, weights) = test_losses.run_twin(
    config, inputs, free
  )
  gradient = {
    "loss": value.detach().numpy(),
    "d point": point.numpy(),
    "d logit_scale": logit_scale.numpy(),
    "d weights": np.concatenate([weights[k].numpy() for k in sorted(free)]),
  }
  for name, size in errors(config, found, (gradient, found[1])).items():
    assert size < 1e-12, name
  for name, term in terms.items():
    kind, _, pair = name.partition("/")
    ours = f"relation/{pair}" if pair and kind != "contrast" else name
    assert found[1][ours] == pytest.approx(term.item(), rel=1e-12), name


def test_teachers_are_constants():
  inputs = {name: jnp.float32(x) for name, x in batch("random").items()}
  has_text = jnp.ones(SAMPLES, bool)
  for form in ("dense", "gather"):

    def loss(image, text, form=form):
      return mrd.mrd_loss(
        LossConfig(form=form, intra=False, cross=False),
        Embeddings(inputs["point"], image, text, has_text),
        jnp.float32(2),
        {},
      )[0]

    gradients = jax.jit(jax.grad(loss, (0, 1)))(inputs["image"], inputs["text"])
    assert not any(g.any() for g in gradients)


def test_auto_is_dense_while_that_is_small():
  auto = LossConfig()
  assert choose_form(auto, 512, 1) == "dense"
  assert choose_form(auto, 2590, 1) == "dense"
  assert choose_form(auto, 2591, 1) == "gather"
  assert choose_form(auto, 7327, 8) == "dense"
  assert choose_form(auto, 7328, 8) == "gather"
  for form in ("dense", "gather", "ring"):
    config = LossConfig(form=form)
    assert choose_form(config, 2, 8) == form
    assert choose_form(config, 2**20, 1) == form


def programs(*arguments: str) -> list[dict]:
  args = ["--devices=8", "--timed=", "--dim=32", "--stripe=4"]
  args += ["--cross_form=matched", *arguments]
  return benchmark.measure(benchmark.parse(args))["programs"]


@pytest.mark.parametrize(
  ("form", "sizes"),
  [
    ("gather", (512, 2048)),
    ("ring", (512, 2048)),
    pytest.param("gather", (4096, 8192, 16384), marks=pytest.mark.slow),
    pytest.param("ring", (4096, 8192, 16384), marks=pytest.mark.slow),
  ],
)
def test_memory_is_linear_and_so_is_what_moves(form, sizes):
  found = programs(f"--forms={form}", f"--batch={','.join(map(str, sizes))}")
  a_sample = [p["temporaries"] / p["batch"] for p in found]
  # The tile is of one size, so what a sample costs can only fall.
  assert a_sample[-1] < 1.02 * a_sample[0]
  for size, program in zip(sizes, found, strict=True):
    assert program["largest"] < size**2 / 8
    moved, expected = program["collectives"], program["expected"]
    for kind, total in moved.items():
      # Beside the features: some numbers a sample, and a few a device.
      least = expected.get(kind, 0)
      assert least <= total <= least + 100 * size + 200, (kind, moved)
    if form == "ring":
      assert moved["all-gather"] == moved["reduce-scatter"] == 0


@pytest.mark.parametrize("representation", ["similarity", "euclidean"])
def test_no_relation_is_computed_twice(representation):
  """PP, II, TT, and PI, PT, IT by rows and by columns, whatever the terms."""
  config = LossConfig(representation=representation, form="dense")
  text = benchmark.compiled(config, 24, 40, 1).as_text()
  products = re.findall(r"= f32\[24,24\]\S* dot\(", text)
  assert len(products) == 9


def test_the_dense_form_has_the_matrix():
  (program,) = programs("--forms=dense", "--batch=512")
  assert program["largest"] >= 512**2 / 8
  assert program["temporaries"] > 10 * 4 * 512**2 / 8


@pytest.mark.slow
def test_a_ring_of_whole_rows_gathers_no_features():
  (program,) = programs(
    "--forms=ring", "--batch=256", "--representation=partial_order"
  )
  assert program["collectives"]["all-gather"] < 4 * 256 * 32
  assert program["collectives"]["collective-permute"] > 0


def test_the_benchmark_runs():
  result = benchmark.measure(
    benchmark.parse(
      ["--batch=", "--timed=16", "--dim=8", "--rounds=1"]
      + ["--stripe=4", "--cross_form=matched"]
    )
  )
  (row,) = result["times"]
  assert set(row["seconds"]) == {"dense", "gather"}
  assert all(x > 0 for x in row["seconds"].values())
  result["programs"] = [
    {
      "batch": 16,
      "devices": 8,
      "form": "gather",
      "temporaries": 2**30,
      "collectives": dict.fromkeys(collectives.NAMES, 2**20),
      "expected": {"all-gather": 2**21},
    }
  ]
  table = benchmark.tables(result)
  assert "1.000" in table and "1.00 (2.00)" in table


def test_the_benchmark_counts_loops_as_often_as_they_run():
  text = """
%body (x: f32[4]) -> f32[4] {
  %p = f32[4]{0} collective-permute(%x), channel_id=1
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %g = f32[8,4]{1,0} all-gather(%x), channel_id=2
  %s = (f32[2]{0}, s32[2]{0}) reduce-scatter(%x, %y), replica_groups={{0,1,2}}
  %w = f32[4]{0} while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501
  assert collectives.count(text) == {
    "all-gather": (1, 128),
    "reduce-scatter": (1, 48),
    "collective-permute": (5, 80),
    "all-reduce": (0, 0),
    "all-to-all": (0, 0),
  }
  assert benchmark.largest_array(text) == 32


@pytest.mark.parametrize(
  "groups",
  [
    "{{0,2,4,6},{1,3,5,7}}",
    "[2,4]<=[8]",
    "[2,4]<=[4,2]T(1,0)",
    "mesh['data'=4,'fsdp'=2] {'data'}",  # jaxlib 0.12
    "mesh['pod'=2,'data'=2,'fsdp'=2] {'data','fsdp'}",
  ],
)
def test_the_benchmark_reads_any_form_of_groups(groups):
  line = (
    f"%s = f32[2]{{0}} reduce-scatter(%x), replica_groups={groups}, a={{1}}"
  )
  assert collectives.group_size(line) == 4
