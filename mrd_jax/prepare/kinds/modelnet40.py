"""Converts ModelNet40, for evaluation."""

import argparse

from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  flags.add_input(parser, "folder with ModelNet40")
  flags.add_output(parser)
  forms = ("hdf5", "txt", "openshape")
  parser.add_argument("--form", choices=forms, required=True)
  parser.add_argument("--classes", type=int, choices=(10, 40), default=40)
  flags.add_test_set(parser)


def run(args: argparse.Namespace) -> str:
  """Makes the dataset."""
  from mrd_jax.prepare.test_sets import modelnet40

  parts = args.parts.split(",")
  readers = {
    "hdf5": lambda width: [
      modelnet40.read_hdf5(args.input, part, width) for part in parts
    ],
    "txt": lambda width: [
      modelnet40.read_txt(args.input, part, width, args.classes)
      for part in parts
    ],
    "openshape": lambda width: [modelnet40.read_openshape(args.input, width)],
  }
  return flags.convert_test_set(args, readers[args.form])
