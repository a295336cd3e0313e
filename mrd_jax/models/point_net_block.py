"""Runs a block of a GPU kernel for each cloud of a batch, for Hopper.

A block is one warpgroup.  It takes its cloud a piece at a time, in shared
memory, where the matrix units read; while it works on one piece the next is on
its way.  Blocks write sums of their own, which XLA adds up, so that a result
is the same every time.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import NamedSharding, PartitionSpec

from mrd_jax.models.sampling_kernel import interpreter

WIDTH = 64  # of most matrices


@dataclasses.dataclass(frozen=True)
class Launch:
  """How kernels are run.

  Attributes:
    batch_sharding: How clouds are laid out over devices; None on one.
    interpret: Runs in Pallas' Mosaic GPU interpreter, on a CPU, for tests.
  """

  batch_sharding: NamedSharding | None = None
  interpret: bool = False


class Stream(NamedTuple):
  """An array that is read from device memory, a piece in each step.

  Attributes:
    array: (B, ...).
    shape: Of a piece.
    piece: (cloud, part, step) -> its index in the array.
  """

  array: jax.Array
  shape: tuple[int, ...]
  piece: Callable[[Any, Any, Any], tuple[Any, ...]]


def run(
  step: Callable[..., None],
  launch: Launch,
  *,
  steps: int,
  streams: Sequence[Stream],
  weights: Sequence[jax.Array],
  kept: Sequence[tuple[int, ...]],
  sums: Sequence[tuple[int, int]] = (),
  outputs: Sequence[tuple[int, ...]] = (),
  parts: int = 1,
) -> list[jax.Array]:
  """Runs a block for each cloud and part of the last layer's channels.

  Args:
    step: Called with the indices (cloud, part, step), then with what is in
      shared memory (pieces of streams, weights, places of `kept`), then with
      the accumulators of `sums`, and references to `outputs`.
    launch: How to run.
    steps: How many steps a block takes.
    streams: What a block reads.
    weights: What all read; of three axes, each part its own.
    kept: Shapes of places in shared memory, bfloat16.
    sums: Shapes of what is summed over all steps and clouds.
    outputs: Shapes, for each cloud and part, of what steps write.
    parts: P.

  Returns:
    (P, ...) sums, or (B, P, ...) outputs, float32.
  """

  def block(*refs):
    refs = iter(refs)
    sources, weight_refs, sum_refs, output_refs, places = (
      list(itertools.islice(refs, len(x)))
      for x in (streams, weights, sums, outputs, kept)
    )
    slots, weight_places, (loaded, weights_loaded) = refs
    cloud, part = lax.axis_index("cloud"), lax.axis_index("part")

    for ref, place in zip(weight_refs, weight_places, strict=True):
      source = ref.at[part] if len(ref.shape) == 3 else ref
      plgpu.copy_gmem_to_smem(source, place, weights_loaded)

    def load(i, slot):
      for stream, ref, pieces in zip(streams, sources, slots, strict=True):
        piece = ref.at[stream.piece(cloud, part, i)]
        plgpu.copy_gmem_to_smem(piece, pieces.at[slot], loaded.at[slot])

    load(0, 0)
    plgpu.barrier_wait(weights_loaded)

    def walk(*accumulators):
      @pl.loop(0, steps)
      def _(i):
        slot = lax.rem(i, 2)
        plgpu.barrier_wait(loaded.at[slot])

        @pl.when(i + 1 < steps)
        def _():
          load(i + 1, 1 - slot)

        step(
          (cloud, part, i),
          [x.at[slot] for x in slots],
          weight_places,
          places,
          accumulators,
          output_refs,
        )
        # All warps have read what the next step, and the next load, write.
        plgpu.wgmma_wait(0)
        plgpu.commit_smem()

      for ref, accumulator in zip(sum_refs, accumulators, strict=True):
        ref[cloud, part] = accumulator[...]

    if sums:
      pl.run_scoped(walk, *map(_accumulator, sums))
    else:
      walk()

  def local(arrays, weights):
    batch = len(arrays[0])
    return plgpu.kernel(
      block,
      out_type=[
        jax.ShapeDtypeStruct((batch, parts, *shape), jnp.float32)
        for shape in (*sums, *outputs)
      ],
      scratch_types=[
        *(plgpu.SMEM(shape, jnp.bfloat16) for shape in kept),
        [plgpu.SMEM((2, *x.shape), x.array.dtype) for x in streams],
        [plgpu.SMEM(x.shape[-2:], x.dtype) for x in weights],
        [
          plgpu.Barrier(num_arrivals=len(streams), num_barriers=2),
          plgpu.Barrier(num_arrivals=len(weights)),
        ],
      ],
      grid=(batch, parts),
      grid_names=("cloud", "part"),
      compiler_params=plgpu.CompilerParams(
        lowering_semantics=plgpu.LoweringSemantics.Warpgroup
      ),
      interpret=interpreter() if launch.interpret else False,
    )(*arrays, *weights)

  if launch.batch_sharding is not None:
    clouds = PartitionSpec(*launch.batch_sharding.spec[:1])
    local = jax.shard_map(
      local,
      mesh=launch.batch_sharding.mesh,
      in_specs=(clouds, PartitionSpec()),
      out_specs=clouds,
      check_vma=False,  # a kernel's results do not say how they vary
    )
  found = local([x.array for x in streams], list(weights))
  return [x.sum(0) for x in found] if sums else found


def wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32)


def in_rows(x_C: jax.Array) -> jax.Array:
  return lax.broadcast_in_dim(x_C, (WIDTH, WIDTH), [1])


def in_columns(x_C: jax.Array) -> jax.Array:
  return lax.broadcast_in_dim(x_C, (WIDTH, WIDTH), [0])


def keep(ref: Any, x: jax.Array) -> None:
  """Writes to shared memory, for the matrix units, what all threads have."""
  ref[...] = x.astype(jnp.bfloat16)
  plgpu.commit_smem()


def product(*pairs: tuple[Any, Any]) -> jax.Array:
  """Sum of products of matrices in shared memory, float32."""

  def multiply(acc):
    for a, b in pairs:
      plgpu.wgmma(acc, a, b)
    return acc[...]

  shape = (pairs[0][0].shape[0], pairs[0][1].shape[1])
  return pl.run_scoped(multiply, _accumulator(shape))


def _accumulator(shape: tuple[int, int]) -> Any:
  return plgpu.WGMMAAccumulatorRef(shape, jnp.float32)
