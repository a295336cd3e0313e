"""Writes Cap3D's captions beside a prepared dataset."""

import argparse

from mrd_jax.io.terminal import printable
from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  flags.add_input(parser, "one of Cap3D's CSV files")
  parser.add_argument("--data", required=True, help="the prepared dataset")
  parser.add_argument("--splits", default="lvis")


def run(args: argparse.Namespace) -> str:
  """Writes them."""
  from mrd_jax.data.captions import read_captions, write_captions

  problems: list[str] = []
  captions = read_captions(args.input, problems)
  lines = [
    write_captions(args.data, split, captions)
    for split in args.splits.split(",")
  ]
  return "\n".join(map(printable, [*problems, *lines]))
