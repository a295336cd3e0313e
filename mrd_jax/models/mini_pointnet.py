"""Embeds each group of points: the mini-PointNet.

A group has many points of few channels, so that what is written and read
decides the time, not the operations.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mrd_jax.config.shared import Form
from mrd_jax.models import sampling_kernel
from mrd_jax.models.layers import EPSILON, matmul, precision_of, uniform
from mrd_jax.parallel import devices

MOMENTUM = 0.9  # of BatchNorm's running statistics; PyTorch's 0.1


class Weights(nn.Module):
  """Kernel and bias of a `Linear`, for one who folds something into them."""

  features: int

  @nn.compact
  def __call__(self, fan_in: int) -> tuple[jax.Array, jax.Array]:
    init = uniform(fan_in**-0.5)
    kernel = self.param("kernel", init, (fan_in, self.features))
    return kernel, self.param("bias", init, (self.features,))


class _Norm(nn.Module):
  """Scale, offset, and running mean and variance, named as BatchNorm's are."""

  features: int

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array, tuple[nn.Variable, ...]]:
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    scale_C = self.param("scale", ones, (self.features,))
    offset_C = self.param("bias", zeros, (self.features,))
    return (
      scale_C,
      offset_C,
      tuple(
        self.variable("batch_stats", name, init, (self.features,))
        for name, init in (("mean", jnp.zeros), ("var", jnp.ones))
      ),
    )


@jax.custom_vjp
def _gram(x_RC: jax.Array, centre_C: jax.Array | None = None) -> jax.Array:
  """(R, C) -> (C, C) (x - centre)'(x - centre), in float32 at least.

  The centre, if any, is a constant to the gradient.
  """
  x_RC = _centred(x_RC, centre_C)
  return jax.lax.dot_general(
    x_RC,
    x_RC,
    (((0,), (0,)), ((), ())),
    precision=precision_of(x_RC.dtype),
    preferred_element_type=jnp.promote_types(x_RC.dtype, jnp.float32),
  )


def _centred(x_RC: jax.Array, centre_C: jax.Array | None) -> jax.Array:
  return x_RC if centre_C is None else x_RC - centre_C


def _gram_backward(residuals, g_CC):
  x_RC = _centred(*residuals)
  # A matrix of a sum over all rows: rounded to the rows' half precision, its
  # error would be the same in every row.  So its remainder is multiplied too,
  # in one sum of products: rounded before, they would swallow the remainder's.
  g_CC = g_CC + g_CC.T
  high_CC = g_CC.astype(x_RC.dtype)
  if high_CC.dtype == g_CC.dtype:
    dx_RC = jnp.matmul(x_RC, high_CC, precision=precision_of(x_RC.dtype))
    return dx_RC, None
  low_CC = (g_CC - high_CC.astype(g_CC.dtype)).astype(x_RC.dtype)
  twice_RC = jnp.concatenate([x_RC, x_RC], axis=1)
  return twice_RC @ jnp.concatenate([high_CC, low_CC]), None


_gram.defvjp(lambda *x: (_gram(*x), x), _gram_backward)


def _moments_of_linear(
  centre_I: jax.Array,
  first_I: jax.Array,
  second_II: jax.Array,
  kernel_IC: jax.Array,
  bias_C: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Mean and variance of the channels of x W + b, from x's about a centre.

  mean = E[x] W + b; variance = diag(W' Cov[x] W).
  """
  mean_I = centre_I + first_I
  covariance_II = second_II - jnp.outer(first_I, first_I)
  times = functools.partial(jnp.matmul, precision="highest")
  variance_C = (times(covariance_II, kernel_IC) * kernel_IC).sum(0)
  return times(mean_I, kernel_IC) + bias_C, jnp.maximum(variance_C, 0)


class _Activations:
  """What layers make of the points of groups, kept in device memory."""

  def __init__(self, x_BGKC: jax.Array):
    self.shape = x_BGKC.shape[:-1]
    self.x_RC = x_BGKC.reshape(-1, x_BGKC.shape[-1])

  def moments(self) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A centre c, E[x - c] and E[(x - c)'(x - c)] of all rows x.

    In float32 at least.  c is a constant, to the gradient too.
    """
    rows, dtype = len(self.x_RC), self.x_RC.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    mean_C = self.x_RC.mean(0, dtype=wide)
    if dtype != wide:
      # Neither half precision nor the kernels are centred: deviations, rounded
      # again, would lose more than E[x'x] - E[x]'E[x] does, which is float32.
      return jnp.zeros_like(mean_C), mean_C, _gram(self.x_RC) / rows
    # In two passes: where all points have one colour, that is a small
    # difference of large numbers, and a long sum of equal terms is off.  What
    # this centre lacks of the mean, the deviations have.
    centre_C = jax.lax.stop_gradient(mean_C)
    first_C = (self.x_RC - centre_C).mean(0)
    return centre_C, first_C, _gram(self.x_RC, centre_C) / rows

  def add(self, kernel_IO: jax.Array, shift_O: jax.Array) -> None:
    """Makes x of relu(x kernel + shift)."""
    x_RC = matmul(self.x_RC, kernel_IO)
    self.x_RC = _shifted_relu(x_RC, shift_O)

  def pool(self, kernel_IO: jax.Array) -> jax.Array:
    """(B, G, O) the maxima of x kernel over the points of each group."""
    x_RC = matmul(self.x_RC, kernel_IO)
    return x_RC.reshape(*self.shape, -1).max(axis=2)


def _shifted_relu(x: jax.Array, shift_C: jax.Array) -> jax.Array:
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return nn.relu(x.astype(wide) + shift_C).astype(x.dtype)


class _RecomputedActivations:
  """`_Activations` in kernels, which make them of the points each time."""

  def __init__(self, x_BGKC: jax.Array, **launch: Any):
    # Imported here, and Pallas with it, only where it is used.
    from mrd_jax.models import point_net_kernel

    self.kernel: Any = point_net_kernel
    self.launch = point_net_kernel.Launch(**launch)
    *_, self.group_size, self.channels = x_BGKC.shape
    self.x_BRC = point_net_kernel.padded(x_BGKC)
    self.layers = ()

  def moments(self) -> tuple[jax.Array, jax.Array, jax.Array]:
    rows = math.prod(self.x_BRC.shape[:2])
    if self.layers:
      sums = self.kernel.moments(self.x_BRC, self.layers, self.launch)
      mean_C, second_CC = sums[0] / rows, sums[1] / rows
    else:
      second_CC = _gram(self.x_BRC.reshape(rows, -1)) / rows
      points = slice(self.channels)  # before a 1, whose products are the points
      mean_C = second_CC[self.channels, points]
      second_CC = second_CC[points, points]
    return jnp.zeros_like(mean_C), mean_C, second_CC

  def add(self, kernel_IO: jax.Array, shift_O: jax.Array) -> None:
    self.layers += ((kernel_IO, shift_O),)

  def pool(self, kernel_IO: jax.Array) -> jax.Array:
    return self.kernel.pooled(
      self.x_BRC, self.layers, kernel_IO, self.group_size, self.launch
    )


def takes_kernel(form: Form, dtype: Any, group_size: int) -> bool:
  """Says whether CUDA devices shall compute the mini-PointNet in kernels.

  Their matrix products are Hopper's, of 64 rows in bfloat16.

  Args:
    form: "auto" takes them where they run; "kernel" asks for them, "xla" never
      takes them.
    dtype: Compute type.
    group_size: K.

  Raises:
    BadInput: if they are asked for and cannot run.
  """
  return devices.takes(
    "model.point_net",
    form,
    runs=(
      jnp.dtype(dtype) == jnp.bfloat16
      and group_size in (64, 128, 192, 256)
      and devices.cuda_capability() < 10
      and sampling_kernel.is_supported()
    ),
    needs="an NVIDIA GPU of compute capability 9.0 (Hopper), model.dtype "
    "'bfloat16' and groups of 64, 128, 192 or 256 points",
  )


def _embed(
  x_BGKC: jax.Array,
  layers: list[tuple[jax.Array, ...]],
  running: list[tuple[jax.Array, ...]] | None,
  *,
  with_moments: bool,
  activations: Callable[[jax.Array], Any],
) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
  """Computes the mini-PointNet.

  Args:
    x_BGKC: (B, G, K, C) points in groups.
    layers: Of each layer kernel and bias, scale and offset of its norm.
    running: Mean and variance of each norm; None uses the batch's.
    with_moments: Whether the batch's are computed.
    activations: `_Activations` of points, or what does the same.

  Returns:
    (B, G, O) embeddings, and the batch's mean and variance for each norm.
  """
  x = activations(x_BGKC)
  moments = []
  for i, (kernel_IO, bias_O, scale_O, offset_O) in enumerate(layers):
    if with_moments:
      centre_I, first_I, second_II = x.moments()
      moments.append(
        _moments_of_linear(centre_I, first_I, second_II, kernel_IO, bias_O)
      )
    mean_O, variance_O = running[i] if running else moments[i]
    factor_O = scale_O * jax.lax.rsqrt(variance_O + EPSILON)
    shift_O = bias_O * factor_O + (offset_O - mean_O * factor_O)
    if i < len(layers) - 1:
      x.add(kernel_IO * factor_O, shift_O)
    else:
      y_BGO = _shifted_relu(x.pool(kernel_IO * factor_O), shift_O)
  return y_BGO, moments


class MiniPointNet(nn.Module):
  """Embeds each group: three (Linear, BatchNorm, ReLU), then max over points.

  A group has many points of few channels, so that what is written and read
  decides the time.  BatchNorm's statistics of a layer come from the covariance
  of its (narrow) input, before the layer is computed; they are folded into
  its weights; and the last bias and ReLU, which grow with their argument, come
  after the maximum.  On Hopper GPUs in bfloat16, kernels compute what is in
  between again instead of writing it (`point_net_kernel.py`); which form runs
  is decided when the program is lowered.

  Statistics are float32 and, since the batch axis is global under `jit`, those
  of the global batch.  The running variance is the biased one (PyTorch keeps
  the unbiased: a factor n / (n - 1) with n = B * G * K).

  When the collection "intermediates" is mutable, it gets mean and variance of
  each BatchNorm's input: `training/accumulate.py` makes the statistics of a
  batch from those of its parts.

  Attributes:
    sa_dim: Output width.
    dtype: Compute type.
    form: "xla", "kernel" or "auto", see `takes_kernel`.
    batch_sharding: Layout of the batch over devices; None on a single one.
  """

  sa_dim: int
  dtype: jnp.dtype
  form: Form = "auto"
  batch_sharding: NamedSharding | None = None

  @nn.compact
  def __call__(self, x_BGKC: jax.Array, train: bool) -> jax.Array:
    """Embeds (B, G, K, C) points of `dtype`: (B, G, sa_dim).

    The points are data, without a gradient.
    """
    layers, running, fan_in = [], [], x_BGKC.shape[-1]
    for i, features in enumerate((64, 64, self.sa_dim)):
      weights = Weights(features, name=f"linear_{i}")(fan_in)
      *affine, variables = _Norm(features, name=f"norm_{i}")()
      layers.append((*weights, *affine))
      running.append(variables)
      fan_in = features
    sowing = self.is_mutable_collection("intermediates")
    portable = functools.partial(
      _embed, with_moments=train or sowing, activations=_Activations
    )
    known = None if train else jax.tree.map(lambda x: x.value, running)
    arguments = (x_BGKC, layers, known)
    if takes_kernel(self.form, self.dtype, x_BGKC.shape[-2]):
      kernels = functools.partial(
        portable,
        activations=functools.partial(
          _RecomputedActivations, batch_sharding=self.batch_sharding
        ),
      )
      y_BGO, moments = jax.lax.platform_dependent(
        *arguments, cuda=kernels, default=portable
      )
    else:
      y_BGO, moments = portable(*arguments)
    for i, of_layer in enumerate(moments):
      if sowing:
        self.sow("intermediates", f"into_norm_{i}", of_layer)
      if train and not self.is_initializing():
        for variable, new in zip(running[i], of_layer, strict=True):
          variable.value = MOMENTUM * variable.value + (1 - MOMENTUM) * new
    return y_BGO
