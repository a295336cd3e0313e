"""python -m mrd_jax.report DIR: draws the figures of a run."""

import argparse
import sys
from collections.abc import Sequence

from mrd_jax.errors import BadInput


def main(argv: Sequence[str] | None = None) -> int:
  """Draws a run's figures; returns the exit code (2 for bad input)."""
  args = _parser().parse_args(argv)
  from mrd_jax.report import figures  # after --help, which needs no JAX

  try:
    drawn, left_out = figures.draw(args.workdir, args.data)
  except BadInput as error:
    print(error, file=sys.stderr)
    return 2
  for path in drawn:
    print(path)
  for sentence in left_out:
    print(sentence, file=sys.stderr)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.report",
    description="Draws the figures of a training run into DIR/figures.",
  )
  parser.add_argument(
    "workdir", metavar="DIR", help="the folder that training was given"
  )
  parser.add_argument(
    "--data",
    metavar="DATA",
    help="the prepared dataset, if it has moved (default: data.dir of the "
    "run's config)",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
