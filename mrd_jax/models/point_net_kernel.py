"""Computes the mini-PointNet in GPU kernels, for Hopper.

All of it but the points' few channels is cheap to compute and dear to keep.  So
each kernel reads the points, computes the layers anew, and leaves only sums or
maxima behind: what is in between stays on the multiprocessor.  Gradients are
linear in what comes from above, so each function here has a backward kernel of
its own, and BatchNorm's algebra is its caller's.

Written in Pallas for its Mosaic GPU backend, with what lowers in jax 0.10.2 to
0.12.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from mrd_jax.models.point_net_block import (
  WIDTH,
  Launch,
  Stream,
  in_columns,
  in_rows,
  keep,
  product,
  run,
  wide,
)

_CHANNELS = 16  # of a point, padded: no product is shorter
_PART = 2 * WIDTH  # channels of the last layer that a block computes
_CHUNKS = [pl.ds(i, WIDTH) for i in range(0, _PART, WIDTH)]
_ONES = 8  # columns of a product that sums: none is narrower

# Kernel and shift, BatchNorm's folded into both: x -> relu(x kernel + shift).
Layers = tuple[tuple[jax.Array, jax.Array], ...]


def padded(x_BGKC: jax.Array) -> jax.Array:
  """Makes (B, G * K, 16) bfloat16 rows: C channels, a 1, and zeros.

  A product with the rows also sums, at the 1, what it multiplies them with.
  """
  batch, *_, channels = x_BGKC.shape
  x_BRC = x_BGKC.reshape(batch, -1, channels).astype(jnp.bfloat16)
  one = jnp.zeros(_CHANNELS - channels, x_BRC.dtype).at[0].set(1)
  one_BRC = jnp.broadcast_to(one, (*x_BRC.shape[:2], len(one)))
  return jnp.concatenate([x_BRC, one_BRC], axis=-1)


def _rows(x_BRC: jax.Array, count: int = WIDTH) -> Stream:
  return Stream(
    x_BRC,
    (count, _CHANNELS),
    lambda cloud, _, i: (cloud, pl.ds(i * count, count)),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def moments(
  x_BRC: jax.Array, layers: Layers, launch: Launch
) -> tuple[jax.Array, jax.Array]:
  """Sums the activations of one or two layers, and their products.

  Args:
    x_BRC: What `padded` returns, without gradient: the points are data.
    layers: (C, 64) or (64, 64) and (64,), float32.
    launch: How to run.

  Returns:
    Over all rows x: (64,) the sum of x, (64, 64) that of x'x, float32.
  """

  def step(at, streams, weights, kept, sums, outputs):
    *weights, ones = weights
    top = _activations(streams[0], weights, kept)
    plgpu.wgmma(sums[0], top.T, ones.T)
    plgpu.wgmma(sums[1], top.T, top)

  sum_CS, gram_CC = run(
    step,
    launch,
    steps=x_BRC.shape[1] // WIDTH,
    streams=[_rows(x_BRC)],
    weights=[*_weights(layers), _ones()],
    kept=[(WIDTH, WIDTH)] * len(layers),
    sums=[(WIDTH, _ONES), (WIDTH, WIDTH)],
  )
  return sum_CS[0, :, 0], gram_CC[0]


def _moments_backward(launch, kept, cotangents):
  x_BRC, layers = kept
  dsum_C, dgram_CC = cotangents
  # A matrix of a sum over all rows: rounded to half precision, its error would
  # be the same in every row.  So its remainder is multiplied, too.
  dgram_CC = dgram_CC + dgram_CC.T
  high_CC = dgram_CC.astype(jnp.bfloat16)
  low_CC = (dgram_CC - high_CC).astype(jnp.bfloat16)

  def step(at, streams, weights, kept, sums, outputs):
    *weights, ones, dsum, high, low = weights
    top = _activations(streams[0], weights, kept[: len(layers)])
    dtop = product((top, high), (top, low)) + in_rows(dsum[...])
    _gradients(dtop, streams[0], weights, ones, kept, sums)

  sums = run(
    step,
    launch,
    steps=x_BRC.shape[1] // WIDTH,
    streams=[_rows(x_BRC)],
    weights=[*_weights(layers), _ones(), dsum_C, high_CC, low_CC],
    kept=[(WIDTH, WIDTH)] * 2 * len(layers),
    sums=_sums(layers),
  )
  return jnp.zeros_like(x_BRC), _of_layers(sums, layers)


moments.defvjp(
  lambda x, layers, launch: (moments(x, layers, launch), (x, layers)),
  _moments_backward,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def pooled(
  x_BRC: jax.Array,
  layers: Layers,
  kernel_IO: jax.Array,
  group_size: int,
  launch: Launch,
) -> jax.Array:
  """Takes the maxima over groups of x kernel, where x is what layers make.

  Args:
    x_BRC: What `padded` returns, without gradient: the points are data.
    layers: Two, as in `moments`.
    kernel_IO: (64, O) float32.
    group_size: K, rows in a group: 64, 128, 192 or 256.
    launch: How to run.

  Returns:
    (B, G, O) bfloat16.
  """
  return _pool(x_BRC, layers, kernel_IO, group_size, launch)[0]


def _pool(x_BRC, layers, kernel_IO, group_size, launch):
  """`pooled`, and (B, G, O) how many rows of a group attain the maximum."""
  batch, rows, _ = x_BRC.shape
  last_POI = _parts(kernel_IO)
  tiles = [pl.ds(i, WIDTH) for i in range(0, group_size, WIDTH)]

  def step(at, streams, weights, kept, sums, outputs):
    *weights, last = weights
    hidden, top = kept
    for tile in tiles:
      _activations(streams[0].at[tile], weights, [hidden, top.at[tile]])
    for channels in _CHUNKS:
      z = [_last(last.at[channels], top.at[tile]) for tile in tiles]
      y = functools.reduce(jnp.maximum, z).max(axis=1)
      equal = [jnp.where(a == in_columns(y), 1.0, 0.0) for a in z]
      outputs[0][*at, channels] = y
      outputs[1][*at, channels] = functools.reduce(jnp.add, equal).sum(axis=1)

  groups = rows // group_size
  found = run(
    step,
    launch,
    steps=groups,
    streams=[_rows(x_BRC, group_size)],
    weights=[*_weights(layers), last_POI],
    kept=[(WIDTH, WIDTH), (group_size, WIDTH)],
    outputs=[(groups, _PART)] * 2,
    parts=len(last_POI),
  )
  y_BGO, count_BGO = (
    a_BPGO.swapaxes(1, 2).reshape(batch, groups, -1)[..., : kernel_IO.shape[1]]
    for a_BPGO in found
  )
  return y_BGO.astype(jnp.bfloat16), count_BGO


def _pooled_forward(x_BRC, layers, kernel_IO, group_size, launch):
  y_BGO, count_BGO = _pool(x_BRC, layers, kernel_IO, group_size, launch)
  return y_BGO, (x_BRC, layers, kernel_IO, y_BGO, count_BGO)


def _pooled_backward(group_size, launch, kept, dy_BGO):
  x_BRC, layers, kernel_IO, y_BGO, count_BGO = kept
  last_POI = _parts(kernel_IO)
  share_BGO = (dy_BGO / count_BGO).astype(jnp.bfloat16)

  def stream(a_BGO):
    batch, groups, features = a_BGO.shape
    pad = len(last_POI) * _PART - features
    a_BGO = jnp.pad(a_BGO, ((0, 0), (0, 0), (0, pad)))
    a_BPGO = a_BGO.reshape(batch, groups, -1, _PART).swapaxes(1, 2)
    return Stream(
      a_BPGO,
      (_PART,),
      lambda cloud, part, i: (cloud, part, lax.div(i, group_size // WIDTH)),
    )

  def step(at, streams, weights, kept, sums, outputs):
    x, y, share = streams
    *weights, ones, last = weights
    *kept, dz = kept
    top = _activations(x, weights, kept[:2])
    for i, channels in enumerate(_CHUNKS):
      z = _last(last.at[channels], top)
      attained = z == in_columns(wide(y[channels]))
      dz_OR = jnp.where(attained, in_columns(wide(share[channels])), 0)
      keep(dz.at[channels], dz_OR)
      plgpu.wgmma(sums[i], dz.at[channels], top)
    dtop = product(
      *((dz.at[channels].T, last.at[channels]) for channels in _CHUNKS)
    )
    _gradients(dtop, x, weights, ones, kept, sums[len(_CHUNKS) :])

  sums = run(
    step,
    launch,
    steps=x_BRC.shape[1] // WIDTH,
    streams=[_rows(x_BRC), stream(y_BGO), stream(share_BGO)],
    weights=[*_weights(layers), _ones(), last_POI],
    kept=[(WIDTH, WIDTH)] * 4 + [(_PART, WIDTH)],
    sums=[(WIDTH, WIDTH)] * len(_CHUNKS) + _sums(layers),
    parts=len(last_POI),
  )
  dlast_POI = jnp.concatenate(sums[: len(_CHUNKS)], axis=1)
  dkernel_IO = dlast_POI.reshape(-1, WIDTH)[: kernel_IO.shape[1]].T
  dlayers = _of_layers(sums[len(_CHUNKS) :], layers)
  return jnp.zeros_like(x_BRC), dlayers, dkernel_IO


pooled.defvjp(_pooled_forward, _pooled_backward)


# What kernels are given, and what their sums are in the end.


def _weights(layers: Layers) -> list[jax.Array]:
  """Kernels in half precision, the first one padded as points are; shifts."""
  weights = []
  for kernel_IO, shift_O in layers:
    pad = _CHANNELS - len(kernel_IO) if not weights else 0
    kernel_IO = jnp.pad(kernel_IO, ((0, pad), (0, 0)))
    weights += [kernel_IO.astype(jnp.bfloat16), shift_O]
  return weights


def _ones() -> jax.Array:
  return jnp.ones((_ONES, WIDTH), jnp.bfloat16)


def _parts(kernel_IO: jax.Array) -> jax.Array:
  """(64, O) -> (P, 128, 64) in half precision, padded."""
  pad = -kernel_IO.shape[1] % _PART
  kernel_OI = jnp.pad(kernel_IO.T, ((0, pad), (0, 0)))
  return kernel_OI.reshape(-1, _PART, WIDTH).astype(jnp.bfloat16)


def _sums(layers: Layers) -> list[tuple[int, int]]:
  """Shapes of what `_gradients` sums."""
  first, second = (WIDTH, _CHANNELS), [(WIDTH, WIDTH), (WIDTH, _ONES)]
  return [first, *(second if len(layers) > 1 else [])]


def _of_layers(sums: list[jax.Array], layers: Layers) -> Layers:
  """Gradients of layers, of what `_gradients` summed in each part."""
  first_OC, *second = (sum_POI.sum(0) for sum_POI in sums)
  channels = len(layers[0][0])
  gradients = [(first_OC[:, :channels].T, first_OC[:, channels])]
  if second:
    gradients.append((second[0], second[1][:, 0]))
  return tuple(gradients)


# What a block does.


def _activations(x: Any, weights: Sequence[Any], kept: Sequence[Any]) -> Any:
  """Computes layers of 64 rows, each into its place, and returns the last."""
  for kernel, shift, place in zip(
    weights[::2], weights[1::2], kept, strict=True
  ):
    z = wide(product((x, kernel)).astype(jnp.bfloat16))
    keep(place, jnp.maximum(z + in_rows(shift[...]), 0))
    x = place
  return x


def _last(kernel_OI: Any, x_RI: Any) -> jax.Array:
  """(O, R) the last layer's product, rounded, with channels in rows.

  So a maximum over a group stays within a warp.  Both directions compute it
  in the same products: they must find the same maxima.
  """
  return wide(product((kernel_OI, x_RI.T)).astype(jnp.bfloat16))


def _gradients(
  dx: jax.Array,
  points: Any,
  weights: Sequence[Any],
  ones: Any,
  kept: Sequence[Any],
  sums: Sequence[Any],
) -> None:
  """Adds up the gradients of layers, given that of their result.

  Args:
    dx: (64, 64) float32.
    points: (64, 16).
    weights: Those of `_activations`.
    ones: (8, 64).
    kept: What `_activations` kept, and a place for each layer.
    sums: Accumulators, as `_sums` says.
  """
  layers = len(kept) // 2
  for i in reversed(range(layers)):
    place = kept[layers + i]
    keep(place, jnp.where(wide(kept[i][...]) > 0, dx, 0))
    dz = place.T
    if i:
      plgpu.wgmma(sums[1], kept[i - 1].T, place)
      plgpu.wgmma(sums[2], dz, ones.T)
      dx = product((place, weights[2 * i].T))
    else:
      plgpu.wgmma(sums[0], dz, points)
