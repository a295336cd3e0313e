"""Times sampling and grouping beside the forms that other programs use.

  python -m benchmarks.tokenizer --size m

Farthest point sampling: ours, and a vmapped loop over rows of xyz with an
argmax, as JAX ports of PointNet++ have it; the ball query: ours, by a sort of
the indices (OpenShape's form, in JAX and in PyTorch) and by a top-k.  `kernel`,
of --forms, is our sampling on Hopper GPUs; `mrd_jax` is the portable form.  All
must choose the same points.  Then XLA's own account of the compiled tokenizer at
--account batch: temporaries, and the longest axis that is sorted.  Prints
tables, and JSON with --json.
"""

import argparse
import functools
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.training import random_batch
from mrd_jax.config.pretraining import SIZES, PointBERTSize
from mrd_jax.metrics.table import render
from mrd_jax.models import point_ops, sampling_kernel

OURS = "mrd_jax"
KERNEL = "kernel"
TORCH = "PyTorch's sort"
FORMS = (OURS, "naive loop", "sort", "top-k", TORCH)


def naive_sampling(xyz_N3: jax.Array, count: int) -> jax.Array:
  def step(i, carry):
    distance_N, chosen_G = carry
    to_last_N = jnp.sum((xyz_N3 - xyz_N3[chosen_G[i - 1]]) ** 2, axis=-1)
    distance_N = jnp.minimum(distance_N, to_last_N)
    return distance_N, chosen_G.at[i].set(jnp.argmax(distance_N))

  start = jnp.full(len(xyz_N3), jnp.inf), jnp.zeros(count, jnp.int32)
  return jax.lax.fori_loop(1, count, step, start)[1]


def _inside(xyz_N3: jax.Array, centers_G3: jax.Array, radius: float):
  d2 = sum(
    (centers_G3[:, None, axis] - xyz_N3[:, axis]) ** 2 for axis in range(3)
  )
  return d2 <= radius**2


def sorting_query(
  xyz_N3: jax.Array, centers_G3: jax.Array, radius: float, count: int
) -> jax.Array:
  n = len(xyz_N3)
  index = jnp.where(_inside(xyz_N3, centers_G3, radius), jnp.arange(n), n)
  first = jnp.sort(index, axis=-1)[:, :count]
  return jnp.where(first < n, first, first[:, :1])


def top_k_query(
  xyz_N3: jax.Array, centers_G3: jax.Array, radius: float, count: int
) -> jax.Array:
  n = len(xyz_N3)
  # As floats: on a CPU a top-k of integers is a sort.
  key = (n - jnp.arange(n)).astype(jnp.float32)
  key = jnp.where(_inside(xyz_N3, centers_G3, radius), key, 0)
  first = n - jax.lax.top_k(key, count)[0].astype(jnp.int32)
  return jnp.where(first < n, first, first[:, :1])


def sampling_forms(args: argparse.Namespace, size: PointBERTSize):
  """Each: (B, N, 3) -> (B, G)."""
  n = jnp.int32(args.points)

  def ours(xyz_BN3):
    return jax.lax.map(
      lambda x: point_ops.farthest_point_sample(x, n, size.groups),
      xyz_BN3,
      batch_size=min(args.fps_chunk, len(xyz_BN3)),
    )

  def kernel(xyz_BN3):
    counts_B = jnp.full(len(xyz_BN3), n)
    return sampling_kernel.farthest_point_sample_batch(
      xyz_BN3, counts_B, size.groups
    )

  return {
    OURS: ours,
    KERNEL: kernel,
    "naive loop": jax.vmap(lambda x: naive_sampling(x, size.groups)),
  }


def query_forms(args: argparse.Namespace, size: PointBERTSize):
  """Each: (B, N, 3), (B, G, 3) -> (B, G, K)."""
  n, radius, count = jnp.int32(args.points), size.radius, size.group_size

  def chunked(query: Callable[..., jax.Array]):
    return lambda *clouds: jax.lax.map(
      lambda cloud: query(*cloud),
      clouds,
      batch_size=min(args.query_chunk, len(clouds[0])),
    )

  return {
    OURS: chunked(
      lambda xyz, centers: point_ops.ball_query(
        xyz, centers, n, radius=radius, group_size=count
      )
    ),
    "sort": chunked(lambda *x: sorting_query(*x, radius, count)),
    "top-k": chunked(lambda *x: top_k_query(*x, radius, count)),
  }


def torch_query(args: argparse.Namespace, size: PointBERTSize, *clouds):
  """OpenShape's form as it is."""
  import torch

  from benchmarks import peers

  torch.set_num_threads(os.cpu_count() or 1)
  xyz, centers = (
    torch.tensor(np.asarray(x), device=args.torch_device) for x in clouds
  )
  return lambda: peers.sorting_ball_query(
    xyz, centers, size.radius, size.group_size
  )


def host(chosen: Any) -> np.ndarray:
  """Waits for indices of JAX or PyTorch, and brings them to the host."""
  return np.asarray(chosen if isinstance(chosen, jax.Array) else chosen.cpu())


def compare(
  args: argparse.Namespace, forms: dict[str, Callable[[], Any]]
) -> dict[str, Any]:
  """Seconds of each form, and the share of ours that it chooses too."""
  first = {name: host(form()) for name, form in forms.items()}
  return {
    "equal": {
      name: float((found == first[OURS]).mean())
      for name, found in first.items()
    },
    "seconds": timing.seconds(
      {name: form for name, form in forms.items() if name in args.forms},
      rounds=args.rounds,
      calls=args.calls,
      # The last of them is enough.
      wait=lambda chosen: host(chosen[-1:]),
    ),
  }


def longest_sort(program: str) -> int:
  """Elements of the longest last axis that is sorted or selected from; or 0."""
  shapes = dict(re.findall(r"(%[\w.-]+) = \w+\[([\d,]*)\]", program))
  operands = re.findall(r" sort\((%[\w.-]+)", program) + re.findall(
    r" (?:topk|custom-call)\((%[\w.-]+).*[tT]op[kK]", program
  )
  return max((int(shapes[x].split(",")[-1]) for x in operands), default=0)


def account(args: argparse.Namespace, size: PointBERTSize) -> dict[str, Any]:
  """What XLA says of the compiled tokenizer; nothing is run."""
  program = (
    jax.jit(
      lambda *clouds: point_ops.group_points(
        *clouds,
        groups=size.groups,
        radius=size.radius,
        group_size=size.group_size,
        fps_chunk=args.fps_chunk,
        query_chunk=args.query_chunk,
      )
    )
    .lower(
      jax.ShapeDtypeStruct((args.account, args.points, 6), jnp.float32),
      jax.ShapeDtypeStruct((args.account,), jnp.int32),
    )
    .compile()
  )
  memory = program.memory_analysis()
  return {
    "batch": args.account,
    "temporaries": memory.temp_size_in_bytes,
    "sorted": longest_sort(program.as_text()),
  }


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark."""
  size = SIZES[args.size]
  all_forms = {
    "sampling": sampling_forms(args, size),
    "query": query_forms(args, size),
  }
  xyz, centers = (
    jax.ShapeDtypeStruct((args.batch, n, 3), jnp.float32)
    for n in (args.points, size.groups)
  )
  inputs = {"sampling": [xyz], "query": [xyz, centers]}
  programs = {
    work: {
      name: jax.jit(form).lower(*inputs[work]).compile()
      for name, form in forms.items()
      if name in (OURS, *args.forms)  # what the others are compared with
    }
    for work, forms in all_forms.items()
  }
  if args.compile_only:
    return vars(args)
  batch = random_batch(args.batch, args.points, 8)
  xyz = jnp.asarray(batch.xyz.astype(np.float32) / 32767)
  chosen = programs["sampling"][OURS](xyz)
  centers = jnp.take_along_axis(xyz, chosen[..., None], axis=1)
  inputs = {"sampling": [xyz], "query": [xyz, centers]}
  ready = {
    work: {
      name: functools.partial(program, *inputs[work])
      for name, program in forms.items()
    }
    for work, forms in programs.items()
  }
  if TORCH in args.forms:
    ready["query"][TORCH] = torch_query(args, size, xyz, centers)
  result = vars(args) | {"machine": timing.machine()}
  result |= {work: compare(args, forms) for work, forms in ready.items()}
  if args.account:
    result["account"] = account(args, size)
  return result


def tables(result: dict[str, Any]) -> str:
  """The result in Markdown."""
  rows = []
  for work in ("sampling", "query"):
    seconds = result[work]["seconds"]
    for name, median in timing.medians(seconds).items():
      rows.append(
        [
          result["size"].upper(),
          work,
          name,
          f"{median * 1e3:,.1f}",
          f"{timing.ratio(seconds, name, OURS):.1f}" if OURS in seconds else "",
          f"{result[work]['equal'][name]:.2%}",
        ]
      )
  header = ["size", "work", "form", "ms", "ours is faster by", "equal"]
  table = render(header, rows)
  if not (found := result.get("account")):
    return table
  return (
    f"{table}\n\nThe tokenizer at batch {found['batch']}: "
    f"{found['temporaries'] / 1e9:.3f} GB of temporaries; the longest sorted "
    f"axis has {found['sorted']:,} elements."
  )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.tokenizer",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--size", choices=SIZES, default="m")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--points", type=int, default=10_000)
  parser.add_argument("--fps_chunk", type=int, default=1)
  parser.add_argument("--query_chunk", type=int, default=8)
  parser.add_argument("--account", type=int, default=512, help="0: none")
  parser.add_argument(
    "--forms",
    type=lambda text: text.split(","),
    default=list(FORMS),
    help=f"what is timed, some of {','.join((KERNEL, *FORMS))}",
  )
  parser.add_argument("--torch-device", default="cpu")
  timing.add_flags(parser)
  parser.add_argument("--json", action="store_true")
  return parser.parse_args(argv)


if __name__ == "__main__":
  args = parse()
  result = measure(args)
  print(json.dumps(result) if args.json else tables(result))
