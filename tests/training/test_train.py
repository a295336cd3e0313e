"""Runs: what they leave, how they resume, stop and fail."""

import contextlib
import dataclasses
import json
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import (
  command,
  finish,
  last_state,
  losses,
  run,
  start,
  wait_for_step,
)

from configs import debug
from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.pretraining import from_config_dict
from mrd_jax.data import dataset
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json_lines
from mrd_jax.parallel import sharding
from mrd_jax.parallel.stop import Preemption
from mrd_jax.prepare import procedural
from mrd_jax.training import set_up
from mrd_jax.training import step as train_step
from mrd_jax.training.loop import Run, one_ahead, train_loop


@dataclasses.dataclass(frozen=True)
class CountConfig:
  """Any frozen dataclass is a config to the loop."""

  goal: int


def counting_run(events: list[str], num_steps: int = 5) -> Run:
  """A run whose state counts; it notes everything that the loop asks for."""

  class Noted(Checkpoints):
    def save(self, step, state, metrics):
      assert int(state.step) == step
      events.append(f"save {step}" + " with scores" * bool(metrics))
      super().save(step, state, metrics)

    def close(self):
      super().close()
      events.append("all is saved")

  def batches(start: int):
    for n in range(start, num_steps):
      events.append(f"batch {n}")
      yield n

  def step_fn(state, batch):
    assert int(state.step) == batch
    events.append(f"step {batch}")
    return dataclasses.replace(state, step=state.step + 1), {"loss": batch}

  def evaluate(state, is_last, keep_going):
    keep_going()
    events.append(f"evaluate {int(state.step)}" + " at last" * is_last)
    return {"val/top1": 0.5}, f"extra {int(state.step)}"

  state = TrainState(jax.numpy.int32(0), {}, {}, {}, {})
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return Run(
    config=CountConfig(goal=num_steps),
    data={"name": "numbers"},
    summary="counts",
    init=lambda: state,
    abstract_state=jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state
    ),
    step_fn=step_fn,
    batches=batches,
    evaluate=evaluate,
    describe=lambda step, scores: f"{step} is {scores['val/top1']}",
    write_results=lambda workdir, *end: events.append(f"results {end[:-1]}"),
    open_checkpoints=lambda workdir: Noted(
      workdir / "checkpoints", keep_latest=9, keep_best=0, best_metric=""
    ),
    num_steps=num_steps,
    batch_size=1,
    evaluate_every=3,
    save_every=2,
    log_every=2,
  )


EVENTS = [
  *("evaluate 0", "batch 0", "step 0", "batch 1", "step 1", "save 2"),
  *("batch 2", "step 2", "evaluate 3", "save 3 with scores"),
  *("batch 3", "step 3", "save 4", "batch 4", "step 4", "evaluate 5 at last"),
  *("save 5 with scores", "all is saved"),
  "results (5, {'val/top1': 0.5}, 'extra 5')",
]


def test_the_loop_evaluates_saves_reads_and_steps(tmp_path, capfd):
  assert train_loop(counting_run(events := []), tmp_path)
  assert events == EVENTS
  said = capfd.readouterr().err.splitlines()
  assert said[:2] == ["counts", "step 0: 0 is 0.5"]
  logged = list(losses(tmp_path).items())
  assert logged == [(2, 1), (4, 3), (5, 4)]  # and the last
  before = read_json_lines(tmp_path / "metrics.jsonl")
  # Repeated: it was killed before it had its results, or it had them.
  assert train_loop(counting_run(events := []), tmp_path)
  assert events == ["evaluate 5 at last", *EVENTS[-2:]]
  (tmp_path / "results.json").write_text("{}")
  assert train_loop(counting_run(events := []), tmp_path)
  assert events == ["all is saved"]
  after = read_json_lines(tmp_path / "metrics.jsonl")
  assert [x | {"time": 0} for x in after] == [x | {"time": 0} for x in before]


@pytest.mark.parametrize(
  ("polls", "before", "goes_on_with"),
  [
    (2, "evaluate 0", "evaluate 0"),  # before the first step
    (3, "save 1", "batch 1"),
    (5, "save 3", "evaluate 3"),  # during it: its scores are made up for
    (7, "save 4", "batch 4"),  # saved already
    (8, "save 5", "evaluate 5 at last"),
  ],
)
def test_the_loop_stops_before_the_next_piece_of_work(
  tmp_path, monkeypatch, polls, before, goes_on_with
):
  """No step is done twice, and nothing is left out."""
  poll = Preemption.poll
  events = []

  def stop(self):
    nonlocal polls
    polls -= 1
    if not polls:
      self._signalled = True
    poll(self)

  with monkeypatch.context() as patch:
    patch.setattr(Preemption, "poll", stop)
    assert not train_loop(counting_run(events), tmp_path)
  assert events[-2:] == [before, "all is saved"]
  assert train_loop(counting_run(after := []), tmp_path)
  assert after[0] == goes_on_with
  done = [x for x in events + after if x.startswith("step")]
  assert done == [x for x in EVENTS if x.startswith("step")]
  evaluated = {x for x in events + after if x.startswith("evaluate")}
  assert evaluated == {x for x in EVENTS if x.startswith("evaluate")}
  assert after[-1] == EVENTS[-1]
  # Scores that a stop kept from a checkpoint have been added to it.
  again = Checkpoints(
    tmp_path / "checkpoints", keep_latest=9, keep_best=1, best_metric="val/top1"
  )
  with contextlib.closing(again):
    assert again.has_scores(3) and again.has_scores(5)
    assert again.best_step() == 5  # the newest of equals


def test_batches_are_on_the_devices_one_ahead():
  given = iter([np.full((8, 2), n) for n in range(3)])
  split = sharding.batch_sharding(sharding.make_mesh(1))
  found = one_ahead(given, split)
  first = next(found)
  assert first.sharding == split and first[0, 0] == 0
  assert next(given)[0, 0] == 2  # 1 is waiting
  assert [x[0, 0].item() for x in found] == [1]


def test_killed_and_repeated_run_ends_bitwise_equal(data_dir, tmp_path):
  """SIGKILL half-way, the same command again: same parameters, every bit."""
  options = (
    "--config.train.steps=60",
    "--config.checkpoint.every_steps=10",
    "--config.eval.every_steps=60",
  )
  run(command(data_dir, tmp_path / "straight", *options))

  killed = start(command(data_dir, tmp_path / "killed", *options))
  wait_for_step(killed, tmp_path / "killed", 25)
  killed.kill()
  killed.communicate()
  before = losses(tmp_path / "killed")
  assert max(before) < 60, "it was over before it could be killed"
  output = run(command(data_dir, tmp_path / "killed", *options))
  resumed = int(
    re.search(r"resumed from the checkpoint of step (\d+)", output)[1]
  )
  assert 10 <= resumed <= 30

  straight, repeated = (
    last_state(tmp_path / name) for name in ("straight", "killed")
  )
  assert straight.keys() == repeated.keys()
  for name, value in straight.items():
    np.testing.assert_array_equal(value, repeated[name], err_msg=name)
  # The log reads as if nothing had happened.
  assert losses(tmp_path / "straight") == losses(tmp_path / "killed")


@pytest.fixture(scope="module")
def one(data_dir, tmp_path_factory) -> dict[int, float]:
  """The curve of a run on one device."""
  workdir = tmp_path_factory.mktemp("one")
  run(command(data_dir, workdir))
  return losses(workdir)


@pytest.mark.slow
def test_eight_devices_one_and_a_change_between_follow_one_curve(
  data_dir, tmp_path, one
):
  """Same batches on any devices, so the losses differ by rounding alone."""
  moved = start(command(data_dir, tmp_path / "moved"), devices=8)
  wait_for_step(moved, tmp_path / "moved", 11)
  moved.kill()
  moved.communicate()
  before = losses(tmp_path / "moved")
  output = run(command(data_dir, tmp_path / "moved"))
  assert "resumed from the checkpoint of step" in output

  assert list(one) == list(range(1, 21))
  for curve in (before, losses(tmp_path / "moved")):
    expected = np.array([one[step] for step in curve])
    found = np.array(list(curve.values()))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=5e-3)


@pytest.mark.slow
def test_sharded_state_follows_the_same_curve(data_dir, tmp_path, one):
  run(command(data_dir, tmp_path, "--config.mesh.fsdp=4"), devices=8)
  np.testing.assert_allclose(
    list(losses(tmp_path).values()), list(one.values()), rtol=5e-3
  )


def test_sigterm_saves_and_exits_with_0(data_dir, tmp_path):
  options = ("--config.train.steps=5000", "--config.eval.every_steps=5000")
  arguments = command(
    data_dir, tmp_path, *options, "--config.checkpoint.every_steps=5000"
  )
  process = start(arguments)
  wait_for_step(process, tmp_path, 3)
  process.send_signal(signal.SIGTERM)
  errors = finish(process)
  step = int(re.search(r"asked to stop at step (\d+)", errors)[1])
  assert (tmp_path / "checkpoints" / str(step)).exists()

  again = start(arguments)
  wait_for_step(again, tmp_path, step + 1)
  again.send_signal(signal.SIGTERM)
  assert f"resumed from the checkpoint of step {step}" in finish(again)


@pytest.mark.slow
def test_sigterm_during_an_evaluation_is_made_up_for(data_dir, tmp_path):
  """The stop leaves no hole: the evaluation it cut short is done on resume."""
  arguments = command(data_dir, tmp_path, "--config.eval.batch_size=1")
  process = start(arguments)
  wait_for_step(process, tmp_path, 8)  # so the next evaluation is close
  process.send_signal(signal.SIGTERM)
  errors = finish(process)
  assert "asked to stop" in errors
  run(arguments)
  evaluated = [
    line["step"]
    for line in read_json_lines(tmp_path / "metrics.jsonl")
    if line["kind"] == "eval"
  ]
  assert evaluated == [0, 10, 20]
  assert (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_a_failed_save_fails_the_run(data_dir, tmp_path):
  """A file-size limit stands in for a full disk, after a first good save."""
  good = ("--config.checkpoint.every_steps=5", "--config.eval.every_steps=20")
  process = start(command(data_dir, tmp_path, *good))
  while not (tmp_path / "checkpoints" / "5").exists():
    assert process.poll() is None
    time.sleep(0.01)
  process.kill()
  process.communicate()

  limited = ["bash", "-c", 'ulimit -f 50; exec "$@"', "-"]  # KiB a file
  failed = start([*limited, *command(data_dir, tmp_path, *good)])
  _, errors = failed.communicate(timeout=240)
  assert failed.returncode == 1, errors
  assert "File too large" in errors
  assert not (tmp_path / "results.json").exists()
  output = run(command(data_dir, tmp_path, *good))
  assert "resumed from the checkpoint of step" in output


@pytest.mark.slow
def test_nan_stops_the_run_before_it_is_saved(data_dir, tmp_path):
  errors = run(
    command(
      data_dir,
      tmp_path,
      "--config.optimizer.learning_rate=1000.0",
      "--config.optimizer.clip_norm=0.0",
      "--config.logit_scale.max=0.0",
      "--config.checkpoint.every_steps=1",
    ),
    expect=1,
  )
  step = int(re.search(r"error: step (\d+): .*loss.* not finite", errors)[1])
  saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
  assert max(saved, default=0) < step
  state = last_state(tmp_path)
  assert all(np.isfinite(x).all() for x in state.values())


def make_config(data_dir: Path, **sections):
  values = debug.get_config()
  values.data.dir = str(data_dir)
  for section, fields in sections.items():
    values[section].update(fields)
  return from_config_dict(values)


def finished_config(data_dir: Path):
  return make_config(
    data_dir,
    optimizer={"ema_decay": 0.9},
    checkpoint={"every_steps": 4, "keep_latest": 2},
    eval={"every_steps": 4},
  )


def scores_by_step(workdir: Path) -> dict[int, float]:
  """The metric that decides which checkpoint is best, where one was saved."""
  return {
    line["step"]: line["val/top1"]
    for line in read_json_lines(workdir / "metrics.jsonl")
    if line["kind"] == "eval" and line["step"] > 0
  }


@pytest.fixture(scope="module")
def traces() -> list[int]:
  """An entry for each time that the run of `finished` traced its step."""
  return []


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory, traces) -> Path:
  """A short run on the eight devices of this process."""
  workdir = tmp_path_factory.mktemp("finished")
  original = train_step.train_step
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      train_step,
      "train_step",
      lambda *args, **kwargs: traces.append(1) or original(*args, **kwargs),
    )
    set_up.train(finished_config(data_dir), workdir)
  return workdir


def test_what_a_run_leaves(finished, data_dir):
  names = {path.name for path in finished.iterdir()}
  assert names >= {
    "config.json",
    "metrics.jsonl",
    "results.json",
    "tensorboard",
    "checkpoints",
    "embeddings",
  }
  results = json.loads((finished / "results.json").read_text())
  assert results["step"] == 20
  assert results["chance_top1"] == {"val": 1 / 54}
  assert {"val/top1", "val/top5", "val/text_to_shape_r1"} <= results[
    "metrics"
  ].keys()
  lines = read_json_lines(finished / "metrics.jsonl")
  evaluations = [x["step"] for x in lines if x["kind"] == "eval"]
  assert evaluations == [0, 4, 8, 12, 16, 20]
  assert [x["step"] for x in lines if x["kind"] == "train"] == list(
    range(1, 21)
  )
  assert lines[-1]["val/top1"] == results["metrics"]["val/top1"]
  assert list((finished / "tensorboard").glob("events.*"))
  with np.load(finished / "embeddings" / "val.npz") as embeddings:
    assert embeddings["point"].shape == (54, 32)


def test_keeps_the_latest_and_the_best_checkpoint(finished):
  scores = scores_by_step(finished)
  best = max(scores.values())
  kept = sorted(int(p.name) for p in (finished / "checkpoints").iterdir())
  assert kept[-2:] == [16, 20]
  assert len(kept) <= 3
  assert any(scores[step] == best for step in kept)


def test_repeating_a_finished_run_trains_no_further(finished, data_dir, capfd):
  before = last_state(finished)
  set_up.train(finished_config(data_dir), finished)
  assert "resumed from the checkpoint of step 20" in capfd.readouterr().err
  jax.tree.map(np.testing.assert_array_equal, last_state(finished), before)


def test_evaluates_the_average_of_the_parameters(finished):
  state = last_state(finished)
  name = "['params']['encoder']['proj']['kernel']"
  average = state[name.replace("params", "average")]
  assert np.abs(average - state[name]).max() > 1e-5


def test_load_encoder_embeds_as_the_evaluation_did(finished, data_dir):
  """Another shuffle of the points, so alike but not equal."""
  encoder = load_encoder(finished)
  assert encoder.config.step == 20
  records = dataset.open_split(data_dir, "val")
  points = np.stack(
    [
      np.concatenate([r["xyz"] * r["scale"], r["rgb"] / 255], axis=1)
      for r in (records[i] for i in range(8))
    ]
  )
  found = encoder(points)
  np.testing.assert_array_equal(found, encoder(points))
  with np.load(finished / "embeddings" / "val.npz") as embeddings:
    expected = embeddings["point"][:8].astype(np.float32)
  cosines = np.asarray(found) @ expected.T
  assert np.diagonal(cosines).min() > 0.9
  np.testing.assert_allclose(
    np.linalg.norm(found, axis=1), np.ones(8), rtol=1e-5
  )


def test_load_encoder_finds_the_best_checkpoint(finished):
  scores = scores_by_step(finished)
  assert scores[load_encoder(finished, "best").config.step] == max(
    scores.values()
  )


def test_load_encoder_says_what_is_missing(tmp_path, finished):
  with pytest.raises(BadInput, match="config.json is missing"):
    load_encoder(tmp_path)
  with pytest.raises(BadInput, match="'latest' or 'best'"):
    load_encoder(finished, "first")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda p: p[0], r"shape \(20, 6\)"),
    (lambda p: np.where(p == p[1, 3, 2], np.nan, p), r"points\[1\].*NaN"),
    (lambda p: np.ones_like(p), r"points\[0\]: all points coincide"),
  ],
)
def test_an_encoder_names_the_cloud_it_cannot_embed(finished, change, message):
  points = np.random.default_rng(0).random((2, 20, 6))
  with pytest.raises(BadInput, match=message):
    load_encoder(finished)(change(points))


def test_other_data_is_refused_on_resume(finished, data_dir, tmp_path):
  other = tmp_path / "other"
  procedural.generate(
    other, train=109, val=54, num_points=160, num_views=2, embed_dim=32
  )
  with pytest.raises(BadInput, match="'records': 109.*'records': 108"):
    set_up.train(make_config(other, optimizer={"ema_decay": 0.9}), finished)


def test_another_config_is_refused_with_a_diff(finished, data_dir):
  with pytest.raises(BadInput, match="weighting.*set_up.batch_size: 32 -> 16"):
    set_up.train(
      make_config(
        data_dir,
        train={"batch_size": 16},
        loss={"weighting": "fixed"},
        optimizer={"ema_decay": 0.9},
      ),
      finished,
    )
  assert json.loads((finished / "config.json").read_text())["train"] == {
    "batch_size": 32,
    "accumulate": 1,
    "epochs": 0.0,
    "steps": 20,
  }


@pytest.mark.parametrize(
  ("sections", "message"),
  [
    ({"train": {"batch_size": 30}}, "train.batch_size is 30.*8 devices.*32"),
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
    set_up.train(make_config(data_dir, **sections), tmp_path)
  # Nothing of a run that cannot start is left behind to trip the next.
  assert not (tmp_path / "config.json").exists()


def test_a_damaged_shard_is_named(data_dir, tmp_path):
  damaged = tmp_path / "damaged"
  shutil.copytree(data_dir, damaged)
  (shard,) = damaged.glob("*train*array_record*")
  content = bytearray(shard.read_bytes())
  for i in range(len(content) // 8, len(content), 50):
    content[i] ^= 0xFF
  shard.write_bytes(content)
  with pytest.raises(Exception, match="data.dir.*(damaged|cannot be read)"):
    set_up.train(make_config(damaged), tmp_path / "run")


@pytest.mark.slow
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
  set_up.train(make_config(data_dir, loss=loss, train={"steps": 6}), tmp_path)
  curve = losses(tmp_path)
  assert list(curve) == [1, 2, 3, 4, 5, 6]
  assert all(np.isfinite(value) for value in curve.values())


def test_the_step_is_traced_once(finished, traces):
  assert (finished / "results.json").exists()
  assert len(traces) == 1


def test_held_out_splits_do_not_overlap_the_training_split(data_dir):
  ids = [
    {record["id"] for record in dataset.open_split(data_dir, split)}
    for split in ("train", "val")
  ]
  assert not ids[0] & ids[1]


@pytest.mark.slow
def test_blocks_and_parts_follow_the_same_curve(data_dir, tmp_path, capfd):
  """How a step is computed changes its rounding alone, and is said."""
  changes = {
    "dense (loss.form is auto)": {},
    "gather, 8 columns at a time": {"loss": {"form": "gather", "stripe": 8}},
    "ring, 8 columns at a time": {"loss": {"form": "ring", "stripe": 8}},
    "dense": {"loss": {"form": "dense"}, "train": {"accumulate": 4}},
  }
  curves = []
  for i, (said, change) in enumerate(changes.items()):
    sections = change | {"train": {"steps": 6} | change.get("train", {})}
    set_up.train(make_config(data_dir, **sections), tmp_path / str(i))
    assert f"losses: {said}\n" in capfd.readouterr().err
    curves.append(list(losses(tmp_path / str(i)).values()))
  for curve in curves[1:]:
    np.testing.assert_allclose(curve, curves[0], rtol=1e-3)
    np.testing.assert_allclose(curve[0], curves[0][0], rtol=1e-5)
