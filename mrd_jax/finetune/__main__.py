"""Fine-tunes an encoder: python -m mrd_jax.finetune."""

import argparse
import sys
from collections.abc import Sequence

from mrd_jax.cli import add_run, joint_exit_code, load_config
from mrd_jax.config.finetuning import Config, from_config_dict


def main(argv: Sequence[str] | None = None) -> int:
  """Fine-tunes, or goes on; returns the exit code.

  Returns:
    0, also when asked to stop; 1 if the run cannot go on; 2 for bad input.
  """
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.finetune",
    description="Fine-tunes a pre-trained encoder for classification.  Exit "
    "code: 0, also after\nSIGTERM; 1 if the run cannot go on; 2 for bad input.",
  )
  add_run(parser, Config)
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
  args, overrides = parser.parse_known_args(argv)
  return joint_exit_code(args, lambda: _finetune(args, overrides))


def _finetune(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  from mrd_jax.finetune.train import finetune  # after --help

  config = from_config_dict(load_config(args.config, overrides))
  finetune(config, args.checkpoint, args.workdir, which=args.which)
  return 0


if __name__ == "__main__":
  sys.exit(main())
