"""Times the loading of a published PyTorch file, and what memory it takes.

  python -m benchmarks.load_published --width 1024 --blocks 24

Writes a file of random half-precision weights as large as a transformer of this
width and depth (1024 and 24: 600 MB, as Uni3D-L's), of which a fresh process
makes our float32 tree, without PyTorch.  Peak memory is what the process has at
most above what it had before, in multiples of the file.  Prints a table, and
JSON with --json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrd_jax.metrics.table import render
from mrd_jax.zoo import tensors

FIGURES = ("seconds", "peak", "tree")


def shapes(width: int, blocks: int) -> dict[str, tuple[int, ...]]:
  """Returns the layers' (out, in) by their keys."""
  layers = {"qkv": (3, 1), "proj": (1, 1), "fc1": (4, 1), "fc2": (1, 4)}
  return {
    f"blocks.{i}.{name}": (out * width, inner * width)
    for i in range(blocks)
    for name, (out, inner) in layers.items()
  }


def write(path: Path, width: int, blocks: int) -> None:
  """Writes the file, in DeepSpeed's layout, as Uni3D's are."""
  import torch

  generator = torch.Generator().manual_seed(0)
  state = {}
  for key, (out, inner) in shapes(width, blocks).items():
    for name, shape in (("weight", (out, inner)), ("bias", (out,))):
      values = torch.randn(shape, generator=generator, dtype=torch.float32)
      state[f"module.{key}.{name}"] = values.half()
  torch.save({"module": state, "epoch": 1}, path)


def load(path: Path, width: int, blocks: int) -> dict[str, Any]:
  """Loads the file in this process, and measures that."""
  from mrd_jax.io import torch_file
  from mrd_jax.zoo import layouts

  rows = [
    row
    for key in shapes(width, blocks)
    for row in tensors.linear(key, key.replace(".", "/"))
  ]
  Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
  before, start = _status("VmRSS"), time.perf_counter()
  state, _ = layouts.state_dict(torch_file.read(path), str(path))
  tree = tensors.to_tree(rows, state, str(path))
  seconds = time.perf_counter() - start
  peak = _status("VmHWM") - before
  numbers = 0
  waiting = [tree]
  while waiting:
    for value in waiting.pop().values():
      if isinstance(value, dict):
        waiting.append(value)
      else:
        numbers += value.nbytes
  size = os.path.getsize(path)
  return {
    "megabytes": size / 1e6,
    "seconds": seconds,
    "peak": peak / size,
    "tree": numbers / size,
    "torch": "torch" in sys.modules,
  }


def _status(field: str) -> int:
  """A field of this process's memory, in bytes."""
  for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{field}:"):
      return 1024 * int(line.split()[1])
  raise KeyError(field)


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Runs the benchmark; the first round may read from the disk."""
  rows = []
  with tempfile.TemporaryDirectory(dir=args.dir) as folder:
    path = Path(folder) / "model.pt"
    write(path, args.width, args.blocks)
    command = [sys.executable, "-m", "benchmarks.load_published"]
    command += [f"--width={args.width}", f"--blocks={args.blocks}"]
    for _ in range(args.rounds):
      found = subprocess.run(
        [*command, f"--child={path}"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
      )
      rows.append(json.loads(found.stdout.splitlines()[-1]))
  return {"width": args.width, "blocks": args.blocks, "rows": rows}


def table(result: dict[str, Any]) -> str:
  """The result in Markdown."""
  return render(
    ["file, MB", "s", "peak / file", "float32 tree / file"],
    [
      [f"{row['megabytes']:.0f}", *(f"{row[name]:.2f}" for name in FIGURES)]
      for row in result["rows"]
    ],
  )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.load_published",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--width", type=int, default=1024)
  parser.add_argument("--blocks", type=int, default=24)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--dir", help="where the file is written for the time")
  parser.add_argument("--json", action="store_true")
  # Of the processes that it starts.
  parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
  return parser.parse_args(argv)


if __name__ == "__main__":
  args = parse()
  if args.child:
    print(json.dumps(load(args.child, args.width, args.blocks)))
  else:
    result = measure(args)
    print(json.dumps(result) if args.json else table(result))
