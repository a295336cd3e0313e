"""python -m mrd_jax.report DIR [DIR...]: figures and a page of runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mrd_jax.cli import exit_code
from mrd_jax.errors import BadInput


def main(argv: Sequence[str] | None = None) -> int:
  """Draws a run's figures and writes the page; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m mrd_jax.report",
    description="Writes one self-contained HTML page about training runs and "
    "evaluations; of a single run also its figures, into DIR/figures.",
  )
  parser.add_argument(
    "workdirs",
    metavar="DIR",
    nargs="+",
    help="a folder that training or mrd_jax.evaluate was given; several are "
    "shown side by side",
  )
  parser.add_argument(
    "--output",
    metavar="FILE.html",
    help="the page (default: DIR/report.html of one DIR, ./report.html of "
    "several)",
  )
  parser.add_argument(
    "--data",
    metavar="DATA",
    help="the prepared dataset of all runs, if it has moved (default: "
    "data.dir of each run's config)",
  )
  args = parser.parse_args(argv)
  return exit_code(lambda: _report(args))


def _report(args: argparse.Namespace) -> int:
  # After --help, which needs no JAX.
  from mrd_jax.report import figures, page
  from mrd_jax.report.run_folder import RunFolder, read_folder

  left_out: list[str] = []
  folders = [read_folder(path, args.data) for path in args.workdirs]
  alone = folders[0] if len(folders) == 1 else None
  if isinstance(alone, RunFolder):
    try:
      drawn, left_out = figures.draw(alone)
      for path in drawn:
        print(path)
    except BadInput as error:
      left_out.append(str(error))
  output = Path(args.output or "report.html")
  if alone and not args.output:
    output = alone.workdir / "report.html"
  left_out += page.write_page(folders, output)
  print(output)
  for sentence in left_out:
    print(sentence, file=sys.stderr)
  return 0


if __name__ == "__main__":
  sys.exit(main())
