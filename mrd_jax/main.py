"""Training: python -m mrd_jax.main --config configs/demo.py --workdir DIR."""

import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from mrd_jax import train
from mrd_jax.config import from_config_dict
from mrd_jax.errors import BadInput

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
  "One of several processes: start jax.distributed (under SLURM, on TPU "
  "pods and Kubernetes it finds the others by itself).",
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  # Orbax and absl report every save at length.
  logging.set_verbosity(logging.WARNING)
  if _DISTRIBUTED.value:
    jax.distributed.initialize()
  try:
    config = from_config_dict(_CONFIG.value)
    train.train(config, pathlib.Path(_WORKDIR.value))
  except BadInput as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except train.NotFinite as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def run() -> None:
  """The console command."""
  flags.mark_flag_as_required("config")
  app.run(main)


if __name__ == "__main__":
  run()
