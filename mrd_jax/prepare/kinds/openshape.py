"""Converts data in OpenShape's layout."""

import argparse

from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  flags.add_input(parser, "folder with meta_data/")
  flags.add_output(parser)
  add = parser.add_argument
  text = "fetch what --input lacks from the hub first (205 GB without --parts)"
  add("--download", action="store_true", help=text)
  add("--parts", help="only these folders, as 'ABO,Objaverse/000-00*'")
  add(
    "--splits",
    help="comma-separated: train, val, lvis, modelnet40, scanobjectnn, or a "
    "list of meta_data/split by its name (default: the first five, where "
    "present)",
  )
  text = "replace the beginning of the lists' paths (default: found by itself)"
  add("--root-remap", type=_remap, metavar="OLD=NEW", help=text)
  flags.add_limit(parser)
  add("--teacher", help="which model made the features, in words")
  flags.add_engine(parser)


def _remap(text: str) -> tuple[str, str]:
  old, separator, new = text.partition("=")
  if not old or not separator:
    raise argparse.ArgumentTypeError("expected OLD=NEW")
  return old, new


def run(args: argparse.Namespace) -> object:
  """Makes the dataset."""
  from mrd_jax.prepare.openshape import convert
  from mrd_jax.prepare.openshape.download import download

  splits = args.splits.split(",") if args.splits else None
  parts = args.parts.split(",") if args.parts else None
  parts = parts and [part.removesuffix(".tar.gz") for part in parts]
  if args.download:
    archives = [f"{part}.tar.gz" for part in parts] if parts else None
    download(args.input, parts=archives, splits=splits)
  return convert.convert(
    args.input,
    args.output,
    splits=splits,
    parts=parts,
    root_remap=args.root_remap,
    limit=args.limit,
    teacher=args.teacher,
    engine=flags.engine(args),
  )
