"""Makes records of a folder of meshes."""

import argparse

from mrd_jax.cli import at_least
from mrd_jax.io.meshes.read import SUFFIXES
from mrd_jax.prepare import flags


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of this kind."""
  parser.add_argument("input", metavar="DIR", help=f"of {', '.join(SUFFIXES)}")
  flags.add_output(parser)
  parser.add_argument("--texts", help="CSV table: file, name, caption, ...")
  parser.add_argument(
    "--up",
    choices=("y", "z"),
    default="y",
    help="axis that is up, but in glTF, where it is y (default: y)",
  )
  parser.add_argument("--num-points", type=at_least(1), default=10_000)
  parser.add_argument("--views", type=at_least(1), default=12)
  parser.add_argument("--image-size", type=at_least(8), default=224)
  parser.add_argument("--seed", type=at_least(0), default=0)
  parser.add_argument(
    "--val-share",
    type=_share,
    default=0.0,
    help="share of the training shapes that become the split val (default: 0)",
  )
  parser.add_argument(
    "--no-file-names",
    action="store_true",
    help="do not name shapes after their files",
  )
  flags.add_teacher(parser, required=True)
  parser.add_argument(
    "--captioner",
    help="image-to-text model for shapes without a caption (needs PyTorch)",
  )
  flags.add_engine(parser)


def _share(text: str) -> float:
  try:
    share = float(text)
  except ValueError:
    share = -1.0
  if not 0 <= share < 1:
    raise argparse.ArgumentTypeError("expected a number from 0 to below 1")
  return share


def run(args: argparse.Namespace) -> str:
  """Makes the dataset."""
  from mrd_jax.prepare.mesh import convert

  report = convert.convert(
    args.input,
    args.output,
    flags.teacher(args),
    texts=args.texts,
    config=convert.MeshConfig(
      up=args.up,
      num_points=args.num_points,
      views=args.views,
      image_size=args.image_size,
      seed=args.seed,
      names_from_files=not args.no_file_names,
      val_share=args.val_share,
    ),
    engine=flags.engine(args),
  )
  return f"{report}\nwritten to {args.output}"
