"""Embeds point-cloud files or a split: python -m mrd_jax.embed."""

import argparse
import sys
from collections.abc import Sequence

from mrd_jax.cli import add_checkpoint, at_least, exit_code
from mrd_jax.embed.files import (
  Split,
  checked_output,
  embed_files,
  find_files,
  rejects_path,
)
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.read import SUFFIXES
from mrd_jax.search import index


def main(argv: Sequence[str] | None = None) -> int:
  """Embeds files; returns the exit code.

  Returns:
    0 if every shape was embedded, 1 if any was rejected, 2 for bad arguments.
  """
  args = _parser().parse_args(argv)
  return exit_code(lambda: _embed(args))


def _embed(args: argparse.Namespace) -> int:
  output = checked_output(args.output)
  if bool(args.input) == bool(args.data) or bool(args.data) != bool(args.split):
    raise BadInput("give either --input, or both --data and --split")
  if args.data and (args.up != "y" or not args.normalize):
    raise BadInput(
      "--up and --no-normalize are for files: the records of --data are y up, "
      "and every shape is centred and scaled as in training"
    )
  if args.data:
    shapes = Split(args.data, args.split)
  else:
    shapes = find_files(args.input, output)
  if args.index:
    import faiss  # noqa: F401  found out now, not after hours of embedding

  from mrd_jax.encoder.encoder import load_encoder  # brings JAX, takes seconds

  encoder = load_encoder(args.checkpoint, args.which)
  embedded, rejected = embed_files(
    encoder,
    shapes,
    output,
    checkpoint=args.checkpoint,
    up=args.up,
    normalize=args.normalize,
    batch_size=args.batch_size,
  )
  if embedded:
    print(f"{embedded} embeddings written to {output}")
    if args.index:
      if built := index.build_index(output):
        print(f"index written to {built}")
      else:
        print(
          f"no index: below {index.SMALLEST:,} embeddings, search compares all "
          "of them as quickly"
        )
  if rejected:
    print(
      f"{rejected} of {embedded + rejected} "
      f"{'records' if args.data else 'files'} were rejected, "
      f"{rejects_path(output)} says why",
      file=sys.stderr,
    )
    return 1
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.embed",
    description="Embeds point-cloud files, or a split of a prepared dataset, "
    "with a trained encoder.",
    epilog="Exit code: 0 if every shape was embedded, 1 if any was rejected, "
    "2 for bad arguments.",
  )
  add_checkpoint(parser)
  parser.add_argument(
    "--input",
    action="extend",
    nargs="+",
    metavar="FILES",
    help="files, folders or patterns such as 'shapes/**/*.ply'; can be "
    f"repeated; read are {', '.join(SUFFIXES)}",
  )
  parser.add_argument(
    "--data", metavar="DIR", help="a prepared dataset, instead of --input"
  )
  parser.add_argument(
    "--split", metavar="NAME", help="of --data, which is embedded"
  )
  parser.add_argument(
    "--output",
    required=True,
    metavar="FILE.npz",
    help="file to create; rejected files are listed beside it, in "
    "FILE.rejects.jsonl",
  )
  parser.add_argument(
    "--up",
    choices=("y", "z"),
    default="y",
    help="the axis of the files that is up (default: y)",
  )
  parser.add_argument(
    "--batch-size",
    type=at_least(1),
    default=32,
    metavar="B",
    help="clouds at a time (default: 32)",
  )
  parser.add_argument(
    "--no-normalize",
    dest="normalize",
    action="store_false",
    help="the clouds are in the unit ball already: leave them as they are",
  )
  parser.add_argument(
    "--index",
    action="store_true",
    help="also build the index of a large gallery for python -m "
    "mrd_jax.search, beside the output: FILE.faiss",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
