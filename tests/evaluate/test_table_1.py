"""The suite table1: systems by their own protocols, or all by one."""

import re

import clips
import numpy as np
import planted
import pytest
from encoders import make_encoder
from text_towers import write_encoder

from mrd_jax import load_encoder
from mrd_jax.data import dataset
from mrd_jax.encoder.text_towers import TextTowers
from mrd_jax.errors import BadInput
from mrd_jax.evaluate import settings, table_1
from mrd_jax.evaluate.__main__ import main
from mrd_jax.evaluate.class_texts import ClassTexts
from mrd_jax.evaluate.protocol import Protocol
from mrd_jax.io.files import read_json
from mrd_jax.metrics.zero_shot import zero_shot
from mrd_jax.teachers.text_tower import TextTower
from mrd_jax.zoo import prompts
from mrd_jax.zoo.registry import NAMES

NOTHING = Protocol()
UNPUBLISHED = pytest.mark.filterwarnings("ignore:.*is not the published one")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Two of Table 1's sets, a dozen shapes each."""
  shapes = planted.make_shapes(12)
  splits = {"modelnet40": shapes, "scanobjectnn_openshape": shapes}
  return planted.write(tmp_path_factory.mktemp("data") / "sets", splits)


def evaluate(checkpoint, data, output, *options):
  paths = ("--checkpoint", checkpoint, "--data", data, "--output", output)
  arguments = (*paths, "--suite", "table1", *options, "--batch-size", 4)
  return main([str(x) for x in arguments])


def texts(**changed):
  return ClassTexts(TextTowers(**changed), {}, ["a {}."])


def choose(standard, encoder, split, made, protocol=NOTHING):
  return settings.choose(standard, encoder, split, "", made, protocol)


@UNPUBLISHED
def test_a_system_by_its_own_protocol(data, tmp_path, capsys):
  file = write_encoder(tmp_path, "ulip")
  name = f"ulip-pointbert:{file}"
  assert evaluate(name, data, tmp_path / "out") == 0
  row = read_json(tmp_path / "out" / "results.json")["rows"][0]
  assert (row["name"], row["model"]) == ("ulip-pointbert", "ulip-pointbert")
  found = row["suites"]["modelnet40 own"]
  # The same, by hand: ULIP's templates, by the tower in its own file.
  tower = TextTower.from_file(file)
  names = dataset.read_meta(data).class_names["modelnet40"]
  class_CD = [
    np.mean(tower.text_features([t.format(x) for t in prompts.ULIP]), axis=0)
    for x in names
  ]
  encoder = load_encoder("ulip-pointbert", weights=file)
  records = list(dataset.open_split(data, "modelnet40"))
  point_ND = encoder(
    [
      np.concatenate([r["xyz"] / 32767, np.asarray(r["rgb"]) / 255], axis=1)
      for r in records
    ]
  )
  by_hand = zero_shot(
    point_ND, np.array([r["label"] for r in records]), np.array(class_CD)
  )
  assert found["metrics"]["top1"] == by_hand["top1"]
  assert found["metrics"]["class_mean"] == by_hand["class_mean"]
  table = capsys.readouterr().out
  assert "Table 1, each by its authors' protocol" in table
  assert re.search(r"the paper: ULIP\+PointBERT, ShapeNet +\| +6\.2 ", table)
  assert re.search(r"ULIP's README +(\| +){4}60\.3 \| +\| +84\.0", table)
  assert "sampling then began at a random point" in table
  assert "of 2,468 shapes, another test set, not comparable" in table
  assert "objaverse_lvis" not in row["suites"]


@pytest.mark.slow
@UNPUBLISHED
def test_one_protocol_for_all(data, tmp_path, capsys):
  clip = clips.make_clip(tmp_path / "clip", embed_dim=16)
  output = tmp_path / "out"
  for system, name in (("ulip", "ulip-pointbert"), ("uni3d", "uni3d-b")):
    folder = tmp_path / system
    folder.mkdir()
    file = write_encoder(folder, system, with_texts=False)
    options = ("--protocol", "ours", "--teacher", clip)
    assert evaluate(f"{name}:{file}", data, output, *options) == 0
  rows = read_json(output / "results.json")["rows"]
  assert [row["name"] for row in rows] == ["ulip-pointbert", "uni3d-b"]
  said = {row["suites"]["modelnet40 ours"]["protocol"]["texts"] for row in rows}
  assert len(said) == 1 and "30 templates, the same for all" in said.pop()
  assert (
    "all by one protocol, which nobody has published"
    in (output / "results.md").read_text()
  )


@UNPUBLISHED
def test_settings_are_the_authors(tmp_path):
  """Groups, ratio and points of ReCon; order and scale of PointCLIP."""
  recon = load_encoder(
    "recon", weights=write_encoder(tmp_path, "recon", with_texts=False)
  )
  teacher = texts(teacher=str(clips.make_clip(tmp_path / "clip", embed_dim=16)))
  on = choose("own", recon, "scanobjectnn_obj_only", teacher)
  size = on.model.size
  assert (size.groups, size.group_size, size.ratio) == (32, 128, 0.15)
  assert on.preparation.num_points == 2048
  on = choose("own", recon, "modelnet40", teacher)
  assert on.model is recon.model
  assert (on.preparation.num_points, on.preparation.sampled_points) == (
    1024,
    1200,
  )
  assert on.preparation.order == "farthest"
  ours = choose("ours", recon, "modelnet40", teacher)
  assert ours.preparation.sampled_points == 0
  more = Protocol(points=4096)
  assert choose("ours", recon, "lvis", teacher, more).protocol == more
  with pytest.raises(BadInput, match="--points and --colour are not what"):
    choose("own", recon, "lvis", teacher, more)
  pointclip = load_encoder(
    "pointclip-v2",
    weights=write_encoder(tmp_path, "pointclip", with_texts=False),
  )
  teacher = texts(teacher=str(clips.make_clip(tmp_path / "c", embed_dim=32)))
  on = choose("own", pointclip, "modelnet40", teacher)
  assert on.model.size.view_weights[3] == 0.25
  assert not on.preparation.normalized and on.preparation.order == "stored"
  ours = choose("ours", pointclip, "modelnet40", teacher)
  assert ours.preparation.normalized and ours.preparation.order == "shuffled"
  # OpenShape draws ScanObjectNN's points with replacement.
  assert NAMES["openshape-pointbert"][1].set_on("scanobjectnn") == {
    "drawn": 10_000
  }


@UNPUBLISHED
def test_sums_keep_the_length_of_texts(tmp_path):
  cg3d = load_encoder(
    "cg3d-transformer",
    weights=write_encoder(tmp_path, "cg3d", with_texts=False),
  )
  file = write_encoder(tmp_path, "ulip")  # it has a tower
  on = choose("own", cg3d, "modelnet40", texts(weights=file))
  assert on.class_features is not None
  found = on.class_features(["chair", "night_stand"])
  raw = TextTower.from_file(file).text_features(
    ["This is a chair", "This is a night_stand"], unit=False
  )
  np.testing.assert_array_equal(found, raw)
  with pytest.raises(
    BadInput, match=r"of slip_base_100ep\.pt, which .* --text-weights"
  ):
    choose("own", cg3d, "modelnet40", texts())


@pytest.mark.slow
@UNPUBLISHED
def test_sentences_that_were_searched(data, tmp_path):
  names = dataset.read_meta(data).class_names["modelnet40"]
  sentences = [f"a photo of the {name}" for name in names]
  prompts_file = tmp_path / "best_param.py"
  key = "best_prompt_weight['modelnet40_vit_b16_test_"
  weights = [0.5] * 9 + [1.0]
  prompts_file.write_text(
    "best_prompt_weight = {}\n"
    f"{key}prompts'] = {sentences}\n{key}weights'] = {weights}\n"
  )
  file = write_encoder(tmp_path, "pointclip")
  name = f"pointclip-v2:{file}"
  options = ("--prompts", prompts_file)
  assert evaluate(name, data, tmp_path / "out", *options) == 0
  suites = read_json(tmp_path / "out" / "results.json")["rows"][0]["suites"]
  assert "--prompts" in suites["modelnet40 own"]["protocol"]["texts"]
  # None were searched for the other set: the template of the first version.
  assert "1 of its templates" in suites["scanobjectnn own"]["protocol"]["texts"]


@UNPUBLISHED
def test_a_folder_has_no_text_tower(data, tmp_path, capsys):
  ulip = load_encoder("ulip-pointbert", weights=write_encoder(tmp_path, "ulip"))
  ulip.save_pretrained(tmp_path / "model")
  output = tmp_path / "out"
  assert evaluate(tmp_path / "model", data, output) == 2
  assert "is in its published file: name that with --text-weights" in (
    capsys.readouterr().err
  )
  options = ("--text-weights", tmp_path / "ulip.safetensors")
  assert evaluate(tmp_path / "model", data, output, *options) == 0


def test_an_encoder_of_ours_has_no_published_protocol(data, tmp_path):
  make_encoder(embed_dim=32).save_pretrained(tmp_path / "model")
  assert evaluate(tmp_path / "model", data, tmp_path / "out") == 0
  suites = read_json(tmp_path / "out" / "results.json")["rows"][0]["suites"]
  found = suites["scanobjectnn own"]
  assert found["protocol"]["texts"] == "stored with the classes"
  assert "differs" not in found["protocol"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--split", "retrieval=val"), "no such suite in --suite"),
    (("--prompts", "none.py"), "none.py"),
  ],
)
def test_arguments_that_do_not_fit(options, message, data, tmp_path, capsys):
  assert evaluate("x", data, tmp_path / "out", *options) == 2
  assert message in capsys.readouterr().err


def test_flags_of_the_suite_are_refused_elsewhere(data, tmp_path, capsys):
  arguments = ("--checkpoint", "x", "--data", data, "--output", tmp_path)
  options = ("--suite", "modelnet40")
  options += ("--protocol", "ours")
  assert main([str(x) for x in (*arguments, *options)]) == 2
  assert "--protocol is for the suite table1" in capsys.readouterr().err


def test_every_source_of_figures_is_a_table():
  own = table_1.own_figures()
  assert own["Uni3D's README"]["uni3d-l", "ensembled"]["lvis/top1"] == 53.1
  assert own["Uni3D's README"]["uni3d-g", "ensembled, a file per set"]
