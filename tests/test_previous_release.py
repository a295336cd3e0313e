"""A run of version 0.1.0 is used, and goes on.

fixtures/run_0_1_0.zip is the folder of a run that 0.1.0 was asked to stop at
step 4 of 8, on one device, with its TensorBoard files left out, and besides:

* embeddings.npy: what 0.1.0's `load_encoder` gave for `CLOUDS`.
* losses.json: by step, of the same run when 0.1.0 itself went on with it.
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mrd_jax import train
from mrd_jax.config import from_saved
from mrd_jax.convert.__main__ import main as convert
from mrd_jax.encoder import load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.evaluate.__main__ import main as evaluate
from mrd_jax.metrics import read_metrics
from mrd_jax.prepare import procedural

CLOUDS = np.random.default_rng(0).uniform(-1, 1, (3, 40, 6))
CLOUDS[..., 3:] = np.abs(CLOUDS[..., 3:])


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp("previous") / "run"
  file = Path(__file__).parent / "fixtures" / "run_0_1_0.zip"
  with zipfile.ZipFile(file) as archive:
    archive.extractall(folder)
  return folder


@pytest.fixture
def run(original, tmp_path) -> Path:
  return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
  path = tmp_path_factory.mktemp("data") / "procedural"
  procedural.generate(
    path, train=24, val=8, num_points=64, num_views=1, embed_dim=8
  )
  return path


def test_its_encoder_gives_the_same_embeddings(run):
  encoder = load_encoder(run)
  assert encoder.config.step == 4
  np.testing.assert_allclose(
    encoder(CLOUDS), np.load(run / "embeddings.npy"), atol=1e-6
  )


def test_it_goes_on_to_its_end(run, data_dir, capfd):
  values = json.loads((run / "config.json").read_text())
  assert "profile" not in values  # nor other fields that came later
  values["data"]["dir"] = str(data_dir)
  assert train.train(from_saved(values), run)
  said = capfd.readouterr().err
  assert "resumed from the checkpoint of step 4" in said
  assert "damaged" not in said
  losses = {
    line["step"]: line["loss"]
    for line in read_metrics(run / "metrics.jsonl")
    if line["kind"] == "train"
  }
  before = json.loads((run / "losses.json").read_text())
  assert list(losses) == [int(step) for step in before]
  np.testing.assert_allclose(
    list(losses.values()), list(before.values()), rtol=5e-3
  )
  assert json.loads((run / "results.json").read_text())["step"] == 8
  assert load_encoder(run).config.step == 8


def test_evaluate_and_convert_need_nothing_more(run, data_dir, tmp_path):
  out = tmp_path / "model.safetensors"
  given = ["--checkpoint", str(run)]
  assert convert(["to-torch", *given, "--out", str(out)]) == 0
  np.testing.assert_allclose(
    load_encoder(out)(CLOUDS), np.load(run / "embeddings.npy"), atol=1e-6
  )
  table = ["--data", str(data_dir), "--output", str(tmp_path / "table")]
  zero_shot = ["--suite", "zero_shot", "--split", "zero_shot=val"]
  assert evaluate([*given, *table, *zero_shot]) == 0
  rows = json.loads((tmp_path / "table" / "results.json").read_text())
  assert "zero_shot" in json.dumps(rows)


def test_another_config_is_still_refused(run, data_dir):
  values = json.loads((run / "config.json").read_text())
  values["data"]["dir"] = str(data_dir)
  values["loss"]["margin"] = 0.2
  with pytest.raises(BadInput, match=": loss.margin: 0.1 -> 0.2$"):
    train.train(from_saved(values), run)
