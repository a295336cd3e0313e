"""The ONNX file against the model it was written from."""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")
onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")

import json
import sys

import numpy as np
from clouds import lattice
from encoders import cloud, make_encoder
from runs import REPOSITORY
from weights import make_twin, surface_clouds

from mrd_jax.config.pretraining import SIZES, PointBERTSize
from mrd_jax.convert import bridge, onnx_export
from mrd_jax.convert.__main__ import main

TINY = PointBERTSize(
  48, 2, 2, 96, sa_dim=24, groups=34, radius=0.4, group_size=12
)
# 34 groups: the ball query takes 32 centres at a time.
TOLERANCE = 1e-5  # relative, float32


def session_of(path):
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


@pytest.mark.slow
def test_any_batch_and_any_number_of_points(tmp_path, capfd):
  """What the command writes, against PyTorch and, of raw clouds, ours."""
  encoder = make_encoder(architecture=TINY, num_points=300)
  encoder.save_pretrained(tmp_path / "model")
  out = tmp_path / "new" / "model.onnx"
  arguments = ["--checkpoint", str(tmp_path / "model"), "--output", str(out)]
  assert main(["to-onnx", *arguments]) == 0
  sidecar = out.with_suffix(".json")
  assert capfd.readouterr() == (f"{out}\n{sidecar}\n", "")
  assert sorted(out.parent.iterdir()) == [sidecar, out]
  config = json.loads((tmp_path / "model" / "config.json").read_text())
  assert json.loads(sidecar.read_text()) == config

  session, model = session_of(out), bridge.torch_model(encoder)
  for batch, points in ((1, 300), (3, 300), (1, 77), (3, 9), (2, 1)):
    clouds = surface_clouds(batch + points, batch, points)
    assert relative_error(session, model, clouds) < TOLERANCE
    # With many ties, copies, and points on a ball's border.
    clouds[..., :3] = lattice(batch + points, batch, points, levels=4)
    assert relative_error(session, model, clouds) < TOLERANCE
  for n in (9, 700):
    clouds = [cloud(n, seed=seed) for seed in range(2)]
    prepared = np.stack([encoder.prepare(one) for one in clouds])
    (found,) = session.run(["embedding"], {"points": prepared})
    expected = encoder.embed(list(prepared))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)

  file = onnx.load(out)
  onnx.checker.check_model(file)
  metadata = {x.key: x.value for x in file.metadata_props}
  architecture = json.loads(metadata["config"])["architecture"]
  assert architecture == config["architecture"]
  gelus = [node for node in file.graph.node if node.op_type == "Gelu"]
  assert len(gelus) == TINY.depth
  assert all(x.s == b"none" for node in gelus for x in node.attribute)
  assert str(REPOSITORY).encode() not in out.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
  "size", ["t", pytest.param("m", marks=pytest.mark.long)]
)
def test_published_sizes(tmp_path, size):
  model = make_twin(SIZES[size], 1280).eval()
  if size == "t":
    model.proj = None  # as OpenShape's for ViT-B/32
  onnx_export.export(model, tmp_path / "model.onnx", {})
  session = session_of(tmp_path / "model.onnx")
  for batch, points in ((1, 10_000), (3, 1024)):
    clouds = surface_clouds(batch, batch, points)
    assert relative_error(session, model, clouds) < TOLERANCE


def test_packages_are_named_before_anything_is_written(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnxscript", None)
  with pytest.raises(ModuleNotFoundError, match="onnxscript"):
    bridge.to_onnx(make_encoder(), tmp_path / "model.onnx")
  assert not list(tmp_path.iterdir())
