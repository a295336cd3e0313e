"""Makes records of a folder of meshes."""

import argparse

from mrd_jax.cli import at_least
from mrd_jax.io.meshes.read import SUFFIXES
from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  add = parser.add_argument
  add("input", metavar="DIR", help=f"of {', '.join(SUFFIXES)}")
  flags.add_output(parser)
  add("--texts", help="CSV table: file, name, caption, ...")
  text = "axis that is up, but in glTF, where it is y (default: y)"
  add("--up", choices=("y", "z"), default="y", help=text)
  add("--num-points", type=at_least(1), default=10_000)
  add("--views", type=at_least(1), default=12)
  add("--image-size", type=at_least(8), default=224)
  add("--seed", type=at_least(0), default=0)
  text = "share of the training shapes that become the split val (default: 0)"
  add("--val-share", type=_share, default=0.0, help=text)
  add(
    "--no-file-names",
    dest="names_from_files",
    action="store_false",
    help="do not name shapes after their files",
  )
  flags.add_teacher(parser, required=True)
  text = "image-to-text model for shapes without a caption (needs PyTorch)"
  add("--captioner", help=text)
  flags.add_engine(parser)


def _share(text: str) -> float:
  try:
    share = float(text)
  except ValueError:
    share = -1.0
  if not 0 <= share < 1:
    raise argparse.ArgumentTypeError("expected a number from 0 to below 1")
  return share


def run(args: argparse.Namespace) -> object:
  """Makes the dataset."""
  from mrd_jax.prepare.mesh import convert

  return convert.convert(
    args.input,
    args.output,
    flags.teacher(args),
    texts=args.texts,
    config=flags.call(convert.MeshConfig, args),
    engine=flags.engine(args),
  )
