"""With which config a run may go on."""

import dataclasses
import json
import re

import pytest

from mrd_jax.errors import BadInput
from mrd_jax.training.resume import check_resumable, check_same_data


@dataclasses.dataclass(frozen=True)
class Loss:
  margin: float = 0.1
  names: tuple[str, ...] = ("a", "b")


@dataclasses.dataclass(frozen=True)
class Train:
  steps: int = 5
  accumulate: int = 1


@dataclasses.dataclass(frozen=True)
class Log:
  every_steps: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
  """Any config; sections and some fields are named as in real ones."""

  seed: int = 0
  profile: str = ""
  loss: Loss = Loss()
  train: Train = Train()
  log: Log = Log()


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(dataclasses.asdict(Config())))
  return path


def change(path, edit) -> None:
  values = json.loads(path.read_text())
  edit(values)
  path.write_text(json.dumps(values))


@pytest.mark.parametrize(
  "config",
  [
    Config(),
    Config(profile="3:5"),
    Config(train=Train(accumulate=4)),
    Config(log=Log(every_steps=9)),
  ],
)
def test_what_changes_no_result_may_change(saved, config):
  check_resumable(config, saved)


@pytest.mark.parametrize(
  ("config", "diff"),
  [
    (Config(seed=1), "seed: 0 -> 1"),
    (Config(loss=Loss(margin=0.2)), "loss.margin: 0.1 -> 0.2"),
    (
      Config(1, loss=Loss(names=("a",))),
      "loss.names: ['a', 'b'] -> ['a']; seed: 0 -> 1",
    ),
  ],
)
def test_another_value_is_refused_with_a_diff(saved, config, diff):
  with pytest.raises(BadInput, match=re.escape(diff) + "$") as error:
    check_resumable(config, saved)
  assert "another --workdir" in str(error.value)


def test_an_added_and_a_removed_field_are_in_the_diff(saved):
  change(saved, lambda values: values["loss"].pop("margin"))
  change(saved, lambda values: values["train"].update(warmup=None))
  with pytest.raises(BadInput) as error:
    check_resumable(Config(), saved)
  assert str(error.value).endswith(
    "loss.margin: absent -> 0.1; train.warmup: None -> absent"
  )


def test_names_that_begin_alike_are_not_the_same_field(saved):
  """`profile` may change; that says nothing of `profiles`."""
  change(saved, lambda values: values.update(profiles=3, profile="1:2"))
  with pytest.raises(BadInput, match=": profiles: 3 -> absent$"):
    check_resumable(Config(), saved)


def test_an_older_config_lacks_what_was_added_later(saved, monkeypatch):
  """Such a field had the value under which it changes nothing."""
  added = (("loss", "margin", 0.1), ("", "seed", 0), ("eval", "extra", 3))
  monkeypatch.setattr("mrd_jax.training.resume.ADDED", added)
  change(
    saved, lambda values: (values["loss"].pop("margin"), values.pop("seed"))
  )
  check_resumable(Config(), saved)
  with pytest.raises(
    BadInput, match=r": loss.margin: 0.1 -> 0.3; seed: 0 -> 2$"
  ):
    check_resumable(Config(seed=2, loss=Loss(margin=0.3)), saved)


def test_the_configs_of_both_kinds_of_run_go_on(tmp_path):
  from configs import debug
  from configs.finetune import base
  from mrd_jax.config import finetuning as finetune_config
  from mrd_jax.config import pretraining
  from mrd_jax.training import resume

  for module, values in ((pretraining, debug), (finetune_config, base)):
    now = module.from_config_dict(values.get_config())
    path = tmp_path / f"{module.__name__}.json"
    path.write_text(json.dumps(dataclasses.asdict(now)))
    check_resumable(now, path)
    change(path, lambda values: values.pop("seed"))
    with pytest.raises(BadInput, match=": seed: absent -> 0$"):
      check_resumable(now, path)
  # Every name in the list is a field, or a section, of one of them.
  fields = resume.flatten(
    dataclasses.asdict(pretraining.from_config_dict(debug.get_config()))
  )
  unknown = {
    name
    for name in resume.MAY_CHANGE
    if not any(field.startswith(name) for field in fields)
  }
  assert unknown <= {"loss.form", "loss.stripe"}  # the losses by blocks


def test_other_data_is_refused(tmp_path):
  path = tmp_path / "data.json"
  path.write_text('{"records": 3}')
  check_same_data({"records": 3}, path)
  with pytest.raises(BadInput, match="'records': 4.*'records': 3"):
    check_same_data({"records": 4}, path)
