"""Losses and relations against the PyTorch twin, in float64."""

import pytest

pytest.importorskip("torch", reason="parity tests need the torch extra")

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from loss_batches import BATCHES, free_pairs, make_batch

from mrd_jax.compare import torch_losses as twin
from mrd_jax.compare.training import torch_options
from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import mrd, relations
from mrd_jax.losses.mrd import Embeddings

pytestmark = pytest.mark.usefixtures("x64")

SAMPLES, WIDTH = 12, 16
# Relative.  The terms of almost equal teachers are differences that vanish.
TOLERANCES = collections.defaultdict(lambda: 1e-11, one_class=1e-8)


HARD = ("correlated", "masked", "duplicates")
FORMER = {"intra_scale": 0.0, "cross_scale": 0.0, "intra_diagonal": False}
SIMILARITY, EUCLIDEAN, ORDER = "similarity", "euclidean", "partial_order"
VARIANTS = {
  "default": ((SIMILARITY, EUCLIDEAN, ORDER), {}),
  "matched": ((SIMILARITY, EUCLIDEAN), {"cross_form": "matched"}),
  "former": ((SIMILARITY, EUCLIDEAN, ORDER), FORMER),
  "fixed": ((SIMILARITY,), {"weighting": "fixed", "intra_scale": 5.0}),
  "cross_scale": ((SIMILARITY,), {"cross_scale": 0.0, "intra_scale": 20.0}),
  "image_alone": ((SIMILARITY,), {"intra_teacher": "image"}),
  "text_alone": ((EUCLIDEAN, ORDER), {"intra_teacher": "text"}),
  "intra_only": ((SIMILARITY,), {"cross": False}),
  "cross_only": ((SIMILARITY,), {"intra": False}),
  "base": ((SIMILARITY,), {"intra": False, "cross": False}),
  "no_diagonal": (
    (SIMILARITY, EUCLIDEAN, ORDER),
    {"intra_diagonal": False, "cross_diagonal": False},
  ),
  "printed_eq3": ((EUCLIDEAN,), {"normalize_intra": False}),
  "wide_margin": (
    (ORDER,),
    {"margin": 0.7, "relation_weight": 1.0, "intra_diagonal": False},
  ),
}
CASES = [
  (representation, variant, batch_name)
  for variant, (representations, _) in VARIANTS.items()
  for representation in representations
  for batch_name in (
    (*BATCHES, "one_class", "two") if variant == "default" else HARD
  )
]


@functools.partial(
  jax.jit,
  static_argnums=0,
  # Without LLVM's optimisations it compiles sooner.
  compiler_options={"xla_backend_optimization_level": 0},
)
def loss_and_gradients(config: LossConfig, inputs, free):
  """One compilation for all batches of a config."""

  def loss(point, logit_scale, free):
    embeddings = Embeddings(
      point, inputs["image"], inputs["text"], inputs["has_text"]
    )
    return mrd.mrd_loss(config, embeddings, logit_scale, free)

  return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(
    inputs["point"], inputs["logit_scale"], free
  )


def run_twin(config: LossConfig, inputs, free):
  point = torch.tensor(inputs["point"], requires_grad=True)
  logit_scale = torch.tensor(inputs["logit_scale"], requires_grad=True)
  pairs = {k: torch.tensor(v, requires_grad=True) for k, v in free.items()}
  named = {
    name: pairs.get(name, torch.zeros(2, dtype=torch.float64))
    for name in ("intra", "cross_image", "cross_text")
  }
  if config.cross_form == "matched" and "cross" in pairs:
    named["cross_image"] = pairs["cross"]
  value, terms = twin.mrd_loss(
    point,
    torch.tensor(inputs["image"]),
    torch.tensor(inputs["text"]),
    torch.tensor(inputs["has_text"]),
    logit_scale,
    named,
    **torch_options(config),
  )
  value.backward()
  of_pairs = {k: v.grad for k, v in pairs.items()}
  return value, terms, (point.grad, logit_scale.grad, of_pairs)


def assert_close(ours, theirs, what: str, tolerance: float):
  """Relative to the largest entry, but for what a logarithm of order 1 rounds.

  Where a term vanishes, its logarithms still differ by a last digit: on
  another processor in another place.
  """
  ours = np.asarray(ours)
  theirs = np.zeros_like(ours) if theirs is None else theirs.detach().numpy()
  size = max(np.abs(theirs).max(initial=0), 1e-9)
  error = np.abs(ours - theirs).max(initial=0) - np.finfo(float).eps
  error /= size
  assert error < tolerance, f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize(("representation", "variant", "batch_name"), CASES)
def test_loss_and_gradients_equal_the_twin(representation, variant, batch_name):
  config = LossConfig(representation=representation, **VARIANTS[variant][1])
  inputs, free = make_batch(batch_name, SAMPLES, WIDTH), free_pairs(config)
  (value, metrics), gradients = loss_and_gradients(config, inputs, free)
  twin_value, twin_terms, twin_gradients = run_twin(config, inputs, free)

  close = functools.partial(assert_close, tolerance=TOLERANCES[batch_name])
  close(value, twin_value, "loss")
  for name, term in twin_terms.items():
    kind, _, pair = name.partition("/")
    ours = f"relation/{pair}" if pair and kind != "contrast" else name
    close(metrics[ours], term, name)
  for name, ours, theirs in zip(
    ("point", "logit_scale"), gradients[:2], twin_gradients[:2], strict=True
  ):
    close(ours, theirs, f"gradient of {name}")
  for name in free:
    close(gradients[2][name], twin_gradients[2][name], f"gradient of {name}")


def run_random(config: LossConfig):
  inputs = make_batch("random", SAMPLES, WIDTH)
  return loss_and_gradients(config, inputs, free_pairs(config))


def test_every_term_is_a_metric():
  (_, metrics), _ = run_random(LossConfig(weighting="fixed"))
  terms = ["PP-II", "PP-TT", "PI-TI", "PI-IT", "PT-IT", "PT-TI"]
  assert set(metrics) == {
    "loss", "contrast/image", "contrast/text", "accuracy/image",
    "accuracy/text", "intra", "cross", "logit_scale",
    *(f"relation/{term}" for term in terms),
    *(f"weight/{term}" for term in terms),
  }  # fmt: skip
  for term in terms:
    assert metrics[f"weight/{term}"] == 0.5


def test_every_anchor_draws_all_columns_alike():
  first, second = (
    np.asarray(mrd.draw_columns(jax.random.key(seed), 24, 20_000))
    for seed in (0, 1)
  )
  assert first.shape == (24, 2, 20_000) and (first != second).any()
  for draws in first.reshape(48, -1):
    counts = np.bincount(draws, minlength=24)
    np.testing.assert_allclose(counts, 20_000 / 24, rtol=0.2)


def test_sampled_pairs_reach_the_total_loss():
  inputs = make_batch("random", SAMPLES, WIDTH)
  config = LossConfig(
    representation="partial_order", sampled_pairs=5, cross=False
  )
  embeddings = Embeddings(
    *(jnp.asarray(inputs[k]) for k in ("point", "image", "text", "has_text"))
  )

  @jax.jit
  def loss(key):
    free = mrd.init_dynamic_weights(config)
    return mrd.mrd_loss(config, embeddings, jnp.asarray(2.0), free, key)[0]

  values = [loss(jax.random.key(seed)) for seed in (0, 0, 1)]
  assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_losses_are_float32_inside(dtype):
  inputs = make_batch("random", SAMPLES, WIDTH)
  config = LossConfig()
  embeddings = {
    k: jnp.asarray(inputs[k], dtype) for k in ("point", "image", "text")
  }
  (loss, metrics), _ = loss_and_gradients(
    config,
    embeddings
    | {
      "has_text": inputs["has_text"],
      "logit_scale": np.float32(inputs["logit_scale"]),
    },
    {name: x.astype(np.float32) for name, x in free_pairs(config).items()},
  )
  assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}
  (double, _), _ = run_random(config)
  np.testing.assert_allclose(
    loss, double, rtol=1e-5 if dtype == jnp.float32 else 0.05
  )


def test_a_zero_row_has_no_gradient():
  x_BD = np.zeros((4, 4), np.float32)
  # Of the third a square underflows, of the last norm^-3 overflows.
  x_BD[:] = np.array([[3], [0], [1e-30], [1e-15]])

  @jax.jit
  @jax.grad
  def gradient(x_BD):
    return jnp.sum(relations.l2_normalize(x_BD)[:, 0])

  found = np.asarray(gradient(x_BD))
  assert np.isfinite(found).all() and found[0].any()
  assert not found[1:].any()
  np.testing.assert_array_equal(relations.l2_normalize(x_BD)[0], 0.5)
