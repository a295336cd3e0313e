"""Losses and relations against the PyTorch twin, in float64."""

import pytest

pytest.importorskip("torch", reason="parity tests need the torch extra")

import functools
import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import torch

from mrd_jax.compare import torch_losses as twin
from mrd_jax.compare.training import torch_options
from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses import mrd, relations
from mrd_jax.losses.mrd import Embeddings

pytestmark = pytest.mark.usefixtures("x64")

TOLERANCE = 1e-6  # relative; what float64 reaches is ~1e-13


def batch(name: str, b: int = 12, d: int = 16) -> dict[str, np.ndarray]:
  """Raw embeddings; the hard ones are named by what is hard about them."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name == "two":
    b = 2
  point, image, text = rng.normal(size=(3, b, d))
  has_text = np.ones(b, bool)
  scale = 14.28
  if name == "correlated":
    image = point + 0.3 * image
    text = point + 0.5 * text
  elif name == "duplicates":
    point[3], image[3], text[3] = point[0], image[0], text[0]
    image[5] = image[0]
  elif name == "one_class":
    image = image[:1] + 1e-3 * image
    text = text[:1] + 1e-3 * text
  elif name == "masked":
    has_text = rng.random(b) < 0.5
    has_text[:3] = True, False, True
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


BATCHES = (
  "random",
  "correlated",
  "duplicates",
  "one_class",
  "masked",
  "one_text",
  "no_text",
  "huge_scale",
  "student_is_teacher",
  "two",
)

VARIANTS = {
  "default": {},
  "matched": {"cross_form": "matched"},
  "fixed": {"weighting": "fixed"},
  "intra_only": {"cross": False},
  "cross_only": {"intra": False},
  "base": {"intra": False, "cross": False},
  "diagonal": {"keep_diagonal": True},
  "fixed_scale": {"relation_scale": 5.0},
  "printed_eq3": {"normalize_intra": False},
  "wide_margin": {"margin": 0.7, "relation_weight": 1.0},
}


@functools.partial(jax.jit, static_argnums=0)
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


def run_ours(config: LossConfig, inputs, free):
  (value, metrics), gradients = loss_and_gradients(config, inputs, free)
  return value, metrics, gradients


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
  gradients = (
    point.grad,
    logit_scale.grad,
    {k: v.grad for k, v in pairs.items()},
  )
  return value, terms, gradients


def assert_close(ours, theirs, what: str, floor: float = 1e-9):
  """Relative to the largest entry, at least `floor`."""
  ours = np.asarray(ours)
  theirs = np.zeros_like(ours) if theirs is None else theirs.detach().numpy()
  size = max(np.abs(theirs).max(initial=0), floor)
  error = np.abs(ours - theirs).max(initial=0) / size
  assert error < TOLERANCE, f"{what}: relative error {error:.1e}"


HARD = ("correlated", "masked", "duplicates")
CASES = [
  *itertools.product(
    ("similarity", "euclidean", "partial_order"), ("default",), BATCHES
  ),
  *itertools.product(
    ("similarity",),
    ("matched", "fixed", "intra_only", "cross_only", "base", "fixed_scale"),
    HARD,
  ),
  *itertools.product(("similarity", "euclidean"), ("diagonal",), HARD),
  *itertools.product(("euclidean",), ("printed_eq3", "matched"), HARD),
  *itertools.product(("partial_order",), ("wide_margin", "diagonal"), HARD),
]


@pytest.mark.parametrize(("representation", "variant", "batch_name"), CASES)
def test_loss_and_gradients_equal_the_twin(representation, variant, batch_name):
  config = LossConfig(representation=representation, **VARIANTS[variant])
  inputs = batch(batch_name)
  rng = np.random.default_rng(7)
  free = {name: rng.normal(size=2) for name in mrd.init_dynamic_weights(config)}

  value, metrics, gradients = run_ours(config, inputs, free)
  twin_value, twin_terms, twin_gradients = run_twin(config, inputs, free)

  assert_close(value, twin_value, "loss")
  for name, term in twin_terms.items():
    kind, _, pair = name.partition("/")
    ours = f"relation/{pair}" if pair and kind != "contrast" else name
    assert_close(metrics[ours], term, name)
  for name, ours, theirs in zip(
    ("point", "logit_scale"), gradients[:2], twin_gradients[:2], strict=True
  ):
    assert_close(ours, theirs, f"gradient of {name}")
  for name in free:
    assert_close(
      gradients[2][name], twin_gradients[2][name], f"gradient of {name}"
    )


def test_every_term_is_a_metric():
  config = LossConfig()
  inputs = batch("random")
  _, metrics, _ = run_ours(config, inputs, mrd.init_dynamic_weights(config))
  terms = list(itertools.chain(*mrd.term_groups(config).values()))
  assert terms == ["PP-II", "PP-TT", "PI-TI", "PI-IT", "PT-IT", "PT-TI"]
  assert set(metrics) == {
    "loss", "contrast/image", "contrast/text", "accuracy/image",
    "accuracy/text", "intra", "cross", "logit_scale",
    *(f"relation/{term}" for term in terms),
    *(f"weight/{term}" for term in terms),
  }  # fmt: skip
  for term in terms:
    assert metrics[f"weight/{term}"] == 0.5


def test_teachers_get_no_gradient_from_relations():
  config = LossConfig(relation_weight=1.0)
  inputs = batch("random")

  def relation_part(image, text):
    _, metrics = mrd.mrd_loss(
      config,
      Embeddings(jnp.asarray(inputs["point"]), image, text, jnp.ones(12, bool)),
      jnp.asarray(inputs["logit_scale"]),
      mrd.init_dynamic_weights(config),
    )
    return metrics["relation/PP-II"] + metrics["relation/PP-TT"]

  gradients = jax.grad(relation_part, argnums=(0, 1))(
    jnp.asarray(inputs["image"]), jnp.asarray(inputs["text"])
  )
  assert all(not g.any() for g in gradients)


def test_relation_scale_sends_no_gradient_to_the_logit_scale():
  inputs = batch("random")
  free = mrd.init_dynamic_weights(LossConfig())
  _, _, with_relations = run_ours(LossConfig(), inputs, free)
  _, _, base = run_ours(LossConfig(intra=False, cross=False), inputs, {})
  np.testing.assert_allclose(with_relations[1], base[1], rtol=1e-12)


def test_sampled_pairs_estimate_the_full_ranking():
  rng = np.random.default_rng(0)
  student, teacher = rng.random((2, 24, 24))
  mask = relations.make_pair_mask(jnp.arange(24) < 20, keep_diagonal=False)
  args = (jnp.asarray(student), jnp.asarray(teacher), mask, 0.1)
  full = mrd.margin_ranking(*args)
  sampled = mrd.sampled_margin_ranking(
    *args, pairs=20_000, key=jax.random.key(0)
  )
  np.testing.assert_allclose(sampled, full, rtol=0.01)
  one = mrd.sampled_margin_ranking(*args, pairs=2, key=jax.random.key(1))
  assert one != sampled


def test_sampled_pairs_reach_the_total_loss():
  config = LossConfig(representation="partial_order", sampled_pairs=5)
  inputs = batch("random")
  embeddings = Embeddings(
    *(jnp.asarray(inputs[k]) for k in ("point", "image", "text", "has_text"))
  )
  free = mrd.init_dynamic_weights(config)
  values = [
    mrd.mrd_loss(
      config, embeddings, jnp.asarray(2.0), free, jax.random.key(seed)
    )[0]
    for seed in (0, 0, 1)
  ]
  assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_losses_are_float32_inside(dtype):
  inputs = batch("random")
  embeddings = Embeddings(
    *(
      jnp.asarray(inputs[k], dtype if k != "has_text" else bool)
      for k in ("point", "image", "text", "has_text")
    )
  )
  config = LossConfig()
  loss, metrics = mrd.mrd_loss(
    config,
    embeddings,
    jnp.float32(inputs["logit_scale"]),
    {
      name: jnp.zeros(2, jnp.float32)
      for name in mrd.init_dynamic_weights(config)
    },
  )
  assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}
  double, _, _ = run_ours(config, inputs, mrd.init_dynamic_weights(config))
  np.testing.assert_allclose(
    loss, double, rtol=1e-5 if dtype == jnp.float32 else 0.05
  )
