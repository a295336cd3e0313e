"""Embeds clouds and meshes or a split: python -m mrd_jax.embed."""

import argparse
from collections.abc import Sequence

from mrd_jax import cli
from mrd_jax.data.shape_files import SUFFIXES
from mrd_jax.embed import files
from mrd_jax.errors import BadInput
from mrd_jax.io.files import lock_beside
from mrd_jax.io.notes import Note
from mrd_jax.io.terminal import say
from mrd_jax.search import index


def main(argv: Sequence[str] | None = None) -> int:
  """Embeds files; returns the exit code.

  Returns:
    0 if every shape was embedded, 1 if any was rejected, 2 for bad arguments.
  """
  args = _parser().parse_args(argv)
  return cli.exit_code(lambda: _embed(args), lock_beside(args.output))


def _embed(args: argparse.Namespace) -> int:
  output = args.output
  if output.suffix != ".npz" or output.is_dir():
    raise BadInput(f"--output is {output}, must be a file that ends in .npz")
  if bool(args.input) == bool(args.data) or bool(args.data) != bool(args.split):
    raise BadInput("give either --input, or both --data and --split")
  if args.data and (args.up != "y" or args.columns or args.normalize is False):
    raise BadInput(
      "--columns, --up and --no-normalize are for files: the records of --data "
      "are y up, and every shape is taken as the encoder takes it"
    )
  notes: list[Note] = []
  if args.data:
    from mrd_jax.data.dataset import open_split  # brings ArrayRecord

    shapes = open_split(args.data, args.split)
  else:
    shapes = files.find_files(args.input, output, notes)
  if args.index:
    import faiss  # noqa: F401  found out now, not after hours of embedding

  from mrd_jax.encoder.encoder import load_encoder  # brings JAX, takes seconds

  encoder = load_encoder(args.checkpoint, args.which)
  embedded, rejected = files.embed_files(
    encoder,
    shapes,
    output,
    notes=notes,
    checkpoint=args.checkpoint,
    split=(args.data, args.split) if args.data else None,
    up=args.up,
    columns=args.columns,
    normalize=args.normalize,
    batch_size=args.batch_size,
  )
  if embedded:
    say(f"{embedded} embeddings written to {output}")
    if args.index:
      if built := index.build_index(output):
        say(f"index written to {built}")
      else:
        say(
          f"no index: below {index.SMALLEST:,} embeddings, search compares all "
          "of them as quickly"
        )
  if rejected:
    say(
      f"{rejected} of {embedded + rejected} "
      f"{'records' if args.data else 'files'} were rejected, "
      f"{files.rejects_path(output)} says why",
      error=True,
    )
    return 1
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = cli.Parser(
    prog="python -m mrd_jax.embed",
    description="Embeds files of clouds and meshes, or a split of a prepared "
    "dataset, with a trained encoder.",
    epilog="Exit code: 0 if every shape was embedded, 1 if any was rejected, "
    "2 for bad arguments.",
  )
  cli.add_checkpoint(parser)
  add = parser.add_argument
  add(
    "--input",
    action="extend",
    nargs="+",
    metavar="FILES",
    help="files, folders or patterns such as 'shapes/**/*.ply'; can be "
    f"repeated; read are {', '.join(SUFFIXES)}",
  )
  add("--data", metavar="DIR", help="a prepared dataset, instead of --input")
  add("--split", metavar="NAME", help="of --data, which is embedded")
  add(
    "--output",
    required=True,
    type=cli.path,
    metavar="FILE.npz",
    help="file to create; FILE.rejects.jsonl lists what was rejected",
  )
  cli.add_up(parser, "the files")
  cli.add_columns(parser)
  cli.add_count(parser, "--batch-size", 32, "clouds at a time")
  add(
    "--no-normalize",
    dest="normalize",
    action="store_const",
    const=False,
    help="the clouds are in the unit ball already: leave them as they are "
    "(default: what the encoder takes, which is to centre and scale them but "
    "for PointCLIP's)",
  )
  add(
    "--index",
    action="store_true",
    help="also build FILE.faiss, the index of a large gallery for "
    "python -m mrd_jax.search",
  )
  return parser


if __name__ == "__main__":
  cli.leave(main())
