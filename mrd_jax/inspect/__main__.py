"""Says what is in a dataset, and what is wrong: python -m mrd_jax.inspect."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mrd_jax.cli import at_least, exit_code


def main(argv: Sequence[str] | None = None) -> int:
  """Inspects a dataset; returns the exit code.

  Returns:
    0, or 1 with --strict if there are warnings, or 2 for bad input.
  """
  args = _parser().parse_args(argv)
  return exit_code(lambda: _inspect(args))


def _inspect(args: argparse.Namespace) -> int:
  # A GPU would be reserved, perhaps beside a run, for a few products.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from mrd_jax.inspect import run, text_report  # after --help

  if args.output:
    from mrd_jax.inspect import output  # draws, which brings JAX

    output.checked_output(args.output)
  inspection = run.inspect_dataset(
    args.data,
    samples=args.samples,
    counted=sys.maxsize if args.full else run.COUNTED,
    seed=args.seed,
  )
  print(text_report.text_report(inspection.report))
  if args.output:
    print()
    for path in output.write(inspection, args.output, args.shapes):
      print(path)
  return int(args.strict and bool(inspection.report["warnings"]))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.inspect",
    description="Says what is in a prepared dataset, and warns of what would "
    "hurt training or falsify an evaluation.",
    epilog="Exit code: 0, or 1 with --strict if there are warnings, or 2 for "
    "bad input.",
  )
  parser.add_argument("data", metavar="DATA", help="the prepared dataset")
  parser.add_argument(
    "--output",
    type=Path,
    metavar="DIR",
    help="folder for report.json and shapes.png (default: print only)",
  )
  parser.add_argument(
    "--samples",
    type=at_least(1),
    default=2000,
    metavar="N",
    help="records of a split that are measured, drawn at random (default: "
    "2000)",
  )
  parser.add_argument(
    "--full",
    action="store_true",
    help="count and search for duplicates all records of splits with more "
    "than 50,000 too, of which by default only those measured",
  )
  parser.add_argument(
    "--shapes",
    type=at_least(1),
    default=12,
    metavar="K",
    help="shapes to draw (default: 12)",
  )
  parser.add_argument(
    "--seed", type=at_least(0), default=0, help="of what is drawn (default: 0)"
  )
  parser.add_argument(
    "--strict", action="store_true", help="exit with 1 if there are warnings"
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
