"""Fine-tuning: what it draws and learns, and that it resumes, bit for bit."""

import dataclasses
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from encoders import make_encoder
from runs import REPOSITORY

from configs.finetune import (
  base,
  debug,
  modelnet40,
  scanobjectnn_obj_bg,
  scanobjectnn_obj_only,
  scanobjectnn_pb_t50_rs,
)
from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.finetuning import AugmentConfig, from_config_dict
from mrd_jax.data import dataset
from mrd_jax.data.batches import pad_records
from mrd_jax.data.examples import Batch
from mrd_jax.data.records import Shape
from mrd_jax.errors import BadInput
from mrd_jax.finetune import __main__ as command_line
from mrd_jax.finetune import start as starts
from mrd_jax.finetune import train
from mrd_jax.finetune.step import cross_entropy, make_optimizer
from mrd_jax.finetune.train import finetune, set_up
from mrd_jax.finetune.transforms import Drawer, augment, draw_points
from mrd_jax.io.files import read_json_lines
from mrd_jax.parallel import sharding
from mrd_jax.prepare.job.dataset_writer import write_dataset
from mrd_jax.prepare.test_sets import modelnet40 as modelnet40_reader
from mrd_jax.prepare.test_sets import scanobjectnn as scanobjectnn_reader
from mrd_jax.training.loop import NotFinite

NAMES = ("ball", "rod", "sheet")
WIDTH = 4


@pytest.fixture(autouse=True)
def keep_signal_handler():
  handler = signal.getsignal(signal.SIGTERM)
  yield
  signal.signal(signal.SIGTERM, handler)


def make_shape(index: int, label: int, points: int) -> Shape:
  """A noisy ball, rod or sheet without any feature, as ScanObjectNN has it."""
  rng = np.random.default_rng((index, label))
  xyz = rng.normal(size=(points, 3))
  xyz *= [(1, 1, 1), (0.1, 1, 0.1), (1, 0.1, 1)][label % 3]
  return Shape(
    id=f"shape-{index}",
    xyz=xyz.astype(np.float32),
    rgb=rng.random((points, 3)).astype(np.float32),
    image_feat=np.zeros((0, WIDTH), np.float32),
    image_kind=(),
    texts=(),
    text_feat=np.zeros((0, WIDTH), np.float32),
    text_kind=(),
    label=label,
  )


def write(path: Path, splits: dict, names: dict) -> Path:
  write_dataset(
    path,
    "tiny",
    splits,
    "nobody",
    names,
    {k: np.ones((len(v), WIDTH), np.float32) for k, v in names.items()},
  )
  return path


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
  shapes = [make_shape(i, i % 3, 120 - i % 5) for i in range(75)]
  return write(
    tmp_path_factory.mktemp("data") / "tiny",
    {"train": shapes[:48], "val": shapes[48:]},
    {"train": NAMES, "val": NAMES},
  )


def config_of(data_dir: Path, **changes):
  """The debug config with fields changed by dotted name."""
  values = debug.get_config()
  values.data.dir = str(data_dir)
  values.train.batch_size = 16
  values.update_from_flattened_dict(changes)
  return from_config_dict(values)


# What is drawn.

AUGMENT = AugmentConfig(
  num_points=20, sampled_points=30, scale_low=0.5, scale_high=2.0, shift=0.1
)


def naive_fps(xyz: np.ndarray, count: int) -> list[int]:
  chosen = [0]
  while len(chosen) < count:
    distance = ((xyz[:, None] - xyz[chosen][None]) ** 2).sum(-1).min(axis=1)
    chosen.append(int(distance.argmax()))
  return chosen


def rows_of(xyz: np.ndarray, cloud: np.ndarray) -> list[int]:
  """Which rows of `cloud` the points are."""
  return [int(np.flatnonzero((cloud == p).all(axis=1))[0]) for p in xyz]


@pytest.mark.parametrize("random", [False, True], ids=["test", "train"])
def test_points_are_drawn_by_farthest_point_sampling(random):
  rng = np.random.default_rng(0)
  cloud = np.zeros((80, 3), np.float32)
  cloud[:60] = rng.normal(size=(60, 3))
  draw = jax.jit(functools.partial(draw_points, config=AUGMENT, random=random))
  order = []
  for seed in range(5):
    key = jax.random.key(seed)
    xyz, n = draw(cloud, jnp.int32(60), key=key)
    rows = rows_of(np.asarray(xyz), cloud)
    assert n == 20 and len(set(rows)) == 20
    # The first of the random order is where sampling starts.
    draws = np.array(jax.random.uniform(jax.random.split(key)[0], (80,)))[:60]
    shuffled = np.argsort(draws)
    sampled = shuffled[naive_fps(cloud[shuffled], 30 if random else 20)]
    assert set(rows) <= set(sampled.tolist())
    order.append([sampled.tolist().index(row) for row in rows])
  # In random order, and when random, out of all that were sampled.
  assert all(places != sorted(places) for places in order)
  assert max(map(max, order)) >= 20 if random else set(order[0]) == {*range(20)}


@pytest.mark.parametrize("random", [False, True], ids=["test", "train"])
@pytest.mark.parametrize("stored", [12, 25, 40])
def test_small_clouds_keep_all_their_points(stored, random):
  cloud = np.random.default_rng(0).normal(size=(stored, 3)).astype(np.float32)
  draw = jax.jit(functools.partial(draw_points, config=AUGMENT, random=random))
  xyz, n = draw(cloud, jnp.int32(12), key=jax.random.key(0))
  assert n == 12 and xyz.shape == (20, 3)
  assert sorted(rows_of(np.asarray(xyz[:12]), cloud)) == [*range(12)]
  assert not xyz[12:].any()


def test_each_axis_has_its_own_scale_and_shift():
  corners = jnp.array([[0.0, 0, 0], [1, 1, 1]])
  keys = jax.random.split(jax.random.key(0), 4000)
  low, high = np.moveaxis(
    np.asarray(jax.vmap(lambda k: augment(corners, AUGMENT, k))(keys)), 1, 0
  )
  for values, (least, most) in (
    (high - low, (0.5, 2.0)),
    (low, (-0.1, 0.1)),
  ):
    assert values.min() >= least - 1e-6 and values.max() <= most + 1e-6
    np.testing.assert_allclose(values.min(axis=0), least, atol=0.01)
    np.testing.assert_allclose(values.max(axis=0), most, atol=0.01)
    middle = (least + most) / 2
    np.testing.assert_allclose(values.mean(axis=0), middle, atol=0.03)
    independent = np.corrcoef(values.T) - np.eye(3)
    assert np.abs(independent).max() < 0.08


def read_batch(data_dir: Path, rows: list[int]) -> Batch:
  meta = dataset.read_meta(data_dir)
  source = dataset.open_split(data_dir, "train")
  return pad_records([source[row] for row in rows], rows, meta)


def make_drawer(devices: int, swap_yz: bool = False) -> Drawer:
  mesh = jax.sharding.Mesh(
    np.array(jax.devices()[:devices]).reshape(devices, 1), ("data", "fsdp")
  )
  split = sharding.batch_sharding(mesh)
  return Drawer(AUGMENT, swap_yz, 0.4, fps_chunk=3, batch_sharding=split)


def test_test_clouds_are_normalised_grey_and_the_same_in_any_batch(data_dir):
  drawer = make_drawer(devices=8)
  first = read_batch(data_dir, [*range(8)])
  other = read_batch(data_dir, [9, 5, 10, 11, 12, 13, 2, 14])
  draw = jax.jit(lambda batch: drawer.test(batch, seed=3))
  found, again = draw(first), draw(other)
  np.testing.assert_array_equal(found.points[5], again.points[1])
  np.testing.assert_array_equal(found.points[2], again.points[6])
  assert (np.asarray(found.points[..., 3:]) == np.float32(0.4)).all()
  record = dataset.open_split(data_dir, "train")[5]
  xyz = record["xyz"].astype(np.float64)
  xyz -= xyz.mean(axis=0)
  xyz /= np.linalg.norm(xyz, axis=1).max()
  points = np.asarray(found.points[5, :, :3])
  nearest = np.abs(points[:, None] - xyz[None]).max(axis=-1).min(axis=1)
  assert nearest.max() < 1e-6
  # z up exchanges the axes, as pre-training does.
  turned = jax.jit(
    lambda batch: make_drawer(8, swap_yz=True).test(batch, seed=3)
  )(first)
  np.testing.assert_allclose(
    turned.points[..., [0, 2, 1]], found.points[..., :3], atol=1e-6
  )


def test_draws_do_not_depend_on_the_number_of_devices(data_dir):
  batch = read_batch(data_dir, [*range(8)])

  @functools.partial(jax.jit, static_argnums=0)
  def draw(devices: int, batch: Batch, step, copy):
    drawer = make_drawer(devices)
    return (
      drawer.train(batch, seed=1, step=step).points,
      drawer.copies(batch, seed=1, copy=copy).points,
    )

  one, eight = (jax.device_get(draw(n, batch, 4, 1)) for n in (1, 8))
  for found, expected in zip(eight, one, strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-6)
  # Another step, another copy.
  others = jax.device_get(draw(1, batch, 5, 2))
  for found, expected in zip(others, one, strict=True):
    assert np.abs(found - expected).max(axis=(1, 2)).min() > 0.1
  # A copy belongs to a record, whatever batch it comes in.
  moved = jax.device_get(draw(1, read_batch(data_dir, [7] * 8), 4, 1))
  np.testing.assert_allclose(moved[1][0], one[1][7], atol=1e-6)
  assert not np.allclose(moved[0][0], one[0][7])


# What is minimised, and how.


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_equals_pytorch(smoothing):
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  logits = 4 * rng.normal(size=(6, 5)).astype(np.float32)
  labels = rng.integers(5, size=6)
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing
  )
  found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
  np.testing.assert_allclose(found, float(expected), rtol=1e-6)


def test_optimizer_equals_pytorch_with_the_schedule_in_closed_form():
  """Clipped AdamW over 12 steps: 3 of warm-up, then a cosine to the floor."""
  torch = pytest.importorskip("torch")
  config = config_of(
    Path(),
    **{
      "optimizer.warmup_epochs": 1.0,
      "optimizer.learning_rate": 0.1,
      "optimizer.final_learning_rate": 0.05,
      "optimizer.clip_norm": 1.0,
      "optimizer.weight_decay": 0.3,
    },
  ).optimizer
  rng = np.random.default_rng(0)
  params = {
    "encoder": {"cls_token": rng.normal(size=4)},
    "hidden": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)},
  }
  with jax.enable_x64(True):
    ours = jax.tree.map(jnp.asarray, params)
    leaves, tree = jax.tree.flatten(ours)
    theirs = [
      torch.nn.Parameter(torch.tensor(np.asarray(leaf))) for leaf in leaves
    ]
    decays = [leaf.ndim > 1 for leaf in leaves]
    assert sum(decays) == 1
    torch_optimizer = torch.optim.AdamW(
      [
        {"params": [p], "weight_decay": 0.3 if decay else 0.0}
        for p, decay in zip(theirs, decays, strict=True)
      ]
    )
    optimizer = make_optimizer(config, steps_per_epoch=3, num_steps=12)
    state = optimizer.init(ours)
    for step in range(12):
      gradients = [3 * rng.normal(size=leaf.shape) for leaf in leaves]
      updates, state = optimizer.update(tree.unflatten(gradients), state, ours)
      ours = jax.tree.map(jnp.add, ours, updates)
      if step < 3:
        rate = 0.1 * step / 3
      else:
        cosine = (1 + math.cos(math.pi * (step - 3) / 9)) / 2
        rate = 0.005 + (0.1 - 0.005) * cosine
      for group, parameter, gradient in zip(
        torch_optimizer.param_groups, theirs, gradients, strict=True
      ):
        group["lr"] = rate
        parameter.grad = torch.tensor(gradient)
      torch.nn.utils.clip_grad_norm_(theirs, 1.0)
      torch_optimizer.step()
      for a, b in zip(jax.tree.leaves(ours), theirs, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_shipped_configs_are_the_recipe_and_name_splits_that_prepare_makes():
  for config, split in (
    (scanobjectnn_obj_only, "scanobjectnn_obj_only"),
    (scanobjectnn_obj_bg, "scanobjectnn_obj_bg"),
    (scanobjectnn_pb_t50_rs, "scanobjectnn_pb_t50_rs"),
    (modelnet40, "modelnet40_txt"),
  ):
    values = config.get_config()
    checked = from_config_dict(values)
    assert checked.data.train == f"{split}_train"
    assert checked.data.test == f"{split}_test"
    assert checked.train.epochs == 300 and checked.train.batch_size == 32
    rate = checked.optimizer
    floor = rate.learning_rate * rate.final_learning_rate
    assert math.isclose(floor, 1e-6) and rate.warmup_epochs == 10
  # The names that the readers give, in their own words.
  for variant in scanobjectnn_reader.VARIANTS:
    assert f"scanobjectnn_{variant}" in {
      "scanobjectnn_obj_only", "scanobjectnn_obj_bg", "scanobjectnn_pb_t50_rs"
    }  # fmt: skip
  source = Path(modelnet40_reader.__file__).read_text()
  assert 'f"modelnet{classes}_txt_{part}"' in source


# Runs.


def last_state(workdir: Path) -> dict[str, np.ndarray]:
  """Every array of the newest checkpoint, by path."""
  _, state = load_on_one_device(workdir / "checkpoints", best_metric=None)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def without_time(workdir: Path) -> list[dict]:
  return [
    {
      name: value
      for name, value in line.items()
      if name not in ("time", "shapes_per_second")
      and not name.startswith(("seconds/", "memory/"))
    }
    for line in read_json_lines(workdir / "metrics.jsonl")
  ]


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory) -> Path:
  path = tmp_path_factory.mktemp("encoder") / "model"
  make_encoder(seed=3, num_points=64).save_pretrained(path)
  return path


RUN = {
  "train.epochs": 20.0,
  "eval.every_epochs": 2.0,
  "eval.voting": 2,
  "optimizer.learning_rate": 3e-3,
}
LAST = 60
KERNEL_BIAS = ("kernel", "bias")


def command(data_dir: Path, encoder_dir: Path, workdir: Path) -> list[str]:
  return [
    *(sys.executable, "-m", "mrd_jax.finetune"),
    *("--config", "configs/finetune/debug.py", "--workdir", str(workdir)),
    *("--checkpoint", str(encoder_dir), f"--config.data.dir={data_dir}"),
    "--config.train.batch_size=16",
    *(f"--config.{name}={value}" for name, value in RUN.items()),
  ]


def start(arguments: list[str]) -> subprocess.Popen:
  return subprocess.Popen(
    arguments,
    cwd=REPOSITORY,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen) -> str:
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  return errors


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
  deadline = time.monotonic() + 60
  while time.monotonic() < deadline:
    assert process.poll() is None, process.communicate()[1]
    if (workdir / "metrics.jsonl").exists():
      lines = read_json_lines(workdir / "metrics.jsonl")
      if lines and lines[-1]["step"] >= step:
        return
    time.sleep(0.005)
  raise TimeoutError


@pytest.fixture(scope="module")
def straight(data_dir, encoder_dir, tmp_path_factory) -> Path:
  """A run on one device that nothing interrupted."""
  workdir = tmp_path_factory.mktemp("straight") / "run"
  finish(start(command(data_dir, encoder_dir, workdir)))
  return workdir


def assert_same_run(one: Path, other: Path) -> None:
  """Bitwise: parameters, statistics, moments, every metric, the results."""
  expected, found = last_state(one), last_state(other)
  assert expected.keys() == found.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(value, found[name], err_msg=name)
  assert without_time(one) == without_time(other)
  results = [(path / "results.json").read_text() for path in (one, other)]
  assert results[0] == results[1]


def test_killed_run_ends_bitwise_equal(
  straight, data_dir, encoder_dir, tmp_path
):
  arguments = command(data_dir, encoder_dir, tmp_path)
  killed = start(arguments)
  wait_for_step(killed, tmp_path, 10)
  killed.kill()
  killed.communicate()
  assert without_time(tmp_path)[-1]["step"] < LAST, "it was over too soon"
  said = finish(start(arguments))
  assert re.search(r"resumed from the checkpoint of step [1-9]", said), said
  assert_same_run(straight, tmp_path)


@pytest.fixture(scope="module")
def eight(data_dir, encoder_dir):
  """The same run on this process's eight devices; compiled once."""
  config = config_of(data_dir, **RUN, **{"eval.batch_size": 8})
  start, variables = starts.load(str(encoder_dir), "latest", config.scratch)
  return config, set_up(config, start, variables)


@pytest.mark.slow  # the loop that it tests is that of tests/test_train.py
def test_sigterm_saves_and_the_same_command_goes_on(
  eight, encoder_dir, tmp_path, monkeypatch
):
  config, run = eight
  short = dataclasses.replace(run, num_steps=7)
  monkeypatch.setattr(train, "set_up", lambda *_: short)
  run_to_the_end = functools.partial(finetune, config, str(encoder_dir))
  assert run_to_the_end(tmp_path / "straight")["step"] == 7

  def signal_in_step_5(state, batch):
    if int(state.step) == 4:
      os.kill(os.getpid(), signal.SIGTERM)
    return run.step_fn(state, batch)

  with monkeypatch.context() as patch:
    signalled = dataclasses.replace(short, step_fn=signal_in_step_5)
    patch.setattr(train, "set_up", lambda *_: signalled)
    assert run_to_the_end(tmp_path / "stopped") is None
  assert (tmp_path / "stopped" / "checkpoints" / "5").exists()
  assert not (tmp_path / "stopped" / "results.json").exists()
  run_to_the_end(tmp_path / "stopped")
  assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_a_loss_that_is_not_finite_ends_the_run(
  eight, encoder_dir, tmp_path, monkeypatch
):
  config, run = eight

  def step_fn(state, batch):
    state, metrics = run.step_fn(state, batch)
    return state, metrics | {"loss": np.nan}

  broken = dataclasses.replace(run, step_fn=step_fn)
  monkeypatch.setattr(train, "set_up", lambda *_: broken)
  with pytest.raises(NotFinite, match="step 1: loss not finite"):
    finetune(config, str(encoder_dir), tmp_path)
  assert not any((tmp_path / "checkpoints").glob("[1-9]*"))


def test_results_name_the_last_epoch_and_the_best_one_apart(straight):
  results = json.loads((straight / "results.json").read_text())
  evaluations = [x for x in without_time(straight) if x["kind"] == "eval"]
  assert [x["step"] for x in evaluations] == [*range(0, LAST + 1, 6)]
  assert results["checkpoint"] == "last" and results["step"] == LAST
  assert results["epoch"] == 20
  top1 = [x["test/top1"] for x in evaluations]
  assert results["metrics"]["test/top1"] == top1[-1]
  best = results["best_test_epoch"]
  assert best["metrics"]["test/top1"] == max(top1)
  assert best["step"] == 6 * int(np.argmax(top1))  # the first of equals
  assert 0 <= results["metrics"]["voted/top1"] <= 1
  assert "voted/top1" not in evaluations[0]
  assert results["chance_top1"] == {"test": 1 / 3}
  assert results["splits"]["test"] == "val" and results["shapes"] == 27
  assert results["start"]["source"] == "drawn at random"


def test_accuracy_rises_on_separable_shapes(straight):
  results = json.loads((straight / "results.json").read_text())
  assert results["metrics"]["test/top1"] > 0.9
  assert results["metrics"]["voted/top1"] > 0.9
  lines = [x for x in without_time(straight) if x["kind"] == "train"]
  assert [x["step"] for x in lines] == [*range(1, LAST + 1)]
  assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def by_name(tree) -> dict[str, np.ndarray]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def test_encoder_is_loaded_and_all_of_it_trained(straight, eight):
  state = eight[1].init()
  before = by_name({"params": state.params, "batch_stats": state.batch_stats})
  trained = last_state(straight)
  # What was saved there, without a detour over files.
  saved = by_name(make_encoder(seed=3, num_points=64).variables)
  names = {
    name: name.replace("/", "/encoder/", 1)
    for name in saved
    if not name.startswith("params/proj/")
  }
  for theirs, ours in names.items():
    np.testing.assert_array_equal(before[ours], saved[theirs], err_msg=ours)
    # A bias that a BatchNorm takes away again has no gradient.
    if not re.search(r"point_net/linear_\d/bias", ours):
      assert not np.array_equal(trained[ours], saved[theirs]), ours
  head = {f"params/{x}/{y}" for x in ("hidden", "classes") for y in KERNEL_BIAS}
  assert before.keys() == head | set(names.values())
  for name in head:
    assert not np.array_equal(trained[name], before[name]), name


def test_start_says_how_clouds_are_prepared(encoder_dir, data_dir):
  start, variables = starts.load(
    str(encoder_dir), "latest", config_of(data_dir).scratch
  )
  assert (start.up_axis, start.colour_fill, start.step) == ("z", 0.3, 7)
  assert "proj" not in variables["params"]
  start, variables = starts.load("", "latest", config_of(data_dir).scratch)
  assert (start.up_axis, start.colour_fill) == ("y", 0.4)
  assert start.architecture.width == 32 and variables is None


def test_eight_devices_follow_the_curve_of_one(straight, eight):
  """Same samples, so the losses differ by rounding alone."""
  _, run = eight
  lines = [x for x in without_time(straight) if x["kind"] == "train"]
  state, batches = run.init(), run.batches(0)
  for line in lines[:3]:
    state, metrics = run.step_fn(state, next(batches))
    np.testing.assert_allclose(metrics["loss"], line["loss"], rtol=1e-4)


def test_scores_do_not_depend_on_batch_size_and_devices(straight, eight):
  """Nor do the votes: they are seeded by record and copy."""
  _, run = eight
  _, saved = load_on_one_device(straight / "checkpoints", best_metric=None)
  state = TrainState(**jax.tree.map(np.asarray, saved))
  scores, _ = run.evaluate(state, True, lambda: None)
  results = json.loads((straight / "results.json").read_text())
  assert scores == results["metrics"]


# What is refused.


@pytest.fixture(scope="module")
def odd_dir(tmp_path_factory) -> Path:
  shapes = [make_shape(i, i % 3, 40) for i in range(40)]
  unlabelled = Shape(
    **vars(shapes[0])
    | {
      "label": -1,
      "image_feat": np.ones((1, WIDTH), np.float32),
      "image_kind": (1,),
    }
  )
  return write(
    tmp_path_factory.mktemp("odd") / "tiny",
    {
      "train": shapes,
      "unnamed": shapes,
      "two": [s for s in shapes if s.label < 2],
      "swapped": shapes,
      "hole": [*shapes[:20], unlabelled],
    },
    {
      "train": NAMES,
      "two": NAMES[:2],
      "swapped": ("rod", "ball", "sheet"),
      "hole": NAMES,
    },
  )


@pytest.mark.parametrize(
  ("train", "test", "message"),
  [
    (
      "unnamed",
      "train",
      r"data.train: split 'unnamed' .* has no labels; .*hole",
    ),
    ("train", "unnamed", r"data.test: split 'unnamed' .* has no labels"),
    ("train", "two", "'train' has 3 classes, 'two' has 2, .* name two parts"),
    ("train", "swapped", "not the same in the same order"),
    ("train", "nowhere", "split 'nowhere' is not in"),
    ("hole", "train", "'shape-0' of split 'hole' has label -1"),
  ],
)
def test_splits_that_do_not_fit_are_refused(
  odd_dir, tmp_path, train, test, message
):
  config = config_of(
    odd_dir,
    **{"data.train": train, "data.test": test, "train.epochs": 2.0},
  )
  start, _ = starts.load("", "latest", config.scratch)
  with pytest.raises(BadInput, match=message):
    for _ in set_up(config, start, None).batches(0):
      pass


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("model.dropout", 1.0, "config.model.dropout is 1.0, must be between"),
    ("scratch.radius", 5.0, "config.scratch.radius"),
    ("model.dtype", "float16", "must be one of 'float32', 'bfloat16'"),
    ("model.attention", "cudnn", "needs model.dtype 'bfloat16'"),
    ("augment.sampled_points", 63, "of which augment.num_points 64 cannot be"),
    ("augment.scale_low", 2.0, "scale_low is above"),
    ("train.label_smoothing", 1.0, "label_smoothing"),
    ("eval.every_epochs", 0.0, "config.eval.every_epochs"),
  ],
)
def test_config_values_out_of_range_are_refused(field, value, message):
  with pytest.raises(BadInput, match=message):
    config_of(Path(), **{field: value})


def test_missing_and_unknown_fields_are_refused():
  values = base.get_config()
  del values.optimizer.b1
  with pytest.raises(BadInput, match="config.optimizer.b1 is missing"):
    from_config_dict(values)
  values = ml_collections.ConfigDict(base.get_config().to_dict())
  values.loss = 3
  with pytest.raises(BadInput, match="config.loss is not a field"):
    from_config_dict(values)


@pytest.mark.parametrize(
  ("checkpoint", "message"),
  [
    ("nowhere", "nowhere holds no run and no model"),
    ("notes.pt", "neither a folder nor a .safetensors file"),
  ],
)
def test_checkpoints_that_are_no_encoder_are_refused(
  data_dir, tmp_path, checkpoint, message
):
  (tmp_path / "notes.pt").write_text("none")
  with pytest.raises(BadInput, match=message):
    finetune(config_of(data_dir), str(tmp_path / checkpoint), tmp_path / "run")
  # Nothing is left in the way of a better command.
  assert not (tmp_path / "run" / "config.json").exists()


def test_a_classifier_is_not_taken_for_an_encoder(data_dir, straight, tmp_path):
  with pytest.raises(BadInput, match="is a fine-tuned classifier, not an enc"):
    finetune(config_of(data_dir), str(straight), tmp_path)


def test_another_kind_of_run_is_not_continued(data_dir, tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(BadInput, match="holds a run that is no fine-tuning"):
    finetune(config_of(data_dir), "", tmp_path)
  assert (tmp_path / "config.json").read_text() == "{}"


def test_a_run_goes_on_as_it_was_or_not_at_all(
  straight, data_dir, encoder_dir, capsys
):
  arguments = command(data_dir, encoder_dir, straight)[3:]
  before = last_state(straight)
  for changed, message in (
    ("--config.train.label_smoothing=0.1", "train.label_smoothing: 0.0 -> 0.1"),
    ("--config.augment.shift=0.1", "augment.shift: 0.2 -> 0.1"),
    ("--config.optimizer.b1=0.8", "optimizer.b1: 0.9 -> 0.8"),
    ("--checkpoint=", "started from"),
    ("--config.data.test=train", "are both 'train'"),
    ("--config.no_field=1", "no such field of the config"),
    ("--odd", "unknown argument: --odd"),
  ):
    assert command_line.main([*arguments, changed]) == 2
    assert message in capsys.readouterr().err
  # A run that has ended has its results, and nothing is done.
  assert command_line.main(arguments) == 0
  assert "evaluat" not in capsys.readouterr().err
  for name, value in last_state(straight).items():
    np.testing.assert_array_equal(value, before[name])


def test_other_records_are_refused(straight, data_dir, encoder_dir, tmp_path):
  """A dataset of the same name with another number of shapes."""
  shapes = [make_shape(i, i % 3, 40) for i in range(60)]
  other = write(
    tmp_path / "other",
    {"train": shapes[:45], "val": shapes[45:]},
    {"train": NAMES, "val": NAMES},
  )
  with pytest.raises(BadInput, match="'train': 45, .*trained on .*'train': 48"):
    finetune(config_of(other, **RUN), str(encoder_dir), straight)
