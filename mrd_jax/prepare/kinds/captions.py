"""Writes Cap3D's captions beside a prepared dataset."""

import argparse

from mrd_jax.cli import path
from mrd_jax.io.files import LOCK, held
from mrd_jax.io.terminal import printable
from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  flags.add_input(parser, "one of Cap3D's CSV files")
  parser.add_argument(
    "--data", required=True, type=path, help="the prepared dataset"
  )
  parser.add_argument("--splits", default="lvis")


def run(args: argparse.Namespace) -> str:
  """Writes them."""
  from mrd_jax.data.captions import read_captions, write_captions

  problems: list[str] = []
  with held("--data", args.data / LOCK):
    captions = read_captions(args.input, problems)
    lines = [
      write_captions(args.data, split, captions)
      for split in args.splits.split(",")
    ]
  return "\n".join(map(printable, [*problems, *lines]))
