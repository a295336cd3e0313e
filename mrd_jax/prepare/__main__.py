"""python -m mrd_jax.prepare {openshape,procedural}: makes a dataset."""

import argparse
import sys
from collections.abc import Sequence

from mrd_jax.arguments import at_least
from mrd_jax.errors import BadInput


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one preparation; returns the exit code (2 for bad input)."""
  args = _parser().parse_args(argv)
  try:
    print(args.run(args))
  except BadInput as error:
    print(error, file=sys.stderr)
    return 2
  return 0


def _openshape(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import openshape

  report = openshape.convert(
    args.input,
    args.output,
    splits=args.splits.split(",") if args.splits else None,
    root_remap=args.root_remap,
    limit=args.limit,
    teacher=args.teacher,
  )
  return f"{report}\nwritten to {args.output}"


def _procedural(args: argparse.Namespace) -> str:
  from mrd_jax.prepare import procedural

  given = {k: v for k, v in vars(args).items() if k not in ("run", "output")}
  meta = procedural.generate(args.output, **given)
  classes = len(meta.class_names["train"])
  return (
    f"{meta.max_points} points a shape, {classes} classes, teacher: "
    f"{meta.teacher}\n"
    f"written to {args.output}"
  )


def _remap(text: str) -> tuple[str, str]:
  old, separator, new = text.partition("=")
  if not old or not separator:
    raise argparse.ArgumentTypeError("expected OLD=NEW")
  return old, new


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.prepare",
    description="Makes a dataset that training can read.",
  )
  verbs = parser.add_subparsers(required=True, metavar="KIND")
  verb = verbs.add_parser(
    "openshape", help="convert data in OpenShape's layout"
  )
  verb.set_defaults(run=_openshape)
  verb.add_argument("--input", required=True, help="folder with meta_data/")
  verb.add_argument("--output", required=True, help="folder to create")
  verb.add_argument(
    "--splits",
    help="comma-separated: train, val, lvis, modelnet40, or a list of "
    "meta_data/split by its name (default: the first four, where present)",
  )
  verb.add_argument(
    "--root-remap",
    type=_remap,
    metavar="OLD=NEW",
    help="replace the beginning of the lists' paths (default: found by itself)",
  )
  verb.add_argument(
    "--limit", type=at_least(1), help="at most so many shapes of each list"
  )
  verb.add_argument(
    "--teacher", help="which model made the features, in words, for the record"
  )
  verb = verbs.add_parser(
    "procedural", help="make the embedded synthetic dataset"
  )
  verb.set_defaults(run=_procedural)
  verb.add_argument("--output", required=True, help="folder to create")
  for flag, text in (
    ("--train", "shapes to train on"),
    ("--val", "shapes to validate on"),
    ("--num-points", "points per shape"),
    ("--num-views", "image features per shape"),
    ("--embed-dim", "width of the features"),
  ):
    # Absent flags stay absent: the defaults are those of `generate`.
    verb.add_argument(
      flag, type=at_least(1), default=argparse.SUPPRESS, help=text
    )
  verb.add_argument("--seed", type=int, default=argparse.SUPPRESS)
  return parser


if __name__ == "__main__":
  sys.exit(main())
