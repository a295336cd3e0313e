"""The benchmark scripts run, at a size that takes seconds."""

import functools
import math
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from clips import make_clip

from benchmarks import (
  commits,
  floors,
  memory,
  predict,
  prepare,
  ranking,
  startup,
  step,
  teacher,
  timing,
  tokenizer,
  training,
)
from mrd_jax.config.pretraining import SIZES
from mrd_jax.models import clip
from mrd_jax.models.pointbert import PointBERT


@pytest.mark.slow
@pytest.mark.long
def test_step_benchmark_runs():
  result = step.measure(
    step.parse(
      ["--points=300", "--embed_dim=32", "--groups=8", "--rounds=1"]
      + ["--peak_side=64", "--copy_megabytes=4"]
    )
  )
  assert 0 < result["losses_ms"] < result["step_ms"]
  assert result["floor_matrices_ms"] > 0
  assert result["share_of_matrix_floor"] > 0
  assert result["loss"] > 0


def test_a_tree_has_the_names_that_are_timed():
  names = set(re.findall(r"\bstep\.(\w+)", commits._CHILD)) - {"lower"}
  assert len(names) == 3
  assert all(hasattr(training, name) for name in names)


def products(jaxpr, times: int = 1) -> int:
  """Operations of all matrix products of a program."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      length = math.prod(shape[axis] for axis in contracted)
      total += 2 * times * length * equation.outvars[0].aval.size
    runs = equation.params.get("length", 1)  # of a scan
    inners = list(jax.extend.core.jaxprs_in_params(equation.params))
    if "branches_platforms" in equation.params:  # of which one is lowered
      inners = inners[:1]
    total += sum(products(inner, times * runs) for inner in inners)
  return total


@pytest.mark.parametrize("size", ["t", "m"])
def test_floors_count_what_the_encoder_multiplies(size):
  encoder = PointBERT(SIZES[size], embed_dim=40)
  groups = jax.eval_shape(
    encoder.group,
    jax.ShapeDtypeStruct((1, 600, 6), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )
  variables = jax.eval_shape(
    lambda: encoder.init(
      jax.random.key(0),
      jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), groups),
      train=False,
      method="embed",
    )
  )
  embed = functools.partial(encoder.apply, train=False, method="embed")
  program = jax.make_jaxpr(embed)(variables, groups)
  assert floors.forward_flops(SIZES[size], 40) == products(program.jaxpr)


def test_forms_take_turns():
  order = []
  seconds = timing.interleaved(
    {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3
  )
  assert "".join(order) == "abababab"
  counts = {name: len(times) for name, times in seconds.items()}
  assert counts == {"a": 3, "b": 3}


def test_a_ratio_is_of_pairs():
  seconds = {"slow": [2.0, 30.0, 8.0], "fast": [1.0, 10.0, 1.0]}
  assert timing.ratio(seconds, "slow", "fast") == 3.0
  assert timing.medians(seconds) == {"slow": 8.0, "fast": 1.0}


def test_peaks_are_those_of_a_machine():
  assert 1e8 < timing.matrix_peak("float32", side=128, rounds=2) < 1e15
  assert 1e7 < timing.copy_bandwidth(megabytes=4, rounds=2) < 1e13


@pytest.mark.parametrize("size", ["t", "m"])
def test_tokenizer_benchmark_runs(size):
  pytest.importorskip("torch", reason="it measures PyTorch, too")
  args = [f"--size={size}", "--points=600", "--batch=2", "--rounds=1"]
  result = tokenizer.measure(tokenizer.parse([*args, "--account=4"]))
  for work in ("sampling", "query"):
    assert set(result[work]["equal"].values()) == {1.0}
    assert all(min(x) > 0 for x in result[work]["seconds"].values())
  assert result["account"]["sorted"] == 0
  assert "naive loop" in tokenizer.tables(result)


@pytest.mark.parametrize(
  "query", [tokenizer.sorting_query, tokenizer.top_k_query]
)
def test_tokenizer_benchmark_sees_a_sort(query, monkeypatch):
  """Were the ball query one of the other forms, the account would say so."""
  monkeypatch.setattr(
    tokenizer.point_ops,
    "ball_query",
    lambda xyz, centers, n, *, radius, group_size: query(
      xyz, centers, radius, group_size
    ),
  )
  args = tokenizer.parse(["--points=600", "--account=4"])
  assert tokenizer.account(args, tokenizer.SIZES["m"])["sorted"] == 600


def test_prediction_is_its_arithmetic():
  args = predict.parse(
    ["--size=t", "--devices=8,16", "--batch=10", "--shapes-per-second=100"]
    + ["--embed_dim=0", "--shapes=3600", "--epochs=10", "--price=2"]
    + ["--fast=1", "--slow=0.5"]
  )
  # 7/8 of 2 x 4 bytes at 1 GB/s; half of an eighth of them at 0.5 GB/s.
  assert predict.seconds_sent(args, 8, 10**7) == pytest.approx(0.07)
  assert predict.seconds_sent(args, 16, 10**7) == pytest.approx(0.07 + 0.01)
  assert predict.num_parameters("t", 1280) == 5_100_768
  first, second = predict.rows(args)
  assert first[:3] == ["8", "80", "100"]
  # 450 steps of 0.1 s at least.
  assert first[4].startswith("0.01 to ")
  assert second[1] == "160"


def test_ranking_benchmark_runs():
  args = ranking.parse(["--batch=8,40", "--anchors=16", "--rounds=1"])
  result = ranking.measure(args)
  assert [row["anchors"] for row in result["rows"]] == [8, 16]
  assert "faster by" in ranking.table(result)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("work", ["train", "infer"])
def test_encoder_benchmark_runs(work):
  torch = pytest.importorskip("torch")
  from benchmarks import encoder

  threads = torch.get_num_threads()
  args = ["--points=300", "--embed_dim=32", "--batch=4", "--rounds=1"]
  args += ["--peak_side=64", f"--work={work}"]
  result = encoder.measure(encoder.parse(args))
  torch.set_num_threads(threads)
  assert [row["form"] for row in result["rows"]] == [
    *("mrd_jax", "eager", "tuned")
  ]
  assert max(result["differences"].values()) < 1e-5
  assert all(row["ms"] > 0 for row in result["rows"])
  assert result["floor"] > 0
  assert " tuned |" in encoder.table(result)


@pytest.mark.slow
@pytest.mark.long  # three processes import all there is
def test_prepare_benchmark_runs(tmp_path, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")  # one device: what it starts compiles
  model, work = make_clip(tmp_path / "clip"), tmp_path / "work"
  work.mkdir()
  args = prepare.parse(
    ["--meshes=4", "--subdivisions=1", "--texture=64", "--points=100"]
    + ["--views=2", "--image_size=40", "--batch=2", "--rounds=1"]
    + ["--workers=2", f"--model={model}", f"--dir={work}"]
  )
  result = prepare.measure(args)
  assert not list(work.iterdir())
  counts = {step: len(times) for step, times in result["drafts"].items()}
  reads = {"read .glb": 2, "read .obj": 2}
  assert counts == dict.fromkeys(prepare.DRAFTING, 4) | reads
  features = result["features"]
  assert features.shape == (8, 24)
  assert (np.diff(features, axis=0) != 0).any(axis=1).all()
  assert result["difference"] < 1e-6  # each image went where it belongs
  one, many = (result["ways"][way][0] for way in prepare.WAYS)
  assert one["processes"] == 1
  assert many["processes"] == min(2, prepare.os.cpu_count() or 1)
  for row in (one, many):
    assert 0 < row["start-up s"] < row["whole s"]
    assert 0 < 8 / row["images/s"] < row["whole s"]
    assert 0.05 < row["peak GiB"] < 20
  table = prepare.tables(result, args)
  assert all(f"| {key} " in table for key in (*prepare.DRAFTING, *one))


@pytest.mark.slow
@pytest.mark.long  # three processes
def test_startup_benchmark_runs(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")
  args = ["--size=t", "--points=300", "--embed_dim=32", "--batch=4"]
  result = startup.measure(startup.parse(args))
  assert [row["start"] for row in result["rows"]] == list(startup.STARTS)
  assert [row["compiled after it"] for row in result["rows"]] == [0, 0, 0]
  parts = {"state": "compiling the state", "first step": "compiling the step"}
  for name, part in parts.items():
    assert all(0 < row[part] < row[name] for row in result["rows"])
  for name in ("first step", "compiling the state", "compiling the step"):
    _, empty, filled = (row[name] for row in result["rows"])
    assert filled < empty
  assert " filled cache |" in startup.table(result)


def test_teacher_benchmark_runs(monkeypatch):
  tower = clip.TowerSize(16, 2, 2, 32, "gelu", 1e-5)
  tiny = clip.CLIPSize(8, tower, 16, 8, tower, 50, 77, None)
  monkeypatch.setitem(teacher.SIZES, "tiny", tiny)
  result = teacher.measure(
    teacher.parse(
      ["--size=tiny", "--batch=1", "--batches=1", "--rounds=1"]
      + ["--peak_side=64"]
    )
  )
  assert result["images_per_second"] > 0 < result["texts_per_second"]
  assert abs(result["mean_norm"] - 1) < 1e-5
  assert result["global_batch"] == 8


def test_a_teachers_flops_are_those_that_xla_counts():
  """Of one layer, since XLA counts the body of a scan once."""
  tower = clip.TowerSize(64, 1, 4, 256, "relu", 1e-5)
  size = clip.CLIPSize(8, tower, 64, 8, tower, 50, 77, None)
  model = clip.CLIP(size)
  pixels = np.zeros((1, 3, 64, 64), np.float32)
  ids = np.zeros((1, 77), np.int32)
  params = jax.eval_shape(model.init, jax.random.key(0), pixels, ids, ids)
  run = jax.jit(model.apply, static_argnames="method")
  cost = run.lower(params, pixels, method="image").compile().cost_analysis()
  counted = teacher.image_flops(size)
  assert counted < cost["flops"] < 1.1 * counted


@pytest.mark.slow
@pytest.mark.long
def test_memory_benchmark_runs(capsys):
  args = ["--sizes=t", "--batch=16", "--points=300", "--embed_dim=32"]
  rows = memory.main(memory.parse([*args, "--fsdp=1,8", "--average"]))
  assert [row["devices"] for row in rows] == [8, 8]
  whole, split = (row["arguments GiB"] for row in rows)
  # Parameters, two moments and the average are 0.08 GiB: most of it is split.
  assert split < whole / 3
  assert all(row["temporaries GiB"] > 0 for row in rows)
  moved = [row["collectives"] for row in rows]
  for row, collectives in zip(rows, moved, strict=True):
    assert collectives["all-reduce"][1] > row["parameters MiB"]
  # Whole parameters need no gathering, only the embeddings do.
  assert moved[0]["all-gather"][1] < 1 < moved[1]["all-gather"][1]
  printed = capsys.readouterr().out
  assert re.search(r"^\| T +\| +8 \| +8 \| +none \| +1 \| +16 ", printed, re.M)
  assert "| all-to-all MiB |" in printed
