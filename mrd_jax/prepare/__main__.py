"""Makes a dataset: python -m mrd_jax.prepare KIND ..."""

import importlib
import pkgutil
from collections.abc import Sequence

from mrd_jax.cli import Parser, exit_code, leave
from mrd_jax.io.terminal import say
from mrd_jax.prepare import kinds


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one preparation; returns the exit code (2 for bad input)."""
  parser = Parser(
    prog="python -m mrd_jax.prepare",
    description="Makes a dataset that training can read (docs/data.md).",
  )
  choice = parser.add_subparsers(required=True, dest="kind", metavar="KIND")
  for found in pkgutil.iter_modules(kinds.__path__, f"{kinds.__name__}."):
    module = importlib.import_module(found.name)
    name = found.name.rpartition(".")[2]
    kind = choice.add_parser(name, help=(module.__doc__ or "").split(".\n")[0])
    module.add_flags(kind)
    kind.set_defaults(run=module.run)
  args = parser.parse_args(argv)

  def run() -> int:
    say(*str(args.run(args)).split("\n"))
    if "output" in args:
      say(f"written to {args.output}")
    return 0

  return exit_code(run)


if __name__ == "__main__":
  leave(main())
