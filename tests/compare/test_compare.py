"""The comparison with PyTorch: it agrees, and it notices what does not."""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import dataclasses
import json

import numpy as np
from encoders import make_encoder

from benchmarks.pytorch import random_encoder, random_examples
from configs import debug
from mrd_jax.compare import (
  errors,
  report,
  run,
  stages,
  torch_losses,
  torch_optimizer,
)
from mrd_jax.compare.__main__ import main
from mrd_jax.config.pretraining import PointBERTSize
from mrd_jax.convert import bridge, pointbert_modules, torch_files

TINY = PointBERTSize(
  48, 2, 2, 96, sa_dim=24, groups=16, radius=0.4, group_size=12
)
DIM = 32
STAGES = [
  "group centres",
  "group features",
  "mini-PointNet",
  "lift",
  "block 0",
  "block 1",
  "head",
  "normalised embedding",
]
MODULES = ["mini-PointNet", "lift", "cls token", "block 0", "block 1", "head"]


@pytest.fixture(scope="module")
def encoder():
  return tiny_encoder(DIM)


def tiny_encoder(embed_dim: int | None):
  return make_encoder(
    architecture=TINY, embed_dim=embed_dim, num_points=160, logit_scale=None
  )


def compared(encoder, model=None, dtypes=("float32",), device="cpu", **changes):
  """Rows of six random clouds, or of `Examples` that differ in `changes`."""
  width = encoder.config.embed_dim or TINY.width
  return run.compare(
    encoder,
    model or bridge.torch_model(encoder),
    random_examples(6, 160, width)._replace(**changes),
    dtypes=dtypes,
    device=device,
  )


def above(rows) -> list[tuple[str, str]]:
  return [(row.part, row.stage) for row in rows if not row.passed]


def by_part(rows) -> dict[str, list[str]]:
  parts: dict[str, list[str]] = {}
  for row in rows:
    parts.setdefault(row.part, []).append(row.stage)
  return parts


def worst(rows, part) -> float:
  return max(row.relative for row in rows if row.part == part)


def test_everything_agrees_and_is_there(encoder):
  dtypes = ("float32", "bfloat16")
  rows = compared(encoder, dtypes=dtypes)
  assert above(rows) == []
  parts = by_part(rows)
  assert parts["points"] == ["FPS indices", "ball query indices"]
  for dtype in dtypes:
    assert parts[f"eval {dtype}"] == STAGES
    assert parts[f"train {dtype}"] == [*STAGES, "running statistics"]
    assert parts[f"gradients {dtype}"] == [*MODULES, "scale, dynamic weights"]
    terms = parts[f"loss {dtype}"]
    assert {"loss", "contrast/text", "relation/PI-IT"} <= set(terms)
  assert 1e-7 < worst(rows, "eval float32") < 1e-5
  # It did round, and PyTorch's own bfloat16 is told beside ours.
  assert worst(rows, "eval bfloat16") > 1e-4
  own = [r.torch_relative for r in rows if r.part.endswith("bfloat16")]
  assert None not in own and max(own) > 1e-4


@pytest.mark.parametrize(
  ("embed_dim", "loss"),
  [
    pytest.param(
      DIM,
      {"representation": "euclidean", "normalize_intra": False},
      marks=pytest.mark.slow,
    ),
    (
      DIM,
      {
        "representation": "partial_order",
        "sampled_pairs": 4,
        "cross_form": "matched",
      },
    ),
    pytest.param(
      DIM,
      {"weighting": "fixed", "intra_scale": 0.0, "intra_diagonal": False},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      None,
      {"weighting": "alternating", "intra": False, "cross": False},
      marks=pytest.mark.slow,
    ),
  ],
  ids=["euclidean", "partial order", "fixed", "without a projection"],
)
def test_the_runs_own_loss_is_compared(embed_dim, loss):
  config = debug.get_config()
  config.loss.update(loss)
  config.loss.relation_weight = 2.0
  encoder = tiny_encoder(embed_dim)
  found = dataclasses.replace(
    encoder,
    config=dataclasses.replace(
      encoder.config, training_config=json.loads(config.to_json())
    ),
  )
  rows = compared(found, dtypes=("float64",))
  assert above(rows) == []
  assert worst(rows, "eval float64") < 1e-7
  parts = by_part(rows)
  terms = parts["loss float64"]
  assert ("relation/PP-II" in terms) == loss.get("intra", True)
  assert ("relation/PI-IT" in terms) == (
    loss.get("cross", True) and loss.get("cross_form") != "matched"
  )
  assert ("head" in parts["gradients float64"]) == (embed_dim is not None)


def change_weight(model):
  with torch.no_grad():
    model.ppat.transformer.layers[1][1].fn.net[0].weight[3, 4] += 1e-2


def approximate_gelu(model):
  for block in model.ppat.transformer.layers:
    block[1].fn.net[1] = torch.nn.GELU(approximate="tanh")


@pytest.mark.parametrize(
  ("change", "first"), [(change_weight, 5), (approximate_gelu, 4)]
)
def test_a_change_shows_where_it_is(encoder, change, first):
  model = bridge.torch_model(encoder)
  change(model)
  found = by_part(r for r in compared(encoder, model) if not r.passed)
  assert found["eval float32"] == STAGES[first:]


def test_another_start_of_sampling_shows(encoder, monkeypatch):
  original = pointbert_modules.farthest_point_sample

  def other(xyz, n, num_points=None):
    return original(xyz.flip(1), n, num_points)

  monkeypatch.setattr(pointbert_modules, "farthest_point_sample", other)
  found = above(compared(encoder))
  assert ("points", "FPS indices") in found
  assert ("eval float32", "group centres") in found


def test_another_momentum_shows_in_the_running_statistics_alone(encoder):
  model = bridge.torch_model(encoder)
  model.ppat.sa.mlp_bns[2].momentum = 0.11
  assert above(compared(encoder, model)) == [
    ("train float32", "running statistics")
  ]


def test_another_lambda_shows_in_loss_and_gradients(encoder, monkeypatch):
  original = torch_losses.mrd_loss
  monkeypatch.setattr(
    torch_losses,
    "mrd_loss",
    lambda *args, lam, **options: original(*args, lam=2.9, **options),
  )
  parts = {part for part, _ in above(compared(encoder))}
  assert parts == {"loss float32", "gradients float32"}


def test_decayed_norms_show_in_the_optimizer_alone(encoder, monkeypatch):
  monkeypatch.setattr(
    torch_optimizer, "takes_decay", lambda name, p: name.endswith(".weight")
  )
  parts = {part for part, _ in above(compared(encoder))}
  assert parts == {"optimizer, same gradients float32"}


def test_padded_clouds(encoder):
  counts = np.array([160, 90, 12, 1, 2, 160], np.int32)
  assert above(compared(encoder, num_points=counts)) == []


def test_the_model_is_left_as_it_was(encoder):
  model = bridge.torch_model(encoder)
  before = {k: v.clone() for k, v in model.state_dict().items()}
  compared(encoder, model, dtypes=("float32", "bfloat16"))
  assert not model.training
  for name, value in model.state_dict().items():
    assert torch.equal(value, before[name]), name
  assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
@pytest.mark.long
def test_full_size():
  encoder = random_encoder("m", 1280, 2048)
  rows = run.compare(
    encoder,
    bridge.torch_model(encoder),
    random_examples(4, 2048, 1280),
    dtypes=("float32", "bfloat16"),
  )
  assert above(rows) == []
  (embedding,) = (
    row
    for row in rows
    if (row.part, row.stage) == ("eval bfloat16", stages.EMBEDDING)
  )
  assert embedding.cosine > 0.9999


def test_snapped_coordinates_are_exact():
  clouds = random_examples(2, 50, 4)
  snapped = stages.snap(clouds)
  xyz = snapped.points[..., :3] * 1024
  np.testing.assert_array_equal(xyz, np.rint(xyz))
  assert np.abs(snapped.points - clouds.points).max() <= 2**-11
  np.testing.assert_array_equal(snapped.points[..., 3:], clouds.points[..., 3:])


def test_errors_by_hand():
  row = errors.of_values("p", "s", [1.0, 2.5], [1.0, 2.0], 0.25)
  assert (row.max_abs, row.relative, row.passed) == (0.5, 0.25, True)
  assert not row._replace(tolerance=0.2).passed
  assert row._replace(tolerance=None).passed
  tree = {"b": np.zeros((2, 2)), "a": {"c": np.array(4.0)}}
  other = {"a": {"c": np.array(3.0)}, "b": np.zeros((2, 2))}
  assert errors.of_values("p", "s", tree, other, None).relative == 1 / 3
  assert errors.of_values("p", "s", 1.0, 0.0, None, scale=4.0).relative == 0.25
  zero = errors.of_values("p", "s", [0.0], [0.0], 0.0)
  assert (zero.relative, zero.cosine, zero.passed) == (0, 1, True)
  unlike = errors.of_values("p", "s", [1e-9], [0.0], 1e9)
  assert (unlike.relative, unlike.passed) == (np.inf, False)
  pair = errors.of_embeddings(
    "p", "s", [[1.0, 0], [1, 0]], [[1.0, 0], [0, 1]], None
  )
  assert pair.cosine == 0
  index = errors.of_indices("p", "s", [[1, 2], [3, 4]], [[1, 2], [4, 3]], 0.0)
  assert (index.max_abs, index.relative, index.passed) == (2, 0.5, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_fails(bad):
  assert not errors.of_values("p", "s", [1.0, bad], [1.0, 1.0], 1e9).passed
  assert not errors.of_values("p", "s", [1.0, 1.0], [1.0, bad], 1e9).passed


def command(encoder, data_dir, folder, *options: str) -> int:
  encoder.save_pretrained(folder / "model")
  return main(
    [
      *("--checkpoint", str(folder / "model"), "--data", str(data_dir)),
      *("--output", str(folder / "out"), "--batch", "6"),
      *("--dtypes", "float32", *options),
    ]
  )


def test_command(encoder, data_dir, tmp_path, capsys):
  assert command(encoder, data_dir, tmp_path) == 0
  printed = capsys.readouterr().out
  assert "normalised embedding" in printed
  assert "judged stages are within their tolerances" in printed
  written = json.loads((tmp_path / "out" / "compare.json").read_text())
  assert written["passed"] and written["clouds"] == 6
  assert {"jax", "torch", "rows", "data", "step"} <= written.keys()
  assert {"max_abs", "relative", "cosine", "tolerance", "passed"} <= (
    written["rows"][0].keys()
  )
  assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_command_with_a_torch_file(encoder, data_dir, tmp_path, capsys):
  model = bridge.torch_model(encoder)
  state = {k: v.numpy() for k, v in model.state_dict().items()}
  torch_files.write(tmp_path / "same.pt", state, None, "module")
  state["ppat.lift.2.bias"] = state["ppat.lift.2.bias"] + np.float32(0.01)
  torch_files.write(tmp_path / "other.pt", state, None, "bare")
  same = ("--torch", str(tmp_path / "same.pt"))
  assert command(encoder, data_dir, tmp_path, *same) == 0
  other = ("--torch", str(tmp_path / "other.pt"))
  assert command(encoder, data_dir, tmp_path, *other) == 1
  assert "Above its tolerance: lift (eval float32)" in capsys.readouterr().out
  # What was found is written down all the same.
  assert not json.loads((tmp_path / "out/compare.json").read_text())["passed"]


def test_command_refuses_what_does_not_fit(encoder, data_dir, tmp_path, capsys):
  def refused(*options: str, encoder=encoder) -> str:
    assert command(encoder, data_dir, tmp_path, *options) == 2
    return capsys.readouterr().err

  assert "split 'test' is not in" in refused("--split", "test")
  assert "--batch is 99" in refused("--split", "val", "--batch", "99")
  assert "features of" in refused(encoder=tiny_encoder(DIM + 1))
  larger = bridge.torch_model(tiny_encoder(None)).state_dict()
  torch_files.write(
    tmp_path / "a.pt", {k: v.numpy() for k, v in larger.items()}, None, "bare"
  )
  assert "embed_dim" in refused("--torch", str(tmp_path / "a.pt"))
  assert "none.pt" in refused("--torch", str(tmp_path / "none.pt"))
  if not torch.cuda.is_available():
    assert "no GPU" in refused("--torch-device", "cuda")
  assert not (tmp_path / "out").exists()
  (tmp_path / "out").write_text("a file")
  assert "out" in refused()


def test_table_marks_what_is_above():
  rows = [
    errors.Row("eval float32", "lift", 1e-3, 1e-3, 0.9, 1e-5),
    errors.Row("eval bfloat16", "lift", 1e-3, 1e-3, 0.9, 5e-2, 2e-3),
    errors.Row("whole step bfloat16", "lift", 1e-3, 2.0, 0.9, None, 1.5),
  ]
  tables = report.table(rows).split("\n\n")
  assert [("ABOVE" in table) for table in tables] == [True, False, False]
  assert ["PyTorch's" in table for table in tables] == [False, True, True]
  assert "2.0e-03" in tables[1] and "1.5e+00" in tables[2]
  assert report.verdict(rows) == "Above its tolerance: lift (eval float32)."
  assert report.verdict(rows[1:]).startswith("All 1 judged")


@pytest.mark.gpu
def test_against_pytorch_on_the_gpu(encoder):
  """Float32 products are float32 on both sides: TF32 is off by default."""
  dtypes = ("float32", "bfloat16")
  assert above(compared(encoder, dtypes=dtypes, device="cuda")) == []
