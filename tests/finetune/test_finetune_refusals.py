"""Fine-tuning: which data, checkpoints and folders are refused."""

import dataclasses
import importlib
import shutil
import typing
from pathlib import Path

import numpy as np
import pytest
import runs
from runs import last_state

from mrd_jax.config.finetuning import Config
from mrd_jax.errors import BadInput
from mrd_jax.finetune import __main__ as command_line
from mrd_jax.finetune import start as starts
from mrd_jax.finetune.classification import Classification
from mrd_jax.finetune.train import finetune
from mrd_jax.prepare.test_sets import modelnet40, scanobjectnn
from mrd_jax.training.set_up import set_up


@pytest.fixture(scope="module")
def odd_dir(tmp_path_factory) -> Path:
  shapes = [runs.make_shape(i, 40, i % 3) for i in range(40)]
  image = np.ones((1, runs.LABELLED_WIDTH), np.float32)
  unlabelled = dataclasses.replace(
    shapes[0], label=-1, image_feat=image, image_kind=(1,)
  )
  return runs.write_labelled(
    tmp_path_factory.mktemp("odd") / "tiny",
    {
      "train": shapes,
      "unnamed": shapes,
      "two": [s for s in shapes if s.label < 2],
      "swapped": shapes,
      "hole": [*shapes[:20], unlabelled],
    },
    {
      "train": runs.NAMES,
      "two": runs.NAMES[:2],
      "swapped": ("rod", "ball", "sheet"),
      "hole": runs.NAMES,
    },
  )


@pytest.mark.parametrize(
  ("train", "test", "message"),
  [
    ("unnamed", "train", r"data.train: split 'unnamed' .* has no labels.*hole"),
    ("train", "unnamed", r"data.test: split 'unnamed' .* has no labels"),
    ("train", "two", "'train' has 3 classes, 'two' has 2, .* name two parts"),
    ("train", "swapped", "not the same in the same order"),
    ("train", "nowhere", "split 'nowhere' is not in"),
    ("hole", "train", "'shape-0' of split 'hole' has label -1"),
  ],
)
def test_splits_that_do_not_fit_are_refused(
  odd_dir, tmp_path, train, test, message
):
  config = runs.finetuning_config(odd_dir, data={"train": train, "test": test})
  start, _ = starts.load("", "latest", config.scratch)
  with pytest.raises(BadInput, match=message):
    for _ in set_up(Classification(config, start, None)).batches(0):
      pass


@pytest.mark.parametrize(
  ("checkpoint", "message"),
  [
    ("nowhere", "nowhere does not exist, and is no name"),
    ("notes.pt", "cannot be read as a PyTorch file"),
  ],
)
def test_checkpoints_that_are_no_encoder_are_refused(
  labelled_dir, tmp_path, checkpoint, message
):
  (tmp_path / "notes.pt").write_text("none")
  with pytest.raises(BadInput, match=message):
    finetune(
      runs.finetuning_config(labelled_dir),
      str(tmp_path / checkpoint),
      tmp_path / "run",
    )
  # Nothing is left in the way of a better command.
  assert not (tmp_path / "run" / "config.json").exists()


def test_a_classifier_is_not_taken_for_an_encoder(
  labelled_dir, finetuned, tmp_path
):
  with pytest.raises(BadInput, match="is a fine-tuned classifier, not an enc"):
    finetune(runs.finetuning_config(labelled_dir), str(finetuned), tmp_path)


def test_another_kind_of_run_is_not_continued(labelled_dir, tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(BadInput, match="holds a run that is no fine-tuning"):
    finetune(runs.finetuning_config(labelled_dir), "", tmp_path)
  assert (tmp_path / "config.json").read_text() == "{}"


def test_a_run_goes_on_as_it_was_or_not_at_all(
  finetuned, labelled_dir, encoder_dir, capsys
):
  arguments = [
    *("--config", "configs/finetune/debug.py", "--workdir", str(finetuned)),
    *("--checkpoint", str(encoder_dir), "--config.train.batch_size=16"),
    *(f"--config.data.dir={labelled_dir}", "--config.train.epochs=20.0"),
    "--config.optimizer.learning_rate=3e-3",
  ]
  before = last_state(finetuned)
  for changed, message in (
    ("--config.train.label_smoothing=0.1", "train.label_smoothing: 0.0 -> 0.1"),
    ("--config.augment.shift=0.1", "augment.shift: 0.2 -> 0.1"),
    ("--config.optimizer.b1=0.8", "optimizer.b1: 0.9 -> 0.8"),
    ("--checkpoint=", "started from"),
    ("--config.data.test=train", "are both 'train'"),
    ("--config.no_field=1", "no such field of the config"),
    ("--odd", "unknown argument: --odd"),
  ):
    assert command_line.main([*arguments, changed]) == 2
    assert message in capsys.readouterr().err
  # A run that has ended has its results, and nothing is done.
  assert command_line.main(arguments) == 0
  assert "evaluat" not in capsys.readouterr().err
  for name, value in last_state(finetuned).items():
    np.testing.assert_array_equal(value, before[name])


def test_a_refused_fine_tuning_changes_nothing(
  finetuned, labelled_dir, encoder_dir, tmp_path
):
  workdir = shutil.copytree(finetuned, tmp_path / "run")
  before = runs.on_disk(workdir)
  config = runs.finetuned_config(labelled_dir, seed=9)
  with runs.on_devices(2), pytest.raises(BadInput, match="seed"):
    finetune(config, str(encoder_dir), workdir)
  assert runs.on_disk(workdir) == before


def test_other_records_are_refused(
  finetuned, labelled_dir, encoder_dir, tmp_path
):
  """A dataset of the same name with another number of shapes."""
  other = runs.make_labelled(tmp_path / "other", train=45, val=15)
  with pytest.raises(BadInput, match="'train': 45, .*trained on .*'train': 48"):
    finetune(runs.finetuned_config(other), str(encoder_dir), finetuned)


def test_shipped_configs_name_splits_that_prepare_makes():
  variants = typing.get_args(scanobjectnn.Variant)
  names = [f"scanobjectnn_{variant}" for variant in variants]
  made = {"modelnet40": "modelnet40_txt"} | dict(zip(names, names, strict=True))
  maker = Path(modelnet40.__file__).read_text()
  assert 'f"modelnet{classes}_txt_{part}"' in maker
  for config, split in made.items():
    module = importlib.import_module(f"configs.finetune.{config}")
    data = Config.from_dict(module.get_config()).data
    assert (data.train, data.test) == (f"{split}_train", f"{split}_test")


def test_a_flag_is_not_abbreviated(capsys):
  flags = ["--work", "runs/x", "--config", "x.py", "--checkpoint", ""]
  with pytest.raises(SystemExit):
    command_line.main(flags)
  assert "required: --workdir" in capsys.readouterr().err
