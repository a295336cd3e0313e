"""The ONNX file against the model it was written from."""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")
onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")

import json

import numpy as np
from weights import make_twin, surface_clouds

from mrd_jax.config.pretraining import SIZES, PointBERTSize
from mrd_jax.convert import onnx_export
from mrd_jax.errors import BadInput

TINY = PointBERTSize(
  48, 2, 2, 96, sa_dim=24, groups=40, radius=0.4, group_size=12
)
TOLERANCE = 1e-5  # relative, float32


def exported(model, path, config=None):
  onnx_export.export(model, path, config)
  return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def relative_error(session, model, points):
  """Largest difference of the embeddings (B, D), which have unit length."""
  (found,) = session.run(["embedding"], {"points": points})
  with torch.no_grad():
    expected = model(torch.tensor(points[..., :3]), torch.tensor(points))
  expected = expected / expected.norm(dim=1, keepdim=True)
  assert found.shape == expected.shape and found.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
  return np.abs(found - expected.numpy()).max() / expected.abs().max().item()


def lattice_clouds(seed, batch, points, levels=4):
  """Clouds (B, N, 6) with many ties, copies, and points on a ball's border."""
  rng = np.random.default_rng(seed)
  xyz = rng.integers(-levels, levels + 1, size=(batch, points, 3)) / levels
  rgb = rng.random((batch, points, 3))
  return np.concatenate([xyz, rgb], axis=-1).astype(np.float32)


def test_any_batch_and_any_number_of_points(tmp_path, capfd):
  model = make_twin(TINY, 20).eval()
  config = {"num_points": 300, "up_axis": "z"}
  session = exported(model, tmp_path / "model.onnx", config)
  assert capfd.readouterr() == ("", "")
  for batch, points in ((1, 300), (3, 300), (1, 77), (3, 9), (2, 1)):
    for make in (surface_clouds, lattice_clouds):
      clouds = make(batch + points, batch, points)
      assert relative_error(session, model, clouds) < TOLERANCE

  assert sorted(f.name for f in tmp_path.iterdir()) == ["model.onnx"]
  file = onnx.load(tmp_path / "model.onnx")
  onnx.checker.check_model(file)
  metadata = {x.key: x.value for x in file.metadata_props}
  assert json.loads(metadata["config"]) == config
  gelus = [node for node in file.graph.node if node.op_type == "Gelu"]
  assert len(gelus) == TINY.depth
  assert all(x.s == b"none" for node in gelus for x in node.attribute)
  assert (
    __file__.rpartition("/tests/")[0].encode()
    not in (tmp_path / "model.onnx").read_bytes()
  )


@pytest.mark.slow
def test_without_a_projection(tmp_path):
  model = make_twin(TINY, 20).eval()
  model.proj = None
  session = exported(model, tmp_path / "model.onnx")
  assert relative_error(session, model, surface_clouds(0, 2, 100)) < TOLERANCE


@pytest.mark.parametrize(
  "size", ["t", pytest.param("m", marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_published_sizes(tmp_path, size):
  model = make_twin(SIZES[size], 1280).eval()
  session = exported(model, tmp_path / "model.onnx")
  for batch, points in ((1, 10_000), (3, 1024)):
    clouds = surface_clouds(batch, batch, points)
    assert relative_error(session, model, clouds) < TOLERANCE


def test_bad_input(tmp_path):
  model = make_twin(TINY, 20)
  with pytest.raises(BadInput, match=r"model\.eval"):
    onnx_export.export(model.train(), tmp_path / "model.onnx")
