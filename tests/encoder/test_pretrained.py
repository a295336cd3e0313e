"""Encoders on disk: what is written, what is read, what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from encoders import TINY, cloud, make_config, make_encoder

from configs import debug
from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.config.pretraining import from_config_dict
from mrd_jax.encoder import files
from mrd_jax.encoder.card import model_card
from mrd_jax.encoder.encoder import Encoder, load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.prepare import procedural
from mrd_jax.training import set_up

# What a run of ours leaves in the config; the values are arbitrary.
TRAINED = {
  "training_config": {
    "seed": 3,
    "train": {"batch_size": 64, "steps": 7},
    "optimizer": {"learning_rate": 0.001},
    "loss": {"weighting": "dynamic"},
    "augment": {"num_points": 600},
  },
  "data": {"name": "Chairs", "teacher": "a teacher", "records": 123},
  "results": {"step": 7, "metrics": {"val/top1": 0.25, "val/top5": 0.5}},
  "license": "cc-by-4.0",
}


@pytest.fixture
def folder(tmp_path) -> Path:
  """A model folder."""
  make_encoder().save_pretrained(tmp_path / "model")
  return tmp_path / "model"


def assert_same(found: Encoder, expected: Encoder) -> None:
  """Config, variables and embeddings are equal, every bit."""
  assert found.config == expected.config
  assert found.model == expected.model
  jax.tree.map(
    np.testing.assert_array_equal, found.variables, expected.variables
  )
  for leaf in jax.tree.leaves(found.variables):
    assert leaf.dtype == np.float32
  np.testing.assert_array_equal(found([cloud(99)]), expected([cloud(99)]))


def write_weights(path: Path, tensors: dict, prefix: str = "") -> None:
  tensors = {prefix + key: value for key, value in tensors.items()}
  safetensors.numpy.save_file(tensors, path)


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
  assert_same(load_encoder(folder / "model.safetensors"), encoder)
  before = (folder / "model.safetensors").read_bytes()
  load_encoder(folder).save_pretrained(folder)
  assert (folder / "model.safetensors").read_bytes() == before


def test_the_precision_is_chosen_when_loading(folder):
  for load in (Encoder.from_pretrained, load_encoder):
    assert_same(load(folder, dtype="bfloat16"), make_encoder(dtype="bfloat16"))


def test_the_tensors_have_openshapes_names(folder):
  norms = ("weight", "bias")
  expected = {"ppat.cls_token", "proj.weight", "proj.bias"}
  for i in range(3):
    expected |= {f"ppat.sa.mlp_convs.{i}.{x}" for x in norms}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    expected |= {f"ppat.sa.mlp_bns.{i}.{x}" for x in (*norms, *statistics)}
  expected |= {f"ppat.lift.{i}.{x}" for i in (0, 2) for x in norms}
  for i in range(TINY.depth):
    layer = f"ppat.transformer.layers.{i}"
    expected |= {f"{layer}.{j}.norm.{x}" for j in (0, 1) for x in norms}
    expected |= {f"{layer}.1.fn.net.{j}.{x}" for j in (0, 3) for x in norms}
    expected |= {f"{layer}.0.fn.to_out.0.{x}" for x in norms}
    expected.add(f"{layer}.0.fn.to_qkv.weight")
  with safetensors.safe_open(folder / "model.safetensors", "numpy") as file:
    assert file.metadata() == {"format": "pt"}
    assert set(file.keys()) == expected
    conv = file.get_tensor("ppat.sa.mlp_convs.0.weight")
    lift = file.get_tensor("ppat.lift.0.weight")
    steps = file.get_tensor("ppat.sa.mlp_bns.1.num_batches_tracked")
  params = make_encoder().variables["params"]
  np.testing.assert_array_equal(
    conv[..., 0, 0].T, params["point_net"]["linear_0"]["kernel"]
  )
  np.testing.assert_array_equal(lift[..., 0].T, params["lift"]["kernel"])
  assert steps == 7 and steps.dtype == np.int64


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_with_its_json_beside_it(folder, prefix):
  """Before a config.json that is there, too."""
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  path = folder / "chairs.safetensors"
  write_weights(path, tensors, prefix)
  assert_same(load_encoder(path), make_encoder())
  values = json.loads((folder / "config.json").read_text())
  (folder / "chairs.json").write_text(json.dumps(values | {"num_points": 9}))
  assert_same(load_encoder(path), make_encoder(num_points=9))
  assert_same(load_encoder(folder), make_encoder())


def test_write_with_a_prefix(tmp_path):
  encoder = make_encoder()
  path = tmp_path / "new" / "chairs.safetensors"
  files.write(
    path,
    path.with_suffix(".json"),
    encoder.config,
    encoder.variables,
    prefix="module.",
  )
  assert all(k.startswith("module.") for k in safetensors.numpy.load_file(path))
  assert_same(load_encoder(path), encoder)


def test_half_precision_files_become_float32(folder):
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  for key, value in tensors.items():
    if value.dtype == np.float32:
      tensors[key] = value.astype(np.float16)
  write_weights(path, tensors)
  found = load_encoder(folder).variables["params"]["proj"]["kernel"]
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, tensors["proj.weight"].T)


def test_fields_of_a_newer_version_are_ignored(folder):
  path = folder / "config.json"
  values = json.loads(path.read_text())
  assert values["model_type"] == "mrd_jax.pointbert" and values["format"] == 1
  path.write_text(json.dumps(values | {"future": 1}))
  assert_same(load_encoder(folder), make_encoder())


def test_defaults_may_be_left_out(folder):
  path = folder / "config.json"
  values = json.loads(path.read_text())
  for name in ("logit_scale", "step", "source", "results", "license"):
    del values[name]
  path.write_text(json.dumps(values))
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


# From a run.


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
  """Two steps of training, a checkpoint after each."""
  path = tmp_path_factory.mktemp("run")
  procedural.generate(
    path / "data", train=54, val=54, num_points=40, num_views=1, embed_dim=16
  )
  values = debug.get_config()
  values.data.dir = str(path / "data")
  values.augment.num_points = 32
  values.train.steps = 2
  values.model.depth = 1
  values.loss.update(intra=False, cross=False)
  values.optimizer.update(ema_decay=0.5, warmup_steps=1)
  values.checkpoint.update(every_steps=1, keep_latest=2)
  values.eval.every_steps = 2
  set_up.train(from_config_dict(values), path / "run")
  return path / "run"


def test_a_run_becomes_a_model_folder(run_folder, tmp_path):
  encoder = load_encoder(run_folder)
  encoder.save_pretrained(tmp_path, license="apache-2.0")
  found = load_encoder(tmp_path)
  assert_same(
    found,
    dataclasses.replace(
      encoder, config=dataclasses.replace(encoder.config, license="apache-2.0")
    ),
  )
  step, state = load_on_one_device(run_folder / "checkpoints", best_metric=None)
  jax.tree.map(
    np.testing.assert_array_equal,
    found.variables,
    {
      "params": state["average"]["encoder"],
      "batch_stats": state["batch_stats"],
    },
  )
  config = found.config
  assert config.step == step == 2
  assert config.logit_scale == float(state["average"]["logit_scale"])
  for name, value in (
    ("config", config.training_config),
    ("data", config.data),
    ("results", config.results),
  ):
    assert value == json.loads((run_folder / f"{name}.json").read_text())
  assert config.up_axis == "z" and config.num_points == 32
  assert config.embed_dim == 16
  assert config.embedding_space == config.data["teacher"]
  assert config.colour_fill == config.training_config["augment"]["colour_fill"]
  # Who converts it once more keeps the licence.
  found.save_pretrained(tmp_path / "again")
  assert_same(load_encoder(tmp_path / "again"), found)


def test_a_run_stays_a_run(run_folder):
  """Whatever is exported into its folder; and nothing of it is replaced."""
  encoder = load_encoder(run_folder)
  before = {path.name: path.read_bytes() for path in run_folder.glob("*.json")}
  with pytest.raises(BadInput, match=r"config\.json exists"):
    encoder.save_pretrained(run_folder)
  other = make_encoder()
  weights, sidecar = run_folder / "model.safetensors", run_folder / "model.json"
  files.write(weights, sidecar, other.config, other.variables)
  assert_same(load_encoder(run_folder), encoder)
  weights.unlink()
  sidecar.unlink()
  for name, content in before.items():
    assert (run_folder / name).read_bytes() == content


def test_a_readme_of_something_else_is_not_replaced(folder):
  encoder = load_encoder(folder)
  encoder.save_pretrained(folder)  # its own card is
  (folder / "README.md").write_text("# My project\n")
  with pytest.raises(BadInput, match=r"README\.md exists"):
    encoder.save_pretrained(folder)


def test_a_folder_is_read_by_its_config(folder):
  """Not by the JSON of an older export in it."""
  stale = json.loads((folder / "config.json").read_text())
  stale["up_axis"] = "y"
  (folder / "model.json").write_text(json.dumps(stale))
  assert load_encoder(folder).config.up_axis == "z"


def test_others_may_read_the_weights(folder):
  modes = {path.stat().st_mode & 0o777 for path in folder.glob("[cm]*")}
  assert len(modes) == 1


def test_the_model_card_escapes():
  config = make_config(license="a: b", embedding_space="CLIP | other")
  card = huggingface_hub.ModelCard(model_card(config))
  assert card.data.license == "a: b"
  assert r"CLIP \| other" in card.text


def test_results_are_those_of_the_weights(run_folder, tmp_path):
  copy = tmp_path / "run"
  shutil.copytree(run_folder, copy)
  shutil.rmtree(copy / "checkpoints" / "2")
  config = load_encoder(copy).config
  # What it was chosen by, and no metrics: those of the run are of step 2.
  chosen = {"step": 1, "checkpoint": "last", "selected_by": None}
  assert config.step == 1 and config.results == chosen
  assert config.data == load_encoder(run_folder).config.data
  assert "None were recorded for these weights" in model_card(config)


def test_the_model_card_of_a_run(run_folder, tmp_path):
  load_encoder(run_folder).save_pretrained(tmp_path, license="cc-by-4.0")
  card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
  assert card.data.license == "cc-by-4.0"
  assert "procedural" in card.text and "| records | 54 |" in card.text
  results = json.loads((run_folder / "results.json").read_text())["metrics"]
  for name, value in results.items():
    assert f"| {name} | {value:.4f} |" in card.text
  assert "| train.steps | 2 |" in card.text
  assert "| optimizer.ema_decay | 0.5 |" in card.text


# The model card.


def test_the_model_card_says_what_is_known():
  card = huggingface_hub.ModelCard(
    model_card(make_config(**TRAINED)), ignore_metadata_errors=False
  )
  assert card.data.to_dict() == {
    "library_name": "mrd_jax",
    "pipeline_tag": "feature-extraction",
    "license": "cc-by-4.0",
    "tags": ["point-cloud", "3d", "clip", "pointbert"],
  }
  for line in (
    "Source: drawn at random.",
    "| points | at most 600, of larger clouds a sample |",
    "| up axis inside the model | z |",
    "| without colours | grey, 0.3 |",
    "| embedding | 10 values, in the space of: a teacher |",
    "| logit scale (ln of 1 / temperature) | 2.5 |",
    "| group size | 8 |",
    "| radius | 0.4 |",
    "| name | Chairs |",
    "| records | 123 |",
    "| steps | 7 |",
    "| train.batch_size | 64 |",
    "| loss.weighting | dynamic |",
    "Held-out splits of Chairs, shares of 1.",
    "| val/top1 | 0.2500 |",
    "| val/top5 | 0.5000 |",
  ):
    assert line in card.text.splitlines(), line
  assert card.text.endswith("## Licence\n\ncc-by-4.0\n")
  assert "distilled from CLIP" in card.text


def test_the_model_card_says_what_is_not_known():
  text = model_card(make_config(step=0, source="", embed_dim=None))
  card = huggingface_hub.ModelCard(text)
  assert "license" not in card.data.to_dict()
  assert "license:" not in text
  assert "Not stated. Whoever publishes these weights has to state one" in text
  assert "Source: not stated." in text
  assert "## Data\n\nNot recorded.\n" in text
  assert "Steps: not recorded." in text
  assert "None were recorded for these weights." in text
  assert "(B, 32)" in text  # the width: there is no projection
  assert "distilled" not in text


# What a user can mend.


def edit_config(folder: Path, **changes) -> None:
  path = folder / "config.json"
  values = json.loads(path.read_text())
  for name, value in changes.items():
    if value is ...:
      del values[name]
    else:
      values[name] = value
  path.write_text(json.dumps(values))


def edit_size(folder: Path, **changes) -> None:
  size = dataclasses.asdict(TINY) | changes
  edit_config(
    folder,
    architecture={k: v for k, v in size.items() if v is not ...},
  )


def edit_tensors(folder: Path, **changes) -> None:
  """Each change is a function of one tensor; None removes it."""
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  for key, change in changes.items():
    value = tensors.pop(key, np.zeros(3, np.float32))
    if change is not None:
      tensors[key] = change(value)
  write_weights(path, tensors)


def cut(path: Path, size: int) -> None:
  path.write_bytes(path.read_bytes()[:size])


QKV = "ppat.transformer.layers.1.0.fn.to_qkv.weight"


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (
      lambda f: (f / "config.json").unlink(),
      r"model\.safetensors has no model\.json or config\.json beside it",
    ),
    (
      lambda f: cut(f / "config.json", 99),
      r"config\.json: is not JSON",
    ),
    (
      lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
      r"config\.json: is not JSON",
    ),
    (
      lambda f: (f / "config.json").write_text("[1]"),
      r"config\.json does not describe an encoder of mrd_jax",
    ),
    (
      lambda f: edit_config(f, model_type="bert"),
      r"config\.json does not describe an encoder of mrd_jax",
    ),
    (
      lambda f: edit_config(f, format=2),
      r"config\.json has format 2, .* reads 1; install a newer mrd_jax",
    ),
    (
      lambda f: edit_config(f, up_axis=...),
      r"config\.json lacks the field up_axis",
    ),
    (
      lambda f: edit_config(f, embed_dim=...),
      r"config\.json lacks the field embed_dim",
    ),
    (
      lambda f: edit_size(f, group_size=...),
      r"config\.json: architecture must have the fields depth, group_size,",
    ),
    (
      lambda f: edit_size(f, patches=3),
      r"config\.json: architecture must have the fields",
    ),
    (
      lambda f: edit_config(f, architecture=...),
      r"config\.json: architecture must have the fields",
    ),
    (
      lambda f: edit_config(f, architecture="t"),
      r"config\.json: architecture must have the fields",
    ),
    (
      lambda f: edit_size(f, mlp_dim=64),
      r"model\.safetensors: the config says mlp_dim 64, the tensors have 48",
    ),
    (
      lambda f: edit_config(f, embed_dim=None),
      r"model\.safetensors: the config says embed_dim None, .* have 10",
    ),
    (
      lambda f: cut(f / "model.safetensors", -9),
      r"model\.safetensors cannot be read as safetensors",
    ),
    (
      lambda f: cut(f / "model.safetensors", 4),
      r"model\.safetensors cannot be read as safetensors",
    ),
    (
      lambda f: cut(f / "model.safetensors", 0),
      r"model\.safetensors cannot be read as safetensors",
    ),
    (
      lambda f: edit_tensors(f, **{QKV: lambda x: x * np.nan}),
      rf"model\.safetensors: {QKV} holds NaN or infinite",
    ),
    (
      lambda f: edit_tensors(f, **{"proj.bias": lambda x: x / 0}),
      r"model\.safetensors: proj\.bias holds NaN or infinite",
    ),
    (
      lambda f: edit_tensors(f, **{QKV: None}),
      rf"model\.safetensors lacks {QKV}: it is not an OpenShape PointBERT",
    ),
    (
      lambda f: edit_tensors(f, **{"ppat.cls_token": None}),
      r"model\.safetensors has no .*ppat\.cls_token",
    ),
    (
      lambda f: edit_tensors(f, extra=lambda x: x),
      r"model\.safetensors also holds extra: it is not an OpenShape PointBERT",
    ),
    (
      lambda f: edit_tensors(f, **{QKV: lambda x: x.T.copy()}),
      rf"{QKV} has shape \(32, 192\), must be \(192, 32\)",
    ),
    (
      lambda f: (f / "model.safetensors").unlink(),
      r"model\.safetensors does not exist",
    ),
  ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_a_spoilt_folder_is_refused(folder, spoil, message):
  spoil(folder)
  for load in (Encoder.from_pretrained, load_encoder):
    with pytest.raises(BadInput, match=message) as caught:
      load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"embed_dim": "x"},
      "embed_dim is 'x', must be a whole number above 0, or",
    ),
    ({"embed_dim": 0}, "embed_dim is 0"),
    ({"embed_dim": 10.0}, "embed_dim is 10.0"),
    ({"up_axis": "up"}, "up_axis is 'up', must be 'y' or 'z'"),
    ({"up_axis": ["y"]}, r"up_axis is \['y'\]"),
    ({"num_points": 0}, "num_points is 0, must be a whole number above 0"),
    ({"num_points": True}, "num_points is True"),
    ({"num_points": None}, "num_points is None"),
    ({"num_points": 2**24}, "num_points is 16777216"),
    ({"colour_fill": 255}, "colour_fill is 255, must be a number from 0 to 1"),
    ({"embedding_space": None}, "embedding_space is None, must be a text"),
    ({"logit_scale": float("nan")}, "logit_scale is nan, must be a number"),
    ({"logit_scale": "2"}, "logit_scale is '2'"),
    ({"step": -1}, "step is -1, must be a whole number"),
    ({"step": 1.5}, "step is 1.5"),
    ({"training_config": [1]}, r"training_config is \[1\], must be an object"),
    ({"data": "procedural"}, "data is 'procedural', must be an object or null"),
    ({"results": 0.5}, "results is 0.5, must be an object or null"),
    ({"source": 1}, "source is 1, must be a text"),
    ({"license": ["mit"]}, r"license is \['mit'\], must be a text or null"),
  ],
)
def test_an_odd_value_is_refused(folder, change, message):
  edit_config(folder, **change)
  with pytest.raises(BadInput, match=rf"config\.json: {message}"):
    load_encoder(folder)
  with pytest.raises(BadInput, match=f"^{message}"):
    make_config(**change)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"radius": -0.4}, "radius is -0.4, must be a number from 1e-6 to 4"),
    ({"radius": float("nan")}, "radius is nan"),
    ({"radius": "0.4"}, "radius is '0.4'"),
    ({"groups": 0}, "groups is 0, must be a whole number above 0"),
    ({"group_size": 8.0}, "group_size is 8.0"),
    ({"depth": [2]}, r"depth is \[2\]"),
    ({"width": None}, "width is None"),
  ],
)
def test_an_odd_architecture_is_refused(folder, change, message):
  edit_size(folder, **change)
  with pytest.raises(BadInput, match=rf"config\.json: {message}"):
    load_encoder(folder)


def test_what_is_no_encoder_is_refused(tmp_path, folder):
  with pytest.raises(BadInput, match=r"none holds no run and no model"):
    load_encoder(tmp_path / "none")
  with pytest.raises(BadInput, match=r"none\.safetensors does not exist"):
    load_encoder(tmp_path / "none.safetensors")
  file = tmp_path / "model.pt"
  file.write_bytes(b"PK")
  with pytest.raises(BadInput, match=r"model\.pt is neither .* from-torch"):
    load_encoder(file)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(BadInput, match=r"config\.json: is not JSON"):
    load_encoder(tmp_path)
