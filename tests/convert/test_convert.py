"""Encoders to and from PyTorch and ONNX, whole: files, command line, numbers.

Layouts of files are in test_torch_files.py, names in test_state_dict.py.
"""

import encoders
import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import dataclasses

import numpy as np
from converting import (
  FLAGS,
  LOGIT_SCALE,
  assert_same_state,
  assert_same_variables,
  failed,
  relative_error,
  run,
  save,
)
from encoders import cloud, make_config, make_encoder, random_variables
from weights import make_twin, surface_clouds

from mrd_jax.config.pretraining import SIZES, PointBERTSize
from mrd_jax.convert import bridge, pointbert_torch
from mrd_jax.convert.pointbert_modules import Projected
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.io.files import write_json
from mrd_jax.zoo import openshape

TOLERANCE = 1e-5  # relative, float32
STEPS = 4321
COUNTERS = [f"ppat.sa.mlp_bns.{i}.num_batches_tracked" for i in range(3)]
# The published models with 64 groups: OpenAI's ViT-L/14 and ViT-B/32.
SMALL = PointBERTSize(512, 12, 8, 1024, 128, 64, 0.4, 256)


def twin_of(size: PointBERTSize, embed_dim: int) -> Projected:
  twin = make_twin(size, embed_dim).eval()
  for name, buffer in twin.named_buffers():
    if name.endswith("num_batches_tracked"):
      buffer.fill_(STEPS)
  return twin


def twin_embeddings(twin, clouds) -> np.ndarray:
  """The module's output for prepared clouds (B, N, 6), at unit length."""
  points = torch.from_numpy(clouds)
  with torch.no_grad():
    x = twin(points[..., :3], points)
  return (x / x.norm(dim=1, keepdim=True)).numpy()


# Weights.


def test_a_trainers_file_there_and_back(tmp_path):
  """An OpenShape model of scale 1: the same embeddings, the same bits."""
  twin = twin_of(SIZES["t"], 1280)
  content = {
    "state_dict": {f"module.{k}": x for k, x in twin.state_dict().items()},
    "logit_scale": {"module.logit_scale": torch.tensor(LOGIT_SCALE)},
    "epoch": 3,
  }
  torch.save(content, tmp_path / "model.pt")
  encoder = encoders.load_published(tmp_path / "model.pt")
  assert encoder.config.step == STEPS
  assert encoder.config.logit_scale == LOGIT_SCALE
  clouds = surface_clouds(0, 2, 2048)
  expected = twin_embeddings(twin, clouds)
  assert relative_error(encoder.embed(list(clouds)), expected) < TOLERANCE
  assert np.abs(expected[0] - expected[1]).max() > 1e-4

  bridge.to_torch(encoder, tmp_path / "out.pt", style="module")
  content = torch.load(tmp_path / "out.pt", weights_only=True)
  scale = content["logit_scale"]["module.logit_scale"]
  assert scale.item() == LOGIT_SCALE
  state = {
    key.removeprefix("module."): x for key, x in content["state_dict"].items()
  }
  assert len(state) == 94
  assert_same_state(state, twin.state_dict())
  again = encoders.load_published(tmp_path / "out.pt")
  assert again.config == encoder.config
  assert_same_variables(again.variables, encoder.variables)


@pytest.mark.filterwarnings("ignore:points.*hardly make a shape")
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


@pytest.mark.parametrize(
  ("name", "embed_dim", "printed", "space"),
  [
    ("vitg14", 1280, ("z", 384, 0.2, 64), "OpenCLIP ViT-bigG"),
    ("vitl14", 768, ("y", 64, 0.4, 256), "OpenAI CLIP ViT-L"),
    ("vitb32", None, ("y", 64, 0.4, 256), "OpenAI CLIP ViT-B"),
  ],
)
def test_published_models(tmp_path, capsys, name, embed_dim, printed, space):
  path, out = tmp_path / "model.pt", tmp_path / "new" / "model"
  twin = twin_of(SIZES["m"] if name == "vitg14" else SMALL, embed_dim or 8)
  if embed_dim is None:
    twin.proj = None
  torch.save(twin.state_dict(), path)
  assert run("from-torch", "--input", path, "--output", out) == 0
  lines = capsys.readouterr().out.splitlines()
  up, groups, radius, group_size = printed
  assert lines[0].startswith(
    f"OpenShape's PointBERT, {up} up: width 512, depth 12, heads 8"
  )
  assert lines[0].endswith(
    f"groups {groups}, radius {radius}, group_size {group_size}, "
    f"embed_dim {embed_dim}"
  )
  assert lines[1].startswith("source: model.pt, by its shapes OpenShape/")
  assert lines[2].startswith(f"embedding space: {space}")
  assert lines[3:] == [f"written to {out}"]

  encoder = load_encoder(out)
  config = encoder.config
  assert config.embed_dim == embed_dim
  assert name in config.source and config.license is None
  assert (config.num_points, config.colour_fill) == (10_000, 0.4)
  assert (config.step, config.logit_scale) == (STEPS, None)
  assert "license:" not in (out / "README.md").read_text()  # not ours to say
  if embed_dim is None:
    clouds = surface_clouds(0, 2, 1024)
    expected = twin_embeddings(twin, clouds)
    assert expected.shape == (2, 512)
    assert relative_error(encoder.embed(list(clouds)), expected) < TOLERANCE


@pytest.mark.parametrize(
  ("shapes", "grouping"),
  [
    # OpenShape's scales 1 to 6, its default projection.
    ((256, 6, 4, 1024, 96, 1280), (64, 0.4, 256)),
    ((512, 6, 8, 1024, 128, 1280), (64, 0.4, 256)),
    ((512, 12, 8, 1024, 128, 1280), (128, 0.35, 128)),  # not ViT-L/14's
    ((512, 12, 8, 1536, 256, 1280), (384, 0.2, 64)),
    ((768, 12, 12, 2304, 256, 1280), (512, 0.2, 64)),
    ((768, 24, 12, 3072, 256, 1280), (512, 0.2, 64)),
    # Another teacher changes the projection alone.
    ((512, 12, 8, 1536, 256, 512), (384, 0.2, 64)),
    ((256, 6, 4, 1024, 96, None), (64, 0.4, 256)),
  ],
)
def test_openshapes_scales(shapes, grouping):
  assert (
    openshape.known_grouping(openshape.Size(*shapes[:5], embed_dim=shapes[5]))
    == grouping
  )


def test_scale_3_is_not_the_published_vit_l_14(tmp_path):
  variables = random_variables(SMALL, 1280)
  path = tmp_path / "model.pt"
  save(path, openshape.to_state_dict(variables, num_batches_tracked=1))
  config = encoders.load_published(path).config
  assert config.architecture.groups == 128
  assert (config.license, config.embedding_space) == (None, "unknown")
  assert "a PyTorch file" in config.source and "assumed" in config.source


def test_unknown_shapes_demand_the_flags(unknown, tmp_path, capsys):
  path, encoder = unknown
  out = tmp_path / "model"
  args = ("from-torch", "--input", path, "--output", out)
  message = failed(capsys, *args, "--groups", 12)
  assert message.startswith(f"error: {path} is a PointBERT of ")
  assert message.endswith("give --radius, --group-size\n")
  assert not out.exists()
  assert run(*args, *FLAGS) == 0
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
  args = ("from-torch", "--input", path, "--output", out)
  assert run(*args, *FLAGS, *other, *space) == 0
  printed = capsys.readouterr().out
  assert "PointBERT, y up" in printed
  assert "groups 12, radius 0.4, group_size 8" in printed
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
  args = ("from-torch", "--input", path, "--output", tmp_path / "out", *FLAGS)
  for flag, value, message in (
    ("--groups", 0, "groups is 0, must be between 1 and 65536"),
    ("--radius", "nan", "radius is nan, must be finite"),
    ("--num-points", -3, "num_points is -3, must be between 1 and 16777215"),
  ):
    assert message in failed(capsys, *args, flag, value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_sidecar_wins_over_the_table(tmp_path, suffix):
  size = dataclasses.replace(SIZES["t"], groups=32, radius=0.5, group_size=100)
  data = {"name": "ours", "teacher": "a teacher"}
  encoder = make_encoder(architecture=size, embed_dim=None, data=data)
  out = tmp_path / f"t{suffix}"
  bridge.to_torch(encoder, out)
  assert encoders.load_published(out).config == encoder.config
  (tmp_path / "t.json").unlink()
  found = encoders.load_published(out).config
  assert found.architecture.size == SIZES["t"]
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
  found = encoders.load_published(path).config
  assert (found.step, found.logit_scale) == (12, 3.5)
  for key in COUNTERS:
    del content["state_dict"][key]
  del content["logit_scale"]
  torch.save(content, path)
  found = encoders.load_published(path).config
  assert (found.step, found.logit_scale) == (7, 2.5)


def test_a_model_folders_weights_keep_their_config(tmp_path):
  encoder = make_encoder()
  encoder.save_pretrained(tmp_path)
  again = encoders.load_published(tmp_path / "model.safetensors")
  assert again.config == encoder.config
  assert_same_variables(again.variables, encoder.variables)


def test_a_sidecar_of_another_file_is_refused(unknown):
  path, _ = unknown
  other = make_encoder(embed_dim=11)
  write_json(path.with_suffix(".json"), {"model_type": "another"})
  with pytest.raises(BadInput, match=r"model\.json does not describe"):
    encoders.load_published(path)
  bridge.to_torch(other, path.with_name("other.pt"))
  path.with_name("other.json").rename(path.with_suffix(".json"))
  with pytest.raises(
    BadInput, match=r"model\.pt: proj.* has shape .* it is not Open"
  ):
    encoders.load_published(path)


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
  with pytest.raises(BadInput, match=r"model\.pt: proj.* must be \(9"):
    bridge.read_torch_model(path, make_config(embed_dim=9))
  torch.save(state | {"proj.bias": torch.full((10,), torch.nan)}, path)
  with pytest.raises(BadInput, match=r"model\.pt: proj\.bias holds NaN"):
    bridge.read_torch_model(path, encoder.config)
