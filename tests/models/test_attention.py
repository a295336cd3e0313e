"""Attention by heads against the softmax's definition, in float64."""

import functools

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.models.attention import (
  all_heads,
  attention,
  by_cudnn,
  head_by_head,
  takes_cudnn,
)

PORTABLE = pytest.mark.parametrize("form", [head_by_head, all_heads])


def inputs(length: int, dtype: str) -> list[np.ndarray]:
  """Queries, keys, values, and what the output is weighed with."""
  rng = np.random.default_rng(0)
  shape = (2, length, 3, 16)
  # Some scores are far apart: e^50 between the weights of a row.
  return [3 * rng.normal(size=shape).astype(dtype) for _ in range(4)]


@PORTABLE
@pytest.mark.parametrize(("length", "padding"), [(1, 0), (65, 0), (65, 1)])
def test_values_and_gradients_equal_pytorchs(x64, form, length, padding):
  *qkv, weights = inputs(length, "float64")

  def padded(x):
    """Tokens that do not exist, and would change everything if they did."""
    return jnp.pad(x, [(0, 0), (0, padding), (0, 0), (0, 0)], constant_values=9)

  def values(qkv):
    return form(*map(padded, qkv), length=length)[:, :length]

  def total(qkv):
    return (values(qkv) * weights).sum()

  # With the definition's matrices, not PyTorch's own fused attention.
  q, k, v = (torch.tensor(x, requires_grad=True) for x in qkv)
  scores = torch.einsum("blhk,bmhk->bhlm", q, k) / 4
  y = torch.einsum("bhlm,bmhk->blhk", scores.softmax(-1), v)
  (y * torch.tensor(weights)).sum().backward()
  arrays = [jnp.asarray(x) for x in qkv]
  np.testing.assert_allclose(
    values(arrays), y.detach().numpy(), rtol=1e-12, atol=1e-13
  )
  expected = [tensor.grad.numpy() for tensor in (q, k, v)]
  found = jax.jit(jax.grad(total))(arrays)
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


def gradients(form, qkv, weights, dtype):
  arrays = [jnp.asarray(x, dtype) for x in qkv]

  def total(qkv):
    return (form(*qkv).astype(weights.dtype) * weights).sum()

  return jax.jit(jax.grad(total))(arrays)


def error(found, exact) -> float:
  return max(
    float(jnp.abs(a.astype(b.dtype) - b).max())
    for a, b in zip(found, exact, strict=True)
  )


@PORTABLE
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_short_types_are_as_near_as_jaxs_own(x64, form, dtype):
  *qkv, weights = inputs(65, "float64")
  qkv = [np.asarray(jnp.asarray(x, dtype), "float64") for x in qkv]
  jaxs = jax.nn.dot_product_attention
  exact = gradients(jaxs, qkv, weights, "float64")
  ours = gradients(functools.partial(form, length=65), qkv, weights, dtype)
  theirs = gradients(jaxs, qkv, weights, dtype)
  assert 0 < error(ours, exact) < 2 * error(theirs, exact)


@PORTABLE
def test_no_weights_are_kept_for_the_backward_pass(form):
  """No array of (heads, length, length) goes from forward to backward."""
  *qkv, _ = inputs(65, "float32")
  _, backward = jax.vjp(functools.partial(form, length=65), *qkv)
  kept = [x.shape for x in jax.tree.leaves(backward)]
  assert kept
  assert not [shape for shape in kept if shape.count(65) > 1]


def gradient(q, k, v):
  """By tokens, one of which does not exist."""

  def total(*qkv):
    y = attention(*qkv, "cudnn", length=q.shape[1] - 1)
    return y.astype(jnp.float32).sum()

  return jax.grad(total, argnums=(0, 1, 2))(q, k, v)


@pytest.mark.parametrize("length", [66, 386])
def test_the_gradient_lowers_to_cudnns_kernels(length, hopper):
  qkv = 3 * [jax.ShapeDtypeStruct((2, length, 8, 64), jnp.bfloat16)]
  traced = jax.jit(gradient).trace(*qkv)
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  for kernel in ("fmhaSoftmax", "fmhaSoftmaxBackward"):
    assert f"@__cudnn${kernel}(" in text
  assert "stablehlo.exponential" not in text
  assert "cudnn" not in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_auto_is_portable_without_a_gpu_and_in_float32():
  assert not takes_cudnn("auto", jnp.bfloat16)
  assert not takes_cudnn("xla", jnp.bfloat16)
  with pytest.raises(BadInput, match="model.attention is 'cudnn', which needs"):
    takes_cudnn("cudnn", jnp.bfloat16)


@pytest.mark.usefixtures("hopper")
def test_a_gpu_takes_cudnn_in_half_precision():
  for asked in ("auto", "cudnn"):
    assert takes_cudnn(asked, jnp.bfloat16)
  assert not takes_cudnn("auto", jnp.float32)
  assert not takes_cudnn("xla", jnp.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("length", [65, 385])
def test_cudnn_is_as_near_as_the_portable_form(length):
  """In bfloat16, forward and backward, at the encoder's own lengths."""
  rng = np.random.default_rng(0)
  *qkv, weights = rng.normal(size=(4, 4, length + 1, 8, 64)).astype("float32")
  qkv = [jnp.asarray(x, jnp.bfloat16) for x in qkv]
  weights[:, length:] = 0

  def of(form, dtype):
    form = functools.partial(form, length=length)
    arrays = [x.astype(dtype) for x in qkv]
    values = jax.jit(form)(*arrays)[:, :length]
    return values, *(
      gradient[:, :length]
      for gradient in gradients(form, arrays, weights, dtype)
    )

  assert takes_cudnn("auto", jnp.bfloat16)
  exact = of(all_heads, jnp.float32)
  ours, cudnns = of(all_heads, jnp.bfloat16), of(by_cudnn, jnp.bfloat16)
  for a, b, c in zip(cudnns, ours, exact, strict=True):
    assert error([a], [c]) < 2 * error([b], [c])
