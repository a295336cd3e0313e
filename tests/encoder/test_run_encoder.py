"""Encoders of runs, and the card of a model folder."""

import dataclasses
import json
import shutil
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
from encoders import TRAINED, assert_same, make_config, make_encoder

from mrd_jax.checkpoint.read import load_on_one_device
from mrd_jax.data.dataset import open_split
from mrd_jax.data.records import record_cloud
from mrd_jax.encoder import files
from mrd_jax.encoder.card import model_card
from mrd_jax.encoder.embed_split import read_embeddings
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.errors import BadInput


def test_a_run_becomes_a_model_folder(pretrained, tmp_path):
  encoder = load_encoder(pretrained)
  encoder.save_pretrained(tmp_path, license="apache-2.0")
  found = load_encoder(tmp_path)
  licensed = dataclasses.replace(encoder.config, license="apache-2.0")
  assert_same(found, dataclasses.replace(encoder, config=licensed))
  step, state = load_on_one_device(pretrained / "checkpoints", best_metric=None)
  average, batch_stats = state["average"], state["batch_stats"]
  expected = {"params": average["encoder"], "batch_stats": batch_stats}
  jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
  config = found.config
  assert config.step == step == 12
  assert config.logit_scale == float(average["logit_scale"])
  assert [config.training_config, config.data, config.results] == [
    json.loads((pretrained / name).read_text())
    for name in ("config.json", "data.json", "results.json")
  ]
  assert config.up_axis == "z" and config.num_points == 128
  assert config.embed_dim == 32
  assert config.embedding_space == config.data["teacher"]
  assert config.colour_fill == config.training_config["augment"]["colour_fill"]
  assert (tmp_path / "README.md").read_text() == model_card(config)
  # Who converts it once more keeps the licence.
  found.save_pretrained(tmp_path / "again")
  assert_same(load_encoder(tmp_path / "again"), found)


def test_a_run_and_its_encoder_embed_alike(pretrained, data_dir):
  """What training's last evaluation left, and what a user makes of it."""
  kept = read_embeddings(pretrained / "embeddings" / "val.npz")
  clouds = [record_cloud(record) for record in open_split(data_dir, "val")]
  found = load_encoder(pretrained)(clouds)
  # As exact as the file; of two draws of its points a cloud had .935.
  assert (found * kept.point).sum(axis=1).min() > 1 - 1e-5


def test_a_run_stays_a_run(pretrained, tmp_path):
  """Whatever is exported into its folder; and nothing of it is replaced."""
  run_folder = Path(shutil.copytree(pretrained, tmp_path / "run"))
  encoder = load_encoder(run_folder)
  before = {path.name: path.read_bytes() for path in run_folder.glob("*.json")}
  with pytest.raises(BadInput, match=r"config\.json exists"):
    encoder.save_pretrained(run_folder)
  other = make_encoder()
  weights, sidecar = run_folder / "model.safetensors", run_folder / "model.json"
  files.write(weights, sidecar, other.config, other.variables)
  assert_same(load_encoder(run_folder), encoder)
  for name, content in before.items():
    assert (run_folder / name).read_bytes() == content


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("config.json", '{"a": 1}', r"config\.json: config\.a is not a field"),
    ("config.json", "[]", r"config\.json: "),
    ("data.json", '{"teacher": [1]}', "run: embedding_space is"),
    ("data.json", "[1]", r"data\.json is no dict"),
    ("results.json", "3", r"results\.json is no dict"),
  ],
)
def test_files_of_a_run_in_another_form(
  pretrained, tmp_path, name, content, message
):
  folder = Path(shutil.copytree(pretrained, tmp_path / "run"))
  (folder / name).write_text(content)
  with pytest.raises(BadInput, match=message):
    load_encoder(folder)


def test_results_are_those_of_the_weights(pretrained, tmp_path):
  copy = Path(shutil.copytree(pretrained, tmp_path / "run"))
  shutil.rmtree(copy / "checkpoints" / "12")
  config = load_encoder(copy).config
  # What it was chosen by, and no metrics: those of the run are of step 12.
  chosen = {"step": 8, "checkpoint": "last", "selected_by": None}
  assert config.step == 8 and config.results == chosen
  assert config.data == load_encoder(pretrained).config.data
  assert "None were recorded for these weights" in model_card(config)


# The model card.


def test_the_model_card_escapes():
  config = make_config(license="a: b", embedding_space="CLIP | other")
  card = huggingface_hub.ModelCard(model_card(config))
  assert card.data.license == "a: b"
  assert r"CLIP \| other" in card.text


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


def test_embeddings_of_a_split_whose_name_is_too_long(tmp_path):
  """As a run's config.json may have it."""
  with pytest.raises(BadInput, match=r"vvv\.npz does not exist"):
    read_embeddings(tmp_path / f"{300 * 'v'}.npz")
