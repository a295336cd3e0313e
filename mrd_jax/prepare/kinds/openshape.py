"""Converts data in OpenShape's layout."""

import argparse

from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  flags.add_input(parser, "folder with meta_data/")
  flags.add_output(parser)
  parser.add_argument(
    "--download",
    action="store_true",
    help="fetch what --input lacks from the Hugging Face hub first (205 GB "
    "without --parts)",
  )
  parser.add_argument(
    "--parts",
    help="only these folders, for instance 'ABO,Objaverse/000-00*'",
  )
  parser.add_argument(
    "--splits",
    help="comma-separated: train, val, lvis, modelnet40, scanobjectnn, or a "
    "list of meta_data/split by its name (default: the first five, where "
    "present)",
  )
  parser.add_argument(
    "--root-remap",
    type=_remap,
    metavar="OLD=NEW",
    help="replace the beginning of the lists' paths (default: found by itself)",
  )
  flags.add_limit(parser)
  parser.add_argument(
    "--teacher", help="which model made the features, in words, for the record"
  )
  flags.add_engine(parser)


def _remap(text: str) -> tuple[str, str]:
  old, separator, new = text.partition("=")
  if not old or not separator:
    raise argparse.ArgumentTypeError("expected OLD=NEW")
  return old, new


def run(args: argparse.Namespace) -> str:
  """Makes the dataset."""
  from mrd_jax.prepare.openshape import convert
  from mrd_jax.prepare.openshape.download import download

  splits = args.splits.split(",") if args.splits else None
  parts = None
  if args.parts:
    parts = [part.removesuffix(".tar.gz") for part in args.parts.split(",")]
  if args.download:
    archives = [f"{part}.tar.gz" for part in parts] if parts else None
    download(args.input, parts=archives, splits=splits)
  report = convert.convert(
    args.input,
    args.output,
    splits=splits,
    parts=parts,
    root_remap=args.root_remap,
    limit=args.limit,
    teacher=args.teacher,
    engine=flags.engine(args),
  )
  return f"{report}\nwritten to {args.output}"
