"""Converts ModelNet40, for evaluation."""

import argparse
from typing import Any

from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  flags.add_input(parser, "folder with ModelNet40")
  flags.add_output(parser)
  forms = ("hdf5", "txt", "openshape")
  parser.add_argument("--form", choices=forms, required=True)
  parser.add_argument("--classes", type=int, choices=(10, 40), default=40)
  flags.add_test_set(parser)


def run(args: argparse.Namespace) -> object:
  """Makes the dataset."""
  from mrd_jax.prepare.test_sets import convert, modelnet40

  def read(part: Any, width: int) -> modelnet40.EvaluationSet:
    if args.form == "txt":
      return modelnet40.read_txt(args.input, part, width, args.classes)
    if args.form == "hdf5":
      return modelnet40.read_hdf5(args.input, part, width)
    return modelnet40.read_openshape(args.input, width)

  parts = args.parts.split(",") if args.form != "openshape" else ["test"]
  return convert.convert(args, lambda w: [read(p, w) for p in parts])
