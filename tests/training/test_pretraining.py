"""Pre-training: what a run leaves, what is evaluated, what is refused."""

import json
import shutil

import numpy as np
import pytest
import runs
from runs import last_state, losses

from mrd_jax.data import dataset
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json_lines
from mrd_jax.prepare import procedural
from mrd_jax.training import set_up


def scores_by_step(workdir) -> dict[int, float]:
  """The metric that decides which checkpoint is best, where one was saved."""
  return {
    line["step"]: line["val/top5"]
    for line in read_json_lines(workdir / "metrics.jsonl")
    if line["kind"] == "eval" and line["step"] > 0
  }


def test_what_a_run_leaves(pretrained, traces):
  assert {path.name for path in pretrained.iterdir()} == {
    *("config.json", "data.json", "metrics.jsonl", "results.json"),
    *("tensorboard", "checkpoints", "embeddings"),
  }
  results = json.loads((pretrained / "results.json").read_text())
  assert results["step"] == 12
  assert results["chance_top1"] == {"val": 1 / 54}
  assert {"val/top1", "val/top5", "val/text_to_shape_r1"} <= results[
    "metrics"
  ].keys()
  assert runs.evaluated(pretrained) == [0, 4, 8, 12]
  assert list(losses(pretrained)) == list(range(1, 13))
  last = read_json_lines(pretrained / "metrics.jsonl")[-1]
  assert {k: last[k] for k in results["metrics"]} == results["metrics"]
  assert list((pretrained / "tensorboard").glob("events.*"))
  with np.load(pretrained / "embeddings" / "val.npz") as embeddings:
    assert embeddings["point"].shape == (54, 32)
  assert len(traces) == 1  # of the step


def test_keeps_the_latest_and_the_best_checkpoint(pretrained):
  scores = scores_by_step(pretrained)
  best = max(scores.values())
  kept = sorted(int(p.name) for p in (pretrained / "checkpoints").iterdir())
  assert kept[-2:] == [8, 12]
  assert len(kept) <= 3
  assert any(scores[step] == best for step in kept)
  for which, step in (("latest", 12), ("best", None)):
    found = load_encoder(pretrained, which).config.step
    assert found == step or scores[found] == best


def test_repeating_a_finished_run_trains_no_further(
  pretrained, data_dir, tmp_path, capfd
):
  shutil.copytree(pretrained, tmp_path / "run")
  with runs.on_devices(2):
    set_up.train(runs.pretrained_config(data_dir), tmp_path / "run")
  assert "resumed from the checkpoint of step 12" in capfd.readouterr().err
  runs.assert_same_run(tmp_path / "run", pretrained)


def test_results_can_be_those_of_the_best_checkpoint(
  pretrained, data_dir, tmp_path
):
  """On eight devices, and on another number than trained it."""
  workdir = tmp_path / "run"
  shutil.copytree(pretrained, workdir)
  (workdir / "results.json").unlink()
  config = runs.pretrained_config(
    data_dir,
    checkpoint={"every_steps": 4, "best_metric": "val/top5", "rule": "best"},
  )
  set_up.train(config, workdir)
  results = json.loads((workdir / "results.json").read_text())
  assert (results["checkpoint"], results["selected_by"]) == ("best", "val/top5")
  scores = scores_by_step(pretrained)
  best = max(scores.values())
  assert results["step"] == max(s for s, x in scores.items() if x == best)
  assert results["metrics"]["val/top5"] == best


def test_evaluates_the_average_of_the_parameters(pretrained):
  state = last_state(pretrained)
  kernel = "encoder/proj/kernel"
  average, last = state[f"average/{kernel}"], state[f"params/{kernel}"]
  assert np.abs(average - last).max() > 1e-5


def test_load_encoder_embeds_as_the_evaluation_did(pretrained, data_dir):
  """Another shuffle of the points, so alike but not equal."""
  encoder = load_encoder(pretrained)
  assert encoder.config.step == 12
  records = dataset.open_split(data_dir, "val")
  points = [
    np.concatenate([r["xyz"] * r["scale"], r["rgb"] / 255], axis=1)
    for r in (records[i] for i in range(8))
  ]
  found = encoder(points)
  np.testing.assert_array_equal(found, encoder(points))
  with np.load(pretrained / "embeddings" / "val.npz") as embeddings:
    expected = embeddings["point"][:8].astype(np.float32)
  cosines = np.asarray(found) @ expected.T
  assert np.diagonal(cosines).min() > 0.9
  np.testing.assert_allclose(
    np.linalg.norm(found, axis=1), np.ones(8), rtol=1e-5
  )


def test_load_encoder_says_what_is_missing(tmp_path, pretrained):
  with pytest.raises(BadInput, match="config.json is missing"):
    load_encoder(tmp_path)
  with pytest.raises(BadInput, match="'latest' or 'best'"):
    load_encoder(pretrained, "first")


def test_a_refused_config_changes_nothing(pretrained, data_dir, tmp_path):
  """Neither another save's temporary files, nor what an old one has left."""
  workdir = shutil.copytree(pretrained, tmp_path / "run")
  checkpoints = workdir / "checkpoints"
  oldest, newest = sorted(map(int, (p.name for p in checkpoints.iterdir())))[
    ::2
  ]
  (checkpoints / str(oldest) / "_CHECKPOINT_METADATA").unlink()
  shutil.copytree(
    checkpoints / str(newest),
    checkpoints / f"{newest + 1}.orbax-checkpoint-tmp",
  )
  before = runs.on_disk(workdir)
  with runs.on_devices(2), pytest.raises(BadInput, match="seed"):
    set_up.train(runs.pretrained_config(data_dir, seed=9), workdir)
  assert runs.on_disk(workdir) == before


def test_other_data_is_refused_on_resume(pretrained, tmp_path):
  other = tmp_path / "other"
  procedural.generate(
    other, train=109, val=54, num_points=160, num_views=2, embed_dim=32
  )
  with pytest.raises(BadInput, match="'records': 109.*'records': 108"):
    set_up.train(runs.pretrained_config(other), pretrained)


def test_another_config_is_refused_with_a_diff(pretrained, data_dir):
  before = (pretrained / "config.json").read_text()
  config = runs.pretrained_config(
    data_dir, train={"steps": 12, "batch_size": 16}, loss={"weighting": "fixed"}
  )
  with pytest.raises(BadInput, match="weighting.*train.batch_size: 32 -> 16"):
    set_up.train(config, pretrained)
  assert (pretrained / "config.json").read_text() == before


@pytest.mark.parametrize(
  ("sections", "message"),
  [
    ({"train": {"batch_size": 30}}, "train.batch_size is 30.*8 devices.*32"),
    (
      {"train": {"accumulate": 3}},
      "train.batch_size is 32, .*8 devices.*3 parts.*of 24",
    ),
    ({"eval": {"batch_size": 12}}, "eval.batch_size is 12.*multiple of 8"),
    ({"mesh": {"fsdp": 3}}, "mesh.fsdp is 3.*8 devices"),
    ({"train": {"batch_size": 512}}, "train.batch_size is 512.*108 records"),
    ({"data": {"dir": "nowhere", "made_from": ""}}, "data.dir: nowhere"),
    ({"data": {"split": "test"}}, "'test'.*train"),
    ({"eval": {"zero_shot": ("lvis",)}}, "'lvis'"),
    ({"checkpoint": {"best_metric": "val/top2"}}, "checkpoint.best_metric"),
    ({"optimizer": {"warmup_steps": 20}}, "warmup"),
    ({"optimizer": {"frozen": ("encoder/nothing",)}}, "optimizer.frozen"),
  ],
)
def test_bad_configs_name_field_and_remedy(
  data_dir, tmp_path, sections, message
):
  with pytest.raises(BadInput, match=message):
    set_up.train(runs.pretraining_config(data_dir, **sections), tmp_path)
  # Nothing of a run that cannot start is left behind to trip the next.
  assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
  "loss",
  [
    {"intra": False, "cross": False},
    {"weighting": "fixed", "representation": "euclidean"},
    {"weighting": "alternating"},
    {"representation": "partial_order", "sampled_pairs": 8},
  ],
  ids=lambda loss: "-".join(str(x) for x in loss.values()),
)
def test_every_kind_of_loss_trains(data_dir, tmp_path, loss):
  config = runs.pretraining_config(
    data_dir, loss=loss, train={"steps": 6}, eval={"every_steps": 6}
  )
  with runs.on_devices(2):
    set_up.train(config, tmp_path)
  curve = losses(tmp_path)
  assert list(curve) == [1, 2, 3, 4, 5, 6]
  assert all(np.isfinite(value) for value in curve.values())


def test_held_out_splits_do_not_overlap_the_training_split(data_dir):
  ids = [
    {record["id"] for record in dataset.open_split(data_dir, split)}
    for split in ("train", "val")
  ]
  assert not ids[0] & ids[1]


@pytest.mark.slow
@pytest.mark.long
def test_blocks_and_parts_follow_the_same_curve(data_dir, tmp_path, capfd):
  """How a step is computed changes its rounding alone, and is said."""
  changes = {
    "dense (loss.form is auto)": {},
    "gather, 8 columns at a time": {"loss": {"form": "gather", "stripe": 8}},
    "dense": {"loss": {"form": "dense"}, "train": {"accumulate": 4}},
  }
  curves = []
  for i, (said, change) in enumerate(changes.items()):
    sections = change | {"train": {"steps": 6} | change.get("train", {})}
    config = runs.pretraining_config(data_dir, **sections)
    with runs.on_devices(2):
      set_up.train(config, tmp_path / str(i))
    assert f"losses: {said}\n" in capfd.readouterr().err
    curves.append(list(losses(tmp_path / str(i)).values()))
  for curve in curves[1:]:
    np.testing.assert_allclose(curve, curves[0], rtol=1e-3)
    np.testing.assert_allclose(curve[0], curves[0][0], rtol=1e-5)
