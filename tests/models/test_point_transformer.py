"""The transformer's parts against their formulas, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from mrd_jax.models import point_transformer


def parameters(module, *inputs):
  """Random ones, also of what starts at zero."""
  rng = np.random.default_rng(0)
  variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), variables)


def dense(params, x):
  return x @ params["kernel"] + params.get("bias", 0)


def normalised(params, x, epsilon):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
  return x * params["scale"] + params["bias"]


@pytest.fixture
def tokens(x64):
  rng = np.random.default_rng(1)
  return rng.normal(size=(2, 5, 12)), rng.normal(size=(2, 7, 12))


@pytest.mark.parametrize(
  ("layout", "biased", "others"),
  [
    ("qkv", "", False),
    ("qkv", "qv", False),
    ("qkv", "qkv", False),
    ("q_kv", "", True),
    ("q_kv", "qkv", True),
    ("q_k_v", "qv", False),
    ("q_k_v", "qv", True),
  ],
)
def test_attention_equals_its_formula(tokens, layout, biased, others):
  x, context = tokens if others else (tokens[0], tokens[0])
  heads, width = 3, 8
  module = point_transformer.Attention(
    heads, width, layout, biased, jnp.float64
  )
  inputs = (x, context) if others else (x,)
  params = parameters(module, *inputs)
  found = module.apply(params, *inputs)

  params = params["params"]
  if layout == "qkv":
    q, k, v = np.split(dense(params["qkv"], x), 3, axis=-1)
    q, v = q + params.get("q_bias", 0), v + params.get("v_bias", 0)
  elif layout == "q_kv":
    q = dense(params["q"], x)
    k, v = np.split(dense(params["kv"], context), 2, axis=-1)
  else:
    q = dense(params["q"], x)
    k, v = dense(params["k"], context), dense(params["v"], context)
  expected = []
  for i in range(heads):
    head = slice(i * width, (i + 1) * width)
    scores = q[..., head] @ k[..., head].swapaxes(1, 2) / np.sqrt(width)
    weights = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True)
    expected.append(weights @ v[..., head])
  expected = dense(params["out"], np.concatenate(expected, axis=-1))
  np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["gelu", "swiglu", "swiglu_norm"])
def test_mlps_equal_their_formulas(tokens, kind):
  x, _ = tokens
  module = point_transformer.MLP(10, kind, 0.01, jnp.float64)
  params = parameters(module, x)
  found = module.apply(params, x)

  params = params["params"]
  if kind == "gelu":
    hidden = dense(params["in"], x)
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
  else:
    if kind == "swiglu":
      gate, value = np.split(dense(params["in"], x), 2, axis=-1)
    else:
      gate, value = dense(params["gate"], x), dense(params["value"], x)
    hidden = gate / (1 + np.exp(-gate)) * value
  if kind == "swiglu_norm":
    hidden = normalised(params["norm"], hidden, 0.01)
  expected = dense(params["out"], hidden)
  np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_patches_in_training_use_and_record_the_batchs_statistics(x64):
  rng = np.random.default_rng(2)
  x = rng.normal(size=(2, 3, 4, 6))
  module = point_transformer.PatchEmbedding(16, jnp.float64)
  variables = jax.tree.map(
    np.asarray,
    jax.jit(lambda key: module.init(key, x, False))(jax.random.key(0)),
  )
  found, updated = jax.jit(
    lambda variables: module.apply(variables, x, True, mutable="batch_stats")
  )(variables)
  params = variables["params"]

  def batch_normalised(x, layer):
    flat = x.reshape(-1, x.shape[-1])
    mean, var = flat.mean(0), flat.var(0)
    stats = updated["batch_stats"][layer]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, atol=1e-6)
    return np.maximum((x - mean) / np.sqrt(var + 1e-5), 0)

  local = dense(
    params["first_out"],
    batch_normalised(dense(params["first_in"], x), "first_norm"),
  )
  both = np.concatenate(
    [np.broadcast_to(local.max(2, keepdims=True), local.shape), local], axis=-1
  )
  second = batch_normalised(dense(params["second_in"], both), "second_norm")
  expected = dense(params["second_out"], second).max(2)
  np.testing.assert_allclose(found, expected, atol=1e-5)
