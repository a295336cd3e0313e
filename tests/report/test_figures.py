"""Figures of a run: what is drawn, what is left out, what is refused."""

import json
import re
import shutil

import numpy as np
import pytest
from report_runs import (
  DIM,
  change_embeddings,
  make_data,
  make_run,
  write_lines,
  write_metrics,
)

from configs.finetune import debug
from mrd_jax.draw import cloud
from mrd_jax.draw.style import DPI, WIDTH
from mrd_jax.errors import BadInput
from mrd_jax.io.files import held, lock_beside, write_json
from mrd_jax.report import figures, retrieval_sheet, weights
from mrd_jax.report.__main__ import main
from mrd_jax.report.run_folder import read_run

NAMES = ["losses", "dynamic_weights", "zero_shot", "retrieval_text_to_shape"]
SHAPES = 6
VAL = "embeddings/val.npz"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
  """A dataset of six shapes, all with texts."""
  return make_data(tmp_path_factory.mktemp("few") / "procedural", SHAPES)


@pytest.fixture(scope="module")
def finished(few, tmp_path_factory):
  run = make_run(tmp_path_factory.mktemp("run") / "run", few)
  change_embeddings(
    run, has_text=np.ones(SHAPES, bool), label=np.arange(SHAPES) % 3
  )
  return run


@pytest.fixture
def run(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def fast(monkeypatch):
  """Clouds are drawn as grey squares."""
  monkeypatch.setattr(
    cloud, "render", lambda xyz, rgb, size: np.full((size, size, 3), 0.5)
  )


def make_finetuning(workdir, data, steps=4):
  """A fine-tuning run's folder, as finetune/train.py leaves it."""
  workdir.mkdir()
  config = debug.get_config().to_dict()
  config["data"]["dir"] = str(data)
  write_json(workdir / "config.json", config)
  classes = [f"class {i}" for i in range(54)]
  counts = {"name": "procedural", "train": 1234, "test": 6}
  write_json(workdir / "data.json", counts | {"classes": classes})
  write_json(workdir / "start.json", {"checkpoint": "runs/m", "source": "m"})
  lines = []
  for step in range(1, steps + 1):
    values = {"loss": 4 / step, "accuracy": step / 10, "grad_norm": 1.0}
    lines.append({"step": step, "kind": "train"} | values)
    # The second step is the best.
    scores = {f"test/top{k}": k / (10 + abs(step - 2)) for k in (1, 3, 5)}
    lines.append({"step": step, "kind": "eval"} | scores)
  write_lines(workdir, lines)
  results = {
    "step": 4,
    "epoch": 4.0,
    "metrics": {"test/top1": 0.0833, "voted/top1": 0.0917},
    "checkpoint": "last",
    "best_test_epoch": {"step": 2, "metrics": {"test/top1": 0.1}},
    "chance_top1": {"test": 1 / 54},
  }
  write_json(workdir / "results.json", results)
  return workdir


def png_size(path):
  """Width and height from the header of a PNG file."""
  content = path.read_bytes()
  assert content[:8] == b"\x89PNG\r\n\x1a\n"
  assert len(content) > 10_000, "an empty page would be smaller"
  return tuple(int.from_bytes(content[i : i + 4], "big") for i in (16, 20))


def test_draws_every_figure(run, capsys):
  assert main([str(run)]) == 0
  drawn = [run / "figures" / f"{name}.png" for name in NAMES]
  output = capsys.readouterr()
  page = run / "report.html"
  assert output.out.split() == [str(path) for path in [*drawn, page]]
  assert page.read_text().startswith("<!doctype html>")
  assert output.err == ""
  sizes = [png_size(path) for path in drawn]
  assert {width for width, _ in sizes} == {WIDTH * DPI}
  assert all(500 < height < 3000 for _, height in sizes)
  # The sheet grows with its rows; six records give six queries.
  assert sizes[3][1] > 1.5 * sizes[0][1]


def test_draws_a_fine_tuning(few, tmp_path, capsys):
  run = make_finetuning(tmp_path / "run", few)
  assert main([str(run)]) == 0
  output = capsys.readouterr()
  drawn = [run / "figures" / f"{name}.png" for name in ("losses", "accuracy")]
  assert output.out.split() == [str(p) for p in [*drawn, run / "report.html"]]
  assert all(png_size(path) for path in drawn)
  assert output.err == ""  # nothing is missed that it cannot have
  read = read_run(run)
  split = "val, fine-tuned"
  assert read.chance == {split: 1 / 54, f"{split}, voted": 1 / 54}
  assert sorted(read.series("eval")) == [f"{split}/top{k}" for k in (1, 3, 5)]
  text = (run / "report.html").read_text()
  for words in (
    "<dt>Started from</dt><dd>runs/m</dd>",
    "1,234 shapes",
    "Accuracy after fine-tuning",
    "Split “val, fine-tuned”: accuracy",
    "Split “val, fine-tuned, voted”: accuracy",
    "Guessing has a top-1 of 1.9%.",
    "step 4, the last checkpoint",
    "step 2, the best epoch, selected on the test split",
  ):
    assert words in text, words
  for words in ('class="best"', "Zero-shot accuracy", "Teacher", "Left out"):
    assert words not in text, words
  # Unfinished, and then with a config alone.
  (run / "results.json").unlink()
  shutil.rmtree(run / "figures")
  read = read_run(run)
  assert read.chance[split] == 1 / 54
  assert main([str(run)]) == 0
  assert capsys.readouterr().err.count("\n") == 1  # no results.json
  text = (run / "report.html").read_text()
  assert "unfinished: the evaluation of step 4" in text
  (run / "metrics.jsonl").unlink()
  assert main([str(run)]) == 0
  text = (run / "report.html").read_text()
  assert "unfinished, not evaluated yet" in text
  assert "no evaluation in metrics.jsonl yet" in text


def test_figures_that_cannot_be_written(run, fast, tmp_path, capsys):
  """The page comes all the same, and says so; and with --output elsewhere."""
  (run / "figures").write_text("in the way of the folder")
  page = tmp_path / "elsewhere.html"
  assert main([str(run), f"--output={page}"]) == 0
  output = capsys.readouterr()
  assert output.out.split() == [str(page)]
  assert f"{run}: nothing to draw; losses.png left out: " in output.err
  assert "figures" in output.err and "<!doctype html>" in page.read_text()


def test_a_page_that_cannot_be_written_is_refused_first(run, tmp_path, capsys):
  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "page")
  for output in (tmp_path, tmp_path / "file" / "page", tmp_path / "link" / "x"):
    assert main([str(run), f"--output={output}"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: --output: ") and not said.out
  assert main(["n" * 300]) == 2
  assert "File name too long" in capsys.readouterr().err
  assert not (run / "figures").exists()


def test_a_figure_that_another_report_draws_is_left_out(
  run, fast, tmp_path, capsys
):
  """Their pages are two files, the run's figures are the same."""
  with held("DIR", lock_beside(run / "figures" / "losses.png")):
    assert main([str(run), f"--output={tmp_path / 'elsewhere.html'}"]) == 0
  output = capsys.readouterr()
  assert "losses.png left out: DIR: another command is at work" in output.err
  assert not (run / "figures" / "losses.png").exists()
  assert "dynamic_weights.png" in output.out


def test_rank_does_not_profit_from_ties(run, fast, monkeypatch, capsys):
  """A run that has collapsed: all scores are equal, the order is the rows'."""
  # Its products are not rounded.
  change_embeddings(run, point=np.eye(1, DIM).repeat(SHAPES, axis=0))
  sheets = []
  monkeypatch.setattr(
    retrieval_sheet, "draw_sheet", lambda *args, **_: sheets.append(args)
  )
  retrieval_sheet.draw(read_run(run), run / "a.png")
  asked = [row[0].lines[1].text for row in sheets.pop()[3]]
  ranks = [int(re.findall(r"ranks (\d+) of 6", note)[0]) for note in asked]
  assert sorted(ranks) == [1, 2, 3, 4, 5, 6]
  assert main([str(run)]) == 0
  assert "the encoder has collapsed" in capsys.readouterr().err
  page = (run / "report.html").read_text()
  for way in re.split("<h3>(?:Text|Image) to shape", page)[1:]:
    ranks = [int(rank) for rank in re.findall(r"ranks (\d+) of 6", way)]
    assert sorted(ranks) == [1, 2, 3, 4, 5, 6]


def test_the_same_run_gives_the_same_file(run):
  read, paths = read_run(run), [run / "a.png", run / "b.png"]
  for path in paths:
    weights.draw(read, path)
  first, second = (path.read_bytes() for path in paths)
  assert first == second


def test_unfinished_run_is_drawn_as_far_as_it_is(run, fast, capsys):
  (run / "results.json").unlink()
  shutil.rmtree(run / "embeddings")
  assert main([str(run)]) == 0
  output = capsys.readouterr()
  assert len(output.out.split()) == 3 + 1  # the page
  assert re.search(r"val\.npz does not exist; .*end of a run", output.err)
  assert "unfinished" in read_run(run).describe()[-1]


def test_header_names_data_and_teacher(run, few, tmp_path):
  text = " ".join(read_run(run).describe())
  assert "procedural" in text and "synthetic" in text and "80" in text
  config = json.loads((run / "config.json").read_text())
  write_json(run / "config.json", config | {"data": {"dir": "gone"}})
  assert "not readable" in " ".join(read_run(run).describe())
  with pytest.raises(BadInput, match="gone does not exist"):
    retrieval_sheet.draw(read_run(run), run / "a.png")
  assert "synthetic" in " ".join(read_run(run, few).describe())  # it moved
  with pytest.raises(BadInput, match="elsewhere does not exist"):
    read_run(run, tmp_path / "elsewhere")


@pytest.mark.parametrize(
  ("terms", "weights"),
  [
    (("PI-TI", "PT-IT"), True),  # matched, cross only
    (("PP-II", "PP-TT"), True),  # intra only
    (("PP-II", "PP-TT", "PI-TI", "PT-IT"), True),
    ((), False),  # contrast alone
  ],
)
def test_variants_of_the_loss(run, terms, weights):
  write_metrics(run, terms=terms, steps=3)
  shutil.rmtree(run / "embeddings")
  drawn, left_out = figures.draw(read_run(run))
  assert ("dynamic_weights.png" in [path.name for path in drawn]) == weights
  if not weights:
    assert any("no weight/* values" in sentence for sentence in left_out)
  assert any("no zero-shot evaluation" in sentence for sentence in left_out)
  assert png_size(drawn[0])


def test_many_splits_and_one_logged_step(run):
  scores = {f"{split}/top{k}": 0.1 * k for split in "abcd" for k in (1, 3, 5)}
  lines = [
    {"step": 5, "kind": "train", "loss": 1.0},
    {"step": 5, "kind": "eval"} | scores,
  ]
  write_lines(run, lines)
  with (run / "metrics.jsonl").open("a") as file:
    file.write('{"torn')
  shutil.rmtree(run / "embeddings")
  names = [path.name for path in figures.draw(read_run(run))[0]]
  assert "losses.png" in names and "zero_shot.png" in names


def test_refuses_a_folder_without_a_config(tmp_path):
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(BadInput, match="config.json: is not JSON"):
    read_run(tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(BadInput, match="no data.dir"):
    read_run(tmp_path)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda run: (run / VAL).write_bytes(b"PK\x03\x04"), r"read as \.npz"),
    (lambda run: np.savez(run / VAL, point=np.eye(6)), "not what training wri"),
    (
      lambda run: change_embeddings(
        run,
        **dict.fromkeys(("point", "image", "text"), np.ones((5, DIM))),
        **dict.fromkeys(("has_image", "has_text", "label"), np.ones(5)),
      ),
      "has 5 rows.* 6",
    ),
    (
      lambda run: change_embeddings(run, has_text=np.zeros(SHAPES, bool)),
      "has no texts",
    ),
  ],
)
def test_unusable_embeddings_are_named(run, damage, message):
  damage(run)
  with pytest.raises(BadInput, match=message):
    retrieval_sheet.draw(read_run(run), run / "a.png")


def test_no_retrieval_split_is_said(run):
  config = json.loads((run / "config.json").read_text())
  config["eval"]["retrieval"] = []
  write_json(run / "config.json", config)
  with pytest.raises(BadInput, match="no split in eval.retrieval"):
    retrieval_sheet.draw(read_run(run), run / "a.png")
