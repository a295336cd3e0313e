"""The verb `evaluate`: suites, protocols, tables."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from runs import REPOSITORY

from configs import debug
from mrd_jax.config.pretraining import from_config_dict
from mrd_jax.data import dataset
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.evaluate import results
from mrd_jax.evaluate.__main__ import main
from mrd_jax.evaluate.protocol import Protocol, ProtocolSource
from mrd_jax.io.files import read_json_lines
from mrd_jax.metrics.embeddings import unit
from mrd_jax.metrics.zero_shot import zero_shot
from mrd_jax.prepare import procedural
from mrd_jax.teachers.clip import ClipTeacher
from mrd_jax.teachers.prompts import class_features, read_templates
from mrd_jax.training import set_up

SUITES = "zero_shot,retrieval,relation_gap"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
  path = tmp_path_factory.mktemp("data") / "procedural"
  procedural.generate(
    path, train=96, val=108, num_points=160, num_views=2, embed_dim=24
  )
  return path


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> Path:
  """A short run whose best checkpoint need not be its last."""
  config = debug.get_config()
  config.data.dir = str(data_dir)
  config.train.steps = 12
  config.checkpoint.update(every_steps=4, best_metric="val/top5")
  config.eval.update(every_steps=4, relation_gap=("val",))
  workdir = tmp_path_factory.mktemp("runs") / "mine"
  set_up.train(from_config_dict(config), workdir)
  return workdir


def evaluate(run, data_dir, output, *options, suites=SUITES) -> dict:
  code = main(
    ["--checkpoint", str(run), "--data", str(data_dir), "--suite", suites]
    + ["--output", str(output), *map(str, options)]
  )
  assert code == 0
  return json.loads((output / "results.json").read_text())


def metrics_of(found: dict, row: int = 0) -> dict[str, dict[str, float]]:
  return {
    suite: values["metrics"]
    for suite, values in found["rows"][row]["suites"].items()
  }


def test_gives_the_figures_of_the_run(run, data_dir, tmp_path):
  own = json.loads((run / "results.json").read_text())
  assert (own["checkpoint"], own["selected_by"]) == ("last", None)
  assert own["shapes"] == {"val": 108}
  found = evaluate(run, data_dir, tmp_path)
  suites = metrics_of(found)
  together = suites["zero_shot"] | suites["retrieval"] | suites["relation_gap"]
  assert {f"val/{name}": x for name, x in together.items()} == own["metrics"]
  row = found["rows"][0]
  assert (row["name"], row["step"], row["rule"]) == ("mine", 12, "last")
  assert row["suites"]["zero_shot"]["protocol"]["shapes"] == 108


def test_any_batch_size_and_one_device_give_the_same_figures(
  run, data_dir, tmp_path
):
  first = metrics_of(evaluate(run, data_dir, tmp_path / "a"))
  other = evaluate(run, data_dir, tmp_path / "b", "--batch-size", 19)
  command = [
    *(sys.executable, "-m", "mrd_jax.evaluate", "--checkpoint", str(run)),
    *("--data", str(data_dir), "--suite", SUITES, "--batch-size", "7"),
    *("--output", str(tmp_path / "c")),
  ]
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
  }
  subprocess.run(
    command, cwd=REPOSITORY, env=environment, check=True, capture_output=True
  )
  alone = json.loads((tmp_path / "c" / "results.json").read_text())
  for found in (metrics_of(other), metrics_of(alone)):
    for suite in ("zero_shot", "retrieval"):
      assert found[suite] == first[suite]
    for name, gap in first["relation_gap"].items():
      assert found["relation_gap"][name] == pytest.approx(gap, rel=1e-5)


def test_a_converted_file_stands_in_the_same_table(run, data_dir, tmp_path):
  """As OpenShape's do, which `convert from-torch` makes such folders of."""
  load_encoder(run).save_pretrained(tmp_path / "openshape")
  found = evaluate(
    run,
    data_dir,
    tmp_path / "out",
    *("--checkpoint", tmp_path / "openshape"),
    *("--checkpoint", tmp_path / "openshape" / "model.safetensors"),
  )
  assert [row["name"] for row in found["rows"]] == [
    "mine", "openshape", "model"
  ]  # fmt: skip
  assert metrics_of(found, 0) == metrics_of(found, 1) == metrics_of(found, 2)
  assert found["rows"][1]["rule"] == "last"  # of the run it was exported from
  table = (tmp_path / "out" / "results.md").read_text()
  for name in ("mine", "openshape", "model"):
    assert len(re.findall(rf"^\| {name} ", table, re.M)) >= 4


def test_per_class_table_and_confusion_matrix(run, data_dir, tmp_path):
  found = evaluate(run, data_dir, tmp_path, suites="zero_shot")
  suite = found["rows"][0]["suites"]["zero_shot"]
  names = dataset.read_meta(data_dir).class_names["val"]
  rows = suite["per_class"]
  assert [row["name"] for row in rows] == list(names)
  weighted = sum(row["count"] * row["top1"] for row in rows)
  assert weighted / 108 == pytest.approx(suite["metrics"]["top1"])
  with (tmp_path / "mine" / "confusion_zero_shot.csv").open() as file:
    header, *lines = csv.reader(file)
  assert header[1:] == [line[0] for line in lines] == list(names)
  matrix = np.array([line[1:] for line in lines], int)
  assert matrix.sum() == 108
  assert np.trace(matrix) == round(108 * suite["metrics"]["top1"])


def test_the_best_checkpoint_is_said_to_be_selected(run, data_dir, tmp_path):
  found = evaluate(run, data_dir, tmp_path, "--which", "best")
  row = found["rows"][0]
  assert (row["rule"], row["selected_by"]) == ("best", "val/top5")
  table = (tmp_path / "results.md").read_text()
  assert table.count("best val/top5: these figures were selected on") == 3
  plain = evaluate(run, data_dir, tmp_path / "last")
  assert plain["rows"][0]["selected_by"] is None
  assert "selected on" not in (tmp_path / "last" / "results.md").read_text()


def test_a_run_can_report_its_best_checkpoint(run, data_dir, tmp_path):
  """checkpoint.rule = "best": results are of that step, and say so."""
  shutil.copytree(run, tmp_path / "run")
  (tmp_path / "run" / "results.json").unlink()
  values = json.loads((run / "config.json").read_text())
  config = debug.get_config()
  for section, fields in values.items():
    if isinstance(fields, dict):
      config[section].update(fields)
  config.checkpoint.rule = "best"
  set_up.train(from_config_dict(config), tmp_path / "run")
  own = json.loads((tmp_path / "run" / "results.json").read_text())
  assert (own["checkpoint"], own["selected_by"]) == ("best", "val/top5")
  scores = {
    line["step"]: line["val/top5"]
    for line in read_json_lines(run / "metrics.jsonl")
    if line["kind"] == "eval" and line["step"]
  }
  best = max(scores.values())
  assert own["step"] == max(step for step, x in scores.items() if x == best)
  assert own["metrics"]["val/top5"] == best
  found = evaluate(tmp_path / "run", data_dir, tmp_path / "o", "--which=best")
  assert metrics_of(found)["zero_shot"]["top5"] == best


def test_probes(run, data_dir, tmp_path):
  found = evaluate(
    run,
    data_dir,
    tmp_path,
    *("--split", "linear_probe=val,val", "--split", "few_shot=val"),
    *("--shots", "1", "--repeats", "2", "--regularisation", "1000"),
    suites="linear_probe,few_shot",
  )
  suites = found["rows"][0]["suites"]
  # Tested on what it was fitted on, with hardly a penalty; chance is 1/54.
  assert suites["linear_probe"]["metrics"]["top1"] > 0.3
  assert suites["linear_probe"]["protocol"]["train_shapes"] == 108
  assert suites["linear_probe"]["protocol"]["C"] == 1000
  few = suites["few_shot"]
  assert few["protocol"]["repeats"] == 2
  assert 0 <= few["metrics"]["1_shot_top1"] <= 1
  assert few["metrics"]["1_shot_top1_std"] >= 0
  assert "±" in (tmp_path / "results.md").read_text()


def test_class_names_and_captions_by_a_teacher(run, tmp_path, data_dir):
  """Prompts instead of the stored features; captions instead of the texts."""
  data = tmp_path / "data"
  shutil.copytree(data_dir, data)
  ids = [record["id"] for record in dataset.open_split(data, "val")]
  with (data / "captions_val.csv").open("w", newline="") as file:
    csv.writer(file).writerows(
      (uid, f"a red chair {i}") for i, uid in enumerate(ids[:40])
    )
  clip = make_clip(tmp_path / "clip", embed_dim=24)
  templates = tmp_path / "t.txt"
  templates.write_text("a photo of {}\na render of the {}\n")
  found = evaluate(
    run,
    data,
    tmp_path / "out",
    *("--teacher", clip, "--templates", templates, "--captions"),
    suites="zero_shot,retrieval",
  )
  suites = found["rows"][0]["suites"]
  teacher = ClipTeacher.from_pretrained(clip, dtype="float32")
  names = dataset.read_meta(data).class_names["val"]
  class_CD = class_features(
    teacher, names, read_templates(templates), cache_dir=tmp_path / "cache"
  )
  with np.load(run / "embeddings" / "val.npz") as arrays:
    point_ND, label_N = arrays["point"].astype(np.float32), arrays["label"]
  expected = zero_shot(unit(point_ND), label_N, class_CD)
  for name, value in expected.items():  # float16 on disk moves no more
    assert suites["zero_shot"]["metrics"][name] == pytest.approx(
      value, abs=0.04
    )
  assert "2 templates" in suites["zero_shot"]["protocol"]["texts"]
  texts = suites["retrieval"]["protocol"]["texts"]
  assert "2 templates" in texts
  captions = suites["retrieval"]["protocol"]["captions"]
  assert "40 of 108 shapes (37.0%)" in captions
  assert suites["retrieval"]["protocol"]["with_text"] == 40


def test_a_protocol_changes_the_clouds_and_nothing_else(data_dir):
  source = dataset.open_split(data_dir, "val")
  plain = source[3]
  points = len(plain["xyz"])
  more = ProtocolSource(source, Protocol(points=500, colour=0.4), seed=0)
  found = more[3]
  assert len(more) == len(source)
  assert found["xyz"].shape == found["rgb"].shape == (500, 3)
  assert (found["rgb"] == 102).all()  # .4 of 255
  stored = {tuple(p) for p in plain["xyz"].tolist()}
  drawn = [tuple(p) for p in found["xyz"].tolist()]
  assert set(drawn) <= stored and len(set(drawn)) < 500
  # Of a uniform draw with replacement, (1 - 1/n)^500 are never seen.
  unseen = 1 - len(set(drawn)) / len(stored)
  assert unseen == pytest.approx((1 - 1 / points) ** 500, abs=0.06)
  assert (more[3]["xyz"] == found["xyz"]).all()
  other = ProtocolSource(source, Protocol(points=500), seed=1)[3]
  assert (other["xyz"] != found["xyz"]).any()
  # ModelNet40's grey, 100 of 255, and fewer points than are stored.
  less = ProtocolSource(source, Protocol(points=9, colour=0.392), seed=0)[3]
  assert (less["rgb"] == 100).all() and len(less["xyz"]) == points
  assert {k for k in plain if not np.array_equal(plain[k], less[k])} <= {"rgb"}


def test_points_and_colours_reach_the_encoder(run, data_dir, tmp_path):
  first = evaluate(run, data_dir, tmp_path / "a", suites="relation_gap")
  grey = evaluate(
    run, data_dir, tmp_path / "b", "--colour", 0.4, suites="relation_gap"
  )
  more = evaluate(
    run, data_dir, tmp_path / "c", "--points", 300, suites="relation_gap"
  )
  gaps = [
    metrics_of(x)["relation_gap"]["gap_p2p_i2i"] for x in (first, grey, more)
  ]
  assert len(set(gaps)) == 3
  protocol = more["rows"][0]["suites"]["relation_gap"]["protocol"]
  assert (protocol["points"], protocol["colour"]) == (300, None)


def made_up(shapes: int, suite: str = "modelnet40", metric: str = "top1"):
  return {
    "name": "ours",
    "selected_by": None,
    "suites": {
      suite: {
        "split": "s",
        "data": "d",
        "protocol": {"shapes": shapes},
        "metrics": {metric: 0.5},
      }
    },
  }


def test_published_rows_stand_beside_the_papers_test_set_only():
  table = results.tabulate([made_up(2_468)])
  assert re.search(r"\| ours +\| +50\.0 \|", table)
  assert re.search(r"MRD-L, ensembled \(published\) +\| +87\.3 \|", table)
  assert "comparable" not in table
  table = results.tabulate([made_up(1_000)])
  assert "published" not in table
  assert "the paper's figures are of 2,468 shapes: another test set" in table
  row = made_up(46_205, "retrieval", "text_to_shape_category_r5")
  assert "published" not in results.tabulate([row])  # its texts are others
  row["suites"]["retrieval"]["protocol"]["captions"] = "all of them"
  table = results.tabulate([row])
  assert re.search(r"text→3D +\| category R@5", table)
  assert re.search(r"MRD-B, ensembled \(published\) +\| +84\.8", table)
  table = results.tabulate([made_up(52_470, "relation_gap", "gap_p2t_i2t")])
  assert re.search(r"Base, ShapeNet \(published\) +\| +0\.21", table)


def test_names_of_rows_differ():
  paths = ["a/m", "b/m", "c/m.safetensors", "runs/x y/"]
  assert results.short_names(paths, []) == ["m", "m-2", "m-3", "x_y"]
  earlier = [{"checkpoint": "b/m", "name": "m"}]
  assert results.short_names(paths, earlier) == ["m-2", "m", "m-3", "x_y"]


def test_a_second_command_adds_to_the_first(run, data_dir, tmp_path):
  evaluate(run, data_dir, tmp_path, suites="zero_shot")
  load_encoder(run).save_pretrained(tmp_path / "model")
  found = evaluate(tmp_path / "model", data_dir, tmp_path, suites="retrieval")
  assert [list(row["suites"]) for row in found["rows"]] == [
    ["zero_shot"], ["retrieval"]
  ]  # fmt: skip
  found = evaluate(run, data_dir, tmp_path, suites="relation_gap")
  assert list(found["rows"][0]["suites"]) == ["zero_shot", "relation_gap"]
  assert len(found["rows"]) == 2
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "results.json").write_text("{}")
  code = main(
    ["--checkpoint", str(run), "--data", str(data_dir), "--suite", "zero_shot"]
    + ["--output", str(tmp_path / "other")]
  )
  assert code == 2
  assert (tmp_path / "other" / "results.json").read_text() == "{}"


def test_an_exported_best_checkpoint_still_says_so(run, data_dir, tmp_path):
  shutil.copytree(run, tmp_path / "run")
  (tmp_path / "run" / "results.json").unlink()  # of the last step
  load_encoder(tmp_path / "run", "best").save_pretrained(tmp_path / "model")
  found = evaluate(
    tmp_path / "model", data_dir, tmp_path / "o", suites="zero_shot"
  )
  row = found["rows"][0]
  assert (row["rule"], row["selected_by"]) == ("best", "val/top5")
  assert "selected on" in (tmp_path / "o" / "results.md").read_text()


def test_fine_tuning_is_a_suite(run, data_dir, tmp_path):
  options = (
    *("--finetune", REPOSITORY / "configs/finetune/debug.py"),
    f"--config.data.dir={data_dir}",
    "--config.train.epochs=1.0",
    "--config.optimizer.warmup_epochs=0.5",
  )
  found = evaluate(run, data_dir, tmp_path, *options, suites="finetune")
  suite = found["rows"][0]["suites"]["finetune debug"]
  own = tmp_path / "mine" / "finetune_debug" / "results.json"
  assert (
    suite["metrics"]["top1"]
    == (json.loads(own.read_text())["metrics"]["test/top1"])
  )
  assert suite["protocol"]["from_step"] == 12
  assert suite["protocol"]["shapes"] == 108
  # Repeated, it is finished.
  again = evaluate(run, data_dir, tmp_path, *options, suites="finetune")
  assert again == found


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
  run, data_dir, tmp_path, capsys, options, message
):
  arguments = ["--checkpoint", str(run), "--data", str(data_dir)]
  code = main([*arguments, "--output", str(tmp_path), *options])
  assert code == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1, error


def test_a_split_without_classes_is_refused(
  run, data_dir, tmp_path, capsys, monkeypatch
):
  meta = dataclasses.replace(dataset.read_meta(data_dir), class_names={})
  monkeypatch.setattr(dataset, "read_meta", lambda path: meta)
  code = main(
    ["--checkpoint", str(run), "--data", str(data_dir), "--suite", "zero_shot"]
    + ["--output", str(tmp_path)]
  )
  assert code == 2
  assert "val have no classes" in capsys.readouterr().err


def test_a_teacher_of_another_width_is_refused(run, data_dir, tmp_path, capsys):
  clip = make_clip(tmp_path / "clip", embed_dim=16)
  code = main(
    ["--checkpoint", str(run), "--data", str(data_dir), "--suite", "zero_shot"]
    + ["--output", str(tmp_path / "o"), "--teacher", str(clip)]
  )
  assert code == 2
  assert "width 24" in (error := capsys.readouterr().err) and "16" in error


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
