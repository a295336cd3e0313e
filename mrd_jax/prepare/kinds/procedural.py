"""Generates the embedded synthetic data."""

import argparse

from mrd_jax.cli import at_least
from mrd_jax.prepare import flags

_COUNTS = {
  "train": "shapes to train on",
  "val": "shapes to validate on",
  "num_points": "points per shape",
  "num_views": "image features per shape",
  "embed_dim": "width of the features",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind; the defaults are those of `generate`."""
  flags.add_output(parser)
  absent = argparse.SUPPRESS
  for name, text in _COUNTS.items():
    flag = f"--{name.replace('_', '-')}"
    parser.add_argument(flag, type=at_least(1), default=absent, help=text)
  parser.add_argument("--seed", type=int, default=absent)


def run(args: argparse.Namespace) -> str:
  """Makes the dataset."""
  from mrd_jax.prepare import procedural

  given = {k: v for k, v in vars(args).items() if k in (*_COUNTS, "seed")}
  meta = procedural.generate(args.output, **given)
  classes = len(meta.class_names["train"])
  return (
    f"{meta.max_points} points a shape, {classes} classes, teacher: "
    f"{meta.teacher}\nwritten to {args.output}"
  )
