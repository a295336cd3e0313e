"""Lists the published models that have a name: mrd models."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrd_jax.cli import Parser, exit_code, leave
from mrd_jax.io.files import write_json
from mrd_jax.io.terminal import say
from mrd_jax.metrics.table import columns

_HEADER: list[str] = [
  *("name", "size", "points", "colour", "LVIS", "MN40", "Scan", "D", "space"),
  *("system", "licence", "weights"),
]


def main(argv: Sequence[str] | None = None) -> int:
  """Lists the models; returns the exit code (2 for bad input)."""
  parser = Parser(
    prog="mrd models",
    description="Lists the published models that --checkpoint NAME and "
    "load_encoder(NAME) take.",
  )
  parser.add_argument(
    "--json",
    metavar="FILE.json",
    help="file to create with all that is known of them; - prints it",
  )
  args = parser.parse_args(argv)
  return exit_code(lambda: _list(args.json))


def _list(file: str | None) -> int:
  from mrd_jax.evaluate.published import SPLITS

  found = _models()
  if file == "-":
    say(*json.dumps(found, indent=2).split("\n"))
    return 0
  if file:
    write_json(Path(file), found)
  rows = [_HEADER]
  for model in found:
    figures = []
    for split in SPLITS:
      own, paper = (model[x].get(f"{split}/top1") for x in ("figures", "paper"))
      figures.append(f"{own:.1f}" if own else f"{paper:.1f}*" if paper else "-")
    rows.append(
      [
        model["name"],
        f"{model['parameters'] / 1e6:,.1f}M",
        f"{model['points']:,}",
        "yes" if model["colour"] else "no",
        *figures,
        str(model["width"]),
        model["space"],
        model["system"],
        model["licence"] or "not stated",
        model["weights"],
      ]
    )
  say(*columns(rows, "<>><>>>><"))
  say(
    "",
    "LVIS, MN40, Scan: published top 1 in percent on Objaverse-LVIS, ModelNet40 "
    "and ScanObjectNN, by its authors; * in the paper's Table 1.",
  )
  return 0


def _models() -> list[dict[str, Any]]:
  """Says of each model what the registry knows, as JSON takes it."""
  # After --help, which needs no JAX.
  from mrd_jax.evaluate.published import TABLE_1
  from mrd_jax.zoo.registry import NAMES, SYSTEMS
  from mrd_jax.zoo.system import Hub

  found = []
  for name, (key, release) in NAMES.items():
    system, weights = SYSTEMS[key], release.weights
    prepared = system.preparation(release.size)
    on_hub = isinstance(weights, Hub)
    place = weights.repository if on_hub else weights.address
    found.append(
      {
        "name": name,
        "system": system.NAME,
        "parameters": release.parameters,
        "space": system.teacher(release.size),
        "width": release.size.embed_dim,
        "points": prepared.num_points,
        "colour": getattr(release.size, "channels", 3) == 6,
        "up": prepared.up_axis,
        "weights": f"{place}: {weights.file}",
        "fetched": on_hub,
        "licence": release.license,
        "row": release.row,
        "paper": TABLE_1[release.row] if release.row else {},
        "source": release.source,
        "figures": release.figures,
        "differs": release.differs,
      }
    )
  return found


if __name__ == "__main__":
  leave(main())
