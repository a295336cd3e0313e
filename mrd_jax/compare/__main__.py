"""Compares with PyTorch: python -m mrd_jax.compare."""

import argparse
from collections.abc import Sequence

from mrd_jax.cli import (
  Parser,
  add_checkpoint,
  add_count,
  exit_code,
  leave,
  path,
)
from mrd_jax.errors import BadInput
from mrd_jax.io.files import LOCK
from mrd_jax.io.terminal import say

_DTYPES = ("float64", "float32", "bfloat16")


def main(argv: Sequence[str] | None = None) -> int:
  """Compares; returns the exit code.

  Returns:
    0 if everything is within its tolerance, 1 if not, 2 for bad input.
  """
  parser = Parser(
    prog="python -m mrd_jax.compare",
    description="Runs an encoder and a training step in JAX and in PyTorch "
    "and holds every stage of one against the other.",
    epilog="Exit code: 0 if every stage is within its tolerance, 1 if not, 2 "
    "for bad input.",
  )
  add_checkpoint(parser)
  parser.add_argument(
    "--torch",
    type=path,
    metavar="MODEL.pt",
    help="PyTorch's weights (default: the checkpoint's, converted)",
  )
  parser.add_argument(
    "--data", required=True, type=path, help="a prepared dataset"
  )
  parser.add_argument(
    "--split", default="train", help="of the dataset (default: train)"
  )
  add_count(parser, "--batch", 8, "clouds", least=2)
  parser.add_argument(
    "--output", required=True, type=path, help="folder for JSON and figure"
  )
  parser.add_argument(
    "--dtypes",
    type=_dtypes,
    default=("float32", "bfloat16"),
    help="some of float64,float32,bfloat16 (default: the last two)",
  )
  parser.add_argument("--torch-device", choices=("cpu", "cuda"), default="cpu")
  parser.add_argument(
    "--tf32",
    action="store_true",
    help="let PyTorch round float32 products to TF32 on a GPU",
  )
  args = parser.parse_args(argv)
  return exit_code(lambda: _compare(args), args.output / LOCK)


def _compare(args: argparse.Namespace) -> int:
  import torch  # after --help, which needs neither PyTorch nor JAX

  from mrd_jax.compare import report, run
  from mrd_jax.convert import bridge
  from mrd_jax.encoder.encoder import load_encoder

  encoder = load_encoder(args.checkpoint, args.which)
  model = (
    bridge.read_torch_model(args.torch, encoder.config)
    if args.torch
    else bridge.torch_model(encoder)
  )
  examples = run.read_examples(
    args.data, args.split, encoder.config, args.batch
  )
  if args.torch_device == "cuda" and not torch.cuda.is_available():
    raise BadInput("--torch-device is cuda, but PyTorch finds no GPU")
  torch.backends.cuda.matmul.allow_tf32 = args.tf32
  torch.backends.cudnn.allow_tf32 = args.tf32
  rows = run.compare(
    encoder, model, examples, dtypes=args.dtypes, device=args.torch_device
  )
  say(*report.table(rows).split("\n"), "")
  batch, points, _ = examples.points.shape
  inputs = {
    "checkpoint": args.checkpoint,
    "step": encoder.config.step,
    "torch_file": args.torch and str(args.torch),
    "data": str(args.data),
    "split": args.split,
    "clouds": batch,
    "points": points,
    "torch_device": args.torch_device,
    "tf32": args.tf32,
  }
  title = f"{args.checkpoint}, {batch} clouds of {points:,} points"
  for file in report.write(args.output, rows, inputs, title):
    say(file)
  say(report.verdict(rows))
  return 0 if all(row.passed for row in rows) else 1


def _dtypes(text: str) -> tuple[str, ...]:
  dtypes = tuple(text.split(","))
  if not set(dtypes) <= set(_DTYPES):
    raise argparse.ArgumentTypeError(f"expected some of {','.join(_DTYPES)}")
  return dtypes


if __name__ == "__main__":
  leave(main())
