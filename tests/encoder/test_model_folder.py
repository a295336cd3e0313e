"""Encoders on disk: what is written, what is read, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from bounds import full_disk
from encoders import (
  EMBED_DIM,
  TINY,
  TRAINED,
  assert_same,
  make_config,
  make_encoder,
)

from mrd_jax.encoder import files
from mrd_jax.encoder.card import LIBRARY
from mrd_jax.encoder.encoder import Encoder, load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.zoo.openshape import to_state_dict

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
  make_encoder().save_pretrained(tmp_path / "model")
  return tmp_path / "model"


# Round trips.


@pytest.mark.parametrize(
  "changes",
  [{}, {"embed_dim": None, "logit_scale": None}, TRAINED],
  ids=["plain", "no projection", "trained"],
)
def test_a_model_folder_gives_the_same_encoder(tmp_path, changes):
  encoder = make_encoder(**changes)
  folder = tmp_path / "new" / "model"
  encoder.save_pretrained(folder)
  names = sorted(path.name for path in folder.iterdir())
  assert names == ["README.md", "config.json", "model.safetensors"]
  assert_same(Encoder.from_pretrained(folder), encoder)
  assert_same(load_encoder(str(folder)), encoder)
  assert_same(load_encoder(folder / WEIGHTS), encoder)
  before = (folder / WEIGHTS).read_bytes()
  load_encoder(folder).save_pretrained(folder)
  assert (folder / WEIGHTS).read_bytes() == before


def test_the_precision_is_chosen_when_loading(folder):
  for load in (Encoder.from_pretrained, load_encoder):
    assert_same(load(folder, dtype="bfloat16"), make_encoder(dtype="bfloat16"))


def test_the_tensors_have_openshapes_names(folder):
  """Which are in test_state_dict.py."""
  expected = to_state_dict(make_encoder().variables, num_batches_tracked=7)
  with safetensors.safe_open(folder / WEIGHTS, "numpy") as file:
    assert file.metadata() == {"format": "pt"}
    assert set(file.keys()) == expected.keys()
    for key, value in expected.items():
      np.testing.assert_array_equal(file.get_tensor(key), value, strict=True)


def test_a_file_with_its_json_beside_it(folder):
  """Before a config.json that is there, too."""
  tensors = safetensors.numpy.load_file(folder / WEIGHTS)
  path = folder / "chairs.safetensors"
  safetensors.numpy.save_file(tensors, path)
  assert_same(load_encoder(path), make_encoder())
  values = json.loads((folder / "config.json").read_text())
  (folder / "chairs.json").write_text(json.dumps(values | {"num_points": 90}))
  assert_same(load_encoder(path), make_encoder(num_points=90))
  assert_same(load_encoder(folder), make_encoder())


def test_write_with_a_prefix(tmp_path):
  encoder = make_encoder()
  path = tmp_path / "new" / "chairs.safetensors"
  both = path, path.with_suffix(".json")
  files.write(*both, encoder.config, encoder.variables, prefix="module.")
  assert all(k.startswith("module.") for k in safetensors.numpy.load_file(path))
  assert_same(load_encoder(path), encoder)


def test_half_precision_files_become_float32(folder):
  path = folder / WEIGHTS
  tensors = {
    key: value.astype(np.float16) if value.dtype == np.float32 else value
    for key, value in safetensors.numpy.load_file(path).items()
  }
  safetensors.numpy.save_file(tensors, path)
  found = load_encoder(folder).variables["params"]["proj"]["kernel"]
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, tensors["proj.weight"].T)


def edit_config(path: Path, **changes) -> None:
  """A value of `...` removes the field."""
  values = json.loads(path.read_text()) | changes
  kept = {name: value for name, value in values.items() if value is not ...}
  path.write_text(json.dumps(kept))


def test_other_fields_are_ignored_and_defaults_may_be_left_out(folder):
  """Those of a newer version."""
  optional = ("logit_scale", "step", "source", "results", "license")
  config = folder / "config.json"
  edit_config(config, future=1, **dict.fromkeys(optional, ...))
  expected = make_config(logit_scale=None, step=0, source="")
  assert load_encoder(folder).config == expected


def test_an_interrupted_write_leaves_the_old_model(folder, monkeypatch):
  """The disk is full half-way through the weights."""
  other = make_encoder(seed=1, step=8)
  before = {path.name: path.read_bytes() for path in folder.iterdir()}

  def save_file(tensors, path, metadata):
    Path(path).write_bytes(safetensors.numpy.save(tensors)[:999])
    raise OSError("No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(safetensors.numpy, "save_file", save_file)
    with pytest.raises(OSError, match="No space left"):
      other.save_pretrained(folder)
  for name, content in before.items():
    assert (folder / name).read_bytes() == content, name
  assert_same(load_encoder(folder), make_encoder())
  other.save_pretrained(folder)  # what was left is in nobody's way
  assert_same(load_encoder(folder), other)
  assert {path.name for path in folder.iterdir()} == before.keys()


def test_a_full_disk_leaves_the_old_card(folder, monkeypatch):
  old = (folder / "README.md").read_bytes()
  long = LIBRARY * 2**20
  monkeypatch.setattr("mrd_jax.encoder.encoder.model_card", lambda _: long)
  with full_disk(2**20), pytest.raises(OSError, match=r"too large.*README\.md"):
    make_encoder().save_pretrained(folder)
  assert (folder / "README.md").read_bytes() == old


def test_a_readme_of_something_else_is_not_replaced(folder):
  encoder = load_encoder(folder)
  encoder.save_pretrained(folder)  # its own card is
  (folder / "README.md").write_text("# My project\n")
  with pytest.raises(BadInput, match=r"README\.md exists"):
    encoder.save_pretrained(folder)


def test_a_folder_is_read_by_its_config(folder):
  """Not by the JSON of an older export in it."""
  stale = (folder / "config.json").read_text().replace('"z"', '"y"')
  (folder / "model.json").write_text(stale)
  assert load_encoder(folder).config.up_axis == "z"


def test_others_may_read_the_weights(folder):
  modes = {path.stat().st_mode & 0o777 for path in folder.glob("[cm]*")}
  assert len(modes) == 1


# What a user can mend.


QKV = "ppat.transformer.layers.1.0.fn.to_qkv.weight"


def edit_qkv(path: Path, change) -> None:
  """By a function of the tensor; None removes it."""
  tensors = safetensors.numpy.load_file(path)
  value = tensors.pop(QKV)
  if change:
    tensors[QKV] = change(value)
  safetensors.numpy.save_file(tensors, path)


def cut(path: Path, size: int) -> None:
  path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
  ("file", "spoil", "message"),
  [
    ("config.json", Path.unlink, "has no model.json or config.json beside"),
    ("config.json", lambda f: cut(f, 99), "config.json: is not JSON"),
    ("config.json", lambda f: f.write_text("[1]"), "json does not describe an"),
    (
      WEIGHTS,
      lambda f: cut(f, -9),
      "safetensors cannot be read as safetensors",
    ),
    (WEIGHTS, lambda f: cut(f, 0), "safetensors cannot be read as safetensors"),
    (
      WEIGHTS,
      lambda f: edit_qkv(f, lambda x: x * np.nan),
      f"{QKV} holds NaN or",
    ),
    (
      WEIGHTS,
      lambda f: edit_qkv(f, None),
      f"lacks {QKV}: it is not OpenShape's PointBERT of Size",
    ),
    (WEIGHTS, Path.unlink, "model.safetensors does not exist"),
  ],
)
def test_a_spoilt_folder_is_refused(folder, file, spoil, message):
  spoil(folder / file)
  for load in (Encoder.from_pretrained, load_encoder):
    with pytest.raises(BadInput, match=f"^{folder}.*{message}"):
      load(folder)


SIZE = dataclasses.asdict(TINY) | {"embed_dim": EMBED_DIM}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "bert"}, "does not describe an encoder of mrd_jax"),
    ({"format": 3}, "has format 3, .* reads 2; install a newer mrd_jax"),
    (
      {"system": "dgcnn"},
      "system is 'dgcnn', must be one of pointbert, spconv",
    ),
    ({"system": "uni3d"}, "architecture must have the fields channels, depth"),
    ({"up_axis": ...}, "lacks the field up_axis"),
    (
      {"architecture": {"depth": 2}},
      "architecture must have the fields depth, ",
    ),
    ({"architecture": "t"}, "architecture must have the fields"),
    (
      {"architecture": SIZE | {"mlp_dim": 64}},
      r".*net.0.weight has shape \(48, 32\), must be \(64, 32\): it is not Op",
    ),
    ({"architecture": SIZE | {"embed_dim": None}}, "also holds proj.bias"),
    (
      SIZE | {"embed_dim": "x"},
      "embed_dim is 'x', must be of type int or None",
    ),
    (SIZE | {"embed_dim": 0}, "embed_dim is 0, must be between 1 and"),
    ({"up_axis": "up"}, "up_axis is 'up', must be one of 'y', 'z'"),
    ({"up_axis": ["y"]}, r"up_axis is \['y'\]"),
    ({"num_points": True}, "num_points is True, must be of type int"),
    ({"num_points": None}, "num_points is None"),
    ({"num_points": 2**24}, "num_points is 16777216, must be between 1 and"),
    ({"colour_fill": 255}, "colour_fill is 255.0, must be between 0 and 1"),
    ({"embedding_space": None}, "embedding_space is None, must be of type str"),
    ({"logit_scale": float("nan")}, "logit_scale is nan, must be finite"),
    ({"step": -1}, "step is -1, must be between 0 and"),
    ({"data": "procedural"}, "data is 'procedural', must be of type dict or"),
    ({"license": ["mit"]}, r"license is \['mit'\], must be of type str or"),
    (SIZE | {"radius": -0.4}, r"radius is -0.4, must be between 1e-06 and 4"),
    (SIZE | {"radius": float("nan")}, "radius is nan"),
    (SIZE | {"groups": 0}, "groups is 0, must be between 1 and"),
    (SIZE | {"group_size": 8.0}, "group_size is 8.0, must be of type int"),
    (SIZE | {"width": None}, "width is None"),
  ],
)
def test_an_odd_config_is_refused(folder, change, message):
  if change.keys() == SIZE.keys():
    change, message = {"architecture": change}, rf"architecture\.{message}"
  edit_config(folder / "config.json", **change)
  with pytest.raises(BadInput, match=rf"^{folder}\S*?:? {message}"):
    load_encoder(folder)


def test_what_is_no_encoder_is_refused(tmp_path, folder):
  with pytest.raises(
    BadInput, match=r"none does not exist, and is no name of a"
  ):
    load_encoder(tmp_path / "none")
  with pytest.raises(BadInput, match=r"none\.safetensors does not exist"):
    load_encoder(tmp_path / "none.safetensors")
  file = tmp_path / "model.pt"
  file.write_bytes(b"PK")
  with pytest.raises(BadInput, match=r"model\.pt cannot be read as a PyTorch"):
    load_encoder(file)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(BadInput, match=r"config\.json: is not JSON"):
    load_encoder(tmp_path)
