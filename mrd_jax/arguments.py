"""What the command lines of several verbs share."""

import argparse
import sys
from collections.abc import Callable

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
