"""Trains: python -m mrd_jax.main --config configs/demo.py --workdir DIR."""

import argparse
from collections.abc import Sequence

from mrd_jax.cli import Parser, add_run, joint_exit_code, leave, load_config
from mrd_jax.config.pretraining import Config


def main(argv: Sequence[str] | None = None) -> int:
  """Trains, or goes on; returns the exit code.

  Returns:
    0, also when asked to stop; 1 if the run cannot go on; 2 for bad input.
  """
  parser = Parser(
    prog="python -m mrd_jax.main",
    description="Trains a point-cloud encoder.  Exit code: 0, also after "
    "SIGTERM; 130\nafter Ctrl-C; 1 if the run cannot go on; 2 for bad input.",
    allow_abbrev=False,
  )
  add_run(parser, Config)
  args, overrides = parser.parse_known_args(argv)
  return joint_exit_code(args, lambda: _train(args, overrides))


def _train(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  from mrd_jax import prepare  # after --help, likewise the rest
  from mrd_jax.training import set_up

  config = Config.from_dict(load_config(args.config, overrides))
  prepare.ensure(config.data.dir, config.data.made_from)
  set_up.train(config, args.workdir, lock=False)
  return 0


if __name__ == "__main__":
  leave(main())
