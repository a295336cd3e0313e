"""The page as a file: what it holds, what it lacks, what is refused."""

import base64
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from report_runs import DIM, SHAPES, change_embeddings, make_run

from mrd_jax.config.fields import flatten
from mrd_jax.errors import BadInput
from mrd_jax.report import confusion, embedding_map, gallery
from mrd_jax.report.__main__ import main
from mrd_jax.report.page import short_names, write_page
from mrd_jax.report.results import run_results
from mrd_jax.report.retrieval import choose_queries, open_retrieval
from mrd_jax.report.run_folder import read_folder, read_run


class Elements(HTMLParser):
  """All start tags with their attributes, and all text, of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts = [], []
    self.feed(text)

  def handle_starttag(self, name, attributes):
    self.tags.append((name, dict(attributes)))

  def handle_data(self, text):
    self.texts.append(text)


def test_one_file_without_any_address(page):
  text = page.read_text()
  parsed = Elements(text)
  for name, attributes in parsed.tags:
    assert name not in ("link", "img", "iframe", "base", "object", "embed")
    assert not attributes.keys() & {"src", "action", "srcset", "poster"}
    assert attributes.get("href", "#").startswith("#")
    assert not [key for key in attributes if key.startswith("on")]
  assert not re.search(r"url\(|@import|https?://", text)
  [policy] = [a["content"] for n, a in parsed.tags if "http-equiv" in a]
  assert "default-src 'none'" in policy and "sha256-" in policy


def test_names_are_as_long_as_needed(tmp_path):
  folders = [tmp_path / "a" / "s0", tmp_path / "b" / "s0", tmp_path / "c"]
  assert short_names(folders[1:]) == ["s0", "c"]
  assert short_names(folders[:2]) == ["a/s0", "b/s0"]


def test_config_is_flattened():
  nested = {"a": {"b": 1, "c": {"d": []}}, "e": {}, "f": "x"}
  assert flatten(nested) == {"a.b": 1, "a.c.d": [], "e": {}, "f": "x"}


def test_clouds_stay_within_their_budget(runs, monkeypatch):
  ready = open_retrieval(read_run(runs[0]))
  clouds = gallery.Clouds()
  assert [clouds.number(ready, shape) for shape in (4, 2, 4)] == [0, 1, 0]
  content = base64.b64decode(clouds.encode()[0])
  assert len(content) == 300 * gallery.POINT_BYTES
  record = ready.source[4]
  xyz = np.frombuffer(content[: 300 * 6], "<i2").reshape(-1, 3) / 32767
  true = record["xyz"].astype(float)
  true -= (true.min(axis=0) + true.max(axis=0)) / 2
  true /= np.linalg.norm(true, axis=1).max()
  np.testing.assert_allclose(xyz, true, atol=1e-4)
  rgb = np.frombuffer(content[300 * 6 :], np.uint8).reshape(-1, 3)
  np.testing.assert_array_equal(rgb, record["rgb"])
  monkeypatch.setattr(gallery, "MOST_BYTES", 900)
  assert sum(len(base64.b64decode(c)) for c in clouds.encode()) == 900


def test_map_is_the_same_every_time_and_keeps_neighbours():
  rng = np.random.default_rng(0)
  centres = np.eye(3, 8)[np.arange(60) % 3]
  points = (centres + 0.02 * rng.normal(size=(60, 8))).astype(np.float32)
  placed = embedding_map.flat_map(points)
  np.testing.assert_array_equal(placed, embedding_map.flat_map(points))
  assert (placed >= 0).all() and (placed <= [640, 480]).all()
  distance = np.linalg.norm(placed[:, None] - placed[None], axis=-1)
  np.fill_diagonal(distance, np.inf)
  assert (distance.argmin(axis=1) % 3 == np.arange(60) % 3).all()


def test_confusion_refuses_a_dataset_that_does_not_fit(runs, tmp_path):
  run = read_run(runs[0])
  assert run.meta
  meta = dataclasses.replace(run.meta, class_names={"val": ["one"]})
  with pytest.raises(BadInput, match="names 1 classes and has features of 54"):
    confusion.confusion_block("x", dataclasses.replace(run, meta=meta), "val")
  copy = shutil.copytree(runs[0], tmp_path / "run")
  narrow = np.ones((SHAPES, DIM - 1))
  change_embeddings(copy, point=narrow, image=narrow, text=narrow)
  with pytest.raises(BadInput, match="of another width"):
    confusion.confusion_block("x", read_run(copy), "val")
  change_embeddings(copy, label=np.full(SHAPES, -1))
  with pytest.raises(BadInput, match="0 labelled shapes"):
    embedding_map.map_block("x", read_run(copy), "val")


def test_an_unfinished_run_is_never_the_best(runs, data, tmp_path):
  better = make_run(tmp_path / "better", data)
  (better / "results.json").unlink()
  metrics = better / "metrics.jsonl"
  lines = metrics.read_text()
  metrics.write_text(lines.replace('"val/top1": 0.08', '"val/top1": 0.99'))
  folders = {"a": runs[0], "b": runs[1], "c": better}
  accuracy, *_ = run_results({k: read_run(x) for k, x in folders.items()})
  assert 'title="0.99"' in accuracy
  assert re.findall(
    r'class="best"[^>]*data-metric="val/top1"[^>]*title="([^"]*)', accuracy
  ) == ["0.18123"]
  assert "unfinished: the evaluation of step 80" in accuracy


def test_results_of_another_form(runs, tmp_path):
  run = shutil.copytree(runs[0], tmp_path / "run")
  path = run / "results.json"
  results = json.loads(path.read_text())
  for changes in (
    {"chance_top1": 0.1},
    {"metrics": 1},
    {"best_test_epoch": {}},
    {"best_test_epoch": {"metrics": {}}},
  ):
    path.write_text(json.dumps(results | changes))
    with pytest.raises(BadInput, match="in another form than training writes"):
      read_run(run)
  for text in ("[]", "{}"):
    path.write_text(text)
    with pytest.raises(BadInput, match="has no metrics, or is in another form"):
      read_run(run)


def test_unfinished_run_without_data(runs, tmp_path, capsys):
  run = shutil.copytree(runs[0], tmp_path / "run")
  (run / "results.json").unlink()
  shutil.rmtree(run / "embeddings")
  config = json.loads((run / "config.json").read_text())
  config["data"]["dir"] = "gone"
  (run / "config.json").write_text(json.dumps(config))
  assert main([str(run)]) == 0
  output = capsys.readouterr()
  assert output.out.split()[-1] == str(run / "report.html")
  text = " ".join(Elements((run / "report.html").read_text()).texts)
  for phrase in ("no results.json", "gone cannot be read", "does not exist"):
    assert phrase in text and phrase in output.err
  assert "8.0" in text  # top-1 of the last evaluation
  # With a config and nothing else there is still the configuration.
  (run / "metrics.jsonl").unlink()
  assert main([str(run)]) == 0
  error = capsys.readouterr().err
  assert re.search("nothing to draw.*metrics.jsonl is empty", error)
  assert "data.made_from" in (run / "report.html").read_text()


def test_refuses_what_is_no_run(runs, tmp_path, capsys):
  assert main([str(runs[0]), str(tmp_path)]) == 2
  error = capsys.readouterr().err
  assert "config.json does not exist" in error and error.count("\n") == 1
  assert main([str(runs[0]), str(runs[0])]) == 2
  assert "named twice" in capsys.readouterr().err
  missing = tmp_path / "no" / "page.html"
  assert main([*map(str, runs), "--output", str(missing)]) == 2
  assert "cannot be written" in capsys.readouterr().err
  (tmp_path / "results.json").write_text('{"kind": "evaluation", "rows": [1]}')
  assert main([str(tmp_path)]) == 2
  assert "not what mrd_jax.evaluate writes" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    (
      "metrics.jsonl",
      '{"step": 1, "kind": "train", "loss": "low"}',
      "line 1: has",
    ),
    ("metrics.jsonl", '{"kind": "train"}', "line 1: has no step"),
    (
      "metrics.jsonl",
      '{"kind": "train", "step": 1, "loss": ' + 30 * "9" + "}",
      "line 1: has .* a metric that is no number",
    ),
    ("metrics.jsonl", '{"step": 1, "kind": []}', "line 1: has"),
    ("config.json", '{"data": {"dir": 3}}', "no data.dir"),
    ("config.json", '{"data": {"dir": "a"}, "eval": []}', "no data.dir"),
    (
      "config.json",
      '{"data": {"dir": "a"}, "eval": {"zero_shot": [{}]}}',
      "no data.dir",
    ),
    ("results.json", '{"metrics": {"val/top1": null}}', "in another form"),
    ("results.json", '{"metrics": {}, "selected_by": 1}', "in another form"),
    ("results.json", '{"metrics": {}, "step": "a"}', "in another form"),
    (
      "results.json",
      '{"kind": "evaluation", "rows": [{"name": "a", "suites": '
      '{"lvis": {"metrics": {"top1": "x"}}}}]}',
      "not what mrd_jax.evaluate writes",
    ),
    (
      "results.json",
      '{"kind": "evaluation", "rows": [{"name": "a", "step": "", "suites": {}}]}',
      "not what mrd_jax.evaluate writes",
    ),
    (
      "results.json",
      '{"kind": "evaluation", "rows": [], "published": {"lvis": [1]}}',
      "not what mrd_jax.evaluate writes",
    ),
  ],
)
def test_files_of_another_form(data, tmp_path, name, content, message):
  run = make_run(tmp_path / "run", data)
  (run / name).write_text(content)
  with pytest.raises(BadInput, match=f"{name}.*{message}"):
    read_folder(run)


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


def test_data_without_images(data, tmp_path):
  run = make_run(tmp_path / "run", data)
  change_embeddings(run, has_image=np.zeros(SHAPES, bool))
  missing = write_page([read_run(run)], tmp_path / "a.html")
  assert [s for s in missing if "hold no image features" in s]
  text = (tmp_path / "a.html").read_text()
  assert "Text to shape" in text and "Image to shape," not in text
  write_page([read_run(run)], tmp_path / "b.html")
  assert (tmp_path / "b.html").read_text() == text
