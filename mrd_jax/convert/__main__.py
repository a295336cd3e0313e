"""Converts weights: python -m mrd_jax.convert {to-torch,from-torch,to-onnx}."""

import argparse
import os
from collections.abc import Sequence

from mrd_jax.cli import Parser, add_checkpoint, exit_code, leave, path
from mrd_jax.io.files import lock_beside
from mrd_jax.io.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one conversion; returns the exit code (2 for bad input)."""
  parser = Parser(
    prog="python -m mrd_jax.convert",
    description="Encoders between mrd_jax, PyTorch (OpenShape) and ONNX.",
  )
  verbs = parser.add_subparsers(required=True, metavar="DIRECTION")
  for name, text in (
    ("to-torch", "write a state dict that its authors' code loads"),
    ("to-onnx", "write an ONNX file, of a PointBERT"),
  ):
    verb = verbs.add_parser(name, help=text)
    verb.set_defaults(run=_export)
    add_checkpoint(verb)
    verb.add_argument(
      "--output", required=True, type=path, help="file to write"
    )
    if name == "to-torch":
      verb.add_argument(
        "--style",
        choices=("bare", "module"),
        default="bare",
        help="whether keys begin with 'module.', as OpenShape's own "
        "checkpoints do (default: bare)",
      )
  verb = verbs.add_parser(
    "from-torch", help="read a published encoder, or an exported one"
  )
  verb.set_defaults(run=_from_torch)
  verb.add_argument(
    "--input",
    required=True,
    type=path,
    help=".pt, .pth or .safetensors, or the name of a published model, "
    "NAME[@REVISION] or NAME:FILE (mrd models lists them)",
  )
  verb.add_argument(
    "--output", required=True, type=path, help="model folder to write"
  )
  group = verb.add_argument_group(
    "what the file cannot say (by default as its authors publish it)"
  )
  group.add_argument("--groups", type=int, help="groups per cloud")
  group.add_argument("--radius", type=float, help="radius of a group")
  group.add_argument("--group-size", type=int, help="points per group")
  group.add_argument("--voxel-size", type=float, help="side of a voxel")
  group.add_argument("--ratio", type=float, help="ReCon's weight of its text")
  group.add_argument("--views", type=int, help="CLIP2Point's, 6 or 10")
  group.add_argument(
    "--up-axis", choices=("y", "z"), help="what is up in its clouds"
  )
  group.add_argument("--num-points", type=int, help="most points of a cloud")
  group.add_argument("--embedding-space", help="the teacher, in words")
  group.add_argument("--license", help="of the weights, for the model card")
  args = parser.parse_args(argv)
  return exit_code(lambda: args.run(args), lock_beside(args.output), "--output")


def _export(args: argparse.Namespace) -> int:
  from mrd_jax.convert import bridge
  from mrd_jax.encoder import encoder

  found = encoder.load_encoder(args.checkpoint, args.which)
  if "style" in args:
    written = bridge.to_torch(found, args.output, style=args.style)
  else:
    written = bridge.to_onnx(found, args.output)
  say(*written)
  return 0


def _from_torch(args: argparse.Namespace) -> int:
  from mrd_jax.encoder import named, published
  from mrd_jax.encoder.encoder import Encoder
  from mrd_jax.zoo.registry import SYSTEMS

  given = {
    name: getattr(args, name)
    for name in (
      "groups",
      "radius",
      "group_size",
      "voxel_size",
      "ratio",
      "views",
      *published.FIELDS,
    )
    if getattr(args, name) is not None
  }
  file, name, source = args.input, "", ""
  reference = named.parse(str(file))
  if reference:
    name, (file, source) = reference.name, named.find(reference)
  elif not os.path.exists(file):
    raise named.unknown(str(file))
  found = Encoder.make(*published.read(file, name, source, **given))
  found.save_pretrained(args.output, license=args.license)
  sizes = vars(found.config.architecture).items()
  say(
    f"{SYSTEMS[found.config.system].NAME}, {found.config.up_axis} up: "
    + ", ".join(f"{name} {value}" for name, value in sizes),
    f"source: {found.config.source}",
    f"embedding space: {found.config.embedding_space}",
    f"written to {args.output}",
  )
  return 0


if __name__ == "__main__":
  leave(main())
