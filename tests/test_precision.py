"""No product is rounded that shall not be, by what is traced.

A CPU multiplies float32 as it is, whatever it is told, so no figure of a test
shows what a GPU makes of it (TF32) or a TPU (bfloat16).
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from test_house import HOUSE

from benchmarks.targets import TARGETS, standing_in
from mrd_jax.config.pretraining import LossConfig
from mrd_jax.encoder.input import prepare_records
from mrd_jax.finetune import start as starts
from mrd_jax.finetune.classification import Classification
from mrd_jax.losses.mrd import Embeddings, init_dynamic_weights, mrd_loss
from mrd_jax.metrics import relation_gap, retrieval
from mrd_jax.models.clip import CLIP
from mrd_jax.parallel import sharding
from mrd_jax.teachers.weights import read_size
from mrd_jax.training.loop import Run
from mrd_jax.training.pretraining import Pretraining
from mrd_jax.training.set_up import set_up
from mrd_jax.zoo.system import Preparation

PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")
HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)


def products(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
  """The products of a program, in whatever is called in it."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in PRODUCTS:
      yield equation
    for inner in jaxprs_in_params(equation.params):
      yield from products(inner)


def assert_float32_stays(jaxpr: Jaxpr, at_least: int) -> None:
  """Fails where float32 may be rounded, and where too little of it is found."""
  found = 0
  for product in products(jaxpr):
    if all(x.aval.dtype == jnp.float32 for x in product.invars):
      found += 1
      where = product.source_info.traceback
      assert product.params["precision"] == HIGHEST, f"{product}\n{where}"
  assert found >= at_least


@pytest.fixture(params=["h100", pytest.param("v5p", marks=pytest.mark.slow)])
def accelerator(request) -> Iterator[None]:
  """What is traced asks which device there is, and is told this one."""
  with standing_in(TARGETS[request.param]), runs.on_devices(2):
    yield


def pretraining(data_dir, *, dtype: str, model=None, **changes) -> Run:
  model = {"depth": 1, "dtype": dtype} | (model or {})
  config = runs.pretraining_config(data_dir, model=model, **changes)
  return set_up(Pretraining(config))


def finetuning(labelled_dir, *, dtype: str, model=None) -> Run:
  config = runs.finetuning_config(
    labelled_dir,
    scratch={"depth": 1},
    model={"dtype": dtype} | (model or {}),
  )
  start = starts.load("", "latest", config.scratch)
  return set_up(Classification(config, *start))


def step_of(run: Run) -> Jaxpr:
  batch = next(run.batches(0))
  return run.step_fn.trace(run.abstract_state, batch).jaxpr.jaxpr


KERNELS = {"model": {"group_size": 64}}  # Hopper's, in bfloat16
IN_PARTS = {"model": {"remat": "all"}, "train": {"accumulate": 2}}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
  "options", [{}, KERNELS, pytest.param(IN_PARTS, marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("accelerator")
def test_a_training_step(data_dir, dtype, options):
  assert_float32_stays(
    step_of(pretraining(data_dir, dtype=dtype, **options)), at_least=40
  )


@pytest.mark.parametrize("form", ["dense", "gather"])
@pytest.mark.parametrize(
  "representation", ["similarity", "euclidean", "partial_order"]
)
def test_every_kind_of_loss(representation, form):
  """Value and gradient, on two devices."""
  config = LossConfig(representation=representation, form=form, stripe=4)
  mesh = sharding.make_mesh(1, jax.devices()[:2])

  def loss(point, image, text):
    embeddings = Embeddings(point, image, text, jnp.ones(16, bool))
    return mrd_loss(
      config,
      embeddings,
      jnp.float32(2),
      init_dynamic_weights(config),
      mesh=mesh,
    )

  one = jax.ShapeDtypeStruct((16, 8), jnp.float32)
  traced = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(one, one, one)
  assert_float32_stays(traced.jaxpr, at_least=10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("accelerator")
def test_a_step_of_fine_tuning(labelled_dir, dtype):
  assert_float32_stays(
    step_of(finetuning(labelled_dir, dtype=dtype)), at_least=20
  )


@pytest.mark.usefixtures("accelerator")
def test_embeddings_and_logits_of_an_evaluation(data_dir, labelled_dir):
  for run in (
    pretraining(data_dir, dtype="float32"),
    finetuning(labelled_dir, dtype="float32"),
  ):
    state, batch = run.abstract_state, next(run.batches(0))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    objective: Any = run.objective
    if isinstance(objective, Pretraining):
      variables["params"] = state.params["encoder"]
      shapes = prepare_records(
        jax.device_get(batch), Preparation(128, "z", "shuffled")
      )
      traced = objective.held_out._embedder._forward.trace(variables, shapes)
    else:
      traced = objective._forward.trace(variables, batch, voted=False)
    assert_float32_stays(traced.jaxpr.jaxpr, at_least=10)


def test_retrieval_and_relation_gap(monkeypatch):
  traced = []

  def map_rows(function, rows, whole):
    traced.append(jax.make_jaxpr(function)(rows, whole).jaxpr)
    return np.asarray(function(rows, whole))

  for module in (retrieval, relation_gap):
    monkeypatch.setattr(module, "map_rows", map_rows)
  rng = np.random.default_rng(0)
  point, image, text = rng.normal(size=(3, 6, 4)).astype(np.float32)
  yes = np.ones(6, bool)
  retrieval.retrieval(point, text, yes, image_ND=image, has_image_N=yes)
  relation_gap.relation_gap(point, image, text, yes, yes)
  assert len(traced) == 3 + 4
  for jaxpr in traced:
    assert_float32_stays(jaxpr, at_least=1)


@pytest.mark.parametrize(
  "module", ["metrics.zero_shot", "metrics.probe", "search.nearest"]
)
def test_other_metrics_and_the_search_are_numpys(module):
  """On the host, where float32 is float32."""
  assert "jax" not in {name.split(".")[0] for name in HOUSE[module]}


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_teacher(clip_folder, tower):
  model = CLIP(read_size(clip_folder / "config.json"))
  side, length = model.size.image_size, model.size.context
  inputs = {
    "image": (np.zeros((2, 3, side, side), np.float32),),
    "text": np.ones((2, 2, length), np.int32),
  }
  variables = jax.eval_shape(
    model.init, jax.random.key(0), *inputs["image"], *inputs["text"]
  )
  embed = functools.partial(model.apply, method=tower)
  traced = jax.make_jaxpr(embed)(variables, *inputs[tower])
  assert_float32_stays(traced.jaxpr, at_least=7)


@pytest.mark.parametrize(
  ("options", "dtype"),
  [({}, "float32"), ({"gradient_dtype": "bfloat16"}, "bfloat16")],
)
@pytest.mark.parametrize("make", [pretraining, finetuning])
def test_weights_gradients_reach_the_sum_over_devices_in(
  request, make, options, dtype
):
  """Every one of the blocks and of the lift, in bfloat16."""
  folder = "data_dir" if make is pretraining else "labelled_dir"
  with runs.on_devices(2):
    run = make(request.getfixturevalue(folder), dtype="bfloat16", model=options)
  encoder = run.abstract_state.params["encoder"]
  shapes = {
    leaf.shape
    for name in ("lift", "block_0")
    for leaf in jax.tree.leaves(encoder[name])
    if leaf.ndim == 2
  }
  # Sums over the patch tokens, or over all tokens, of the batch.
  tokens = 8 * run.objective.config.train.batch_size
  rows = {tokens, tokens + run.objective.config.train.batch_size}
  found = set()
  for product in products(step_of(run)):
    result, left = product.outvars[0].aval, product.invars[0].aval
    (summed, _), _ = product.params["dimension_numbers"]
    if result.shape in shapes and rows & {left.shape[i] for i in summed}:
      assert left.dtype == jnp.bfloat16
      found.add((result.shape, result.dtype.name))
  assert found == {(shape, dtype) for shape in shapes}
