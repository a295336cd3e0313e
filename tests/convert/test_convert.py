"""Encoders to and from PyTorch and ONNX, whole: files, command line, numbers.

Layouts of files are in test_torch_files.py, names in test_state_dict.py.
"""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import safetensors.torch
from encoders import cloud, make_config, make_encoder, random_variables
from openshape_bundle import Attack
from weights import make_twin, surface_clouds

from configs import debug
from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.pretraining import SIZES, PointBERTSize, from_config_dict
from mrd_jax.convert import bridge, onnx_export, pointbert_torch
from mrd_jax.convert.pointbert_modules import Projected
from mrd_jax.convert.__main__ import main
from mrd_jax.encoder import names
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.io.files import write_json

TOLERANCE = 1e-5  # relative, float32
STEPS = 4321
LOGIT_SCALE = float(np.float32(2.65926))
COUNTERS = [f"ppat.sa.mlp_bns.{i}.num_batches_tracked" for i in range(3)]
# The published models with 64 groups: OpenAI's ViT-L/14 and ViT-B/32.
SMALL = PointBERTSize(512, 12, 8, 1024, 128, 64, 0.4, 256)


def twin_of(size: PointBERTSize, embed_dim: int) -> Projected:
  twin = make_twin(size, embed_dim).eval()
  for name, buffer in twin.named_buffers():
    if name.endswith("num_batches_tracked"):
      buffer.fill_(STEPS)
  return twin


def trained(state) -> dict:
  """The part of a trainer's file that matters here."""
  return {
    "state_dict": {f"module.{key}": x for key, x in state.items()},
    "logit_scale": {"module.logit_scale": torch.tensor(LOGIT_SCALE)},
    "epoch": 3,
  }


@pytest.fixture(scope="module", params=["t", "m"])
def pair(request, tmp_path_factory):
  """An OpenShape model of scale 1 or 4, and what we make of its file."""
  twin = twin_of(SIZES[request.param], 1280)
  path = tmp_path_factory.mktemp("published") / "model.pt"
  torch.save(trained(twin.state_dict()), path)
  return twin, bridge.from_torch(path)


def strictly_loaded(state, size, embed_dim):
  """OpenShape's module with a state dict's weights."""
  model = make_twin(size, embed_dim, seed=9).eval()
  model.load_state_dict(state, strict=True)
  return model


def assert_same_state(found, expected) -> None:
  assert found.keys() == expected.keys()
  for key, x in expected.items():
    assert found[key].dtype == x.dtype and torch.equal(found[key], x), key


def assert_same_variables(found, expected) -> None:
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  paths = jax.tree_util.tree_leaves_with_path(expected)
  for (path, x), y in zip(paths, jax.tree.leaves(found), strict=True):
    np.testing.assert_array_equal(y, x, err_msg=jax.tree_util.keystr(path))


def relative_error(found, expected) -> float:
  found, expected = np.asarray(found), np.asarray(expected)
  assert found.shape == expected.shape
  return np.abs(found - expected).max() / np.abs(expected).max()


def twin_embeddings(twin, clouds) -> np.ndarray:
  """The module's output for prepared clouds (B, N, 6), at unit length."""
  points = torch.from_numpy(clouds)
  with torch.no_grad():
    x = twin(points[..., :3], points)
  return (x / x.norm(dim=1, keepdim=True)).numpy()


# Weights.


@pytest.mark.parametrize("style", ["bare", "module"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_round_trips_are_bitwise(pair, tmp_path, suffix, style):
  twin, encoder = pair
  size, out = encoder.config.architecture, tmp_path / f"out{suffix}"
  assert bridge.to_torch(encoder, out, style=style) == [
    out,
    tmp_path / "out.json",
  ]
  if suffix == ".pt":
    content = torch.load(out, weights_only=True)
    state = content["state_dict"]
    (name,) = content["logit_scale"]
    assert name == ("module." if style == "module" else "") + "logit_scale"
    assert content["logit_scale"][name].item() == LOGIT_SCALE
  else:
    state = safetensors.torch.load_file(out)
  assert len(state) == {6: 94, 12: 160}[size.depth]
  if style == "module":
    assert all(key.startswith("module.p") for key in state)
    state = {key.removeprefix("module."): x for key, x in state.items()}
  model = strictly_loaded(state, size, 1280)
  assert_same_state(model.state_dict(), twin.state_dict())

  again = bridge.from_torch(out)
  assert again.config == encoder.config
  assert again.config.step == STEPS
  assert again.config.logit_scale == LOGIT_SCALE
  assert_same_variables(again.variables, encoder.variables)


def test_embeddings_agree(pair):
  twin, encoder = pair
  clouds = surface_clouds(0, 2, 2048)
  expected = twin_embeddings(twin, clouds)
  assert relative_error(encoder.embed(list(clouds)), expected) < TOLERANCE
  assert np.abs(expected[0] - expected[1]).max() > 1e-4


@pytest.mark.parametrize(
  ("style", "suffix"), [("bare", ".safetensors"), ("module", ".pt")]
)
def test_exported_files_embed_raw_clouds_alike(tmp_path, style, suffix):
  """Any unit, place and number of points, with and without colours."""
  for up_axis in ("y", "z"):
    encoder = make_encoder(up_axis=up_axis)
    out = tmp_path / f"{up_axis}{suffix}"
    bridge.to_torch(encoder, out, style=style)
    model = pointbert_torch.load(out)
    clouds = [cloud(n, channels=3 + 3 * (n % 2), seed=n) for n in (5, 64, 901)]
    clouds[0][:, :3] *= 1e-4
    clouds[1][:, :3] = 1000 * clouds[1][:, :3] + [4e5, 5e6, -30]
    for up in ("y", "z"):
      expected = encoder(clouds, up=up)
      found = model.embed(clouds, up=up)
      assert relative_error(found, expected) < TOLERANCE
  assert np.abs(encoder(clouds, up="y") - expected).max() > 1e-3


# What the tensors do not say.


def write_published(path, name, embed_dim):
  """A file in a published model's layout; returns the module."""
  size = SIZES["m"] if name == "vitg14" else SMALL
  twin = twin_of(size, embed_dim or 8)
  if embed_dim is None:
    twin.proj = None
  state = twin.state_dict()
  if name == "vitg14":
    content = trained(state)
  else:
    short = {
      key if embed_dim else key.removeprefix("ppat."): x
      for key, x in state.items()
    }
    content = {f"pc_encoder.{key}": x for key, x in short.items()}
  torch.save(content, path)
  return twin


@pytest.mark.parametrize(
  ("name", "embed_dim", "printed", "space"),
  [
    ("vitg14", 1280, "384 groups of 64 within 0.2, z up", "OpenCLIP ViT-bigG"),
    ("vitl14", 768, "64 groups of 256 within 0.4, y up", "OpenAI CLIP ViT-L"),
    ("vitb32", None, "64 groups of 256 within 0.4, y up", "OpenAI CLIP ViT-B"),
  ],
)
def test_published_models(tmp_path, capsys, name, embed_dim, printed, space):
  path, out = tmp_path / "model.pt", tmp_path / "new" / "model"
  twin = write_published(path, name, embed_dim)
  assert run("from-torch", "--input", path, "--out", out) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f"width 512, depth 12, {printed}"
  assert lines[1].startswith("source: model.pt, by its shapes OpenShape/")
  assert lines[2].startswith(f"embedding space: {space}")
  assert lines[3:] == [f"written to {out}"]

  encoder = load_encoder(out)
  config = encoder.config
  assert config.embed_dim == embed_dim
  assert name in config.source and config.license is None
  assert (config.num_points, config.colour_fill) == (10_000, 0.4)
  assert config.step == STEPS
  assert config.logit_scale == (LOGIT_SCALE if name == "vitg14" else None)
  assert "license:" not in (out / "README.md").read_text()  # not ours to say
  if embed_dim is None:
    clouds = surface_clouds(0, 2, 1024)
    expected = twin_embeddings(twin, clouds)
    assert expected.shape == (2, 512)
    assert relative_error(encoder.embed(list(clouds)), expected) < TOLERANCE


def test_scale_3_is_not_the_published_vit_l_14(tmp_path):
  variables = random_variables(SMALL, 1280)
  path = tmp_path / "model.pt"
  save(path, names.to_state_dict(variables, num_batches_tracked=1))
  config = bridge.from_torch(path).config
  size = config.architecture
  assert (size.groups, size.radius, size.group_size) == (128, 0.35, 128)
  assert (config.license, config.embedding_space) == (None, "unknown")
  assert "a PyTorch file" in config.source and "assumed" in config.source


def save(path, arrays) -> None:
  torch.save(
    {k: torch.from_numpy(np.array(x)) for k, x in arrays.items()}, path
  )


@pytest.fixture
def unknown(tmp_path):
  """A file of an encoder that no table knows, and its encoder."""
  encoder = make_encoder()
  state = names.to_state_dict(encoder.variables, num_batches_tracked=7)
  save(tmp_path / "model.pt", state)
  return tmp_path / "model.pt", encoder


FLAGS = ("--groups", 12, "--radius", 0.4, "--group-size", 8)


def test_unknown_shapes_demand_the_flags(unknown, tmp_path, capsys):
  path, encoder = unknown
  out = tmp_path / "model"
  for left, missing in (
    (0, "give --groups, --radius, --group-size"),
    (2, "give --radius, --group-size"),
    (4, "give --group-size"),
  ):
    message = failed(
      capsys, "from-torch", "--input", path, "--out", out, *FLAGS[:left]
    )
    assert message.startswith(f"{path} is a PointBERT of ")
    assert message.endswith(f"{missing}\n")
    assert not out.exists()
  assert run("from-torch", "--input", path, "--out", out, *FLAGS) == 0
  found = load_encoder(out)
  assert found.config.architecture == encoder.config.architecture
  assert found.config.embedding_space == "unknown"
  assert (found.config.step, found.config.logit_scale) == (7, None)
  assert_same_variables(found.variables, encoder.variables)


def test_flags_win(unknown, tmp_path, capsys):
  path, _ = unknown
  other = ("--up-axis", "y", "--num-points", 99, "--license", "mit")
  space = ("--embedding-space", "a teacher of mine")
  out = tmp_path / "out"
  args = ("from-torch", "--input", path, "--out", out)
  assert run(*args, *FLAGS, *other, *space) == 0
  assert "12 groups of 8 within 0.4, y up" in capsys.readouterr().out
  config = load_encoder(out).config
  assert (config.up_axis, config.num_points) == ("y", 99)
  assert (config.license, config.embedding_space) == ("mit", space[1])
  # Over the sidecar, too: the rest stays the sidecar's.
  encoder = make_encoder(license="cc0-1.0")
  bridge.to_torch(encoder, path)
  assert run(*args, "--groups", 5, "--up-axis", "y") == 0
  found = load_encoder(out).config
  assert found == dataclasses.replace(
    encoder.config,
    architecture=dataclasses.replace(encoder.config.architecture, groups=5),
    up_axis="y",
  )


def test_flags_are_checked(unknown, tmp_path, capsys):
  path, _ = unknown
  args = ("from-torch", "--input", path, "--out", tmp_path / "out", *FLAGS)
  for flag, value, message in (
    ("--groups", 0, "groups is 0, must be a whole number above 0"),
    ("--radius", -0.2, "radius is -0.2, must be a number"),
    ("--radius", "nan", "radius is nan, must be a number"),
    ("--num-points", -3, "num_points is -3, must be a whole number"),
  ):
    assert message in failed(capsys, *args, flag, value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_sidecar_wins_over_the_table(tmp_path, suffix):
  size = dataclasses.replace(SIZES["t"], groups=32, radius=0.5, group_size=100)
  data = {"name": "ours", "teacher": "a teacher"}
  encoder = make_encoder(architecture=size, embed_dim=None, data=data)
  out = tmp_path / f"t{suffix}"
  bridge.to_torch(encoder, out)
  assert bridge.from_torch(out).config == encoder.config
  (tmp_path / "t.json").unlink()
  found = bridge.from_torch(out).config
  assert found.architecture == SIZES["t"]
  assert (found.data, found.up_axis, found.step) == (None, "z", 7)
  assert found.logit_scale == (2.5 if suffix == ".pt" else None)


def test_the_file_wins_over_the_sidecar(unknown):
  """Weights that were trained on, beside the JSON of before."""
  path, encoder = unknown
  bridge.to_torch(encoder, path)
  content = torch.load(path, weights_only=True)
  for key in COUNTERS:
    content["state_dict"][key] += 5
  content["logit_scale"]["logit_scale"] += 1
  torch.save(content, path)
  found = bridge.from_torch(path).config
  assert (found.step, found.logit_scale) == (12, 3.5)
  for key in COUNTERS:
    del content["state_dict"][key]
  del content["logit_scale"]
  torch.save(content, path)
  found = bridge.from_torch(path).config
  assert (found.step, found.logit_scale) == (7, 2.5)


def test_a_model_folders_weights_keep_their_config(tmp_path):
  encoder = make_encoder()
  encoder.save_pretrained(tmp_path)
  again = bridge.from_torch(tmp_path / "model.safetensors")
  assert again.config == encoder.config
  assert_same_variables(again.variables, encoder.variables)


def test_a_sidecar_of_another_file_is_refused(unknown):
  path, _ = unknown
  other = make_encoder(embed_dim=11)
  write_json(path.with_suffix(".json"), {"model_type": "another"})
  with pytest.raises(BadInput, match=r"model\.json does not describe"):
    bridge.from_torch(path)
  bridge.to_torch(other, path.with_name("other.pt"))
  path.with_name("other.json").rename(path.with_suffix(".json"))
  with pytest.raises(BadInput, match=r"model\.pt.*embed_dim 11, .* have 10"):
    bridge.from_torch(path)


# As PyTorch modules.


def test_torch_models(unknown):
  path, encoder = unknown
  ours = bridge.torch_model(encoder)
  theirs = bridge.read_torch_model(path, encoder.config)
  assert_same_state(theirs.state_dict(), ours.state_dict())
  points = [cloud(70)]
  expected = encoder(points)
  for model in (ours, theirs):
    assert not model.training
    assert relative_error(model.embed(points), expected) < TOLERANCE

  state = torch.load(path, weights_only=True)
  for key in COUNTERS:
    del state[key]
  torch.save(state, path)
  model = bridge.read_torch_model(path, encoder.config)
  assert_same_state(
    dict(model.named_parameters()), dict(ours.named_parameters())
  )
  with pytest.raises(BadInput, match=r"model\.pt: .* embed_dim 9"):
    bridge.read_torch_model(path, make_config(embed_dim=9))
  torch.save(state | {"proj.bias": torch.full((10,), torch.nan)}, path)
  with pytest.raises(BadInput, match=r"model\.pt: proj\.bias holds NaN"):
    bridge.read_torch_model(path, encoder.config)


# The command line.


def run(*args) -> int:
  return main([str(arg) for arg in args])


def failed(capsys, *args) -> str:
  """The sentence that a command failed with."""
  assert run(*args) == 2
  captured = capsys.readouterr()
  assert captured.out == "" and captured.err.count("\n") == 1
  return captured.err


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  make_encoder().save_pretrained(folder)
  return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
  """A run as `train` leaves it: steps 4 and 8, of which 4 scored better."""
  workdir = tmp_path_factory.mktemp("run")
  config = from_config_dict(debug.get_config())
  write_json(workdir / "config.json", dataclasses.asdict(config))
  metric = config.checkpoint.best_metric
  checkpoints = Checkpoints(
    workdir / "checkpoints", keep_latest=1, keep_best=1, best_metric=metric
  )
  for step, score in ((4, 0.5), (8, 0.4)):
    variables = random_variables(config.model.size, 10, seed=step)
    state = TrainState(
      step=jnp.int32(step),
      params={
        "encoder": jax.device_put(variables["params"]),
        "logit_scale": jnp.float32(LOGIT_SCALE),
      },
      batch_stats=jax.device_put(variables["batch_stats"]),
      opt_state={},
      average={},
    )
    checkpoints.save(step, state, {metric: score})
  checkpoints.close()
  return workdir


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("options", [(), ("--style", "module")])
def test_to_torch(model_dir, tmp_path, capsys, suffix, options):
  out = tmp_path / "new" / "folder" / f"a.b{suffix}"
  args = ("to-torch", "--checkpoint", model_dir, "--out", out)
  assert run(*args, *options) == 0
  sidecar = out.with_name("a.b.json")
  assert capsys.readouterr() == (f"{out}\n{sidecar}\n", "")
  assert sorted(out.parent.iterdir()) == sorted([out, sidecar])
  if suffix == ".pt":
    state = torch.load(out, weights_only=True)["state_dict"]
  else:
    state = safetensors.torch.load_file(out)
  assert all(key.startswith("module.") == bool(options) for key in state)
  values = json.loads(sidecar.read_text())
  config = make_config()
  assert values["architecture"] == vars(config.architecture)
  for name in ("embed_dim", "up_axis", "num_points", "colour_fill", "step"):
    assert values[name] == getattr(config, name)
  assert values["embedding_space"] == "a teacher"
  assert values["logit_scale"] == 2.5
  # And back, to the same model folder.
  back = tmp_path / "back"
  assert run("from-torch", "--input", out, "--out", back) == 0
  for name in ("model.safetensors", "config.json", "README.md"):
    assert (back / name).read_bytes() == (model_dir / name).read_bytes(), name


@pytest.mark.parametrize(
  ("options", "step"), [((), 8), (("--which", "best"), 4)]
)
def test_a_runs_checkpoints(run_dir, tmp_path, options, step):
  out = tmp_path / "model.pt"
  args = ("to-torch", "--checkpoint", run_dir, "--out", out)
  assert run(*args, *options) == 0
  found = bridge.from_torch(out)
  size = found.config.architecture
  assert_same_variables(found.variables, random_variables(size, 10, seed=step))
  assert found.config.step == step
  assert found.config.logit_scale == LOGIT_SCALE
  assert found.config.training_config["train"]["steps"] == 20
  content = torch.load(out, weights_only=True)
  strictly_loaded(content["state_dict"], size, 10)
  assert content["logit_scale"]["logit_scale"].item() == LOGIT_SCALE


def test_bad_arguments(model_dir, tmp_path, capsys):
  nothing, file = tmp_path / "nothing", tmp_path / "file"
  file.write_text("")
  for args, message in (
    (("to-torch", model_dir, tmp_path / "model.bin"), "must end in .safeten"),
    (("to-torch", model_dir, tmp_path), "must end in .safetensors or .pt"),
    (("to-onnx", model_dir, tmp_path / "model.pt"), "must end in .onnx"),
    (("to-torch", nothing, tmp_path / "model.pt"), "config.json is missing"),
    (("to-onnx", nothing, tmp_path / "m.onnx"), "config.json is missing"),
    (("to-torch", file, tmp_path / "model.pt"), "convert from-torch"),
    (("to-torch", model_dir, file / "model.pt"), "file"),
    (("to-torch", model_dir, file / "model.safetensors"), "file"),
    (("to-onnx", model_dir, file / "model.onnx"), "file"),
  ):
    verb, checkpoint, out = args
    error = failed(capsys, verb, "--checkpoint", checkpoint, "--out", out)
    assert message in error
  args = ("from-torch", "--input", nothing / "model.pt", "--out", tmp_path)
  assert "model.pt cannot be read: No such file" in failed(capsys, *args)
  weights = model_dir / "model.safetensors"
  args = ("from-torch", "--input", weights, "--out", file)
  assert str(file) in failed(capsys, *args)
  assert sorted(tmp_path.iterdir()) == [file]
  for wrong in (
    (),
    ("to-torch", "--checkpoint", model_dir),
    ("to-torch", "--checkpoint", "x", "--out", "y", "--style", "z"),
    ("to-torch", "--checkpoint", "x", "--out", "y", "--which", "first"),
    ("from-torch", "--input", "x", "--out", "y", "--up-axis", "x"),
  ):
    with pytest.raises(SystemExit) as error:
      run(*wrong)
    assert error.value.code == 2


def test_hostile_and_broken_files(unknown, tmp_path, capsys):
  good, _ = unknown
  path, out, trace = (tmp_path / x for x in ("evil.pt", "out", "executed"))
  args = ("from-torch", "--input", path, "--out", out, *FLAGS)
  torch.save({"state_dict": torch.load(good), "x": Attack(trace)}, path)
  assert f"{path} is refused, nothing in it was exec" in failed(capsys, *args)
  path.write_bytes(good.read_bytes()[:-1000])
  assert f"{path} cannot be read as a PyTorch" in failed(capsys, *args)
  torch.save({"point_encoder.cls_token": torch.ones(1, 1, 8)}, path)
  assert "not an OpenShape PointBERT" in failed(capsys, *args)
  state = torch.load(good)
  state["proj.weight"][3, 4] = torch.inf
  torch.save(state, path)
  assert "proj.weight holds NaN or infinite" in failed(capsys, *args)
  assert not out.exists() and not trace.exists()


def test_help_is_quick():
  program = """
import sys
from mrd_jax.convert.__main__ import main
for args in ([], ["to-torch"], ["from-torch"], ["to-onnx"]):
  try:
    main([*args, "--help"])
  except SystemExit as error:
    assert error.code == 0
assert not {"jax", "flax", "torch", "onnx", "numpy"} & sys.modules.keys()
"""
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  for word in ("to-torch", "from-torch", "to-onnx", "--style", "--radius"):
    assert word in done.stdout


def test_without_pytorch(model_dir, tmp_path):
  program = f"""
import sys
sys.modules["torch"] = None
from mrd_jax.convert.__main__ import main
model, out = {str(model_dir)!r}, {str(tmp_path / "out")!r}
for args in (
  ["to-torch", "--checkpoint", model, "--out", out + ".pt"],
  ["to-onnx", "--checkpoint", model, "--out", out + ".onnx"],
  ["from-torch", "--input", model + "/model.safetensors", "--out", out],
):
  assert main(args) == 2
"""
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  sentence = (
    "error: this needs PyTorch, which is not installed: pip install mrd-jax"
  )
  assert done.stderr == 3 * f"{sentence}[torch]\n"
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx"])
def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch, suffix):
  out = tmp_path / f"model{suffix}"
  export = bridge.to_onnx if suffix == ".onnx" else bridge.to_torch

  def write_half(*args, **kwargs):
    for path in args[1:2]:
      path.write_bytes(b"half a file")
    raise KeyboardInterrupt

  def content():
    return {
      path.name: path.read_bytes()
      for path in tmp_path.iterdir()
      if not path.name.endswith(".tmp")
    }

  monkeypatch.setattr(torch, "save", write_half)
  monkeypatch.setattr(safetensors.numpy, "save_file", write_half)
  monkeypatch.setattr(onnx_export, "export", write_half)
  with pytest.raises(KeyboardInterrupt):
    export(make_encoder(), out)
  assert content() == {}
  out.write_bytes(b"weights")
  config = b'{"model_type": "mrd_jax.pointbert"}'
  out.with_suffix(".json").write_bytes(config)
  with pytest.raises(KeyboardInterrupt):
    export(make_encoder(), out)
  assert content() == {out.name: b"weights", "model.json": config}


def test_another_programs_json_is_not_replaced(tmp_path):
  (tmp_path / "results.json").write_text("{}")
  for suffix, export in (
    (".pt", bridge.to_torch),
    (".safetensors", bridge.to_torch),
    (".onnx", bridge.to_onnx),
  ):
    with pytest.raises(BadInput, match=r"results\.json exists"):
      export(make_encoder(), tmp_path / f"results{suffix}")
  assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


# ONNX.


def test_to_onnx(model_dir, tmp_path, capfd):
  pytest.importorskip("onnx", reason="needs the onnx extra")
  pytest.importorskip("onnxscript", reason="needs the onnx extra")
  runtime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")
  out = tmp_path / "new" / "model.onnx"
  assert run("to-onnx", "--checkpoint", model_dir, "--out", out) == 0
  sidecar = out.with_suffix(".json")
  assert capfd.readouterr() == (f"{out}\n{sidecar}\n", "")
  assert sorted(out.parent.iterdir()) == [sidecar, out]
  assert json.loads(sidecar.read_text()) == json.loads(
    (model_dir / "config.json").read_text()
  )
  session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
  encoder = load_encoder(model_dir)
  for n in (9, 700):
    points = [cloud(n, seed=seed) for seed in range(3)]
    prepared = np.stack([encoder.prepare(one) for one in points])
    (found,) = session.run(["embedding"], {"points": prepared})
    assert relative_error(found, encoder(points)) < TOLERANCE


def test_onnx_packages_are_named_before_anything_is_written(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "onnxscript", None)
  with pytest.raises(ModuleNotFoundError, match="onnxscript"):
    bridge.to_onnx(make_encoder(), tmp_path / "model.onnx")
  assert not list(tmp_path.iterdir())
