"""Figures of a run: what is drawn, what is left out, what is refused."""

import json
import re
import shutil

import numpy as np
import pytest

from configs.finetune import debug
from mrd_jax.draw.style import DPI, WIDTH
from mrd_jax.errors import BadInput
from mrd_jax.prepare import procedural
from mrd_jax.report import figures, retrieval_sheet, weights
from mrd_jax.report.__main__ import main
from mrd_jax.report.retrieval import choose_queries
from mrd_jax.report.run_folder import read_run

DIM = 8
NAMES = ["losses", "dynamic_weights", "zero_shot", "retrieval_text_to_shape"]
FULL = ("PP-II", "PP-TT", "PI-TI", "PI-IT", "PT-IT", "PT-TI")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  directory = tmp_path_factory.mktemp("data") / "procedural"
  procedural.generate(
    directory, train=1, val=6, num_points=200, num_views=1, embed_dim=DIM
  )
  return directory


@pytest.fixture
def run(tmp_path, data):
  """A finished run's folder, as training/set_up.py leaves it."""
  write_json(
    tmp_path / "config.json",
    {
      "data": {"dir": str(data)},
      "loss": {"weighting": "dynamic", "representation": "similarity"},
      "eval": {"zero_shot": ["val"], "retrieval": ["val"]},
    },
  )
  write_metrics(tmp_path, FULL)
  write_json(
    tmp_path / "results.json",
    {
      "step": 80,
      "chance_top1": {"val": 1 / 54},
      "metrics": {"val/text_to_shape_r1": 0.5, "val/text_to_shape_r5": 1.0},
    },
  )
  (tmp_path / "embeddings").mkdir()
  write_embeddings(tmp_path, 6)
  return tmp_path


def write_json(path, value):
  path.write_text(json.dumps(value))


def write_metrics(workdir, terms, steps=80):
  lines = []
  for step in range(1, steps + 1):
    values = {"loss": 9 / step, "contrast/image": 1 / step, "intra": 0.0}
    values |= {f"relation/{term}": 2 / step for term in terms}
    values |= {f"weight/{term}": 0.5 for term in terms}
    lines.append({"step": step, "kind": "train", "time": 0.0} | values)
    if step % 40 == 0:
      scores = {f"val/top{k}": k * step / 1000 for k in (1, 3, 5)}
      lines.append({"step": step, "kind": "eval", "time": 0.0} | scores)
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)


def write_embeddings(workdir, rows, has_text=True):
  rng = np.random.default_rng(0)
  np.savez(
    workdir / "embeddings" / "val.npz",
    point=rng.normal(size=(rows, DIM)).astype(np.float16),
    text=rng.normal(size=(rows, DIM)).astype(np.float16),
    image=rng.normal(size=(rows, DIM)).astype(np.float16),
    has_image=np.ones(rows, bool),
    has_text=np.full(rows, has_text),
    label=np.arange(rows, dtype=np.int32) % 3,
  )


def make_finetuning(workdir, data, steps=4, **changes):
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
    lines.append({"step": step, "kind": "train", "time": 0.0} | values)
    # The second step is the best.
    scores = {f"test/top{k}": k / (10 + abs(step - 2)) for k in (1, 3, 5)}
    lines.append({"step": step, "kind": "eval", "time": 0.0} | scores)
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)
  results = {
    "step": 4,
    "epoch": 4.0,
    "metrics": {"test/top1": 0.0833, "voted/top1": 0.0917},
    "checkpoint": "last",
    "best_test_epoch": {
      "step": 2,
      "epoch": 2.0,
      "metrics": {"test/top1": 0.1},
    },
    "chance_top1": {"test": 1 / 54},
  }
  write_json(workdir / "results.json", results | changes)
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


def test_draws_a_fine_tuning(data, tmp_path, capsys):
  run = make_finetuning(tmp_path / "run", data)
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


def test_figures_that_cannot_be_written(run, tmp_path, capsys):
  """The page comes all the same, and says so; and with --output elsewhere."""
  (run / "figures").write_text("in the way of the folder")
  page = tmp_path / "elsewhere.html"
  assert main([str(run), f"--output={page}"]) == 0
  output = capsys.readouterr()
  assert output.out.split() == [str(page)]
  assert f"{run}: nothing to draw; losses.png left out: " in output.err
  assert "figures" in output.err and "<!doctype html>" in page.read_text()


def test_rank_does_not_profit_from_ties(run, monkeypatch, capsys):
  """A run that has collapsed: all scores are equal, the order is the rows'."""
  with np.load(run / "embeddings" / "val.npz") as arrays:
    one = np.eye(1, DIM).repeat(6, axis=0)  # its products are not rounded
    changed = dict(arrays) | {"point": one}
  np.savez(run / "embeddings" / "val.npz", **changed)
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


def test_unfinished_run_is_drawn_as_far_as_it_is(run, capsys):
  (run / "results.json").unlink()
  shutil.rmtree(run / "embeddings")
  assert main([str(run)]) == 0
  output = capsys.readouterr()
  assert len(output.out.split()) == 3 + 1  # the page
  assert re.search(r"val\.npz does not exist; .*end of a run", output.err)
  assert "unfinished" in read_run(run).describe()[-1]


def test_header_names_data_and_teacher(run, data, tmp_path):
  text = " ".join(read_run(run).describe())
  assert "procedural" in text and "synthetic" in text and "80" in text
  config = json.loads((run / "config.json").read_text())
  write_json(run / "config.json", config | {"data": {"dir": "gone"}})
  assert "not readable" in " ".join(read_run(run).describe())
  with pytest.raises(BadInput, match="gone does not exist"):
    retrieval_sheet.draw(read_run(run), run / "a.png")
  assert "synthetic" in " ".join(read_run(run, data).describe())  # it moved
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
  write_metrics(run, terms, steps=3)
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
    {"step": 5, "kind": "train", "time": 0.0, "loss": 1.0},
    {"step": 5, "kind": "eval", "time": 0.0} | scores,
  ]
  text = "\n".join(map(json.dumps, lines)) + '\n{"torn'
  (run / "metrics.jsonl").write_text(text)
  shutil.rmtree(run / "embeddings")
  names = [path.name for path in figures.draw(read_run(run))[0]]
  assert "losses.png" in names and "zero_shot.png" in names


def test_refuses_a_folder_without_a_run(tmp_path, capsys):
  assert main([str(tmp_path)]) == 2
  error = capsys.readouterr().err
  assert "config.json does not exist" in error and error.count("\n") == 1
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(BadInput, match="config.json: is not JSON"):
    read_run(tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(BadInput, match="no data.dir"):
    read_run(tmp_path)


def test_refuses_a_run_with_nothing_to_draw(run):
  (run / "metrics.jsonl").unlink()
  (run / "embeddings" / "val.npz").unlink()
  with pytest.raises(BadInput, match="nothing to draw.*metrics.jsonl is empty"):
    figures.draw(read_run(run))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: path.write_bytes(b""), r"cannot be read as \.npz"),
    (lambda path: path.write_bytes(b"PK\x03\x04"), r"cannot be read as \.npz"),
    (lambda path: np.savez(path, point=np.eye(6)), "not what training writes"),
    (lambda path: write_embeddings(path.parent.parent, 5), "has 5 rows.*has 6"),
    (
      lambda path: write_embeddings(path.parent.parent, 6, has_text=False),
      "has no texts",
    ),
  ],
)
def test_unusable_embeddings_are_named(run, damage, message):
  damage(run / "embeddings" / "val.npz")
  with pytest.raises(BadInput, match=message):
    retrieval_sheet.draw(read_run(run), run / "a.png")


def test_no_retrieval_split_is_said(run):
  config = json.loads((run / "config.json").read_text())
  config["eval"]["retrieval"] = []
  write_json(run / "config.json", config)
  with pytest.raises(BadInput, match="no split in eval.retrieval"):
    retrieval_sheet.draw(read_run(run), run / "a.png")


def test_queries_are_spread_over_classes():
  label = np.repeat(np.arange(20), 3)
  has_text = np.ones(60, bool)
  has_text[0] = False
  chosen = choose_queries(has_text, label, 8)
  assert len(set(label[chosen])) == 8
  assert (chosen[0], label[chosen[-1]]) == (1, 19)
  # Fewer classes than rows: their records in turn.
  chosen = choose_queries(np.ones(9, bool), np.arange(9) // 3, 5)
  assert chosen.tolist() == [0, 3, 6, 1, 4]
  # No labels: evenly over the records.
  chosen = choose_queries(np.ones(9, bool), np.full(9, -1), 3)
  assert chosen.tolist() == [0, 4, 8]
  assert choose_queries(np.zeros(9, bool), np.full(9, -1), 3).size == 0
