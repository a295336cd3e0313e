"""What a training of MRD takes on many accelerators: arithmetic, no measurement.

  python -m benchmarks.predict --size l --shapes-per-second 530

From the speed of one accelerator (measured, or assumed) and what every step
sends (the gradients' all-reduce, in float32: 2 (n - 1) / n of their bytes, first
within a node of 8, then between nodes; the embeddings' gather): hours, and their
cost, if nothing of the communication is hidden behind the computation and if
all of it is.  The batch grows with the devices.  Prints a table.
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mrd_jax.config.pretraining import SIZES
from mrd_jax.metrics.table import render
from mrd_jax.models.pointbert import PointBERT

NODE = 8  # accelerators that a fast network joins


def num_parameters(size: str, embed_dim: int) -> int:
  variables = jax.eval_shape(
    lambda: PointBERT(SIZES[size], embed_dim).init(
      jax.random.key(0),
      jnp.zeros((1, 2, 6)),
      jnp.ones(1, jnp.int32),
      train=False,
    )
  )
  return sum(x.size for x in jax.tree.leaves(variables["params"]))


def seconds_sent(args: argparse.Namespace, devices: int, size: int) -> float:
  """Of a step's communication, one after the other."""
  within, nodes = min(devices, NODE), -(-devices // NODE)
  gradients = 4 * size
  fast = 2 * gradients * (within - 1) / within
  slow = 2 * gradients / within * (nodes - 1) / nodes
  # The embeddings and both teachers of the others, in float32.
  gathered = 3 * 4 * args.embed_dim * args.batch * (devices - 1)
  if nodes > 1:
    slow += gathered
  else:
    fast += gathered
  return fast / (args.fast * 1e9) + slow / (args.slow * 1e9)


def rows(args: argparse.Namespace) -> list[list[str]]:
  """The table."""
  size = num_parameters(args.size, args.embed_dim)
  found = []
  for devices in args.devices:
    computed = args.batch / args.shapes_per_second
    sent = seconds_sent(args, devices, size)
    steps = args.epochs * args.shapes / (args.batch * devices)
    hours = [steps * x / 3600 for x in (max(computed, sent), computed + sent)]
    found.append(
      [
        f"{devices}",
        f"{args.batch * devices:,}",
        f"{computed * 1e3:.0f}",
        f"{sent * 1e3:.1f}",
        f"{hours[0]:.2f} to {hours[1]:.2f}",
        f"{hours[0] * devices:,.0f} to {hours[1] * devices:,.0f}",
        f"{hours[0] * devices * args.price:,.0f} to "
        f"{hours[1] * devices * args.price:,.0f}",
      ]
    )
  return found


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.predict",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--size", choices=SIZES, default="l")
  add("--shapes-per-second", type=float, default=530.0, help="of one device")
  add("--batch", type=int, default=64, help="on each device")
  add(
    "--devices",
    type=lambda text: [int(x) for x in text.split(",")],
    default=[8, 64, 256],
  )
  add("--shapes", type=int, default=876_000)
  add("--epochs", type=int, default=300)
  add("--embed_dim", type=int, default=1280)
  add("--fast", type=float, default=300.0, help="GB/s a device within a node")
  add("--slow", type=float, default=40.0, help="GB/s a device between nodes")
  add("--price", type=float, default=3.0, help="of an hour of a device")
  return parser.parse_args(argv)


def table(args: argparse.Namespace) -> str:
  """In Markdown."""
  header = ["devices", "batch", "computing, ms", "sending, ms", "hours"]
  return render([*header, "device-hours", "cost"], rows(args))


if __name__ == "__main__":
  print(table(parse()))
