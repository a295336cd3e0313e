"""The published models by name: registry, hub, files, `mrd models`."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from encoders import make_of_system
from hub import COMMITS
from zoo_cases import FOLDER, key_list
from zoo_weights import state_dict

from mrd_jax import load_encoder
from mrd_jax.convert.__main__ import main as convert
from mrd_jax.encoder import named
from mrd_jax.encoder.files import to_state
from mrd_jax.errors import BadInput
from mrd_jax.evaluate.published import TABLE_1
from mrd_jax.io.files import read_json
from mrd_jax.list_models import main
from mrd_jax.zoo import prompts
from mrd_jax.zoo.registry import NAMES, SYSTEMS
from mrd_jax.zoo.system import Hub, Preparation

ISSUED = [
  *(f"uni3d-{size}" for size in ("ti", "s", "b", "l", "g")),
  *(f"uni3d-{size}-no-lvis" for size in ("b", "l", "g")),
  *("ulip-pointbert", "ulip2-pointbert", "recon", "reconpp-b", "reconpp-l"),
  *("openshape-pointbert", "openshape-spconv", "cg3d-transformer"),
  *("cg3d-pointmlp", "clip2point", "pointclip", "pointclip-v2"),
]
# Released files, by the names of their lists of keys.
KEYS = {
  **{f"uni3d-{size}": f"uni3d-{size}" for size in ("ti", "s", "b", "l", "g")},
  "ulip-pointbert": "ulip1-pointbert",
  "ulip2-pointbert": "ulip2-pointbert-10k-colored",
  "reconpp-b": "reconpp-base",
  "reconpp-l": "reconpp-large",
}
SMALL = {"groups": 32, "group_size": 16}


def test_every_name_is_there():
  assert set(ISSUED) <= NAMES.keys()


@pytest.mark.parametrize("name", KEYS)
def test_a_release_is_as_large_as_its_file(name):
  key, release = NAMES[name]
  # Without content.
  state = {
    k: np.broadcast_to(np.float32(0), shape)
    for k, shape in key_list(KEYS[name]).items()
  }
  assert SYSTEMS[key].infer(state) == release.size


@functools.cache
def count_parameters(system, size):
  shapes = jax.eval_shape(
    functools.partial(SYSTEMS[system].make(size).init, train=False),
    jax.random.key(0),
    jnp.zeros((1, 2, 6)),
    jnp.ones(1, jnp.int32),
  )
  return sum(x.size for x in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize("name", NAMES)
def test_a_release_has_as_many_parameters(name):
  key, release = NAMES[name]
  assert count_parameters(key, release.size) == release.parameters


@pytest.mark.parametrize("name", NAMES)
def test_what_a_release_says_is_consistent(name):
  key, release = NAMES[name]
  system = SYSTEMS[key]
  assert release.row is None or release.row in TABLE_1
  assert release.source or not release.figures
  known = {*system.UNSAID, *Preparation._fields, "drawn", "colour"}
  for changed in release.on.values():
    assert changed.keys() <= known


def test_the_longest_name_of_a_split_decides():
  recon = NAMES["recon"][1]
  assert recon.set_on("modelnet40_hdf5_test") == {"sampled_points": 1200}
  assert recon.set_on("scanobjectnn_pb_t50_rs_test")["ratio"] == 0.05
  assert recon.set_on("scanobjectnn")["group_size"] == 128
  assert recon.set_on("lvis") == {}


def test_templates_are_the_published_ones():
  assert len(prompts.ULIP) == len(set(prompts.ULIP)) == 64
  assert prompts.ULIP[0] == "a point cloud model of {}."
  assert len(prompts.RECON) == len(set(prompts.RECON)) == 60
  for template in (*prompts.ULIP, *prompts.RECON):
    assert template.count("{}") == 1


def uni3d_ti(path):
  """Writes the case's weights as Uni3D's authors do."""
  torch = pytest.importorskip("torch", reason="writes a .pt file")
  meta = json.loads((FOLDER / "cases" / "uni3d-ti.json").read_text())
  state = state_dict(meta["state_dict"], **meta["weights"])
  path.parent.mkdir(parents=True, exist_ok=True)
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
  torch.save({"module": tensors, "epoch": 1}, path)


@pytest.fixture
def published(hub, tmp_path):
  """A stand-in of the hub that has Uni3D's repository."""
  folder = tmp_path / "hub"
  uni3d_ti(folder / "modelzoo" / "uni3d-ti" / "model.pt")
  for commit in COMMITS.values():
    hub.repositories["BAAI/Uni3D", commit] = folder
  return hub


def test_a_name_is_fetched_once_and_remembers_its_commit(published, tmp_path):
  encoder = load_encoder("uni3d-ti", **SMALL)
  case = np.load(FOLDER / "cases" / "uni3d-ti.npz")
  found = encoder(case["points"], normalize=False)
  expected = case["embedding"]
  expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
  assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
  published.asked()
  load_encoder("uni3d-ti")
  assert "GET" not in {method for method, _ in published.asked()}
  published.stop()
  offline = load_encoder("uni3d-ti", **SMALL)
  assert COMMITS["main"] in offline.config.source
  offline.save_pretrained(tmp_path / "model")
  assert COMMITS["main"] in (tmp_path / "model" / "README.md").read_text()
  again = load_encoder(tmp_path / "model")
  assert again.config == offline.config
  assert again.config.name == "uni3d-ti"


def test_a_revision_can_be_named(published):
  for encoder in (
    load_encoder("uni3d-ti@v1"),
    load_encoder("uni3d-ti", revision="v1"),
  ):
    assert COMMITS["v1"] in encoder.config.source
  with pytest.raises(BadInput, match="there is no revision 'v9'"):
    load_encoder("uni3d-ti@v9")


def test_a_cut_download_goes_on(published):
  published.cuts = [15_000_000]  # the library writes 10 MiB at a time
  load_encoder("uni3d-ti")
  first, second = published.asked_ranges()[:2]
  assert first[1] is None and second[1] == f"bytes={10 * 2**20}-"


def test_a_dataset_holds_weights_too(hub, tmp_path):
  release = NAMES["ulip-pointbert"][1]
  assert isinstance(release.weights, Hub)
  file = tmp_path / "hub" / release.weights.file
  file.parent.mkdir(parents=True)
  shutil.copy(__file__, file)
  hub.repositories["datasets/SFXX/ulip", COMMITS["main"]] = tmp_path / "hub"
  found, source = named.find(named.Reference("ulip-pointbert"))
  assert found.read_text() == file.read_text()
  assert source.endswith(f"of SFXX/ulip@{COMMITS['main']}")


def test_what_the_hub_does_not_have_is_said(hub):
  with pytest.raises(BadInput, match="^uni3d-l: BAAI/Uni3D is .* there is no"):
    load_encoder("uni3d-l")
  for name in ("recon", "cg3d-pointmlp", "clip2point"):
    page = NAMES[name][1].weights
    sentence = f"{re.escape(page.file)}', which {page.address} links to"
    with pytest.raises(BadInput, match=sentence):
      load_encoder(name)


def weights_of(system, path):
  encoder = make_of_system(system)
  state = to_state(encoder.config, encoder.variables)
  safetensors.numpy.save_file(state, path)
  return path


def test_a_file_can_be_named_in_two_ways(tmp_path):
  file = weights_of("uni3d", tmp_path / "a.safetensors")
  sentence = "is loaded as uni3d-b, but it is not the published one: width 64, "
  for arguments in (("uni3d-b", file), (f"uni3d-b:{file}", None)):
    with pytest.warns(UserWarning, match=sentence + "not 768"):
      encoder = load_encoder(arguments[0], weights=arguments[1], groups=9)
    size = encoder.config.architecture
    assert (size.width, size.groups, size.group_size) == (64, 9, 64)
    assert "width 64, not 768" in encoder.config.source


def test_what_no_file_says_comes_with_the_name(tmp_path):
  file = weights_of("pointclip", tmp_path / "a.safetensors")
  for name, version in (("pointclip", 1), ("pointclip-v2", 2)):
    with pytest.warns(UserWarning, match="tower "):
      encoder = load_encoder(name, weights=file)
    assert encoder.config.architecture.version == version


def test_names_that_do_not_fit_are_refused(tmp_path):
  file = weights_of("recon", tmp_path / "a.safetensors")
  sentence = "is ReCon, and uni3d-l is Uni3D"
  with pytest.raises(BadInput, match=sentence):
    load_encoder("uni3d-l", weights=file)
  with pytest.raises(BadInput, match="names a file, which has no revision"):
    load_encoder(f"recon@main:{file}")
  with pytest.raises(BadInput, match="b.pt, the weights of recon, does not ex"):
    load_encoder("recon:b.pt")
  with pytest.raises(BadInput, match="uni3d-m does not exist.*uni3d-. is one"):
    load_encoder("uni3d-m")
  with pytest.raises(BadInput, match="is no name of a published model"):
    load_encoder(tmp_path, weights=file)


def test_what_is_lacking_is_said(tmp_path):
  file = weights_of("uni3d", tmp_path / "a.safetensors")
  state = safetensors.numpy.load_file(file)
  state.pop("point_encoder.trans2embed.weight")
  state = {k: v for k, v in state.items() if "blocks.0" not in k} | state
  safetensors.numpy.save_file(state, file)
  with pytest.raises(BadInput, match="lacks point_encoder.*which uni3d-b has"):
    load_encoder("uni3d-b", weights=file)


def test_a_json_of_another_program_is_not_looked_at(tmp_path):
  file = weights_of("uni3d", tmp_path / "a.safetensors")
  for name in ("a.json", "config.json"):
    (tmp_path / name).write_text('{"name": "uni3d-ti"}')
  assert load_encoder(file, groups=8).config.system == "uni3d"


@pytest.mark.filterwarnings("always:.*is not the published one")
def test_verbs_tell_what_a_name_is_not(tmp_path, capsys):
  file = weights_of("uni3d", tmp_path / "a.safetensors")
  arguments = ["from-torch", "--output", str(tmp_path / "model"), "--input"]
  assert convert([*arguments, f"uni3d-b:{file}"]) == 0
  assert capsys.readouterr().err.startswith(
    f"note: {file} is loaded as uni3d-b"
  )
  assert convert([*arguments, "Uni3D-L"]) == 2
  assert "error: Uni3D-L does not exist, and is no" in capsys.readouterr().err


def test_the_current_folder_is_a_checkpoint(tmp_path, monkeypatch):
  make_of_system("uni3d").save_pretrained(tmp_path)
  monkeypatch.chdir(tmp_path)
  assert load_encoder(".").config.system == "uni3d"


def test_a_place_of_that_name_is_the_place(tmp_path, monkeypatch):
  make_of_system("uni3d").save_pretrained(tmp_path / "recon")
  monkeypatch.chdir(tmp_path)
  assert load_encoder("recon").config.system == "uni3d"


def test_mrd_models_lists_them(tmp_path, capsys):
  assert main(["--json", str(tmp_path / "models.json")]) == 0
  table = capsys.readouterr().out
  assert main(["--json", "-"]) == 0
  printed = json.loads(capsys.readouterr().out)
  assert read_json(tmp_path / "models.json") == printed
  assert [model["name"] for model in printed] == list(NAMES)
  by_name = {model["name"]: model for model in printed}
  line = next(x for x in table.splitlines() if x.startswith("uni3d-l "))
  assert re.search(r"304\.7M +10,000 +yes +53\.1 +86\.3 +58\.2 +1024", line)
  assert "BAAI/Uni3D: modelzoo/uni3d-l/model.pt" in line
  assert by_name["openshape-spconv"]["licence"] == "openrail"
  assert by_name["ulip-pointbert"]["colour"] is False
  assert by_name["openshape-pointbert"]["colour"] is True
