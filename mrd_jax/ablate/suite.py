"""Makes the rows of an ablation runs, each with a folder of its own."""

import dataclasses
import hashlib
import json
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrd_jax.cli import load_config
from mrd_jax.config.fields import flatten, may_change
from mrd_jax.config.pretraining import Config, LossConfig
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json

SUITES = Path("configs/ablations")
READINGS = "reading"  # the suite whose rows all others can be run under


@dataclasses.dataclass(frozen=True)
class Suite:
  """What a file of `configs/ablations` says.

  Attributes:
    title: The first line of its docstring.
    base: Path of the config that the rows change.
    rows: For every row, the fields that it changes, by flattened name.
    published: For some rows, metrics that the paper reports: shares in
      percent, relation gaps as they are.
  """

  title: str
  base: str
  rows: Mapping[str, Mapping[str, Any]]
  published: Mapping[str, Mapping[str, float]]

  def under(self, reading: Mapping[str, Any]) -> "Suite":
    """Changes fields in all rows, before their own changes."""
    rows = {row: {**reading, **own} for row, own in self.rows.items()}
    return dataclasses.replace(self, rows=rows)


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run: a row of the table on one seed."""

  row: str
  seed: int
  config: Config
  workdir: Path

  @property
  def results(self) -> dict[str, Any] | None:
    """Reads results.json; None before the end, or if it lacks what is asked."""
    written, saved = self.workdir / "results.json", self.workdir / "config.json"
    if not (written.exists() and saved.exists()):
      return None
    results, evaluated = read_json(written), read_json(saved)["eval"]
    asked, rule = self.config.eval, self.config.checkpoint
    has_all = all(
      set(getattr(asked, kind)) <= set(evaluated[kind])
      for kind in ("zero_shot", "retrieval", "relation_gap")
    )
    selected_by = rule.best_metric if rule.rule == "best" else None
    by_rule = (results["checkpoint"], results["selected_by"])
    return results if has_all and by_rule == (rule.rule, selected_by) else None


def read_suite(name: str) -> Suite:
  """Reads `configs/ablations/NAME.py`.

  Raises:
    BadInput: if there is no such suite, listing those that are.
  """
  path = SUITES / f"{name}.py"
  if not path.is_file():
    known = ", ".join(sorted(p.stem for p in SUITES.glob("*.py")))
    raise BadInput(
      f"--suite {name}: {path} does not exist; suites are {known or 'none'}; "
      "start the command where configs/ is"
    )
  module = runpy.run_path(str(path))
  try:
    return Suite(
      (module["__doc__"] or name).strip().splitlines()[0],
      module["BASE"],
      module["ROWS"],
      module["PUBLISHED"],
    )
  except KeyError as error:
    raise BadInput(f"{path} has no {error.args[0]}") from None


def read_reading(name: str) -> Mapping[str, Any]:
  """Finds the fields that a row of the suite `reading` changes.

  Raises:
    BadInput: if it is none of them, listing those that are.
  """
  rows = {
    row: changes
    for row, changes in read_suite(READINGS).rows.items()
    if "loss.intra" not in changes  # Base has no relations to read
  }
  if name not in rows:
    raise BadInput(f"--reading {name!r}: readings are {', '.join(rows)}")
  return rows[name]


def slug(name: str) -> str:
  """Makes a part of a file's name of a row's name."""
  return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def make_cells(
  suite: Suite,
  config_file: str,
  overrides: Sequence[str],
  seeds: Sequence[int],
  output: Path,
) -> list[Cell]:
  """Makes every row a run on every seed, seeds slowest: so a table fills up.

  The folder of a run is named after its row and a hash of all that is learned
  from, so rows of several suites that are the same run are run once.

  Args:
    suite: The rows.
    config_file: What they change.
    overrides: "--config.FIELD=VALUE", applied to all rows, before their own
      changes.
    seeds: The seeds.
    output: Where the folders of the runs are.

  Raises:
    BadInput: naming the row and the field that cannot be changed.
  """
  kept = may_change(Config) | {"seed"}
  cells = []
  folders: dict[str, Path] = {}
  for seed in seeds:
    for row, changes in suite.rows.items():
      values = load_config(config_file, overrides)
      try:
        values.update_from_flattened_dict({**changes, "seed": seed})
        config = Config.from_dict(values)
      except (KeyError, TypeError) as error:
        fields = ", ".join(changes)
        raise BadInput(
          f"row {row!r} of the suite changes {fields}, which {config_file} "
          f"does not have in this form ({type(error).__name__})"
        ) from error
      if not (config.loss.intra or config.loss.cross):
        # Nothing else of the loss matters: one run serves all settings.
        plain = LossConfig(intra=False, cross=False)
        config = dataclasses.replace(config, loss=plain)
      learned = {
        name: value
        for name, value in flatten(dataclasses.asdict(config)).items()
        if name not in kept
      } | {"data.dir": config.data.dir}
      key = hashlib.sha256(json.dumps(learned).encode()).hexdigest()[:8]
      if key not in folders:
        there = sorted(output.glob(f"*-{key}"))
        folders[key] = there[0] if there else output / f"{slug(row)}-{key}"
      cells.append(Cell(row, seed, config, folders[key] / f"seed{seed}"))
  return cells


def seeds_of(cells: Sequence[Cell]) -> list[int]:
  """Finds the seeds of the cells, and all others that are in their folders."""
  there = (p.name for c in cells for p in c.workdir.parent.glob("seed*"))
  found = {int(name[4:]) for name in there if name[4:].isdigit()}
  return sorted({cell.seed for cell in cells} | found)


def check_data(cells: Sequence[Cell]) -> None:
  """Looks for the splits of all cells, before the first of them is run.

  A dataset that does not exist yet may be made by the run (`data.made_from`).

  Raises:
    BadInput: naming the row and the split that is missing.
  """
  from mrd_jax.data import dataset

  for cell in cells:
    data, asked = cell.config.data, cell.config.eval
    held_out = asked.zero_shot + asked.retrieval + asked.relation_gap
    for path, splits in (
      (data.dir, (data.split,)),
      (asked.data_dir or data.dir, held_out),
    ):
      if Path(path).exists():
        names = dataset.split_names(path)
        if missing := [split for split in splits if split not in names]:
          raise BadInput(
            f"row {cell.row!r}: {path} has no split {', '.join(missing)}; it "
            f"has {', '.join(names)}"
          )
