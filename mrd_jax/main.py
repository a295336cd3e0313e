"""Training: python -m mrd_jax.main --config configs/demo.py --workdir DIR."""

import pathlib
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from mrd_jax import prepare
from mrd_jax.cli import JOINING
from mrd_jax.config.pretraining import Config, from_config_dict
from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.parallel import processes
from mrd_jax.training import set_up

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "What to train; --config.a.b=c changes a field.",
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of the run; an interrupted run in it goes on.",
  required=True,
)
_DEFINE = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  str: flags.DEFINE_string,
}
_JOINING = {
  name: _DEFINE[kind](name, default, text)
  for name, kind, default, text in JOINING
}


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  # Orbax and absl report every save at length.
  logging.set_verbosity(logging.WARNING)
  joining = {name: flag.value for name, flag in _JOINING.items()}
  sys.exit(_exit_code(lambda: processes.run(_train, _exit_code, **joining)))


def _train() -> int:
  config = _load_config()
  prepare.ensure(config.data.dir, config.data.made_from)
  set_up.train(config, pathlib.Path(_WORKDIR.value))
  return 0


def _exit_code(run: Callable[[], int]) -> int:
  try:
    return run()
  except BadInput as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except RunFailed as error:
    print(f"error: {error}", file=sys.stderr)
    return 1


def _load_config() -> Config:
  try:
    return from_config_dict(_CONFIG.value)
  except OSError as error:  # raised on the first look at a file not loaded
    raise BadInput(_cannot_load(error)) from None


def _cannot_load(error: OSError) -> str:
  """The last line of ml_collections' message has the reason."""
  return f"--config: {str(error).strip().splitlines()[-1].strip()}"


def parse_flags(argv: list[str]) -> list[str]:
  """Reads the flags; a wrong one is one sentence and exit code 2."""
  try:
    return flags.FLAGS(argv)
  except KeyError as error:
    problem = f"no such field of the config: {error.args[0]}"
  except OSError as error:
    problem = _cannot_load(error)
  except (flags.Error, AttributeError, TypeError) as error:
    problem = str(error)
  print(f"error: {' '.join(problem.split())}", file=sys.stderr)
  sys.exit(2)


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=parse_flags)
