"""Draws figures and a page of runs: python -m mrd_jax.report DIR [DIR...]."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mrd_jax.cli import Parser, exit_code, leave, path
from mrd_jax.errors import BadInput
from mrd_jax.io.files import lock_beside
from mrd_jax.io.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
  """Draws a run's figures and writes the page; returns the exit code."""
  parser = Parser(
    prog="python -m mrd_jax.report",
    description="Writes one self-contained HTML page about training runs and "
    "evaluations; of a single run also its figures, into DIR/figures.",
  )
  parser.add_argument(
    "workdirs",
    metavar="DIR",
    nargs="+",
    type=path,
    help="a folder that training or mrd_jax.evaluate was given; several are "
    "shown side by side",
  )
  parser.add_argument(
    "--output",
    metavar="FILE.html",
    type=path,
    help="the page (default: DIR/report.html of one DIR, ./report.html of "
    "several)",
  )
  parser.add_argument(
    "--data",
    metavar="DATA",
    type=path,
    help="the prepared dataset of all runs, if it has moved (default: "
    "data.dir of each run's config)",
  )
  args = parser.parse_args(argv)
  single = args.workdirs[0] if len(args.workdirs) == 1 else Path()
  output = args.output or single / "report.html"
  return exit_code(
    lambda: _report(args, output),
    lock_beside(output) if os.path.isdir(output.parent) else None,
  )


def _report(args: argparse.Namespace, output: Path) -> int:
  # After --help, which needs no JAX.
  from mrd_jax.report import figures, page
  from mrd_jax.report.run_folder import RunFolder, read_folder

  if args.output and (output.is_dir() or not os.path.isdir(output.parent)):
    raise BadInput(
      f"--output: {output} cannot be written: it is a folder, or in none; name "
      "a file in a folder that is there"
    )
  folders = [read_folder(path, args.data) for path in args.workdirs]
  left_out = []
  if len(folders) == 1 and isinstance(folders[0], RunFolder):
    drawn, left_out = figures.draw(folders[0])
    for figure in drawn:
      say(figure)
  left_out += page.write_page(folders, output)
  say(output)
  for sentence in left_out:
    say(sentence, error=True)
  return 0


if __name__ == "__main__":
  leave(main())
