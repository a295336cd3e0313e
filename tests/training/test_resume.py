"""With which config a run may go on."""

import dataclasses
import json
import re

import pytest

from mrd_jax.config import pretraining
from mrd_jax.config.pretraining import Config
from mrd_jax.config.shared import LogConfig
from mrd_jax.errors import BadInput
from mrd_jax.training.log import MetricsWriter
from mrd_jax.training.resume import check_resumable

FROZEN = pretraining.OptimizerConfig(frozen=("a", "b"))


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(dataclasses.asdict(Config(optimizer=FROZEN))))
  return path


def change(path, edit) -> None:
  values = json.loads(path.read_text())
  edit(values)
  path.write_text(json.dumps(values))


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"profile": "3:5"},
    {"train": pretraining.TrainConfig(accumulate=4)},
    {"log": LogConfig(every_steps=9)},
  ],
)
def test_what_changes_no_result_may_change(saved, changes):
  check_resumable(Config(optimizer=FROZEN, **changes), saved)


@pytest.mark.parametrize(
  ("changes", "diff"),
  [
    ({"seed": 1}, "seed: 0 -> 1"),
    ({"loss": pretraining.LossConfig(margin=0.2)}, "loss.margin: 0.1 -> 0.2"),
    (
      {"seed": 1, "optimizer": pretraining.OptimizerConfig(frozen=("a",))},
      "optimizer.frozen: ['a', 'b'] -> ['a']; seed: 0 -> 1",
    ),
  ],
)
def test_another_value_is_refused_with_a_diff(saved, changes, diff):
  with pytest.raises(BadInput, match=re.escape(diff) + "$") as error:
    check_resumable(Config(**{"optimizer": FROZEN} | changes), saved)
  assert "another --workdir" in str(error.value)


@pytest.mark.parametrize("text", ["[]", "null", "3"])
def test_a_config_of_another_form_is_refused(saved, text):
  saved.write_text(text)
  with pytest.raises(
    BadInput, match=r"config\.json: must be a dict.*--workdir"
  ):
    check_resumable(Config(optimizer=FROZEN), saved)


@pytest.mark.parametrize("line", ['{"a": 1}', '{"step": "x", "kind": "eval"}'])
def test_metrics_of_no_step_are_refused_and_kept(tmp_path, line):
  metrics = tmp_path / "metrics.jsonl"
  metrics.write_text(line + "\n")
  with pytest.raises(BadInput, match=r"metrics\.jsonl: a line is of no step"):
    MetricsWriter(
      tmp_path, Config(), num_steps=9, start_step=3, drop_start_evaluation=True
    )
  assert metrics.read_text() == line + "\n"


def test_an_added_and_a_removed_field_are_in_the_diff(saved):
  change(saved, lambda values: values["loss"].pop("margin"))
  change(saved, lambda values: values["train"].update(warmup=None))
  with pytest.raises(BadInput) as error:
    check_resumable(Config(optimizer=FROZEN), saved)
  assert str(error.value).endswith(
    "loss.margin: absent -> 0.1; train.warmup: None -> absent"
  )
