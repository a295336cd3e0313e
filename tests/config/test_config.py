"""Configs: what is shipped loads, and what is wrong is named."""

import dataclasses
import importlib
import json

import pytest
from ml_collections import ConfigDict
from runs import REPOSITORY

from configs import base
from configs.finetune import base as finetune_base
from mrd_jax.config import fields, finetuning, pretraining
from mrd_jax.config.pretraining import Config, TrainConfig
from mrd_jax.errors import BadInput

KINDS = pytest.mark.parametrize(
  "kind", [pretraining, finetuning], ids=["pretraining", "finetuning"]
)
SHIPPED = {
  ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): kind
  for folder, kind in (("", pretraining), ("finetune", finetuning))
  for path in sorted((REPOSITORY / "configs" / folder).glob("*.py"))
}
NAN = float("nan")


def load(module: str):
  values = importlib.import_module(module).get_config()
  return SHIPPED[module].Config.from_dict(values)


def changed(field: str, value, kind=pretraining) -> dict:
  """The values of `Config()` with another value in one place."""
  values = dataclasses.asdict(kind.Config())
  section, _, name = field.rpartition(".")
  (values[section] if section else values)[name] = value
  return values


@pytest.mark.parametrize("module", SHIPPED)
def test_every_shipped_config_is_a_config(module):
  config = load(module)
  # And survives the trip through a run's config.json.
  text = json.dumps(dataclasses.asdict(config))
  assert SHIPPED[module].Config.from_dict(json.loads(text)) == config


@KINDS
def test_the_base_is_made_of_the_declarations(kind):
  values = {pretraining: base, finetuning: finetune_base}[kind].get_config()
  assert isinstance(values, ConfigDict)
  assert kind.Config.from_dict(values) == kind.Config()
  assert fields.as_config_dict(kind.Config.from_dict(values)) == values
  defaults = {item.name: item.default for item in fields.describe(kind.Config)}
  assert defaults == fields.flatten(values.to_dict())


@KINDS
def test_every_field_says_why_and_every_number_its_range(kind):
  for item in fields.describe(kind.Config):
    assert item.why.endswith("."), item.name
    number = item.hint in (int, float)
    assert number == (item.between is not None)
  for item in fields.declared(kind.Config):
    assert not item.is_section or item.hint.__doc__


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
  for config in (
    Config(train=TrainConfig(epochs=3)),
    Config.from_dict(changed("train.epochs", 3)),
    Config.from_dict(ConfigDict(changed("train.epochs", 3))),
  ):
    assert config.train.epochs == 3 and type(config.train.epochs) is float
  config = Config.from_dict(changed("eval.retrieval", ["a", "b"]))
  assert config.eval.retrieval == ("a", "b")


def test_a_config_that_is_made_in_python_is_checked():
  config = Config(train=TrainConfig(batch_size=64))
  assert config == Config.from_dict(changed("train.batch_size", 64))
  for make in (
    lambda: Config(train=TrainConfig(batch_size=1)),
    lambda: dataclasses.replace(config, train=TrainConfig(batch_size=1)),
  ):
    with pytest.raises(
      BadInput, match=r"^config\.train\.batch_size is 1, must"
    ):
      make()
  with pytest.raises(BadInput, match=r"config\.model must be a section"):
    Config(model=TrainConfig())


REFUSED = [
  # Its structure.
  ("extra", 1, "is not a field; config has augment, checkpoint, "),
  ("loss.lamda", 3.0, "is not a field.*relation_weight"),
  ("model", 5, "must be a section of fields, it is 5"),
  # Types.
  ("train.batch_size", 512.0, "is 512.0, must be of type int"),
  ("train.batch_size", True, "is True, must be of type int"),
  ("optimizer.learning_rate", "1e-3", "is '1e-3', must be of type float"),
  ("optimizer.learning_rate", True, "is True, must be of type float"),
  ("augment.rotate", 1, "is 1, must be of type bool"),
  ("data.dir", 7, "is 7, must be of type str"),
  ("eval.zero_shot", "lvis", "is 'lvis', must be a tuple of strings"),
  ("eval.zero_shot", ("lvis", 3), r"is \('lvis', 3\), must be a tuple of"),
  # Choices.
  ("loss.cross_form", None, "is None, must be one of 'full', 'matched'"),
  ("loss.weighting", "learned", ".*one of 'dynamic', 'alternating', 'fixed'"),
  ("model.dtype", "float16", ".*must be one of 'float32', 'bfloat16'"),
  # Ranges.
  ("seed", -1, "is -1, must be between 0 and 2147483646"),
  ("augment.point_dropout", 1.5, "is 1.5, must be between 0 and 1"),
  ("checkpoint.every_epochs", -1.0, "is -1.0, must be between 0 and"),
  ("augment.tilt", NAN, "is nan, must be finite"),
  ("train.epochs", float("inf"), "is inf, must be finite"),
  # Adam divides by 1 - b ** t; an average with decay 1 never moves.
  ("optimizer.b1", 1.0, "is 1.0, must be between"),
  ("optimizer.ema_decay", 1.0, "is 1.0, must be between"),
  # Several fields together.
  ("augment.scale_low", 1.3, "is above augment.scale_high"),
  ("logit_scale.init", 101.0, "is above logit_scale.max"),
  ("optimizer.frozen", ("(",), r"holds '\(', which is not a regular express"),
  ("train.steps", 7, None),
  ("train.epochs", 0.0, None),
  ("checkpoint.every_steps", 7, None),
  ("eval.every_epochs", 0.0, None),
  *(
    ("profile", text, "is .*, must be START:STOP")
    for text in ("5", "5:", ":5", "5:5", "6:5", "-1:5", "a:b", "1:2:3", " ")
  ),
]


@pytest.mark.parametrize(("name", "value", "words"), REFUSED)
def test_what_is_wrong_is_named(name, value, words):
  where = name
  if words is None:
    where = name.split(".")[0]
    words = r"needs either epochs or steps: .* \(they are [\d.]+, \d\)$"
  with pytest.raises(BadInput, match=rf"^config\.{where} {words}") as error:
    Config.from_dict(changed(name, value))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"model": pretraining.ModelConfig(dtype="float32", attention="cudnn")},
      "config.model.attention is 'cudnn', which needs model.dtype 'bfloat16'",
    ),
    (
      {"checkpoint": pretraining.CheckpointConfig(rule="best", keep_best=0)},
      "config.checkpoint.rule is 'best', which needs a keep_best above 0",
    ),
  ],
)
def test_fields_that_do_not_go_together_are_named(changes, words):
  with pytest.raises(BadInput, match=words):
    Config(**changes)


@pytest.mark.parametrize(
  ("name", "value", "words"),
  [
    ("augment.sampled_points", 63, "of which augment.num_points 1024 cannot"),
    ("augment.scale_low", 2.0, "is above augment.scale_high"),
    ("eval.every_epochs", 0.0, "is 0.0, must be between 1e-09 and"),
    ("profile", "5:5", "is '5:5', must be START:STOP"),
    ("loss", 3, "is not a field"),
  ],
)
def test_what_is_wrong_with_a_fine_tuning_is_named(name, value, words):
  with pytest.raises(BadInput, match=rf"^config\.{name} .*{words}"):
    finetuning.Config.from_dict(changed(name, value, finetuning))


@pytest.mark.parametrize(
  "field", ["seed", "model", "model.width", "log.every_steps"]
)
@KINDS
def test_a_missing_field_is_named(kind, field):
  if kind is finetuning:
    field = field.replace("model.width", "optimizer.b1")
  values = dataclasses.asdict(kind.Config())
  section, _, name = field.rpartition(".")
  del (values[section] if section else values)[name]
  with pytest.raises(BadInput, match=rf"config\.{field} is missing"):
    kind.Config.from_dict(values)


def test_intervals_are_given_in_epochs_or_steps():
  assert fields.in_steps(0.0, 7, 100) == 7
  assert fields.in_steps(2.0, 0, 100) == 200
  assert fields.in_steps(0.25, 0, 10) == 2
  assert fields.in_steps(1e-6, 0, 100) == 1


def test_a_window_is_two_steps_or_none():
  assert fields.parse_window("") is None
  assert fields.parse_window("0:12") == (0, 12)


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int = fields.field(1, "Its size.", between=(1, 9), may_change=True)
  name: str = fields.field("a", "Its name.")


@dataclasses.dataclass(frozen=True)
class Other(Inner):
  size: int = 5


@dataclasses.dataclass(frozen=True)
class Outer:
  inner: Inner = fields.field(Inner())
  other: Other = fields.field(Other(), may_change=True)


def test_a_subclass_inherits_declarations_and_a_section_says_for_its_fields():
  size, _ = fields.declared(Other)
  assert (size.default, size.why, size.between) == (5, "Its size.", (1, 9))
  assert fields.may_change(Outer) == {"inner.size", "other.size", "other.name"}
