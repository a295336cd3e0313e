"""Training: python -m mrd_jax.main --config configs/demo.py --workdir DIR."""

import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from mrd_jax import train
from mrd_jax.config import Config, from_config_dict
from mrd_jax.errors import BadInput
from mrd_jax.loop import NotFinite

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
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "One of several processes: start jax.distributed.  Under SLURM and on TPU "
  "pods it finds the others by itself; elsewhere set the three flags below.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "host:port of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  # Orbax and absl report every save at length.
  logging.set_verbosity(logging.WARNING)
  if _DISTRIBUTED.value:
    jax.distributed.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  try:
    train.train(_load_config(), pathlib.Path(_WORKDIR.value))
  except BadInput as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except NotFinite as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


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
