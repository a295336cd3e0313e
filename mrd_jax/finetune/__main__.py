"""python -m mrd_jax.finetune: fine-tunes an encoder for classification."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mrd_jax.cli import add_joining, joint_exit_code, load_config


def main(argv: Sequence[str] | None = None) -> int:
  """Fine-tunes; returns the exit code.

  Returns:
    0, also when asked to stop; 1 if the loss is no longer finite or a
    checkpoint cannot be saved; 2 for bad input.
  """
  args, overrides = _parser().parse_known_args(argv)
  return joint_exit_code(args, lambda: _finetune(args, overrides))


def _finetune(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  from absl import logging  # after --help, likewise the rest

  from mrd_jax.config.finetuning import from_config_dict
  from mrd_jax.finetune.train import finetune

  # Orbax and absl report every save at length.
  logging.set_verbosity(logging.WARNING)
  config = from_config_dict(load_config(args.config, overrides))
  finetune(config, args.checkpoint, args.workdir, which=args.which)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.finetune",
    description="Fine-tunes a pre-trained encoder for classification.",
    epilog="--config.FIELD=VALUE changes a field.  Exit code: 0, also after "
    "SIGTERM; 1 if the loss is no longer finite; 2 for bad input.",
  )
  parser.add_argument(
    "--config",
    required=True,
    metavar="FILE",
    help="how, for instance configs/finetune/scanobjectnn_pb_t50_rs.py",
  )
  parser.add_argument(
    "--checkpoint",
    required=True,
    metavar="DIR|FILE",
    help="the encoder: a run, a model folder or a .safetensors file; '' starts "
    "from scratch",
  )
  parser.add_argument(
    "--which",
    choices=("latest", "best"),
    default="latest",
    help="checkpoint of a run (default: latest)",
  )
  parser.add_argument(
    "--workdir",
    required=True,
    type=Path,
    metavar="DIR",
    help="folder of the run; an interrupted run in it goes on",
  )
  add_joining(parser)
  return parser


if __name__ == "__main__":
  sys.exit(main())
