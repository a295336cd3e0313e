"""Estimates what a training step holds on a device, before it is compiled.

Arithmetic on the arrays that the backward pass needs, as XLA for GPUs lays
them out (for TPUs in proportion); `tests/training/test_memory.py` holds it
against compiled programs.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrd_jax.config.pretraining import LossConfig
from mrd_jax.losses.terms import DENSE_MATRICES, choose_form
from mrd_jax.models.attention import padded_length, takes_cudnn
from mrd_jax.models.mini_pointnet import takes_kernel
from mrd_jax.models.pointbert import HEAD_DIM, PointBERT

GIB = 2**30
# JAX's pool, as a share of an NVIDIA GPU: its two names, by default, and at most.
_FRACTIONS = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")
_SHARE, _LARGEST_SHARE = 0.75, 0.92
# What XLA for TPUs holds, in units of what it holds for GPUs: by T's and M's
# programs for a v5p.
_ON_TPU = 1.65


@dataclasses.dataclass(frozen=True)
class Step:
  """What decides how much a step holds on each device.

  Attributes:
    encoder: The encoder, as it is trained.
    parameters: How many there are.
    copies: Arrays of their size in the state: they, two moments, an average.
    batch_size: Global batch.
    mesh: The devices.
    loss: The losses that compare the samples of a batch, if any.
    parts: In how many the encoder takes the batch; None: it cannot.
  """

  encoder: PointBERT
  parameters: int
  copies: int
  batch_size: int
  mesh: Mesh
  loss: LossConfig | None = None
  parts: int | None = None

  def bytes(self) -> float:
    """Estimates the most that is held at any time, on each device."""
    encoder, size = self.encoder, self.encoder.size
    item = jnp.dtype(encoder.dtype).itemsize
    parts = self.parts or 1
    clouds = self.batch_size / self.mesh.size

    # Gradients, and parameters that were gathered, are whole.
    fsdp = self.mesh.shape["fsdp"]
    whole = 2 if fsdp > 1 else 1
    held = 4 * self.parameters * (self.copies / fsdp + whole)
    held += self._loss_bytes()

    rows = clouds * size.groups * size.group_size  # points of groups
    if parts > 1:
      held += rows * 9 * 4  # the groups
    clouds, rows = clouds / parts, rows / parts

    # The mini-PointNet's input (9 channels, padded for the matrix units), each
    # product, and what enters the next layer; of the last product in float32
    # only where its maxima are.  Its backward pass has that one's gradient
    # instead, and multiplies rows of two layers' width.  Kernels keep the input.
    entering = item * rows * 16
    narrow = entering + item * rows * 4 * 64
    point_net = narrow + rows * size.sa_dim * (item if item < 4 else 1)
    point_net_backward = narrow + item * rows * (size.sa_dim + 2 * 64)
    kernels = takes_kernel(encoder.point_net, encoder.dtype, size.group_size)
    if kernels:
      point_net, point_net_backward = entering, 2 * entering

    # A block's input, its two norms' outputs and the sum between its halves;
    # q, k, v and their attention; its MLP before and after the GELU.
    length = padded_length(1 + size.groups, encoder.attention, encoder.dtype)
    stream = item * clouds * length * size.width
    inner = item * clouds * length * size.heads * HEAD_DIM
    block = 4 * stream + 4 * inner + 2 * stream * size.mlp_dim / size.width
    # In its backward pass the portable attention has three matrices of weights
    # in float32 at least, and two in the compute type.
    weights = 0.0
    if not takes_cudnn(encoder.attention, encoder.dtype):
      weights = clouds * size.heads * length**2 * (3 * max(item, 4) + 2 * item)

    # Besides, gradients of about half a block's arrays; where blocks are
    # recomputed XLA has what one of them keeps, and beside the portable
    # mini-PointNet two, as it makes weights' gradients late.
    blocks = max(block / 2, weights)
    if encoder.remat == "none":
      blocks += size.depth * block
    else:
      kept = 1 if kernels else min(2, size.depth)
      blocks += size.depth * stream + kept * block
    before = entering if encoder.remat == "all" else point_net
    held += max(before + blocks, point_net_backward)
    return held * (_ON_TPU if jax.default_backend() == "tpu" else 1)

  def _loss_bytes(self) -> float:
    """Estimates the losses' share (docs/scaling.md)."""
    batch, devices = self.batch_size, self.mesh.size
    if not self.loss:
      return 0
    if choose_form(self.loss, batch, devices) == "dense":
      return 4 * DENSE_MATRICES * batch**2 / devices
    return 4 * batch * (self.encoder.embed_dim or 0) * (6 + 7 / devices)


def warning(step: Step) -> str:
  """Says what helps, the cheapest first, where a step will not fit.

  Returns:
    A sentence; "" where it fits, or where the devices do not say how much
    they have, as CPUs.
  """
  stats = [device.memory_stats() or {} for device in step.mesh.local_devices]
  limit = min(
    (x["bytes_limit"] for x in stats if "bytes_limit" in x), default=0
  )
  if not limit or step.bytes() <= limit:
    return ""

  def first_that_fits(steps: list[Step]) -> Step:
    return next((x for x in steps if x.bytes() <= limit), steps[-1])

  parts = step.parts or 1
  each = step.batch_size // step.mesh.size // parts  # clouds at a time
  divisors = [2**i for i in range(1, 32) if each % 2**i == 0]
  remedies: list[tuple[str, float]] = []
  if step.encoder.remat == "none":
    blocks = dataclasses.replace(
      step, encoder=step.encoder.clone(remat="blocks")
    )
    remedies.append(("model.remat='blocks'", blocks.bytes()))
  if step.parts and divisors:
    found = first_that_fits(
      [dataclasses.replace(step, parts=parts * n) for n in divisors]
    )
    remedies.append((f"train.accumulate={found.parts}", found.bytes()))
  if divisors:
    found = first_that_fits(
      [
        dataclasses.replace(step, batch_size=step.batch_size // n)
        for n in divisors
      ]
    )
    remedies.append((f"train.batch_size={found.batch_size}", found.bytes()))
  words = [f"{name} ({size / GIB:.1f} GiB)" for name, size in remedies]
  name = next((x for x in _FRACTIONS if os.environ.get(x)), _FRACTIONS[0])
  share = float(os.environ.get(name) or _SHARE)
  if step.mesh.devices.flat[0].platform == "gpu" and share < _LARGEST_SHARE:
    largest = limit / share * _LARGEST_SHARE / GIB
    words.insert(0, f"{name}={_LARGEST_SHARE} (then {largest:.1f} GiB)")
  return (
    f"warning: a step takes about {step.bytes() / GIB:.1f} GiB on each device, "
    f"where JAX has {limit / GIB:.1f}; it will fail, or XLA repeats work to "
    f"save memory; what helps, the cheapest first: {', '.join(words)}"
  )
