"""Fills a table of training runs, each on several seeds.

python -m mrd_jax.ablate --suite table4 --seeds 0,1,2 --output runs/ablations
"""

import argparse
import contextlib
from collections.abc import Sequence

from mrd_jax.cli import Parser, exit_code, leave, path
from mrd_jax.errors import BadInput, RunFailed
from mrd_jax.io.files import LOCK, held
from mrd_jax.io.terminal import say

STOPPED = "asked to stop; repeat the command to go on"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what is missing and prints the table; returns the exit code.

  Returns:
    0 if every run is finished, 1 if one failed or was stopped, 2 for bad
    arguments.
  """
  args, overrides = _parser().parse_known_args(argv)
  return exit_code(
    lambda: _ablate(args, overrides),
    None if args.dry_run else args.output / LOCK,
  )


def _ablate(args: argparse.Namespace, overrides: list[str]) -> int:
  from mrd_jax.ablate import suite as suites  # after --help, likewise the rest
  from mrd_jax.ablate import table
  from mrd_jax.io.files import write_json, write_text

  whole = suites.read_suite(args.suite)
  base = args.config or whole.base
  name, reading = args.suite, {}
  if args.reading:
    if name == suites.READINGS:
      raise BadInput(
        f"--reading: the rows of suite {name} are readings themselves; name "
        "another --suite"
      )
    reading = suites.read_reading(args.reading)
    whole = whole.under(reading)
    name = f"{name}-{suites.slug(args.reading)}"
  for row in args.row or ():
    if row not in whole.rows:
      raise BadInput(f"--row {row!r}: rows are {', '.join(whole.rows)}")
  planned = suites.make_cells(whole, base, overrides, args.seeds, args.output)
  cells = [x for x in planned if not args.row or x.row in args.row]
  if not args.dry_run:
    suites.check_data([cell for cell in cells if not cell.results])
  failed = False
  for count, cell in enumerate(cells, 1):
    state = "finished" if cell.results else "to run"
    say(
      f"[{count}/{len(cells)}] {cell.row}, seed {cell.seed}: {state}, "
      f"{cell.workdir}"
    )
    if cell.results or args.dry_run:
      continue
    if problem := _run(cell):
      say(f"{cell.row}, seed {cell.seed}: {problem}", error=True)
      if problem == STOPPED:
        return 1
      failed = True
  if not args.dry_run:
    # Of all rows and seeds that are there, whichever command ran them.
    seeds = suites.seeds_of(planned)
    cells = suites.make_cells(whole, base, overrides, seeds, args.output)
    text = table.tabulate(whole, cells)
    changed = [f"{field}={value}" for field, value in reading.items()]
    text += " ".join(["Rows change", base, *overrides, *changed]) + "\n"
    write_text(args.output / f"{name}.md", text)
    write_json(args.output / f"{name}.json", table.as_json(cells))
    say("", *text.split("\n"))
  return int(failed)


def _run(cell) -> str | None:
  """Trains one cell, or goes on; returns what went wrong."""
  import jax

  from mrd_jax import prepare
  from mrd_jax.training import set_up

  with held("--output", cell.workdir / LOCK):
    # Without results of its last step, a run evaluates that step again.
    results = cell.workdir / "results.json"
    old = results.with_name("results.json.old")
    if results.exists():
      results.rename(old)
    try:
      prepare.ensure(cell.config.data.dir, cell.config.data.made_from)
      finished = set_up.train(cell.config, cell.workdir, lock=False)
    except RunFailed as error:
      return str(error)
    finally:
      if old.exists() and not results.exists():
        old.rename(results)
      old.unlink(missing_ok=True)
      jax.clear_caches()
  return None if finished else STOPPED


def _seeds(text: str) -> list[int]:
  with contextlib.suppress(ValueError):
    seeds = [int(part) for part in text.split(",")]
    if min(seeds) >= 0 and len(set(seeds)) == len(seeds):
      return seeds
  raise argparse.ArgumentTypeError(
    f"expected different whole numbers such as 0,1,2, not {text!r}"
  )


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog="python -m mrd_jax.ablate",
    description="Trains every row of a table on every seed, skips what is "
    "finished, goes on with what was stopped, and prints the table.",
    epilog="Every field of the config can be set for all rows: "
    "--config.train.epochs=25.0. Exit code: 0 if every run is finished, 1 if "
    "one failed or was stopped, 2 for bad arguments.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--suite", required=True, help="NAME.py is a file of configs/ablations")
  add("--config", metavar="FILE", help="the rows change it (default: suite's)")
  add(
    "--row", action="append", metavar="NAME", help="only this row; repeatable"
  )
  add(
    "--reading",
    metavar="ROW",
    help="all rows under this row of the suite reading, such as former; the "
    "table is SUITE-READING.md",
  )
  add("--seeds", type=_seeds, default=[0], help="such as 0,1,2 (default: 0)")
  add(
    "--output",
    type=path,
    required=True,
    metavar="DIR",
    help="gets the folders of the runs, and SUITE.md and SUITE.json",
  )
  add("--dry-run", action="store_true", help="only list the runs")
  return parser


if __name__ == "__main__":
  leave(main())
