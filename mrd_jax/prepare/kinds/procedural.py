"""Generates the embedded synthetic data."""

import argparse
import functools

from mrd_jax.cli import at_least
from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind; the defaults are those of `generate`."""
  flags.add_output(parser)
  add, count = parser.add_argument, at_least(1)
  absent = argparse.SUPPRESS
  add("--train", type=count, default=absent, help="shapes to train on")
  add("--val", type=count, default=absent, help="shapes to validate on")
  add("--num-points", type=count, default=absent, help="points per shape")
  text = "image features per shape"
  add("--num-views", type=count, default=absent, help=text)
  add("--embed-dim", type=count, default=absent, help="width of the features")
  add("--seed", type=int, default=absent)


def run(args: argparse.Namespace) -> str:
  """Makes the dataset."""
  from mrd_jax.prepare import procedural

  generate = functools.partial(procedural.generate, args.output)
  meta = flags.call(generate, args)
  classes = len(meta.class_names["train"])
  return (
    f"{meta.max_points} points a shape, {classes} classes, teacher: "
    f"{meta.teacher}"
  )
