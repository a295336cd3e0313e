"""The command line of conversions: files, refusals, whole or not at all."""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import dataclasses
import json
import subprocess
import sys

import encoders
import jax
import jax.numpy as jnp
import safetensors.numpy
import safetensors.torch
from bounds import full_disk
from converting import (
  FLAGS,
  LOGIT_SCALE,
  assert_same_variables,
  failed,
  run,
  strictly_loaded,
)
from openshape_bundle import Attack

from configs import debug
from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.config.pretraining import Config
from mrd_jax.convert import bridge, onnx_export
from mrd_jax.errors import BadInput
from mrd_jax.io.files import write_json


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("options", [(), ("--style", "module")])
def test_to_torch(model_dir, tmp_path, capsys, suffix, options):
  out = tmp_path / "new" / "folder" / f"a.b{suffix}"
  args = ("to-torch", "--checkpoint", model_dir, "--output", out)
  assert run(*args, *options) == 0
  sidecar = out.with_name("a.b.json")
  assert capsys.readouterr() == (f"{out}\n{sidecar}\n", "")
  assert sorted(out.parent.iterdir()) == sorted([out, sidecar])
  if suffix == ".pt":
    state = torch.load(out, weights_only=True)["state_dict"]
  else:
    state = safetensors.torch.load_file(out)
  assert all(key.startswith("module.") == bool(options) for key in state)
  state = {key.removeprefix("module."): x for key, x in state.items()}
  strictly_loaded(state, encoders.TINY, encoders.EMBED_DIM)
  values = json.loads(sidecar.read_text())
  config = encoders.make_config()
  assert values["architecture"] == vars(config.architecture)
  for name in ("up_axis", "num_points", "colour_fill", "step"):
    assert values[name] == getattr(config, name)
  assert values["embedding_space"] == "a teacher"
  assert values["logit_scale"] == 2.5
  # And back, to the same model folder.
  back = tmp_path / "back"
  assert run("from-torch", "--input", out, "--output", back) == 0
  for name in ("model.safetensors", "config.json", "README.md"):
    assert (back / name).read_bytes() == (model_dir / name).read_bytes(), name


def test_a_runs_checkpoints(tmp_path):
  """A run as `train` leaves it: steps 4 and 8, of which 4 scored better."""
  config = Config.from_dict(debug.get_config())
  write_json(tmp_path / "config.json", dataclasses.asdict(config))
  size, metric = config.model.size, config.checkpoint.best_metric
  checkpoints = Checkpoints(
    tmp_path / "checkpoints", keep_latest=1, keep_best=1, best_metric=metric
  )
  for step, score in ((4, 0.5), (8, 0.4)):
    variables = encoders.random_variables(size, 10, seed=step)
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
  out = tmp_path / "model.pt"
  args = ("to-torch", "--checkpoint", tmp_path, "--output", out)
  for options, step in (((), 8), (("--which", "best"), 4)):
    assert run(*args, *options) == 0
    found = encoders.load_published(out)
    expected = encoders.random_variables(size, 10, seed=step)
    assert_same_variables(found.variables, expected)
    assert found.config.architecture.size == size
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
    (("to-torch", nothing, tmp_path / "model.pt"), "does not exist, and is"),
    (("to-onnx", nothing, tmp_path / "m.onnx"), "does not exist, and is"),
    (
      ("to-torch", file, tmp_path / "model.pt"),
      "neither a folder nor a file of",
    ),
    (("to-torch", model_dir, file / "model.pt"), "file"),
    (("to-torch", model_dir, file / "model.safetensors"), "file"),
    (("to-onnx", model_dir, file / "model.onnx"), "file"),
  ):
    verb, checkpoint, out = args
    error = failed(capsys, verb, "--checkpoint", checkpoint, "--output", out)
    assert message in error
  weights = model_dir / "model.safetensors"
  args = ("from-torch", "--input", weights, "--output", file)
  assert str(file) in failed(capsys, *args)
  assert sorted(tmp_path.iterdir()) == [file]


def test_a_hostile_file(unknown, tmp_path, capsys):
  good, _ = unknown
  path, out, trace = (tmp_path / x for x in ("evil.pt", "out", "executed"))
  args = ("from-torch", "--input", path, "--output", out, *FLAGS)
  torch.save({"state_dict": torch.load(good), "x": Attack(trace)}, path)
  assert f"{path} is refused, nothing in it was exec" in failed(capsys, *args)
  assert not out.exists() and not trace.exists()


def test_without_pytorch(model_dir, tmp_path):
  """Help is quick, and what needs PyTorch says so."""
  program = f"""
import sys
sys.modules["torch"] = None
from mrd_jax.convert.__main__ import main
for args in ([], ["to-torch"], ["from-torch"], ["to-onnx"]):
  try:
    main([*args, "--help"])
  except SystemExit as error:
    assert error.code == 0
assert not {{"jax", "flax", "onnx", "numpy"}} & sys.modules.keys()
model, out = {str(model_dir)!r}, {str(tmp_path / "out")!r}
for args in (
  ["to-torch", "--checkpoint", model, "--output", out + ".pt"],
  ["to-onnx", "--checkpoint", model, "--output", out + ".onnx"],
):
  assert main(args) == 2
# Reading needs none.
args = ["from-torch", "--input", model + "/model.safetensors", "--output", out]
assert main(args) == 0
"""
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  for word in ("to-torch", "from-torch", "to-onnx", "--style", "--radius"):
    assert word in done.stdout
  sentence = (
    "error: this needs PyTorch, which is not installed: pip install mrd-jax"
  )
  assert done.stderr == 2 * f"{sentence}[torch]\n"
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx"])
def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch, suffix):
  out = tmp_path / f"model{suffix}"
  export = bridge.to_onnx if suffix == ".onnx" else bridge.to_torch

  def write_half(*args, **kwargs):
    write = getattr(args[1], "write_bytes", None) or args[1].write
    write(b"half a file")
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
    export(encoders.make_encoder(), out)
  assert content() == {}
  out.write_bytes(b"weights")
  config = b'{"model_type": "mrd_jax.encoder"}'
  out.with_suffix(".json").write_bytes(config)
  with pytest.raises(KeyboardInterrupt):
    export(encoders.make_encoder(), out)
  assert content() == {out.name: b"weights", "model.json": config}


@pytest.mark.parametrize(
  ("direction", "name"),
  [
    ("to-torch", "a.pt"),
    ("to-torch", "a.safetensors"),
    ("to-onnx", "a.onnx"),
    ("from-torch", "folder"),
  ],
)
def test_a_full_disk_is_one_sentence(
  model_dir, tmp_path, monkeypatch, capsys, direction, name
):
  out, given = tmp_path / name, ("--checkpoint", model_dir)
  if direction == "from-torch":
    given = ("--input", model_dir / "model.safetensors")
  monkeypatch.setattr(
    onnx_export, "export", lambda *args: args[1].write_bytes(bytes(2**20))
  )
  with full_disk(4096):
    error = failed(capsys, direction, *given, "--output", out)
  assert error.startswith(f"error: [Errno 27] File too large: '{out}")
  assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_another_programs_json_is_not_replaced(tmp_path):
  (tmp_path / "results.json").write_text("{}")
  for suffix, export in (
    (".pt", bridge.to_torch),
    (".safetensors", bridge.to_torch),
    (".onnx", bridge.to_onnx),
  ):
    with pytest.raises(BadInput, match=r"results\.json exists"):
      export(encoders.make_encoder(), tmp_path / f"results{suffix}")
  assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
