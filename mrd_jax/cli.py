"""Runs a verb (`mrd VERB ...`), and holds what their command lines share."""

import argparse
import contextlib
import os
import runpy
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mrd_jax.config.fields import by_section
from mrd_jax.errors import INTERRUPTED, BadInput, RunFailed
from mrd_jax.io.files import LOCK, held, out_of_room
from mrd_jax.io.terminal import GO_ON, interruptible, printable, say

# Their modules.  Each folder with a __main__.py is one, but config: it writes a
# page of docs/.
VERBS = {
  path.parent.name: path.parent.name
  for path in Path(__file__).parent.glob("*/__main__.py")
  if path.parent.name != "config"
} | {"main": "main", "models": "list_models"}


def main() -> None:
  """Runs a verb; what lies in the current folder is not imported for it."""
  if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
    say(f"usage: mrd {{{','.join(sorted(VERBS))}}} ...", error=True)
    sys.exit(2)
  verb = sys.argv.pop(1)
  module = f"mrd_jax.{VERBS[verb]}"
  runpy.run_module(module, run_name="__main__", alter_sys=True)


# Optional packages: what they are called, and the extra that installs them.
EXTRAS = {
  "DracoPy": ("DracoPy", "draco"),
  "faiss": ("FAISS", "index"),
  "onnx": ("ONNX", "onnx"),
  "onnxruntime": ("ONNX Runtime", "onnx"),
  "onnxscript": ("ONNX Script", "onnx"),
  "torch": ("PyTorch", "torch"),
  "wandb": ("Weights & Biases", "wandb"),
}


def _named(text: str) -> str:
  if not text:
    raise argparse.ArgumentTypeError("expected a name, not ''")
  return text


class Parser(argparse.ArgumentParser):
  """Reads the arguments of a verb, and prints nothing of them raw.

  An argument without a `type` refuses "", which would name the current folder.
  """

  def __init__(self, *args: Any, **options: Any):
    super().__init__(*args, **options)
    self.register("type", None, _named)

  def error(self, message: str) -> NoReturn:
    """Ends the process after the usage and a message."""
    super().error(printable(message))


def exit_code(
  run: Callable[[], int], lock: Path | None = None, flag: str = "--output"
) -> int:
  """Runs a verb and tells its failure in one sentence.

  Args:
    run: The verb.
    lock: Of its output, as `io.files.held` takes it, which is made and held
      before; None of a verb that writes nothing, or holds it itself.
    flag: What names the output.

  Returns:
    What it returned; 130 after Ctrl-C; 1 after `RunFailed`; 2 after `BadInput`,
    an OSError, or for want of room on a disk or of an optional package.  Other
    exceptions are bugs and pass.
  """
  try:
    with (
      interruptible(),
      held(flag, lock) if lock else contextlib.nullcontext(),
      warnings.catch_warnings(),
    ):
      warnings.showwarning = _note
      return run()
  except RunFailed as error:
    code, problem = 1, error
  except (BadInput, OSError) as error:
    code, problem = 2, error
  except KeyboardInterrupt:
    code, problem = INTERRUPTED, GO_ON
  except ModuleNotFoundError as error:
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
      raise
    name, extra = EXTRAS[package]
    code = 2
    problem = (
      f"this needs {name}, which is not installed: pip install mrd-jax[{extra}]"
    )
  except Exception as error:
    if not out_of_room(error):
      raise
    code, problem = 2, " ".join(str(error).split())
  say(f"error: {problem}", error=True)
  return code


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
  say(f"note: {message}", error=True)


def leave(code: int) -> NoReturn:
  """Ends the process of a verb; after Ctrl-C without more ado.

  What JAX still computes then would crash in what Python takes down.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  if code == INTERRUPTED:
    sys.stdout.flush()
    os._exit(code)
  sys.exit(code)


def add_run(parser: argparse.ArgumentParser, config: type) -> None:
  """Adds --config, --workdir and the flags of `joint_exit_code`.

  The help lists all fields of the config.

  Args:
    parser: Of a verb that trains; it hands unknown arguments to `load_config`.
    config: The class of its config.
  """
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.epilog = _list_fields(config)
  parser.add_argument(
    "--config",
    required=True,
    metavar="FILE",
    help="what to train; --config.FIELD=VALUE changes a field",
  )
  parser.add_argument(
    "--workdir",
    required=True,
    type=path,
    metavar="DIR",
    help="folder of the run; an interrupted run in it goes on",
  )
  add_joining(parser)


def _list_fields(config: type) -> str:
  """Writes every field with its values, default and sentence."""
  lines = [
    "Fields of the config, each changed by --config.FIELD=VALUE, with their",
    "values and [default]; a * marks those that may change when a run goes on.",
  ]
  for name, doc, fields in by_section(config):
    lines += ["", f"{name}: {doc}"] if name else [""]
    for item in fields:
      star = " *" if item.may_change else ""
      lines.append(f"  {item.name}: {item.values} [{item.default!r}]{star}")
      lines.append(textwrap.indent(textwrap.fill(item.why, 74), " " * 6))
  return "\n".join(lines)


def load_config(path: str, overrides: Sequence[str]) -> Any:
  """Reads a config file, and applies "--config.FIELD=VALUE".

  Args:
    path: The file, which has a function `get_config`.
    overrides: Arguments; "--config.FIELD", "VALUE" is good too.

  Returns:
    Its ConfigDict.

  Raises:
    BadInput: naming the file or the argument that cannot be used.
  """
  from absl import flags
  from ml_collections import config_flags

  if not Path(path).is_file():
    raise BadInput(
      f"--config {path}: no such file; name one of configs/, and start the "
      "command where that folder is"
    )
  with contextlib.ExitStack() as closing:
    if "" not in sys.path:
      # A config imports others from configs.  Behind all else, and no longer: a
      # library may look for what is not installed.
      sys.path.append("")
      closing.callback(sys.path.remove, "")
    try:
      module = runpy.run_path(path)
    except (ImportError, SyntaxError) as error:
      raise BadInput(
        f"--config {path}: cannot be loaded ({error}); start the command where "
        "configs/ is"
      ) from error
    if "get_config" not in module:
      raise BadInput(f"--config {path}: has no function get_config")
    config, values = module["get_config"](), flags.FlagValues()
  try:
    holder = config_flags.DEFINE_config_dict(
      "config",
      config,
      lock_config=True,
      flag_values=values,
      sys_argv=["", *overrides],
    )
    rest = values(["", *overrides])[1:]
  except (AttributeError, KeyError) as error:
    problem = f"no such field of the config: {error.args[0]}"
  except flags.UnrecognizedFlagError as error:
    problem = f"unknown argument: --{error.flagname}"
  except (flags.Error, TypeError) as error:
    problem = str(error)
  else:
    if not rest:
      return holder.value
    problem = f"unknown argument: {rest[0]}"
  raise BadInput(" ".join(problem.split()))


def at_least(low: int) -> Callable[[str], int]:
  """Makes the type of an argument that is a whole number from `low` on."""

  def number(text: str) -> int:
    if not text.isdigit() or int(text) < low:
      raise argparse.ArgumentTypeError(f"expected a number above {low - 1}")
    return int(text)

  return number


# Of `processes.run`: name, type, default, what it is.
JOINING: tuple[tuple[str, type, Any, str], ...] = (
  (
    "distributed",
    bool,
    False,
    "one of several processes, started with the same command; under SLURM and "
    "Open MPI, and on TPU pods, it finds the others, elsewhere name them by "
    "the three flags below, or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES "
    "and JAX_PROCESS_ID",
  ),
  ("coordinator", str, None, "HOST:PORT of process 0"),
  ("num_processes", int, None, "how many processes"),
  ("process_id", int, None, "which one this is, from 0"),
  ("join_seconds", int, 300, "how long to wait for the others at the start"),
  (
    "heartbeat_seconds",
    int,
    60,
    "after how long a silent process is taken for dead, and the others end",
  ),
)


def add_joining(parser: argparse.ArgumentParser) -> None:
  """Adds --distributed and what belongs to it."""
  group = parser.add_argument_group("several processes")
  for name, kind, default, text in JOINING:
    if kind is bool:
      group.add_argument(f"--{name}", action="store_true", help=text)
    else:
      if default is not None:
        text += f" (default: {default})"
      group.add_argument(f"--{name}", type=kind, default=default, help=text)


def joint_exit_code(args: argparse.Namespace, run: Callable[[], int]) -> int:
  """Runs a verb, together with other processes if `args` say so.

  All together hold the folder of its --workdir or --output.
  """
  from mrd_jax.parallel import agree, processes  # load JAX

  name = "workdir" if "workdir" in args else "output"

  def alone() -> int:
    with agree.held_together(f"--{name}", getattr(args, name) / LOCK):
      return run()

  joining = {name: getattr(args, name) for name, *_ in JOINING}
  return exit_code(lambda: processes.run(alone, exit_code, **joining))


def path(text: str) -> Path:
  """Reads an argument that names a file or a folder."""
  return Path(_named(text))


def add_count(
  parser: argparse.ArgumentParser,
  flag: str,
  default: int,
  what: str,
  *,
  least: int = 1,
) -> None:
  """Adds a flag that is a whole number; the help tells its default."""
  kind, words = at_least(least), f"{what} (default: {default})"
  parser.add_argument(flag, type=kind, default=default, metavar="N", help=words)


def add_up(parser: argparse.ArgumentParser, of: str) -> None:
  """Adds --up, the axis of what is read that is up."""
  words = f"the axis of {of} that is up (default: y)"
  parser.add_argument("--up", choices=("y", "z"), default="y", help=words)


def add_columns(parser: argparse.ArgumentParser) -> None:
  """Adds --columns, what the columns of a table of points are."""
  parser.add_argument(
    "--columns",
    type=lambda text: text.split(","),
    metavar="x,y,z,...",
    help="columns of clouds that are text or .npy, by name: x, y, z, and r, g, "
    "b where there are colours; other names are not read (default: found out)",
  )


def add_text_weights(parser: argparse._ActionsContainer) -> None:
  """Adds --text-weights and --tokenizer, of a published system's texts."""
  parser.add_argument(
    "--text-weights",
    type=path,
    metavar="FILE",
    help="a text tower that is neither in the encoder's file nor on the hub, "
    "such as SLIP's for CG3D",
  )
  parser.add_argument(
    "--tokenizer",
    metavar="DIR",
    help="its tokenizer, a folder or user/model (default: beside the file, or "
    "OpenAI's on the hub)",
  )


def add_checkpoint(
  parser: argparse.ArgumentParser,
  words: str = "a run's folder, a model folder, a file, or the name of a "
  "published model, NAME[@REVISION] or NAME:FILE (mrd models lists them)",
  **options: Any,
) -> None:
  """Adds --checkpoint and --which, the arguments of `load_encoder`.

  Args:
    parser: Of a verb that loads an encoder.
    words: What to name.
    **options: Of `add_argument`: `metavar`, and `nargs` and `action` of a verb
      that takes more than one.
  """
  parser.add_argument("--checkpoint", required=True, help=words, **options)
  parser.add_argument(
    "--which",
    choices=("latest", "best"),
    default="latest",
    help="checkpoint of a run (default: latest)",
  )
