"""With which config a run may go on."""

import dataclasses
import json
import re

import pytest

from mrd_jax.config import finetuning, pretraining
from mrd_jax.config.fields import describe, field, may_change
from mrd_jax.errors import BadInput
from mrd_jax.training.resume import check_resumable, check_same_data


@dataclasses.dataclass(frozen=True)
class Loss:
  margin: float = field(0.1)
  names: tuple[str, ...] = field(("a", "b"))


@dataclasses.dataclass(frozen=True)
class Train:
  steps: int = field(5)
  accumulate: int = field(1, may_change=True)


@dataclasses.dataclass(frozen=True)
class Log:
  every_steps: int = field(1)


@dataclasses.dataclass(frozen=True)
class Config:
  """Any config; of `log` all fields may change."""

  seed: int = field(0)
  profile: str = field("", may_change=True)
  loss: Loss = field(Loss())
  train: Train = field(Train())
  log: Log = field(Log(), may_change=True)


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


@pytest.mark.parametrize("kind", [pretraining, finetuning])
def test_the_configs_of_both_kinds_of_run_go_on(kind, tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(dataclasses.asdict(kind.Config())))
  check_resumable(kind.Config(), path)
  change(path, lambda values: values.pop("seed"))
  with pytest.raises(BadInput, match=": seed: absent -> 0$"):
    check_resumable(kind.Config(), path)


BOTH = {
  *("profile", "compile_cache", "data.dir", "data.threads", "data.workers"),
  *("model.remat", "model.attention", "model.fps_chunk", "model.query_chunk"),
  "mesh.fsdp",
}
PRETRAINING = {
  *("data.made_from", "model.sampling", "loss.form", "loss.stripe"),
  "train.accumulate",
}


@pytest.mark.parametrize(
  ("kind", "alone"), [(pretraining, PRETRAINING), (finetuning, set())]
)
def test_what_changes_nothing_learned_may_change(kind, alone):
  """Whoever adds to these must know that the run stays the same."""
  whole = ("checkpoint.", "eval.", "log.")
  found = {x for x in may_change(kind.Config) if not x.startswith(whole)}
  assert found == BOTH | alone
  fields = {item.name for item in describe(kind.Config)}
  assert {x for x in fields if x.startswith(whole)} <= may_change(kind.Config)


def test_other_data_is_refused(tmp_path):
  path = tmp_path / "data.json"
  path.write_text('{"records": 3}')
  check_same_data({"records": 3}, path)
  with pytest.raises(BadInput, match="'records': 4.*'records': 3"):
    check_same_data({"records": 4}, path)
