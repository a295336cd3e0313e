"""An encoder of another system in the verbs, from a model folder."""

import numpy as np
import pytest
from encoders import TINY_SIZES, cloud, make_of_system
from runs import on_devices
from text_towers import write_encoder

from mrd_jax.convert.__main__ import main as convert
from mrd_jax.embed.__main__ import main as embed
from mrd_jax.encoder import load_encoder, published
from mrd_jax.encoder.encoder import Encoder, fingerprint
from mrd_jax.evaluate.__main__ import main as evaluate
from mrd_jax.io.files import read_json
from mrd_jax.search.__main__ import main as search
from mrd_jax.teachers.text_tower import TextTower
from mrd_jax.zoo.registry import SYSTEMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("zoo") / "recon"
  make_of_system("recon").save_pretrained(path)
  return path


@pytest.mark.parametrize(
  ("system", "suffix"),
  [
    *((system, ".pt") for system in TINY_SIZES if system != "spconv"),
    ("uni3d", ".safetensors"),
    pytest.param("spconv", ".safetensors", marks=pytest.mark.slow),
  ],
)
def test_to_torch_writes_the_authors_names(system, suffix, tmp_path):
  pytest.importorskip("torch", reason="writes its files")
  encoder = make_of_system(system)
  encoder.save_pretrained(tmp_path / "model")
  out = tmp_path / f"model{suffix}"
  arguments = ["--checkpoint", str(tmp_path / "model"), "--output", str(out)]
  assert convert(["to-torch", *arguments]) == 0
  state, _ = published.read_state(out)
  rows = SYSTEMS[system].table(TINY_SIZES[system])
  assert state.keys() == {row.key for row in rows}
  again = Encoder.make(*published.read(out))
  assert again.config == encoder.config
  assert fingerprint(again) == fingerprint(encoder)


def test_to_onnx_is_a_point_berts(folder, tmp_path, capsys):
  pytest.importorskip("torch", reason="is what to-onnx needs")
  pytest.importorskip("onnxscript", reason="is what to-onnx needs")
  arguments = [
    "--checkpoint",
    str(folder),
    "--output",
    str(tmp_path / "a.onnx"),
  ]
  assert convert(["to-onnx", *arguments]) == 2
  assert "the encoder is ReCon; only a PointBERT" in capsys.readouterr().err
  assert not (tmp_path / "a.onnx").exists()


def test_shapes_are_embedded_and_found(folder, tmp_path, capsys):
  clouds = [cloud(80, 6, seed=i) for i in range(4)]
  for i, points in enumerate(clouds):
    np.save(tmp_path / f"{i}.npy", points)
  model, output = f"--checkpoint={folder}", tmp_path / "shapes.npz"
  files = [f"--input={tmp_path}/*.npy", f"--output={output}", "--index"]
  assert embed([model, *files]) == 0
  with np.load(output) as found:
    expected = load_encoder(folder)(clouds)
    np.testing.assert_allclose(found["embeddings"], expected, atol=1e-6)
  capsys.readouterr()
  query = f"--shape={tmp_path / '2.npy'}"
  assert search([model, f"--index={output}", query, "--top=1"]) == 0
  assert "2.npy" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*is not the published one")
def test_texts_are_found_by_the_tower_in_the_file(tmp_path, capsys):
  for i in range(3):
    np.save(tmp_path / f"{i}.npy", cloud(80, 3, seed=i))
  file = write_encoder(tmp_path, "ulip")
  name, output = f"--checkpoint=ulip-pointbert:{file}", tmp_path / "shapes.npz"
  assert embed([name, f"--input={tmp_path}/*.npy", f"--output={output}"]) == 0
  hits = tmp_path / "hits.json"
  query = ["--text=a photo of the red chair", "--top=3", f"--json={hits}"]
  assert search([name, f"--index={output}", *query]) == 0
  with np.load(output) as found:
    tower = TextTower.from_file(file, batch_size=1)
    text = tower.text_features(["a photo of the red chair"])[0]
    expected = found["embeddings"] @ text
  first = read_json(hits)["hits"][0]
  assert first["row"] == expected.argmax()
  assert first["score"] == pytest.approx(expected.max(), abs=1e-2)  # bfloat16
  image = [f"--image={tmp_path}/0.npy", "--top=3"]
  assert search([name, f"--index={output}", *image]) == 2
  assert "--image needs the whole CLIP" in capsys.readouterr().err


def test_probes_are_measured(folder, labelled_dir, tmp_path):
  suites = ["--suite", "linear_probe,few_shot"]
  splits = ["linear_probe=train,val", "few_shot=train"]
  with on_devices(2):
    code = evaluate(
      [
        *("--checkpoint", str(folder), "--data", str(labelled_dir)),
        *("--output", str(tmp_path), *suites, "--shots", "2"),
        *(x for split in splits for x in ("--split", split)),
        *("--repeats", "2", "--regularisation", "1000"),
      ]
    )
  assert code == 0
  (row,) = read_json(tmp_path / "results.json")["rows"]
  found = {suite: x["metrics"] for suite, x in row["suites"].items()}
  assert found["linear_probe"]["top1"] > 0.4
  assert 0 <= found["few_shot"]["2_shot_top1"] <= 1
