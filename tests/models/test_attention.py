"""Attention by heads against the softmax's definition, in float64."""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax.models.attention import attention


def inputs(length: int, dtype: str) -> list[np.ndarray]:
  """Queries, keys, values, and what the output is weighed with."""
  rng = np.random.default_rng(0)
  shape = (2, length, 3, 16)
  # Some scores are far apart: e^50 between the weights of a row.
  return [3 * rng.normal(size=shape).astype(dtype) for _ in range(4)]


@pytest.mark.parametrize("length", [1, 65])
def test_values_and_gradients_equal_pytorchs(x64, length):
  *qkv, weights = inputs(length, "float64")

  def total(qkv):
    return (attention(*qkv, "xla") * weights).sum()

  # With the definition's matrices, not PyTorch's own fused attention.
  q, k, v = (torch.tensor(x, requires_grad=True) for x in qkv)
  scores = torch.einsum("blhk,bmhk->bhlm", q, k) / 4
  y = torch.einsum("bhlm,bmhk->blhk", scores.softmax(-1), v)
  (y * torch.tensor(weights)).sum().backward()
  arrays = [jnp.asarray(x) for x in qkv]
  np.testing.assert_allclose(
    attention(*arrays, "xla"), y.detach().numpy(), rtol=1e-12, atol=1e-13
  )
  expected = [tensor.grad.numpy() for tensor in (q, k, v)]
  found = jax.jit(jax.grad(total))(arrays)
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


def test_float32_is_as_near_as_jaxs_own(x64):
  *qkv, weights = inputs(65, "float32")

  def gradients(form, dtype):
    arrays = [jnp.asarray(x, dtype) for x in qkv]
    return jax.jit(jax.grad(lambda x: (form(*x) * weights).sum()))(arrays)

  exact = gradients(jax.nn.dot_product_attention, "float64")
  errors = [
    max(
      float(jnp.abs(a - b).max())
      for a, b in zip(gradients(form, "float32"), exact, strict=True)
    )
    for form in (
      lambda *x: attention(*x, "xla"),
      jax.nn.dot_product_attention,
    )
  ]
  assert 0 < errors[0] < 2 * errors[1]


def test_a_cpu_keeps_no_weights_for_the_backward_pass():
  """No array of (heads, length, length) goes from forward to backward."""
  *qkv, _ = inputs(65, "float32")
  _, backward = jax.vjp(lambda *x: attention(*x, "xla"), *qkv)
  kept = [x.shape for x in jax.tree.leaves(backward)]
  assert kept
  assert not [shape for shape in kept if shape.count(65) > 1]


def test_half_precision_is_jaxs_own():
  q, k, v, _ = (jnp.asarray(x, jnp.bfloat16) for x in inputs(7, "float32"))
  np.testing.assert_array_equal(
    np.asarray(attention(q, k, v, "xla"), np.float32),
    np.asarray(jax.nn.dot_product_attention(q, k, v), np.float32),
  )
