"""Converts ScanObjectNN's h5_files, for evaluation."""

import argparse

from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  flags.add_input(parser, "folder with ScanObjectNN's h5_files")
  flags.add_output(parser)
  parser.add_argument("--variants", default="obj_only,obj_bg,pb_t50_rs")
  flags.add_test_set(parser)


def run(args: argparse.Namespace) -> object:
  """Makes the dataset."""
  from mrd_jax.prepare.test_sets import convert, scanobjectnn

  return convert.convert(
    args,
    lambda embed_dim: [
      scanobjectnn.read(args.input, variant, part, embed_dim)
      for variant in args.variants.split(",")
      for part in args.parts.split(",")
    ],
  )
