"""Ablations: cells, going on, the table."""

import dataclasses
import json
import re
import signal
import statistics
import sys
from pathlib import Path

import pytest
import runs
from runs import REPOSITORY

from mrd_jax.ablate import suite as suites
from mrd_jax.ablate import table
from mrd_jax.ablate.__main__ import main
from mrd_jax.config.pretraining import LossConfig
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json_lines, write_json
from mrd_jax.training import set_up

SUITES = sorted(path.stem for path in suites.SUITES.glob("*.py"))


def cells(name: str, output: Path, seeds=(0,), *overrides: str):
  suite = suites.read_suite(name)
  return suite, suites.make_cells(suite, suite.base, overrides, seeds, output)


def finish(cell: suites.Cell, shapes: dict, **metrics: float) -> None:
  """Writes what a finished run leaves of it."""
  cell.workdir.mkdir(parents=True)
  write_json(cell.workdir / "config.json", dataclasses.asdict(cell.config))
  names = {name.replace("__", "/"): value for name, value in metrics.items()}
  rule = cell.config.checkpoint
  results = {
    "metrics": names,
    "shapes": shapes,
    "checkpoint": rule.rule,
    "selected_by": rule.best_metric if rule.rule == "best" else None,
  }
  write_json(cell.workdir / "results.json", results)


@pytest.mark.parametrize("name", SUITES)
def test_every_row_of_a_suite_is_a_config_of_its_own(name, tmp_path):
  suite, made = cells(name, tmp_path)
  assert [cell.row for cell in made] == list(suite.rows)
  assert len({cell.workdir for cell in made}) == len(made)
  assert suite.published.keys() <= suite.rows.keys()


def test_table_4_is_what_the_paper_says(tmp_path):
  _, made = cells("table4", tmp_path)
  losses = {cell.row: cell.config.loss for cell in made}
  assert (losses["Base"].intra, losses["Base"].cross) == (False, False)
  assert losses["IR"] == LossConfig(cross=False, weighting="fixed")
  assert losses["CR"] == LossConfig(intra=False, weighting="fixed")
  assert losses["IR+CR"] == LossConfig(weighting="fixed")
  assert losses["IR+CR+DD"] == LossConfig()
  assert {cell.config.train.batch_size for cell in made} == {192}
  assert {cell.config.train.epochs for cell in made} == {70}


def test_table_7_varies_lambda_alone(tmp_path):
  _, made = cells("table7", tmp_path)
  assert [c.config.loss.relation_weight for c in made[1:]] == [1, 2, 3, 4, 5]
  assert {c.config.loss.representation for c in made} == {"similarity"}


def test_one_run_serves_all_tables_it_stands_in(tmp_path):
  """Table 3's similarity rows are Table 4's IR and CR, lambda 3 is MRD."""
  suite, made = cells("table4", tmp_path)
  for cell in made:
    cell.workdir.mkdir(parents=True)
  where = {cell.row: cell.workdir for cell in made}
  _, table3 = cells("table3", tmp_path)
  _, table7 = cells("table7", tmp_path)
  same = {cell.row: cell.workdir for cell in (*table3, *table7)}
  assert same["Base"] == where["Base"]
  assert same["Similarity, intra"] == where["IR"]
  assert same["Similarity, cross"] == where["CR"]
  assert same["lambda 3"] == where["IR+CR+DD"]
  assert same["lambda 2"] not in where.values()
  _, other = cells("table4", tmp_path, (0,), "--config.loss.margin=0.5")
  assert other[0].workdir == where["Base"]  # has no relations to change
  assert other[1].workdir != where["IR"]


@pytest.mark.parametrize("name", ["table4", "table7"])
def test_a_table_under_another_reading(name, tmp_path, capsys):
  """Base is the same run; the rows keep their own changes and the table apart."""
  suite = suites.read_suite(name)
  former = suites.read_reading("former")
  made = suites.make_cells(suite.under(former), suite.base, (), (0,), tmp_path)
  _, plain = cells(name, tmp_path)
  for cell, default in zip(made, plain, strict=True):
    loss = cell.config.loss
    if cell.row == "Base":
      assert cell.workdir == default.workdir
      continue
    assert (loss.intra_scale, loss.cross_scale) == (0, 0)
    assert loss == dataclasses.replace(
      default.config.loss, intra_scale=0, cross_scale=0, intra_diagonal=False
    )
    assert cell.workdir != default.workdir
  for cell in made:
    finish(cell, {"val": 3}, val__top1=0.5)
  arguments = ["--suite", name, "--output", str(tmp_path)]
  assert main([*arguments, "--reading", "former"]) == 0
  assert "loss.intra_diagonal=False\n" in capsys.readouterr().out
  assert (tmp_path / f"{name}-former.md").exists()
  assert not (tmp_path / f"{name}.md").exists()


def test_rows_can_be_chosen(tmp_path, capsys):
  code = main(
    ["--suite", "table4", "--row", "IR+CR+DD", "--row", "Base"]
    + ["--output", str(tmp_path), "--seeds", "4,5", "--dry-run"]
  )
  assert code == 0
  lines = capsys.readouterr().out.splitlines()
  assert [re.sub(r"\[\d/4\] |, seed.*", "", line) for line in lines] == [
    "Base", "IR+CR+DD", "Base", "IR+CR+DD"
  ]  # fmt: skip
  assert not list(tmp_path.iterdir())


def test_seeds_and_what_changes_nothing_learned_share_a_folder(tmp_path):
  _, made = cells("table4", tmp_path, (0, 7), "--config.eval.batch_size=8")
  _, plain = cells("table4", tmp_path)
  assert made[0].workdir == plain[0].workdir
  assert made[5].workdir == plain[0].workdir.with_name("seed7")
  assert (made[0].config.seed, made[5].config.seed) == (0, 7)
  _, other = cells("table4", tmp_path, (0,), "--config.train.epochs=2.0")
  assert other[0].workdir != plain[0].workdir


def test_the_table_has_mean_deviation_and_the_published_rows(tmp_path):
  suite, made = cells("table4", tmp_path, (0, 1, 2))
  base = [cell for cell in made if cell.row == "Base"]
  values = [0.11, 0.12, 0.145]
  shapes = {"lvis": 46_205, "modelnet40": 10}
  others = {"modelnet40__top1": 0.5, "modelnet40__gap_p2p_i2i": 0.25}
  for cell, value in zip(base, values, strict=True):
    finish(cell, shapes, lvis__top1=value, lvis__class_mean=0.5, **others)
  text = table.tabulate(suite, made)
  lvis, modelnet = re.split(r"modelnet40: accuracy", text)
  mean, std = 100 * statistics.fmean(values), 100 * statistics.stdev(values)
  assert re.search(rf"\| Base +\| +3 \| +{mean:.1f} ± {std:.1f} \|", lvis)
  assert re.search(r"\| Base \(published\) +\| +\| +11\.0 \|", lvis)
  assert "class" not in lvis
  # Rows that are not there yet are empty, not left out.
  assert re.search(r"\| IR\+CR\+DD +\| +0 \| +\|", lvis)
  # ModelNet40 with ten shapes is not the paper's.
  assert "(published)" not in modelnet and "10 shapes, not the" in modelnet
  assert re.search(r"\| Base +\| +3 \| +50\.0 ± 0\.0 \|", modelnet)
  gap = r"P2P/I2I.*\n.*\n\| Base +\| +3 \| +0\.250 ± 0\.000"
  assert re.search(gap, modelnet)
  found = table.as_json(made)["Base"]
  assert found["runs"] == [str(cell.workdir) for cell in base]
  by_seed = dict(enumerate(values))
  assert found["metrics"]["lvis/top1"]["by_seed"] == by_seed


def test_metrics_that_only_some_seeds_have_are_counted_by_themselves(tmp_path):
  suite, made = cells("table4", tmp_path, (2, 0))
  shapes = {"val": 3}
  finish(made[0], shapes, val__top1=0.5)
  finish(made[5], shapes, val__top1=0.7, val__image_to_shape_r1=0.1)
  text = table.tabulate(suite, made)
  assert re.search(r"\| Base +\| +2 \| +60\.0 ± 14\.1 \|", text)
  assert re.search(r"image→3D.*\n.*\n\| Base +\| +1 \| +10\.0 \|", text)


def test_selected_figures_are_marked(tmp_path):
  suite, made = cells("table4", tmp_path, (0,), "--config.checkpoint.rule=best")
  finish(made[0], {"lvis": 5}, lvis__top1=0.5)
  assert "the best lvis/top1: the figures of lvis were selected" in (
    table.tabulate(suite, made)
  )
  # The same run with another rule has to be evaluated again.
  _, last = cells("table4", tmp_path)
  assert last[0].workdir == made[0].workdir and not last[0].results


def test_a_failed_second_evaluation_keeps_the_first_results(
  tmp_path, monkeypatch, capsys
):
  _, made = cells("table4", tmp_path)
  finish(made[0], {"lvis": 1}, lvis__top1=0.5)
  before = (made[0].workdir / "results.json").read_text()

  def fail(config, workdir, lock):
    assert not (workdir / "results.json").exists()
    raise BadInput("no such data")

  monkeypatch.setattr(set_up, "train", fail)
  code = main(
    ["--suite", "table4", "--row", "Base", "--output", str(tmp_path)]
    + ["--config.eval.relation_gap=('lvis',)"]
  )
  assert code == 2 and "no such data" in capsys.readouterr().err
  assert (made[0].workdir / "results.json").read_text() == before
  assert not list(made[0].workdir.glob("*.old"))
  # More than is asked for is as good.
  _, fewer = cells("table4", tmp_path, (0,), "--config.eval.zero_shot=()")
  assert fewer[0].results


def test_a_table_holds_the_seeds_of_earlier_commands(tmp_path, capsys):
  _, made = cells("table4", tmp_path, (0, 3))
  for cell in made:
    finish(cell, {"val": 3}, val__top1=0.5)
  arguments = ["--suite", "table4", "--output", str(tmp_path)]
  assert main([*arguments, "--row", "IR", "--seeds", "3"]) == 0
  printed = capsys.readouterr().out
  row = r"^\| \S+ +\| +2 \| +50\.0 ± 0\.0 \|"
  assert len(re.findall(row, printed, re.M)) == 5
  assert "Rows change configs/mrd_t_shapenet.py\n" in printed


def test_equal_rows_share_a_run_from_the_start(tmp_path):
  suite = suites.Suite("t", "configs/debug.py", {"a": {}, "b": {}}, {})
  made = suites.make_cells(suite, suite.base, (), (0,), tmp_path)
  assert made[0].workdir == made[1].workdir


def test_missing_splits_are_found_before_the_first_run(
  data_dir, tmp_path, capsys
):
  code = main(
    ["--suite", "table4", "--config", "configs/debug.py"]
    + [f"--config.data.dir={data_dir}", "--config.eval.zero_shot=('lvis',)"]
    + ["--output", str(tmp_path / "out")]
  )
  error = capsys.readouterr().err
  assert code == 2 and "row 'Base'" in error and "no split lvis" in error
  assert not (tmp_path / "out").exists()


def test_results_without_a_metric_that_is_asked_for_do_not_count(tmp_path):
  _, made = cells("table4", tmp_path)
  finish(made[0], {"lvis": 1}, lvis__top1=0.5)
  assert made[0].results
  gap = "--config.eval.relation_gap=('lvis',)"
  _, more = cells("table4", tmp_path, (0,), gap)
  assert more[0].workdir == made[0].workdir
  assert more[0].results is None


def test_the_papers_figures_are_those_of_its_tables():
  """A few from each corner, typed from the paper a second time."""
  table4 = suites.read_suite("table4").published
  assert table4["IR+CR+DD"]["lvis/top1"] == 11.8
  assert table4["IR+CR+DD"]["scanobjectnn/top5"] == 83.0
  assert table4["CR"]["scanobjectnn/top5"] == 86.2
  assert table4["IR"]["train_shapenet_only/gap_p2p_i2i"] == 0.08
  table3 = suites.read_suite("table3").published
  assert table3["Partial order, intra"]["lvis/top1"] == 10.0
  assert table3["Euclidean, cross"]["modelnet40/top3"] == 86.8


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--suite", "table9"], "table3, table4, table7"),
    (["--suite", "table4", "--config", "configs/none.py"], "configs/none.py"),
    (["--suite", "table4", "--config.loss.nothing=1"], "nothing"),
    (["--suite", "table4", "--config.train.epochs=0.0"], "config.train"),
    (["--suite", "table4", "--nothing"], "--nothing"),
    (["--suite", "table4", "--row", "DD"], "Base, IR, CR, IR+CR, IR+CR+DD"),
    (["--suite", "table4", "--reading", "Base"], "readings are default, form"),
    (["--suite", "reading", "--reading", "former"], "readings themselves"),
  ],
)
def test_bad_arguments_are_one_sentence(tmp_path, capsys, arguments, message):
  assert main([*arguments, "--output", str(tmp_path), "--dry-run"]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("seeds", ["", "0,0", "-1", "a"])
def test_bad_seeds_are_refused(tmp_path, capsys, seeds):
  with pytest.raises(SystemExit) as stopped:
    main(["--suite", "table4", f"--seeds={seeds}", "--output", str(tmp_path)])
  assert stopped.value.code == 2
  assert "0,1,2" in capsys.readouterr().err


def test_a_row_that_names_no_field_is_named(tmp_path):
  suite = suites.Suite("t", "configs/debug.py", {"odd": {"loss.x": 1}}, {})
  with pytest.raises(BadInput, match=r"row 'odd'.*loss\.x.*debug\.py"):
    suites.make_cells(suite, suite.base, (), (0,), tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_killed_and_repeated_ablation_ends_with_the_table(data_dir, tmp_path):
  """SIGTERM, then SIGKILL, in the middle of a run; the rest is run once."""
  (tmp_path / "configs" / "ablations").mkdir(parents=True)
  (tmp_path / "configs" / "ablations" / "two.py").write_text(
    f'"""Two rows."""\nBASE = {str(REPOSITORY / "configs/debug.py")!r}\n'
    'ROWS = {"Base": {"loss.intra": False, "loss.cross": False}, "MRD": {}}\n'
    "PUBLISHED = {}\n"
  )
  output = tmp_path / "out"
  command = [
    sys.executable,
    *("-m", "mrd_jax.ablate", "--suite", "two", "--output", str(output)),
    f"--config.data.dir={data_dir}",
    "--config.train.steps=12",
    "--config.eval.every_steps=12",
    "--config.checkpoint.every_steps=2",
  ]
  for row, number, code in (
    ("base", signal.SIGTERM, 1),
    ("mrd", signal.SIGKILL, -signal.SIGKILL),
  ):
    process = runs.start(command, cwd=tmp_path)
    pattern = f"{row}-*/seed0/metrics.jsonl"
    runs.wait_until(
      process,
      lambda pattern=pattern: any(
        line["kind"] == "train"
        for path in output.glob(pattern)
        for line in read_json_lines(path)
      ),
    )
    process.send_signal(number)
    errors = runs.finish(process, expect=code)
    assert not (output / "two.md").exists()
    if number == signal.SIGTERM:
      assert "Base, seed 0: asked to stop" in errors
  process = runs.start(command, cwd=tmp_path)
  printed, errors = process.communicate(timeout=runs.PATIENCE)
  assert process.returncode == 0, errors
  assert "Base, seed 0: finished" in printed
  written = (output / "two.md").read_text()
  assert written in printed
  rows = json.loads((output / "two.json").read_text())
  assert list(rows) == ["Base", "MRD"]
  for found in rows.values():
    assert list(found["metrics"]["val/top1"]["by_seed"]) == ["0"]
    assert "val/text_to_shape_r1" in found["metrics"]
  score = rows["Base"]["metrics"]["val/top1"]["by_seed"]["0"]
  assert f"{100 * score:.1f}" in written
