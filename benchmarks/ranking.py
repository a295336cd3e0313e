"""Times Eq. 12 by counting beside all its pairs, value and gradient.

  python -m benchmarks.ranking --batch 512,1024,2048,4096

One relation of B x B distances: margin ranking over all pairs of every anchor.
*all pairs* is the equation as it is written, one anchor at a time and, because
the time of an anchor is the time of any other, for --anchors of them, times
B / anchors.  Half of the student's distances are rounded, so that there are
ties; both forms must find the same number of active pairs.  Prints a table, and
JSON with --json.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from mrd_jax.losses.ranking import all_pairs_hinges
from mrd_jax.metrics.table import render

MARGIN = 0.125  # with distances in 1/64, sums are exact: ties stay ties
FORMS = ("mrd_jax", "all pairs")


def counted(u_AB: jax.Array, margin: float) -> jax.Array:
  """The sum over anchors and pairs by counting; the teacher's order is given."""
  order_AB = jnp.broadcast_to(
    jnp.arange(u_AB.shape[1], dtype=u_AB.dtype), u_AB.shape
  )
  mask_AB = jnp.ones_like(u_AB, bool)
  return all_pairs_hinges(u_AB, order_AB, mask_AB, margin)[0].sum()


def all_pairs(u_AB: jax.Array, margin: float) -> jax.Array:
  """The sum over anchors and pairs r < q of max(0, u_r + margin - u_q)."""
  earlier = jnp.arange(u_AB.shape[1])
  before_BB = earlier[:, None] < earlier

  @jax.checkpoint
  def anchor(u_B: jax.Array) -> jax.Array:
    excess_BB = u_B[:, None] + margin - u_B
    return jnp.where(before_BB & (excess_BB > 0), excess_BB, 0).sum()

  return jax.lax.map(anchor, u_AB).sum()


def distances(anchors: int, batch: int) -> jax.Array:
  rng = np.random.default_rng(0)
  u_AB = rng.random((anchors, batch)).astype(np.float32) * 2
  rounded = rng.random((anchors, batch)) < 0.5
  return jnp.asarray(np.where(rounded, np.round(u_AB * 64) / 64, u_AB))


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark.

  Raises:
    AssertionError: if the gradients, which are numbers of pairs, differ.
  """
  rows = []
  for batch in args.batch:
    anchors = min(args.anchors, batch)
    u_AB = distances(batch, batch)
    gradients = {
      "mrd_jax": (jax.jit(jax.value_and_grad(counted)), u_AB),
      "all pairs": (jax.jit(jax.value_and_grad(all_pairs)), u_AB[:anchors]),
    }
    forms = {
      name: lambda f=f, u=u: jax.block_until_ready(f(u, MARGIN))
      for name, (f, u) in gradients.items()
    }
    ours, written = (np.asarray(forms[name]()[1]) for name in FORMS)
    np.testing.assert_array_equal(ours[:anchors], written)
    seconds = timing.interleaved(forms, args.rounds)
    scale = batch / anchors
    seconds["all pairs"] = [x * scale for x in seconds["all pairs"]]
    rows.append({"batch": batch, "anchors": anchors, "seconds": seconds})
  return vars(args) | {"machine": timing.machine(), "rows": rows}


def table(result: dict[str, Any]) -> str:
  """The result in Markdown."""
  return render(
    ["B", *(f"{name}, s" for name in FORMS), "faster by"],
    [
      [f"{row['batch']:,}"]
      + [f"{timing.medians(row['seconds'])[name]:.3f}" for name in FORMS]
      + [f"{timing.ratio(row['seconds'], 'all pairs', 'mrd_jax'):.1f}"]
      for row in result["rows"]
    ],
  )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.ranking",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--batch",
    type=lambda text: [int(x) for x in text.split(",")],
    default=[512, 1024, 2048, 4096],
  )
  parser.add_argument("--anchors", type=int, default=64)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--json", action="store_true")
  return parser.parse_args(argv)


if __name__ == "__main__":
  args = parse()
  result = measure(args)
  print(json.dumps(result) if args.json else table(result))
