"""Fine-tunes an encoder: python -m mrd_jax.finetune."""

import argparse
from collections.abc import Sequence

from mrd_jax import cli
from mrd_jax.config.finetuning import Config


def main(argv: Sequence[str] | None = None) -> int:
  """Fine-tunes, or goes on; returns the exit code.

  Returns:
    0, also when asked to stop; 1 if the run cannot go on; 2 for bad input.
  """
  parser = cli.Parser(
    prog="python -m mrd_jax.finetune",
    description="Fine-tunes a pre-trained encoder for classification.  Exit "
    "code: 0, also after\nSIGTERM; 130 after Ctrl-C; 1 if the run cannot go on; "
    "2 for bad input.",
    allow_abbrev=False,
  )
  cli.add_run(parser, Config)
  cli.add_checkpoint(
    parser,
    "the encoder: a run, a model folder, a .safetensors or a published file; "
    "'' starts from scratch",
    metavar="DIR|FILE",
    type=str,
  )
  args, overrides = parser.parse_known_args(argv)
  return cli.joint_exit_code(args, lambda: _finetune(args, overrides))


def _finetune(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  from mrd_jax.finetune.train import finetune  # after --help

  config = Config.from_dict(cli.load_config(args.config, overrides))
  finetune(config, args.checkpoint, args.workdir, which=args.which, lock=False)
  return 0


if __name__ == "__main__":
  cli.leave(main())
