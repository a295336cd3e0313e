"""PyTorch files: OpenShape's layouts, and what must not be read."""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import pickle
import shutil
import zipfile

import numpy as np
from converting import assert_same_state
from encoders import EMBED_DIM, TINY, random_variables
from openshape_bundle import Attack
from safetensors.torch import save_file

from mrd_jax.convert import torch_files
from mrd_jax.encoder import published
from mrd_jax.errors import BadInput
from mrd_jax.zoo import openshape


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
  """A bare state dict; BatchNorm has counted 7 steps."""
  variables = random_variables(TINY, EMBED_DIM)
  arrays = openshape.to_state_dict(variables, num_batches_tracked=7)
  return {key: torch.from_numpy(np.array(x)) for key, x in arrays.items()}


def prefixed(prefix, state):
  return {prefix + key: x for key, x in state.items()}


def save(content, path, layout):
  """Writes safetensors, or PyTorch's files of today ("zip") or before."""
  if layout == "safetensors":
    save_file(content, path)
  else:
    torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")


def trainer_file(path, state):
  """What OpenShape's trainer saves, with numpy scalars where it may."""
  weights = [torch.nn.Parameter(torch.ones(2, 3))]
  optimizer = torch.optim.AdamW(weights, lr=np.float64(1e-3))
  weights[0].sum().backward()
  optimizer.step()
  scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
  content = {
    "state_dict": prefixed("module.", state),
    "logit_scale": {"module.logit_scale": torch.tensor(2.659)},
    "text_proj": None,
    "image_proj": None,
    "optimizer": optimizer.state_dict(),
    "scheduler": scheduler.state_dict(),
    "epoch": 12,
    "step": np.int64(3456),
    "best_img_contras_acc": np.float32(0.3),
    "best_text_contras_acc": np.float64(0.4),
    "best_lvis_acc": np.float16(0.5),
    "best_modelnet40_overall_acc": torch.tensor(0.8),
    "done": np.bool_(False),
  }
  torch.save(content, path)


def replace(path, old, new):
  """Changes the pickle in a zip file."""
  whole = path.rename(path.with_suffix(".old"))
  with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
    for name in source.namelist():
      content = source.read(name)
      if name.endswith("data.pkl"):
        assert old in content
        content = content.replace(old, new)
      target.writestr(name, content)


def assert_read(path, expected, logit_scale=None):
  state, scale = published.read_state(path)
  assert state.keys() == expected.keys()
  for key, x in expected.items():
    array = np.asarray(state[key])
    if array.dtype.kind == "f":  # they are read in their own precision
      array = array.astype(np.float32)
    np.testing.assert_array_equal(array, x.numpy(), strict=True, err_msg=key)
  assert scale == logit_scale


# Layouts.


@pytest.mark.parametrize("numpy", ["1", "2"])
def test_a_trainers_file(tmp_path, state, numpy):
  path = tmp_path / "model.pt"
  trainer_file(path, state)
  if numpy == "1":
    new = b"cnumpy._core.multiarray\nscalar\n"
    replace(path, new, new.replace(b"_core", b"core"))
  assert_read(path, state, logit_scale=torch.tensor(2.659).item())


def test_the_demos_files(tmp_path, state):
  path = tmp_path / "model.pt"
  # ViT-L/14: all of a lightning module at the top level.
  other = {"text_encoder.weight": torch.ones(2), "logit_scale": torch.ones(())}
  torch.save(other | prefixed("pc_encoder.", state), path)
  assert_read(path, state, 1.0)
  # ViT-B/32: the bare PointPatchTransformer.
  bare = {k: x for k, x in state.items() if k.startswith("ppat.")}
  names = {k.replace("ppat.", "pc_encoder.", 1): x for k, x in bare.items()}
  assert "pc_encoder.cls_token" in names
  torch.save(other | names, path)
  assert_read(path, bare, 1.0)


def test_tensors_of_a_gpu_are_read_where_there_is_none(tmp_path, state):
  path = tmp_path / "model.pt"
  torch.save(state, path)
  replace(path, b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:7")
  with pytest.raises(RuntimeError, match="CUDA device"):
    torch.load(path, weights_only=True)
  assert_read(path, state)


@pytest.mark.parametrize(
  ("prefix", "wrap", "layout"),
  [
    ("", False, "zip"),
    ("module.", True, "legacy"),
    ("module.pc_encoder.", True, "zip"),
    ("module.", False, "safetensors"),
  ],
)
def test_state_dicts(tmp_path, state, prefix, wrap, layout):
  path, content = tmp_path / f"model.{layout}", prefixed(prefix, state)
  content = {"state_dict": content, "epoch": 3} if wrap else content
  save(content, path, layout)
  assert_read(path, state)


@pytest.mark.parametrize(
  "dtype", [torch.float16, torch.bfloat16, torch.float64]
)
@pytest.mark.parametrize("layout", ["zip", "safetensors"])
def test_other_precisions_become_float32(tmp_path, state, dtype, layout):
  path = tmp_path / f"model.{layout}"
  stored = {
    key: x.to(dtype) if x.is_floating_point() else x for key, x in state.items()
  }
  save(stored, path, layout)
  assert_read(path, {key: x.to(state[key].dtype) for key, x in stored.items()})


def test_parameters_and_views_are_tensors(tmp_path, state):
  wide = torch.stack([state["proj.weight"]] * 2, dim=-1)
  other = state | {
    "ppat.cls_token": torch.nn.Parameter(state["ppat.cls_token"]),
    "proj.weight": wide[..., 1],  # not contiguous
  }
  torch.save(other, tmp_path / "model.pt")
  assert_read(tmp_path / "model.pt", state)


@pytest.mark.parametrize(
  ("scale", "expected"),
  [
    (torch.tensor(2.5), 2.5),
    ({"logit_scale": torch.tensor([2.5])}, 2.5),
    (torch.tensor(2.5, dtype=torch.bfloat16), 2.5),
    (np.float64(2.5), 2.5),
    ({}, None),
    (None, None),
  ],
)
def test_logit_scale(tmp_path, state, scale, expected):
  path = tmp_path / "model.pt"
  torch.save({"state_dict": state, "logit_scale": scale}, path)
  assert_read(path, state, logit_scale=expected)


@pytest.mark.parametrize("style", ["bare", "module"])
@pytest.mark.parametrize("logit_scale", [2.6592600345611572, None])
def test_write(tmp_path, state, style, logit_scale):
  path = tmp_path / "model.pt"
  arrays = {key: x.numpy() for key, x in state.items()}
  arrays["proj.bias"].flags.writeable = False  # as JAX's are
  torch_files.write(path, arrays, logit_scale, style)
  assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
  found = torch.load(path, weights_only=True)
  prefix = "module." if style == "module" else ""
  names = ["state_dict", "text_proj", "image_proj"]
  if logit_scale is not None:
    names.append("logit_scale")
    (key, value), *rest = found["logit_scale"].items()
    assert (key, rest) == (f"{prefix}logit_scale", [])
    assert value.shape == () and value.dtype == torch.float32
    assert value.item() == logit_scale
  assert list(found) == names
  assert found["text_proj"] is None and found["image_proj"] is None
  assert_same_state(found["state_dict"], prefixed(prefix, state))
  assert_read(path, state, logit_scale)


# What must not be read.


def refused(path, match):
  with pytest.raises(BadInput, match=match) as error:
    published.read(path)
  assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle", "text pickle"])
def test_nothing_is_executed(tmp_path, state, layout):
  trace, path = tmp_path / "executed", tmp_path / "model.pt"
  protocol = {"pickle": 2, "text pickle": 0}.get(layout)
  if protocol is None:
    save({"state_dict": state, "scheduler": Attack(trace)}, path, layout)
  else:
    path.write_bytes(pickle.dumps(Attack(trace), protocol))
  refused(path, r"is refused, nothing in it was executed: it holds posix\.sys")
  assert not trace.exists()
  # It would have worked.
  if protocol is None:
    torch.load(path, weights_only=False)
  else:
    pickle.loads(path.read_bytes())
  assert trace.exists()


class Crafted:
  """A dtype whose state says that its bytes are pointers."""

  def __reduce__(self):
    state = (3, "<", None, ("a",), {"a": (np.float64, 0)}, 8, 8, 4)
    return np.dtype, ("f8", False, True), state


class Scalar:
  def __reduce__(self):
    return np.float64(1).__reduce__()[0], (Crafted(), b"A" * 8)


def test_the_state_of_a_dtype_is_not_believed(tmp_path):
  """NumPy would: where numbers are, memory of the process comes back."""
  path = tmp_path / "model.pt"
  pickled = pickle.dumps({"state_dict": {}, "score": Scalar()}, 2)
  torch.save({"state_dict": {}}, path)
  whole = path.rename(path.with_suffix(".old"))
  with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
    for name in source.namelist():
      of_pickle = name.endswith("data.pkl")
      target.writestr(name, pickled if of_pickle else source.read(name))
  refused(path, "cannot be read as a PyTorch file|is refused")


class Subclass(torch.Tensor):
  pass


def test_classes_are_refused(tmp_path, state):
  path = tmp_path / "model.pt"
  for value in (
    torch.nn.Linear(2, 2),
    state["proj.bias"].as_subclass(Subclass),
    shutil.rmtree,
  ):
    torch.save(state | {"proj.bias": value}, path)
    refused(path, "is refused, nothing in it was executed: it holds [a-zA-Z_.]")
  # Reading one file allows nothing to others.
  torch.save(np.float64(1), path)
  refused(path, "holds no state dict but a float64")
  with pytest.raises(pickle.UnpicklingError):
    torch.load(path, weights_only=True)


def test_numpys_arrays_are_tensors(tmp_path, state):
  path = tmp_path / "model.pt"
  torch.save(state | {"proj.bias": state["proj.bias"].double().numpy()}, path)
  assert_read(path, state)


TENSOR = {"a": torch.ones(1)}
KINDS = {
  "coo": lambda x: x.to_sparse(),
  "csr": lambda x: x.to_sparse_csr(),
  "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
  "nested": lambda x: torch.nested.nested_tensor([x[0], x[1, :5]]),
  "complex": lambda x: x.to(torch.complex64),
  "meta": lambda x: x.to("meta"),
  "objects": lambda x: np.array([None]),
}


@pytest.mark.filterwarnings("ignore")  # some are deprecated, some are new
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_other_kinds_of_tensors(tmp_path, state, make):
  path = tmp_path / "model.pt"
  torch.save(state | {"proj.weight": make(state["proj.weight"])}, path)
  refused(path, r"model\.pt: proj\.weight must be a dense tensor of real numb")


@pytest.mark.parametrize("value", ["a text", 3.0, None, [torch.ones(1)]])
def test_what_is_no_tensor_is_none(tmp_path, state, value):
  path = tmp_path / "model.pt"
  torch.save(state | {"proj.weight": value}, path)
  with pytest.raises(BadInput, match=r"model\.pt also holds proj\.bias"):
    published.read(path, groups=4, radius=0.4, group_size=8)


@pytest.mark.parametrize(
  ("content", "match"),
  [
    ({}, "holds no tensors where a state dict would be"),
    ({"epoch": 3}, "holds no tensors where a state dict would be"),
    ({"state_dict": None}, "holds no tensors where a state dict would be"),
    ([1], "holds no state dict but a list"),
    ({3: torch.ones(2)}, "is of no system that is known .* it holds 3"),
    (  # Uni3D
      {"module": {"point_encoder.cls_token": torch.ones(1, 1, 4)}},
      "is of no system that is known .* it holds point_encoder.cls_token",
    ),
    (
      {"point_encoder.cls_token": torch.ones(1, 1, 4), "logit_scale": None},
      "is of no system that is known .* it holds point_encoder.cls_token",
    ),
    (
      {"state_dict": TENSOR, "logit_scale": torch.ones(2)},
      r"logit_scale is \[1. 1.\], must be a number",
    ),
    (
      {"state_dict": TENSOR, "logit_scale": torch.tensor(np.nan)},
      "scale is nan",
    ),
    ({"state_dict": TENSOR, "logit_scale": "3"}, "logit_scale must be a dense"),
  ],
)
def test_other_content(tmp_path, content, match):
  torch.save(content, tmp_path / "model.pt")
  refused(tmp_path / "model.pt", match)


def test_no_file(tmp_path):
  refused(tmp_path / "model.pt", "cannot be read: No such file")
  refused(tmp_path / "model.safetensors", "cannot be read.*No such file")
  refused(tmp_path, "cannot be read: Is a directory")


@pytest.mark.parametrize(
  "content",
  [b"", b"\n", b"hello world", b"<!DOCTYPE html>\n", b"\x80", b"PK\x03\x04"]
  + [b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"],
)
def test_no_pytorch_file(tmp_path, content):
  for suffix in (".pt", ".safetensors"):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    refused(path, "cannot be read as .*; it is damaged or of another kind")


@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_damage(tmp_path, state, layout):
  """Cut anywhere, it is refused; with other bytes it may mean other numbers."""
  path, rng = tmp_path / f"model.{layout}", np.random.default_rng(0)
  save(state, path, layout)
  content = path.read_bytes()
  cuts = rng.integers(len(content), size=20)
  for cut in (*range(5), *cuts, len(content) - 1):
    path.write_bytes(content[:cut])
    refused(path, "cannot be read as .*; it is damaged or of another kind")
  outcomes = set()
  for _ in range(150):
    damaged = bytearray(content)
    for place in rng.integers(5000, size=2):
      damaged[place] = rng.integers(256)
    path.write_bytes(damaged)
    try:
      published.read_state(path)
    except BadInput:  # anything else fails the test
      outcomes.add("refused")
  assert outcomes
