"""Says what is in a dataset, and what is wrong: python -m mrd_jax.inspect."""

import argparse
import os
import sys
from collections.abc import Sequence

from mrd_jax.cli import Parser, add_count, exit_code, leave, path
from mrd_jax.io.files import LOCK
from mrd_jax.io.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
  """Inspects a dataset; returns the exit code.

  Returns:
    0, or 1 with --strict if there are warnings, or 2 for bad input.
  """
  parser = Parser(
    prog="python -m mrd_jax.inspect",
    description="Says what is in a prepared dataset, and warns of what would "
    "hurt training or falsify an evaluation.",
    epilog="Exit code: 0, or 1 with --strict if there are warnings, or 2 for "
    "bad input.",
  )
  add = parser.add_argument
  add("data", metavar="DATA", help="the prepared dataset")
  add(
    "--output",
    type=path,
    metavar="DIR",
    help="folder for report.json and shapes.png (default: print only)",
  )
  add_count(parser, "--samples", 2000, "random records of a split to measure")
  add(
    "--full",
    action="store_true",
    help="count and search for duplicates all records of splits with more "
    "than 50,000 too, of which by default only those measured",
  )
  add_count(parser, "--shapes", 12, "shapes to draw")
  add_count(parser, "--seed", 0, "of what is drawn at random", least=0)
  add("--strict", action="store_true", help="exit with 1 if there are warnings")
  args = parser.parse_args(argv)
  return exit_code(lambda: _inspect(args), args.output and args.output / LOCK)


def _inspect(args: argparse.Namespace) -> int:
  # A GPU would be reserved, perhaps beside a run, for a few products.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from mrd_jax.inspect import run, text_report  # after --help

  if args.output:
    from mrd_jax.inspect import output  # draws, which brings JAX

    output.check_output(args.output)
  inspection = run.inspect_dataset(
    args.data,
    samples=args.samples,
    counted=sys.maxsize if args.full else run.COUNTED,
    seed=args.seed,
  )
  say(*text_report.text_report(inspection.report).split("\n"))
  if args.output:
    say("")
    for path in output.write(inspection, args.output, args.shapes):
      say(path)
  return int(args.strict and bool(inspection.report["warnings"]))


if __name__ == "__main__":
  leave(main())
