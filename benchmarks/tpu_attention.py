"""Compiles forms of attention for a TPU that is not at hand.

  pip install -e .[aot]
  python -m benchmarks.tpu_attention --lengths 385,65

Ours on TPUs (`all_heads` of `mrd_jax/models/attention.py`) beside the two
kernels that JAX has, which take lengths of whole tiles of 128: tokens are
padded, with an id that keeps them apart.  Nothing is run; of each form,
forward, and forward with backward: what its program holds and moves, and the
longer of what its bytes and its products take.  Products of width 64 fill
half of the matrix units.
"""

import argparse
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks import hlo, targets
from mrd_jax import cli
from mrd_jax.metrics.table import render
from mrd_jax.models.attention import all_heads

TPU, TILE = "v5p", 128


def padded(form: Any, *arrays: jax.Array) -> jax.Array:
  """Calls a kernel with (B, H, whole tiles, K) arrays and tokens' ids."""
  length = arrays[0].shape[1]
  rows = -(-length // TILE) * TILE
  ids = (jnp.arange(rows) >= length).astype(jnp.int32)
  y = form(
    *(
      jnp.pad(x, [(0, 0), (0, rows - length), (0, 0), (0, 0)]).swapaxes(1, 2)
      for x in arrays
    ),
    ids,
  )
  return y.swapaxes(1, 2)[:, :length]


def flash(q_BHLK, k_BHLK, v_BHLK, ids_L):
  from jax.experimental.pallas.ops.tpu import flash_attention as kernels

  batch, _, length, width = q_BHLK.shape
  ids_BL = jnp.broadcast_to(ids_L, (batch, length))
  blocks = dict.fromkeys(
    ("block_q", "block_q_major_dkv", "block_q_dkv", "block_q_dq"), TILE
  ) | dict.fromkeys(
    ("block_k_major", "block_k", "block_k_major_dkv", "block_k_dkv")
    + ("block_k_major_dq", "block_k_dq"),
    length,
  )
  return kernels.flash_attention(
    *(q_BHLK, k_BHLK, v_BHLK),
    segment_ids=kernels.SegmentIds(ids_BL, ids_BL),
    sm_scale=width**-0.5,
    block_sizes=kernels.BlockSizes(block_b=1, **blocks),
  )


def splash(q_BHLK, k_BHLK, v_BHLK, ids_L):
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  _, heads, length, width = q_BHLK.shape
  blocks = kernels.BlockSizes(
    **dict.fromkeys(
      ("block_q", "block_kv", "block_kv_compute", "block_q_dkv")
      + ("block_kv_dkv", "block_kv_dkv_compute"),
      length,
    ),
    use_fused_bwd_kernel=True,
  )
  mask = masks.MultiHeadMask([masks.FullMask((length, length))] * heads)
  kernel = kernels.make_splash_mha_single_device(mask, block_sizes=blocks)
  ids = kernels.SegmentIds(ids_L, ids_L)
  return jax.vmap(lambda q, k, v: kernel(q * width**-0.5, k, v, ids))(
    q_BHLK, k_BHLK, v_BHLK
  )


# Products of all rows with all rows, forward and backward: JAX's first kernel
# makes the weights and their gradient for queries, and again for keys.
FORMS = {
  "all_heads": (None, 2, 5),
  "flash_attention": (functools.partial(padded, flash), 2, 7),
  "splash_attention": (functools.partial(padded, splash), 2, 5),
}


def measure(
  name: str, length: int, args: argparse.Namespace
) -> list[list[str]]:
  """The table's rows of a form at a length."""
  form, forward, backward = FORMS[name]
  rows = -(-length // TILE) * TILE
  if form is None:
    form, rows = functools.partial(all_heads, length=length), length
  target = targets.TARGETS[TPU]
  (device,) = targets.topology(TPU, 1)
  array = jax.ShapeDtypeStruct(
    (args.batch, length, args.heads, 64),
    jnp.bfloat16,
    sharding=SingleDeviceSharding(device),
  )

  def gradient(q, k, v, weights):
    y, pull = jax.vjp(form, q, k, v)
    return y, pull(weights)

  found = []
  for what, function, inputs, products in (
    ("forward", form, 3, forward),
    ("and backward", gradient, 4, forward + backward),
  ):
    with targets.standing_in(target):
      lowered = jax.jit(function).lower(*[array] * inputs)
    compiled = lowered.compile()
    kernels = hlo.Program(compiled.as_text()).kernels()
    moved = sum(kernel.times * kernel.bytes for kernel in kernels)
    operations = products * args.batch * args.heads * 2 * rows**2 * 64
    seconds = {
      "bytes": moved / target.bandwidth,
      "products": 2 * operations / target.peaks["bf16"],
    }
    bound = max(seconds, key=lambda name: seconds[name])
    memory = compiled.memory_analysis().temp_size_in_bytes
    found.append(
      [str(length), name, what, f"{memory / 2**20:.0f}", f"{moved / 1e9:.3f}"]
      + [f"{operations / 1e9:.1f}", f"{seconds[bound] * 1e3:.2f}", bound]
    )
  return found


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--heads", type=int, default=8)
  parser.add_argument(
    "--lengths", type=lambda x: list(map(int, x.split(","))), default=[385, 65]
  )
  return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
  header = ["tokens", "form", "", "temporaries, MiB", "GB", "products, GFLOP"]
  rows = [
    row
    for length in args.lengths
    for name in FORMS
    for row in measure(name, length, args)
  ]
  print(render([*header, "roofline, ms", "bound by"], rows))
  return 0


if __name__ == "__main__":
  arguments = parse()
  jax.config.update("jax_platforms", "cpu")
  sys.exit(cli.exit_code(lambda: main(arguments)))
