"""The console command: `mrd VERB ...` is `python -m mrd_jax.VERB ...`."""

import runpy
import sys

VERBS = (
  "ablate",
  "compare",
  "convert",
  "embed",
  "evaluate",
  "finetune",
  "inspect",
  "main",
  "prepare",
  "report",
  "search",
)


def main() -> None:
  """Runs a verb; config files are found from the current folder."""
  if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
    print(f"usage: mrd {{{','.join(VERBS)}}} ...", file=sys.stderr)
    sys.exit(2)
  verb = sys.argv.pop(1)
  sys.path.insert(0, "")  # as python -m has it
  runpy.run_module(f"mrd_jax.{verb}", run_name="__main__", alter_sys=True)
