"""The verb `evaluate`: suites, options, rows of several commands."""

import csv
import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from runs import REPOSITORY, on_devices, pretrained_config

from mrd_jax.data import dataset
from mrd_jax.encoder import load_encoder
from mrd_jax.evaluate.__main__ import main
from mrd_jax.io.files import read_json, read_json_lines
from mrd_jax.metrics.zero_shot import zero_shot
from mrd_jax.teachers.clip import ClipTeacher
from mrd_jax.teachers.prompts import class_features, read_templates
from mrd_jax.training import set_up

SUITES = "zero_shot,retrieval,relation_gap"


@pytest.fixture(scope="module", autouse=True)
def two_devices():
  with on_devices(2):
    yield


def run(checkpoint, data_dir, output, *options) -> int:
  paths = ("--checkpoint", checkpoint, "--data", data_dir, "--output", output)
  return main([str(x) for x in (*paths, *options)])


def evaluate(*command, suites=SUITES) -> dict:
  assert run(*command, "--suite", suites) == 0
  return read_json(command[2] / "results.json")


@pytest.fixture(scope="module")
def first(pretrained, data_dir, tmp_path_factory) -> Path:
  """The output of a command; to be read, or copied and added to."""
  output = tmp_path_factory.mktemp("first")
  evaluate(
    pretrained,
    data_dir,
    output,
    *("--split", "linear_probe=train,train", "--split", "few_shot=train"),
    *("--shots", "1", "--repeats", "2", "--regularisation", "1000"),
    suites=f"{SUITES},linear_probe,few_shot",
  )
  return output


def suites_of(output: Path) -> dict:
  return read_json(output / "results.json")["rows"][0]["suites"]


def best_step(run: Path) -> tuple[int, float]:
  """The last of the steps with the best val/top5, and this score."""
  scores = [
    (line["val/top5"], line["step"])
    for line in read_json_lines(run / "metrics.jsonl")
    if line["kind"] == "eval" and line["step"]
  ]
  score, step = max(scores)
  return step, score


def metrics_of(found: dict, row: int = 0) -> dict[str, dict[str, float]]:
  return {
    suite: values["metrics"]
    for suite, values in found["rows"][row]["suites"].items()
  }


def test_gives_the_figures_of_the_run(pretrained, first):
  own = read_json(pretrained / "results.json")
  assert (own["checkpoint"], own["selected_by"]) == ("last", None)
  assert own["shapes"] == {"val": 54}
  found = suites_of(first)
  together = {}
  for suite in SUITES.split(","):
    together |= found[suite]["metrics"]
  assert {f"val/{name}": x for name, x in together.items()} == own["metrics"]
  (row,) = read_json(first / "results.json")["rows"]
  assert (row["name"], row["step"], row["rule"]) == ("pretrained", 12, "last")
  assert row["selected_by"] is None
  assert "selected on" not in (first / "results.md").read_text()
  assert found["zero_shot"]["protocol"]["shapes"] == 54


@pytest.mark.parametrize(("batch", "devices"), [(7, 2), (19, 1)])
def test_any_batch_size_and_one_device_give_the_same_figures(
  pretrained, data_dir, first, tmp_path, batch, devices
):
  with on_devices(devices):
    other = evaluate(pretrained, data_dir, tmp_path, "--batch-size", batch)
  found, expected = metrics_of(other), suites_of(first)
  for suite in ("zero_shot", "retrieval"):
    assert found[suite] == expected[suite]["metrics"]
  assert found["relation_gap"] == pytest.approx(
    expected["relation_gap"]["metrics"], rel=1e-5
  )


def test_per_class_table_and_confusion_matrix(data_dir, first):
  suite = suites_of(first)["zero_shot"]
  names = dataset.read_meta(data_dir).class_names["val"]
  rows = suite["per_class"]
  assert [row["name"] for row in rows] == list(names)
  weighted = sum(row["count"] * row["top1"] for row in rows)
  assert weighted / 54 == pytest.approx(suite["metrics"]["top1"])
  path = first / "pretrained" / "confusion_zero_shot.csv"
  with path.open() as file:
    header, *lines = csv.reader(file)
  assert header[1:] == [line[0] for line in lines] == list(names)
  matrix = np.array([line[1:] for line in lines], int)
  assert matrix.sum() == 54
  assert np.trace(matrix) == round(54 * suite["metrics"]["top1"])


def test_probes(first):
  suites = suites_of(first)
  # Tested on what it was fitted on, with hardly a penalty; chance is 1/54.
  assert suites["linear_probe"]["metrics"]["top1"] > 0.3
  assert suites["linear_probe"]["protocol"]["train_shapes"] == 108
  assert suites["linear_probe"]["protocol"]["C"] == 1000
  few = suites["few_shot"]
  assert few["protocol"]["repeats"] == 2
  assert 0 <= few["metrics"]["1_shot_top1"] <= 1
  assert few["metrics"]["1_shot_top1_std"] >= 0
  assert few["protocol"]["1_shot_classes"] > 2
  assert "±" in (first / "results.md").read_text()


def test_later_commands_add_rows_and_suites(
  pretrained, data_dir, first, tmp_path
):
  """Also of converted files, as OpenShape's, which become model folders."""
  output = tmp_path / "out"
  shutil.copytree(first, output)
  exported = tmp_path / "openshape"
  load_encoder(pretrained).save_pretrained(exported)
  more = ("--checkpoint", exported / "model.safetensors")
  found = evaluate(exported, data_dir, output, *more, suites="zero_shot")
  names = ("pretrained", "openshape", "model")
  assert tuple(row["name"] for row in found["rows"]) == names
  figures = metrics_of(found)["zero_shot"]
  assert metrics_of(found, 1) == metrics_of(found, 2) == {"zero_shot": figures}
  assert found["rows"][1]["rule"] == "last"  # of the run it was exported from
  table = (output / "results.md").read_text()
  for name in names:
    assert re.search(rf"^\| {name} ", table, re.M)
  before = list(found["rows"][0]["suites"])
  command = (pretrained, data_dir, output, "--split", "retrieval=train")
  found = evaluate(*command, suites="retrieval")
  assert list(found["rows"][0]["suites"]) == before and len(found["rows"]) == 3
  assert found["rows"][0]["suites"]["retrieval"]["split"] == "train"
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "results.json").write_text("{}")
  command = (pretrained, data_dir, tmp_path / "other")
  assert run(*command, "--suite", "zero_shot") == 2
  assert (tmp_path / "other" / "results.json").read_text() == "{}"


def test_the_best_checkpoint_is_said_to_be_selected(
  pretrained, data_dir, tmp_path
):
  """Of a run, and of a model that was exported from it."""
  shutil.copytree(pretrained, tmp_path / "run")
  (tmp_path / "run" / "results.json").unlink()  # of the last step
  load_encoder(tmp_path / "run", "best").save_pretrained(tmp_path / "model")
  more = ("--which", "best", "--checkpoint", tmp_path / "model")
  found = evaluate(pretrained, data_dir, tmp_path / "out", *more)
  for row in found["rows"]:
    assert (row["rule"], row["selected_by"]) == ("best", "val/top5")
    assert row["step"] == best_step(pretrained)[0]
  table = (tmp_path / "out" / "results.md").read_text()
  assert table.count("best val/top5: these figures were selected on") == 6


def test_a_run_can_report_its_best_checkpoint(pretrained, data_dir, tmp_path):
  """checkpoint.rule = "best": results are of that step, and say so."""
  shutil.copytree(pretrained, tmp_path / "run")
  (tmp_path / "run" / "results.json").unlink()
  config = pretrained_config(data_dir)
  rule = dataclasses.replace(config.checkpoint, rule="best")
  set_up.train(dataclasses.replace(config, checkpoint=rule), tmp_path / "run")
  own = read_json(tmp_path / "run" / "results.json")
  assert (own["checkpoint"], own["selected_by"]) == ("best", "val/top5")
  step, score = best_step(pretrained)
  assert (own["step"], own["metrics"]["val/top5"]) == (step, score)


def test_class_names_and_captions_by_a_teacher(
  pretrained, tmp_path, data_dir, monkeypatch
):
  """Prompts instead of the stored features; captions instead of the texts."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  data = tmp_path / "data"
  shutil.copytree(data_dir, data)
  ids = [record["id"] for record in dataset.open_split(data, "val")]
  with (data / "captions_val.csv").open("w", newline="") as file:
    csv.writer(file).writerows(
      (uid, f"a red chair {i}") for i, uid in enumerate(ids[:40])
    )
  short = {"num_hidden_layers": 1, "max_position_embeddings": 16}
  clip = make_clip(tmp_path / "clip", embed_dim=32, text=short)
  templates = tmp_path / "t.txt"
  templates.write_text("a photo of {}\na render of the {}\n")
  command = (pretrained, data, tmp_path / "out", "--teacher", clip)
  options = ("--templates", templates, "--captions")
  found = evaluate(*command, *options, suites="zero_shot,retrieval")
  suites = found["rows"][0]["suites"]
  teacher = ClipTeacher.from_pretrained(clip, dtype="float32")
  names = dataset.read_meta(data).class_names["val"]
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
  class_CD = class_features(teacher, names, read_templates(templates))
  with np.load(pretrained / "embeddings" / "val.npz") as arrays:
    point_ND, label_N = arrays["point"], arrays["label"]
  expected = zero_shot(point_ND, label_N, class_CD)
  assert suites["zero_shot"]["metrics"] == expected
  assert "2 templates" in suites["zero_shot"]["protocol"]["texts"]
  protocol = suites["retrieval"]["protocol"]
  assert "2 templates" in protocol["texts"]
  assert "40 of 54 shapes (74.1%)" in protocol["captions"]
  assert protocol["with_text"] == 40


def test_points_and_colours_reach_the_encoder(
  pretrained, data_dir, first, tmp_path
):
  gaps = [suites_of(first)["relation_gap"]["metrics"]["gap_p2p_i2i"]]
  for option, value in (("--colour", 0.4), ("--points", 300)):
    command = (pretrained, data_dir, tmp_path / option, option, value)
    found = evaluate(*command, suites="relation_gap")
    gaps.append(metrics_of(found)["relation_gap"]["gap_p2p_i2i"])
  assert len(set(gaps)) == 3
  protocol = found["rows"][0]["suites"]["relation_gap"]["protocol"]
  assert (protocol["points"], protocol["colour"]) == (300, None)


@pytest.mark.slow
def test_fine_tuning_is_a_suite(
  finetuning, encoder_dir, labelled_dir, tmp_path, monkeypatch
):
  monkeypatch.setattr("mrd_jax.finetune.train.set_up", lambda _: finetuning)
  recipe = REPOSITORY / "configs/finetune/debug.py"
  command = (encoder_dir, labelled_dir, tmp_path, "--finetune", recipe)
  option = f"--config.data.dir={labelled_dir}"
  found = evaluate(*command, option, suites="finetune")
  suite = found["rows"][0]["suites"]["finetune debug"]
  own = read_json(tmp_path / "model/finetune_debug/results.json")
  assert suite["metrics"]["top1"] == own["metrics"]["test/top1"]
  assert suite["protocol"]["from_step"] == 7
  assert suite["protocol"]["shapes"] == 27
  # Repeated, it is finished.
  assert evaluate(*command, option, suites="finetune") == found


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--suite", "modelnet"), "modelnet40, scanobjectnn"),
    (("--suite", "modelnet40"), "--split modelnet40=NAME"),
    (("--suite", "zero_shot", "--split", "zero_shot=x"), "has the split x"),
    (("--suite", "zero_shot,finetune"), "--finetune FILE"),
    (("--suite", "zero_shot", "--config.seed=1"), "--config.seed=1"),
    (("--suite", "zero_shot", "--split", "retrieval=val"), "retrieval"),
    (("--suite", "linear_probe", "--split", "linear_probe=val"), "TRAIN,TEST"),
    (("--suite", "retrieval", "--captions"), "--teacher"),
    (("--suite", "zero_shot", "--data", "nowhere"), "nowhere"),
    (("--suite", "zero_shot", "--checkpoint", "nowhere"), "nowhere"),
  ],
)
def test_bad_input_is_one_sentence(
  pretrained, data_dir, tmp_path, capsys, options, message
):
  assert run(pretrained, data_dir, tmp_path, *options) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1, error


def test_a_split_without_classes_is_refused(
  pretrained, data_dir, tmp_path, capsys, monkeypatch
):
  meta = dataclasses.replace(dataset.read_meta(data_dir), class_names={})
  monkeypatch.setattr(dataset, "read_meta", lambda path: meta)
  assert run(pretrained, data_dir, tmp_path, "--suite", "zero_shot") == 2
  assert "val have no classes" in capsys.readouterr().err


def test_a_teacher_of_another_width_is_refused(
  pretrained, data_dir, tmp_path, capsys
):
  clip = make_clip(tmp_path / "clip", embed_dim=16)
  options = ("--suite", "zero_shot", "--teacher", clip)
  assert run(pretrained, data_dir, tmp_path / "o", *options) == 2
  assert "width 32" in (error := capsys.readouterr().err) and "16" in error


@pytest.mark.parametrize(
  "option", ["--colour=2", "--colour=x", "--points=0", "--shots=0",
             "--split=a", "--regularisation=0"]
)  # fmt: skip
def test_bad_options_are_refused(tmp_path, option):
  with pytest.raises(SystemExit) as stopped:
    main(
      ["--checkpoint=a", "--data=b", "--suite=zero_shot", "--output=c", option]
    )
  assert stopped.value.code == 2
