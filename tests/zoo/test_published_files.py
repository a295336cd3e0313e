"""Files of published systems become encoders that are used as any other."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import zoo_b_weights
import zoo_weights

from mrd_jax import load_encoder
from mrd_jax.config.fields import build, check
from mrd_jax.convert.__main__ import main
from mrd_jax.encoder import published
from mrd_jax.encoder.encoder import fingerprint
from mrd_jax.errors import BadInput
from mrd_jax.models.clip import ImageTowerSize, TowerSize
from mrd_jax.models.clip_resnet import ResNetSize
from mrd_jax.zoo import pointclip, spconv
from mrd_jax.zoo.registry import SYSTEMS, identify

CASES = Path(__file__).parent / "cases"
KEYS = CASES.with_name("keys")


def weights_of(name: str) -> dict[str, np.ndarray]:
  """The state dict of a case, by the authors' keys."""
  if name == "cg3d":
    keys = json.loads((KEYS / "cg3d_keys.json").read_text())["transformer"]
    return {k: np.asarray(zoo_b_weights.weight(k, s)) for k, s in keys.items()}
  meta = json.loads((CASES / f"{name}.json").read_text())
  return zoo_weights.state_dict(meta["state_dict"], **meta["weights"])


def relative_error(found, expected) -> float:
  expected = np.asarray(expected, np.float64)
  expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
  return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
  ("name", "system", "flags"),
  [
    ("uni3d-ti", "uni3d", ("--groups", "32", "--group-size", "16")),
    ("ulip1", "ulip", ("--groups", "32", "--group-size", "16")),
  ],
)
def test_a_file_becomes_a_folder_that_embeds_as_its_authors_code(
  name, system, flags, tmp_path
):
  file, folder = tmp_path / "model.safetensors", tmp_path / "folder"
  safetensors.numpy.save_file(weights_of(name), file)
  arguments = [
    "from-torch",
    "--input",
    str(file),
    "--output",
    str(folder),
    *flags,
  ]
  assert main(arguments) == 0
  encoder = load_encoder(folder)
  assert encoder.config.system == system
  assert SYSTEMS[system].NAME in encoder.config.source
  case = np.load(CASES / f"{name}.npz")
  found = encoder(case["points"], normalize=False)
  assert relative_error(found, case["embedding"]) < 1e-5
  # And once more, from the folder's own files.
  encoder.save_pretrained(tmp_path / "again")
  assert fingerprint(load_encoder(tmp_path / "again")) == fingerprint(encoder)


@pytest.mark.parametrize(
  ("name", "system"),
  [
    ("uni3d-ti", "uni3d"),
    ("ulip1", "ulip"),
    ("reconpp-b-depth2-quiet", "reconpp"),
    ("cg3d", "cg3d"),
  ],
)
def test_a_file_is_known_by_its_contents(name, system):
  assert identify(weights_of(name), "model.pt")[0] == system


def test_what_a_system_does_not_have_is_refused(tmp_path):
  file = tmp_path / "model.pth"
  safetensors.numpy.save_file(weights_of("ulip1"), tmp_path / "a.safetensors")
  torch = pytest.importorskip("torch", reason="writes a .pth file")
  state = {k: torch.from_numpy(v) for k, v in weights_of("ulip1").items()}
  torch.save({"state_dict": state}, file)
  with pytest.raises(
    BadInput, match="is ULIP, of which voxel_size cannot be given"
  ):
    load_encoder(file, voxel_size=0.1)
  assert load_encoder(file, groups=9).config.architecture.groups == 9
  with pytest.raises(BadInput, match="which alone leaves groups open"):
    load_encoder(tmp_path, groups=9)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"groups": 0}, "architecture.groups is 0, must be between 1 and"),
    (
      {"group_size": 1.5},
      "architecture.group_size is 1.5, must be of type int",
    ),
  ],
)
def test_what_is_given_is_checked(tmp_path, given, message):
  file = tmp_path / "model.safetensors"
  safetensors.numpy.save_file(weights_of("ulip1"), file)
  with pytest.raises(BadInput, match=message):
    published.read(file, **given)


def test_every_size_comes_back_from_json():
  """A view system's tower is one of two kinds."""
  tower = ImageTowerSize(24, TowerSize(48, 2, 3, 64, "gelu", 1e-5), 32, 8)
  resnet = ResNetSize(32, 16, (1, 1, 1, 1), 64)
  for size in (
    pointclip.Size(tower, 2, (0.25, 1.0)),
    pointclip.Size(resnet),
    spconv.SIZES["MinkResNet"],
  ):
    values = json.loads(json.dumps(dataclasses.asdict(size)))
    made = build(type(size), values, "architecture")
    check(made, "architecture")
    assert made == size
