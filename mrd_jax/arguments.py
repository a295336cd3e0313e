"""What the command lines of several verbs share."""

import argparse
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mrd_jax.errors import BadInput


def exit_code(run: Callable[[], int]) -> int:
  """Runs a verb; what the user can mend is one sentence and exit code 2."""
  try:
    return run()
  except (BadInput, OSError) as error:
    print(error, file=sys.stderr)
  except ModuleNotFoundError as error:
    if error.name != "torch":
      raise
    print(
      "this needs PyTorch, which is not installed: pip install mrd-jax[torch]",
      file=sys.stderr,
    )
  return 2


def load_config(path: str, overrides: Sequence[str]) -> Any:
  """A config file's values, with "--config.FIELD=VALUE" applied.

  Raises:
    BadInput: naming the file or the argument that cannot be used.
  """
  from absl import flags
  from ml_collections import config_flags

  for text in overrides:
    if not text.startswith("--config."):
      raise BadInput(f"unknown argument: {text}")
  if not Path(path).is_file():
    raise BadInput(
      f"--config {path}: no such file; name one of configs/, and start the "
      "command where that folder is"
    )
  try:
    module = runpy.run_path(path)
  except (ImportError, SyntaxError) as error:
    raise BadInput(
      f"--config {path}: cannot be loaded ({error}); start the command where "
      "configs/ is"
    ) from error
  if "get_config" not in module:
    raise BadInput(f"--config {path}: has no function get_config")
  config = module["get_config"]()
  values = flags.FlagValues()
  try:
    holder = config_flags.DEFINE_config_dict(
      "config",
      config,
      lock_config=True,
      flag_values=values,
      sys_argv=["", *overrides],
    )
    values(["", *overrides])
    return holder.value
  except (AttributeError, KeyError) as error:
    problem = f"no such field of the config: {error.args[0]}"
  except (flags.Error, TypeError) as error:
    problem = str(error)
  raise BadInput(" ".join(problem.split()))


def at_least(low: int) -> Callable[[str], int]:
  """The type of an argument that is a whole number from `low` on."""

  def number(text: str) -> int:
    if not text.isdigit() or int(text) < low:
      raise argparse.ArgumentTypeError(f"expected a number above {low - 1}")
    return int(text)

  return number


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
  """Adds --checkpoint and --which, the arguments of `load_encoder`."""
  parser.add_argument(
    "--checkpoint",
    required=True,
    help="a run's folder, a model folder or a .safetensors file",
  )
  parser.add_argument(
    "--which",
    choices=("latest", "best"),
    default="latest",
    help="checkpoint of a run (default: latest)",
  )
