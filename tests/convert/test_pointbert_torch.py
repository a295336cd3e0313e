"""The PyTorch encoder as its users meet it: files and clouds.

That it computes the right thing is in test_twin.py and in the parity tests.
"""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import json
import shutil
import subprocess
import sys

import numpy as np
from converting import assert_same_state
from safetensors.torch import save_file

from mrd_jax.convert import pointbert_modules, pointbert_torch
from mrd_jax.convert.pointbert_torch import build, load, prepare, shuffled
from mrd_jax.zoo.openshape import Size

CONFIG = {
  "architecture": vars(Size(64, 2, 2, 32, 8, 6, 0.5, 4, embed_dim=5)),
  "up_axis": "z",
  "num_points": 40,
  "colour_fill": 0.4,
  "source": "ignored",
}


def make(config=CONFIG):
  """A model with random weights and statistics."""
  torch.manual_seed(0)
  model = build(config)
  for buffer in model.buffers():
    if buffer.is_floating_point():
      buffer.uniform_(0.5, 1.5)
  return model.eval()


def cloud(n, channels=6, seed=0):
  rng = torch.Generator().manual_seed(seed)
  return torch.rand(n, channels, generator=rng)


def write(folder, config=CONFIG):
  """model.safetensors and config.json; returns the state dict."""
  state = make(config).state_dict()
  save_file(state, folder / "model.safetensors", {"format": "pt"})
  (folder / "config.json").write_text(json.dumps(config))
  return state


# Files.


@pytest.mark.parametrize("embed_dim", [5, None])
def test_load_is_bitwise(tmp_path, embed_dim):
  size = CONFIG["architecture"] | {"embed_dim": embed_dim}
  config = CONFIG | {"architecture": size}
  state = write(tmp_path, config)
  model = load(tmp_path / "model.safetensors")
  assert_same_state(model.state_dict(), state)
  assert model.config == config
  assert not any(module.training for module in model.modules())
  assert all(p.requires_grad for p in model.parameters())
  assert (model.proj is None) == (embed_dim is None)
  assert model.embed([cloud(30)]).shape == (1, embed_dim or 64)
  if embed_dim is None:
    assert all(name.startswith("ppat.") for name in state)


def test_load_finds_the_config(tmp_path):
  write(tmp_path)
  path = tmp_path / "model.safetensors"
  named = CONFIG | {"num_points": 7}
  (tmp_path / "model.json").write_text(json.dumps(named))
  assert load(path).config == named  # before config.json
  assert load(path, CONFIG).config == CONFIG
  assert load(path, tmp_path / "config.json").config == CONFIG
  (tmp_path / "model.json").unlink()
  assert load(str(path)).config == CONFIG
  (tmp_path / "config.json").unlink()
  with pytest.raises(FileNotFoundError, match=r"model.json nor config.json"):
    load(path)


@pytest.mark.parametrize("wrap", [True, False])
def test_load_pt(tmp_path, wrap):
  state = make().state_dict()
  stored = {f"module.{name}": x for name, x in state.items()}
  torch.save({"state_dict": stored} if wrap else stored, tmp_path / "model.pt")
  assert_same_state(load(tmp_path / "model.pt", CONFIG).state_dict(), state)


def test_load_makes_float32(tmp_path):
  state = make().state_dict()
  for dtype in (torch.float64, torch.float16, torch.bfloat16):
    stored = {
      k: x.to(dtype) if x.is_floating_point() else x for k, x in state.items()
    }
    save_file(stored, tmp_path / "model.safetensors")
    assert_same_state(
      load(tmp_path / "model.safetensors", CONFIG).state_dict(),
      {k: x.to(state[k].dtype) for k, x in stored.items()},
    )


def header(**entries):
  text = json.dumps(entries).encode()
  return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "cut off"),
    (b"\x01\0\0", "cut off"),
    (header(x=ENTRY)[:-3], "cut off"),
    (header(x=ENTRY) + bytes(7), "x ends at byte 8 of 7"),
    (header(x=ENTRY | {"data_offsets": [8, 0]}) + bytes(8), "cut off"),
    (header(x=ENTRY | {"data_offsets": [-8, 0]}) + bytes(8), "cut off"),
    (header(x=ENTRY | {"data_offsets": [0, 4]}) + bytes(8), "has 4 bytes"),
    (header(x=ENTRY | {"data_offsets": [0]}) + bytes(8), "header of x"),
    (header(x=ENTRY | {"dtype": "F7"}) + bytes(8), "header of x"),
    (header(x=ENTRY | {"shape": [-2]}) + bytes(8), "header of x"),
    (header(x={}), "header of x"),
    (b"\x05\0\0\0\0\0\0\0{'x':", "header is broken"),
    (b"\x02\0\0\0\0\0\0\0[1", "header is broken"),
    (b"\x03\0\0\0\0\0\0\0[1]", "header is broken"),
    (header(x=ENTRY) + bytes(8), r'(?s)does not fit config.*Unexpected.*"x"'),
  ],
)
def test_broken_safetensors(tmp_path, content, message):
  path = tmp_path / "broken.safetensors"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    load(path, CONFIG)
  assert "broken.safetensors" in str(error.value)


def test_broken_pt(tmp_path):
  path = tmp_path / "model.pt"
  for content in (b"no weights at all", b"hello world\n", b""):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.pt is not a file of weights"):
      load(path, CONFIG)
  torch.save({"epoch": 3}, path)
  with pytest.raises(ValueError, match=r"model.pt holds no state dict"):
    load(path, CONFIG)
  with pytest.raises(FileNotFoundError):
    load(tmp_path / "other.pt", CONFIG)


def test_weights_that_do_not_fit(tmp_path):
  write(tmp_path)
  path = tmp_path / "model.safetensors"
  with pytest.raises(ValueError, match=r"(?s)does not fit config.*proj.weight"):
    size = CONFIG["architecture"] | {"embed_dim": None}
    load(path, CONFIG | {"architecture": size})


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "is not JSON"),
    ("[]", "must hold a JSON object"),
    ("{}", "cannot read the field 'architecture'"),
    (json.dumps(CONFIG | {"architecture": {"width": 2}}), "field 'depth'"),
    (json.dumps(CONFIG | {"up_axis": "x"}), "up_axis is 'x'"),
  ],
)
def test_broken_config(tmp_path, text, message):
  write(tmp_path)
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
    load(tmp_path / "model.safetensors")


def test_the_files_need_nothing_but_torch(tmp_path):
  for module in (pointbert_torch, pointbert_modules):
    shutil.copy(module.__file__, tmp_path)
  write(tmp_path)
  program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import torch
before = set(sys.modules)
from pointbert_torch import load
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
ours = {{"pointbert_torch", "pointbert_modules"}}
assert new <= ours | sys.stdlib_module_names, new
points = torch.arange(180.0).sin().abs().reshape(1, 30, 6)
print(load({str(tmp_path / "model.safetensors")!r}).embed(points).tolist())
assert not {{"jax", "mrd_jax", "safetensors"}} & set(sys.modules)
"""
  done = subprocess.run(
    [sys.executable, "-I", "-c", program],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  expected = make().embed(torch.arange(180.0).sin().abs().reshape(1, 30, 6))
  torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected)


# Clouds.


def test_shuffled_is_fmix32():
  # Worked out with plain integers; fmix32(1) = 0x514e28b7.
  assert shuffled(16)[:10].tolist() == [6, 3, 1, 7, 0, 15, 5, 11, 2, 10]
  assert shuffled(10_000)[:5].tolist() == [2624, 5670, 4138, 5339, 7574]
  assert sorted(shuffled(1000).tolist()) == list(range(1000))


def test_prepare():
  points = 100 + 5 * cloud(60)
  points[:, 3:] = cloud(60, 3, seed=1)
  found = prepare(points, CONFIG)
  assert found.shape == (40, 6) and found.dtype == torch.float32
  chosen = points[shuffled(60)[:40]]
  assert torch.equal(found[:, 3:], chosen[:, 3:])
  torch.testing.assert_close(found[:, :3].mean(0), torch.zeros(3))
  assert found[:, :3].norm(dim=1).max().item() == pytest.approx(1)
  # y up becomes z up by exchange.
  kept = prepare(points, CONFIG | {"up_axis": "y"})
  assert torch.equal(kept[:, [0, 2, 1, 3, 4, 5]], found)
  raw = prepare(points, CONFIG | {"up_axis": "y"}, normalize=False)
  assert torch.equal(raw, chosen)
  # A z-up cloud is turned before that.
  z_up = points[:, [0, 2, 1, 3, 4, 5]] * torch.tensor([1, -1, 1, 1, 1, 1])
  for axis in "yz":
    config = CONFIG | {"up_axis": axis}
    assert torch.equal(prepare(z_up, config, up="z"), prepare(points, config))
  bare = prepare(points[:, :3], CONFIG)
  assert torch.equal(bare[:, :3], found[:, :3])
  assert (bare[:, 3:] == torch.tensor(0.4)).all()
  assert prepare(points[:7].numpy(), CONFIG).shape == (7, 6)


@pytest.mark.filterwarnings("ignore:points.*hardly make a shape")
def test_embed_does_not_depend_on_neighbours():
  model = make()
  clouds = [cloud(n, seed=n) for n in (50, 30, 50, 3)]
  together = model.embed(clouds)
  assert together.shape == (4, 5) and not together.requires_grad
  torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
  for one, row in zip(clouds, together, strict=True):
    assert torch.equal(model.embed(one[None])[0], row)
  batch = model.embed(torch.stack([clouds[2], clouds[0]]))
  assert torch.equal(batch, together[[2, 0]])
  assert torch.equal(model.embed([clouds[1].numpy()])[0], together[1])
  # Size, place and what is up are the caller's; nothing else changes.
  moved = clouds[0].clone()
  moved[:, :3] = 30 * moved[:, [0, 2, 1]] * torch.tensor([1, -1, 1]) - 7
  torch.testing.assert_close(
    model.embed(moved[None], up="z"), together[:1], rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize(
  ("points", "message"),
  [
    (torch.rand(4, 6), r"points\[0\].*shape \(6,\)"),
    (torch.rand(1, 4, 5), r"points\[0\].*shape \(4, 5\)"),
    ([torch.rand(4, 3), torch.rand(0, 3)], r"points\[1\].*shape \(0, 3\)"),
    ([torch.tensor([[0, 0, 0], [0, 0, np.nan]])], r"points\[0\].*NaN"),
    ([torch.tensor([[0, 0, 0], [0, 0, np.inf]])], r"points\[0\].*infinite"),
    (torch.full((1, 9, 3), 0.1), r"points\[0\].*coincide"),
    (torch.full((1, 9, 6), 255).cumsum(1), r"points\[0\].*divide 8-bit"),
    (1.2 * torch.eye(6)[None], r"from 0 to 1\.2, must be in \[0, 1\]$"),
    (np.ma.zeros((1, 9, 3)), r"points\[0\].*masked"),
    (torch.eye(3)[None] > 0, r"points\[0\].*torch\.bool"),
    (1j * torch.rand(1, 9, 3), r"points\[0\].*complex"),
    ([[["1", "2", "3"]]], r"points\[0\].*not an array of numbers"),
    (np.full((1, 9, 3), "1"), r"points\[0\].*not an array of numbers"),
    (torch.rand(1, 9, 3).double() * 1e-200, "too small"),
    (torch.rand(1, 9, 3).double() * 1e200, "too large"),
    ([], "no cloud"),
  ],
)
def test_bad_clouds(points, message):
  with pytest.raises(ValueError, match=message):
    make().embed(points)


def test_embed_says_what_the_model_lacks():
  with pytest.raises(ValueError, match="up is 'x'"):
    make().embed(torch.rand(1, 9, 3), up="x")
  with pytest.raises(ValueError, match=r"model\.eval"):
    make().train().embed(torch.rand(1, 9, 3))


def test_embed_says_that_points_are_few():
  few, enough = torch.rand(15, 3).repeat(9, 1), torch.rand(16, 3)
  with pytest.warns(UserWarning, match=r"points\[1, 2\]: fewer than 16 diff"):
    make().embed([enough, few, few[:15]])


def test_argmax_takes_the_first_of_equals():
  """Sampling relies on it, in long rows too, which are searched in parallel."""
  for dtype in (torch.float32, torch.float64):
    for width in (3, 17, 1000, 200_001):
      x = torch.zeros(2, width, dtype=dtype)
      assert x.argmax(dim=1).tolist() == [0, 0]
      x[0, width // 3 :: 2] = x[1, width // 2 :] = 1
      assert x.argmax(dim=1).tolist() == [width // 3, width // 2]


def test_autocast_leaves_grouping_alone():
  model, groups = make(), []
  model.ppat.sa.mlp_convs[0].register_forward_pre_hook(
    lambda _, inputs: groups.append(inputs[0])
  )
  points = prepare(cloud(500), CONFIG | {"num_points": 500})[None]
  with torch.no_grad():
    exact = model(points[..., :3], points)
    with torch.autocast("cpu", torch.bfloat16):
      rounded = model(points[..., :3], points)
  assert groups[1].dtype == torch.float32
  assert torch.equal(groups[0], groups[1])
  assert rounded.dtype == torch.bfloat16  # it did something
  torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
