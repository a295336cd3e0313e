"""Configs: what is shipped loads, and what is wrong is named."""

import dataclasses
import importlib
import json
import pathlib

import pytest
from ml_collections import ConfigDict

from configs import base
from mrd_jax.config.fields import in_steps
from mrd_jax.config.pretraining import Config, LossConfig, from_config_dict
from mrd_jax.errors import BadInput
from mrd_jax.training.resume import check_resumable

ROOT = pathlib.Path(__file__).parent.parent.parent
SHIPPED = sorted(
  ".".join(path.relative_to(ROOT).with_suffix("").parts)
  for path in (ROOT / "configs").rglob("*.py")
  # Other kinds of files: tests/test_ablate.py and test_finetune.py have them.
  if path.name != "__init__.py" and path.parent.name == "configs"
)

# design.md: width, depth, heads, mlp, sa_dim, groups, radius, k.
SIZES = {
  "t": (256, 6, 4, 1024, 96, 64, 0.4, 256),
  "s": (384, 12, 6, 1536, 256, 384, 0.2, 64),
  "m": (512, 12, 8, 1536, 256, 384, 0.2, 64),
  "b": (768, 12, 12, 3072, 256, 384, 0.2, 64),
  "l": (1024, 24, 16, 4096, 256, 384, 0.2, 64),
}
ENSEMBLED = [f"configs.mrd_{size}" for size in SIZES]
SHAPENET = ["configs.mrd_t_shapenet", "configs.mrd_s_shapenet"]


def load(module: str) -> Config:
  return from_config_dict(importlib.import_module(module).get_config())


def base_with(field: str, value) -> Config:
  # Through a plain dict: a ConfigDict minds the types of changes itself.
  values = base.get_config().to_dict()
  section, _, name = field.rpartition(".")
  (values[section] if section else values)[name] = value
  return from_config_dict(ConfigDict(values))


@pytest.mark.parametrize("module", SHIPPED)
def test_every_shipped_config_is_a_config(module):
  config = load(module)
  # And survives the trip through a run's config.json.
  assert json.loads(json.dumps(dataclasses.asdict(config)))


def test_the_configs_of_the_design_are_shipped():
  names = {
    "configs.base",
    "configs.demo",
    "configs.mini",
    *ENSEMBLED,
    *SHAPENET,
  }
  assert names <= set(SHIPPED)


@pytest.mark.parametrize("module", ["configs.base", *ENSEMBLED, *SHAPENET])
def test_the_encoder_has_the_size_of_its_name(module):
  name = module.removeprefix("configs.mrd_")[0] if "mrd_" in module else "m"
  size = load(module).model.size
  assert (
    size.width,
    size.depth,
    size.heads,
    size.mlp_dim,
    size.sa_dim,
    size.groups,
    size.radius,
    size.group_size,
  ) == SIZES[name]


@pytest.mark.parametrize("module", ["configs.base", *ENSEMBLED, *SHAPENET])
def test_hyperparameters_are_the_papers(module):
  config = load(module)
  shapenet = module in SHAPENET
  assert config.seed == 0
  assert config.train.batch_size == (192 if shapenet else 512)
  assert config.train.epochs == (70 if shapenet else 300)
  assert config.train.steps == 0
  optimizer = config.optimizer
  assert optimizer.learning_rate == 1e-3
  assert (optimizer.warmup_epochs, optimizer.warmup_steps) == (15, 0)
  assert optimizer.final_learning_rate == 0
  assert optimizer.weight_decay == 0.05
  assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
  assert config.loss.relation_weight == 3
  assert config.loss.representation == "similarity"
  assert config.loss.weighting == "dynamic"
  assert config.loss.cross_form == "full"
  assert config.loss.intra and config.loss.cross
  assert (config.logit_scale.init, config.logit_scale.max) == (14.28, 100)


@pytest.mark.parametrize("module", ["configs.base", *ENSEMBLED, *SHAPENET])
def test_augmentations_are_openshapes(module):
  assert dataclasses.asdict(load(module).augment) == {
    "num_points": 10_000,
    "swap_yz": True,
    "point_dropout": 0.875,
    "scale_low": 0.8,
    "scale_high": 1.25,
    "shift": 0.1,
    "tilt": 0.06,
    "tilt_max": 0.18,
    "rotate": True,
    "colour_drop": 0.5,
    "colour_fill": 0.4,
  }


def test_the_loss_section_holds_the_defaults_of_the_loss():
  assert load("configs.base").loss == LossConfig()


def test_configs_of_one_size_share_everything_but_the_data():
  for size in "ts":
    full = dataclasses.asdict(load(f"configs.mrd_{size}"))
    small = dataclasses.asdict(load(f"configs.mrd_{size}_shapenet"))
    differ = {section for section in full if full[section] != small[section]}
    assert differ == {"data", "train", "eval"}
    # The paper's ablations are on ScanObjectNN too.
    full["eval"]["zero_shot"] += ("scanobjectnn",)
    assert full["eval"] == small["eval"]


def test_whole_numbers_are_accepted_for_fractions_and_lists_for_tuples():
  config = base_with("train.epochs", 3)
  assert config.train.epochs == 3 and type(config.train.epochs) is float
  assert base_with("eval.retrieval", ["a", "b"]).eval.retrieval == ("a", "b")


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("extra", 1, "not a field"),
    ("loss.lamda", 3.0, "not a field.*relation_weight"),
    ("model", 5, "section"),
    ("train.batch_size", 512.0, "512.0.*int"),
    ("train.batch_size", "512", "'512'.*int"),
    ("train.batch_size", True, "True.*int"),
    ("optimizer.learning_rate", "1e-3", "'1e-3'.*float"),
    ("optimizer.learning_rate", None, "None.*float"),
    ("optimizer.learning_rate", True, "True.*float"),
    ("augment.rotate", 1, "1.*bool"),
    ("data.dir", 7, "7.*str"),
    ("eval.zero_shot", "lvis", "'lvis'.*tuple"),
    ("eval.zero_shot", ("lvis", 3), "3.*tuple"),
    ("optimizer.frozen", 3, "3.*tuple"),
    ("loss.representation", "cosine", "'cosine'.*'euclidean'.*'partial_order'"),
    ("loss.weighting", "learned", "'dynamic', 'alternating', 'fixed'"),
    ("loss.cross_form", None, "'full', 'matched'"),
    ("model.dtype", "float16", "'float32', 'bfloat16'"),
    ("model.remat", "some", "'none', 'blocks', 'all'"),
    ("model.attention", "flash", "'xla', 'cudnn'"),
  ],
)
def test_an_odd_field_or_value_is_named(field, value, words):
  with pytest.raises(BadInput, match=rf"config\.{field}\b.*{words}"):
    base_with(field, value)


@pytest.mark.parametrize(
  "field", ["seed", "model", "model.width", "loss.margin", "log.every_steps"]
)
def test_a_missing_field_is_named(field):
  values = base.get_config().to_dict()
  section, _, name = field.rpartition(".")
  del (values[section] if section else values)[name]
  with pytest.raises(BadInput, match=rf"config\.{field} is missing"):
    from_config_dict(ConfigDict(values))


NAN = float("nan")


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("seed", -1),
    ("data.threads", 0),
    ("data.workers", -1),
    ("augment.num_points", 0),
    ("augment.point_dropout", 1.5),
    ("augment.scale_low", 0.0),
    ("augment.scale_low", 1.3),  # above scale_high
    ("augment.colour_drop", -0.1),
    ("augment.colour_fill", 102.0),
    ("augment.tilt", NAN),
    ("model.width", 0),
    ("model.depth", 0),
    ("model.heads", 0),
    ("model.groups", 0),
    ("model.group_size", 0),
    ("model.radius", 0.0),
    ("model.fps_chunk", 0),
    ("model.query_chunk", 0),
    ("loss.relation_weight", -1.0),
    ("loss.relation_scale", -1.0),
    ("loss.margin", -0.1),
    ("loss.sampled_pairs", -1),
    ("logit_scale.init", 0.0),
    ("logit_scale.max", -1.0),
    ("optimizer.learning_rate", -1e-3),
    ("optimizer.learning_rate", NAN),
    ("optimizer.dynamic_learning_rate", -1e-3),
    ("optimizer.final_learning_rate", 2.0),
    ("optimizer.warmup_epochs", -1.0),
    ("optimizer.warmup_steps", -1),
    ("optimizer.weight_decay", -0.05),
    ("optimizer.b1", 1.1),
    ("optimizer.b2", -0.1),
    ("optimizer.eps", -1e-8),
    ("optimizer.clip_norm", -1.0),
    ("optimizer.ema_decay", 1.5),
    ("train.batch_size", 1),
    ("eval.batch_size", 0),
    ("mesh.fsdp", 0),
    ("checkpoint.keep_latest", 0),
    ("checkpoint.keep_best", -1),
    ("log.every_steps", 0),
  ],
)
def test_a_value_out_of_its_range_is_named(field, value):
  with pytest.raises(BadInput, match=rf"config\.{field}\b"):
    base_with(field, value)


@pytest.mark.parametrize(
  ("section", "prefix"),
  [("train", ""), ("checkpoint", "every_"), ("eval", "every_")],
)
@pytest.mark.parametrize(
  ("epochs", "steps"),
  [(5.0, 7), (0.0, 0), (-1.0, 7), (5.0, -7)],
)
def test_a_length_is_in_epochs_or_in_steps(section, prefix, epochs, steps):
  values = base.get_config()
  values[section][f"{prefix}epochs"] = epochs
  values[section][f"{prefix}steps"] = steps
  with pytest.raises(BadInput, match=rf"config\.{section}\b.*epochs.*steps"):
    from_config_dict(values)


@pytest.mark.parametrize(
  "field",
  ["train.epochs", "checkpoint.every_epochs", "eval.every_epochs"],
)
@pytest.mark.parametrize("value", [float("inf"), NAN])
def test_an_infinite_length_is_named(field, value):
  with pytest.raises(BadInput, match=rf"config\.{field}\b.*finite"):
    base_with(field, value)


@pytest.mark.parametrize(
  "field", ["optimizer.b1", "optimizer.b2", "optimizer.ema_decay"]
)
def test_a_decay_of_one_is_named(field):
  """Adam divides by 1 - b ** t; an average with decay 1 never moves."""
  with pytest.raises(BadInput, match=rf"config\.{field}\b"):
    base_with(field, 1.0)


def test_intervals_are_given_in_epochs_or_steps():
  assert in_steps(0.0, 7, 100) == 7
  assert in_steps(2.0, 0, 100) == 200
  assert in_steps(0.25, 0, 10) == 2
  assert in_steps(1e-6, 0, 100) == 1


def save(config: Config, path: pathlib.Path) -> pathlib.Path:
  path.write_text(json.dumps(dataclasses.asdict(config)))
  return path


def test_the_same_config_may_go_on(tmp_path):
  config = load("configs.mrd_s")
  check_resumable(config, save(config, tmp_path / "config.json"))


def test_another_config_is_refused_with_a_diff_of_all_fields(tmp_path):
  saved = save(load("configs.mrd_s"), tmp_path / "config.json")
  with pytest.raises(BadInput) as error:
    check_resumable(load("configs.mrd_t_shapenet"), saved)
  message = str(error.value)
  assert str(saved) in message
  assert "model.width: 384 -> 256" in message
  assert "model.radius: 0.2 -> 0.4" in message
  assert "train.batch_size: 512 -> 192" in message
  assert "train.epochs: 300.0 -> 70.0" in message
  # Allowed, or equal.
  assert "data.dir" not in message and "learning_rate" not in message


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("seed", 1),
    ("data.split", "train_no_lvis"),
    ("augment.num_points", 2048),
    ("augment.rotate", False),
    ("model.dtype", "float32"),
    ("model.depth", 6),
    ("loss.weighting", "fixed"),
    ("logit_scale.max", 50.0),
    ("optimizer.learning_rate", 5e-4),
    ("optimizer.frozen", ("encoder/.*",)),
    ("train.batch_size", 256),
    ("train.epochs", 200.0),
  ],
)
def test_a_field_that_changes_what_is_learned_is_refused(
  tmp_path, field, value
):
  saved = save(load("configs.base"), tmp_path / "config.json")
  with pytest.raises(BadInput, match=rf"change: {field}: .* -> [^;]*$"):
    check_resumable(base_with(field, value), saved)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("data.dir", "/elsewhere"),
    ("data.made_from", "procedural"),
    ("data.threads", 4),
    ("data.workers", 2),
    ("model.remat", "all"),
    ("model.attention", "cudnn"),
    ("model.sampling", "xla"),
    ("model.fps_chunk", 1),
    ("model.query_chunk", 1),
    ("mesh.fsdp", 2),
    ("checkpoint.keep_latest", 9),
    ("checkpoint.every_epochs", 0.5),
    ("eval.zero_shot", ("lvis",)),
    ("eval.batch_size", 64),
    ("log.every_steps", 1),
  ],
)
def test_a_field_that_changes_nothing_learned_may_change(
  tmp_path, field, value
):
  saved = save(load("configs.base"), tmp_path / "config.json")
  check_resumable(base_with(field, value), saved)


def test_a_config_of_an_older_program_is_refused_by_field(tmp_path):
  values = dataclasses.asdict(load("configs.base"))
  del values["loss"]["margin"]
  values["loss"]["temperature"] = 0.07
  saved = tmp_path / "config.json"
  saved.write_text(json.dumps(values))
  with pytest.raises(BadInput) as error:
    check_resumable(load("configs.base"), saved)
  assert "loss.margin: absent -> 0.1" in str(error.value)
  assert "loss.temperature: 0.07 -> absent" in str(error.value)
