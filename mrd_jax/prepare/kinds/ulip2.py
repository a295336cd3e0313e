"""Makes records of ULIP-2's ShapeNet triplets."""

import argparse

from mrd_jax.cli import at_least
from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  flags.add_input(parser, "folder with shapenet_pc/")
  flags.add_output(parser)
  text = "how many the teacher reads, to keep the best (default: 1; 10 exist)"
  add = parser.add_argument
  add("--captions-per-view", type=at_least(1), default=1, help=text)
  flags.add_limit(parser)
  flags.add_teacher(parser, required=True)
  flags.add_engine(parser)


def run(args: argparse.Namespace) -> object:
  """Makes the dataset."""
  from mrd_jax.prepare import ulip2

  return ulip2.convert(
    args.input,
    args.output,
    flags.teacher(args),
    captions_per_view=args.captions_per_view,
    limit=args.limit,
    engine=flags.engine(args),
  )
