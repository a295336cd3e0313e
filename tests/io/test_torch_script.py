"""TorchScript archives are read as data: their state dict, bit for bit."""

import pytest

torch = pytest.importorskip("torch", reason="writes TorchScript archives")

import struct
import time
import zipfile

import numpy as np
from bounds import bounded

from mrd_jax.encoder import published
from mrd_jax.errors import BadInput
from mrd_jax.io import torch_file

# PyTorch says that its TorchScript is no longer developed.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Inner(torch.nn.Module):
  """Parameters, buffers, and attributes of other kinds."""

  def __init__(self):
    super().__init__()
    self.weight = torch.nn.Parameter(torch.randn(3, 4))
    self.register_buffer("turned", torch.randn(5, 4).T)
    self.register_buffer("places", torch.arange(4))
    self.norm = torch.nn.BatchNorm1d(4)
    self.scale, self.sizes, self.nothing = 2.0, [1, 2], None
    self.names, self.rates = {"a": 1}, [0.5]

  def forward(self, x):
    return self.norm(x @ self.weight.T @ self.weight) * self.scale


class Outer(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.first = Inner()
    self.rest = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    self.blocks = torch.nn.ModuleList([Inner(), Inner()])
    self.register_buffer("input_resolution", torch.tensor(224))
    self.context_length = 77

  def forward(self, x):
    x = self.first(x)
    for block in self.blocks:
      x = block(x)
    return self.rest(x)


@pytest.mark.parametrize("way", ["script", "trace"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_state_dict_is_pytorchs(tmp_path, way, dtype):
  dtype = getattr(torch, dtype)
  module = Outer().eval().to(dtype)
  example = () if way == "script" else (torch.ones(2, 4, dtype=dtype),)
  torch.jit.save(getattr(torch.jit, way)(module, *example), tmp_path / "a.pt")
  expected = module.state_dict()
  found = torch_file.read(tmp_path / "a.pt")
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    value = value.float() if value.dtype == torch.bfloat16 else value
    np.testing.assert_array_equal(
      np.asarray(found[key]), value.numpy(), strict=True
    )
    assert found[key].name == key


# Hostile archives.


def text(words):
  return b"X" + struct.pack("<I", len(words)) + words.encode()


CLASS = b"c__torch__.a\nB\n"
TENSOR = (
  b"ctorch._utils\n_rebuild_tensor_v2\n(("
  + text("storage")
  + b"ctorch\nFloatStorage\n"
  + text("0")
  + text("cpu")
  + b"K\x0ctQK\0K\3K\4\x86K\4K\1\x86\x89}tR"
)


def archive(path, content):
  """An archive with this pickle; a program that is none, compressed."""
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("a/data.pkl", b"\x80\x02" + content + b".")
    file.writestr("a/data/0", np.arange(12, dtype="<f4").tobytes())
    file.writestr("a/constants.pkl", b"cos\nsystem\n.")
    file.writestr("a/code/__torch__.py", "raise" * 999, zipfile.ZIP_DEFLATED)
  return path


def module(*items):
  return CLASS + b")\x81}(" + b"".join(items) + b"ub"


def test_nothing_of_the_program_is_looked_at(tmp_path):
  inner = module(text("w"), TENSOR, text("training"), b"\x88")
  path = archive(tmp_path / "a.pt", module(text("m"), inner, text("n"), b"N"))
  found = torch_file.read(path)
  assert list(found) == ["m.w"]
  np.testing.assert_array_equal(found["m.w"], np.arange(12).reshape(3, 4))
  empty = archive(tmp_path / "b.pt", CLASS + b")\x81")
  assert torch_file.read(empty) == {}
  with pytest.raises(BadInput, match="b.pt holds no tensors where a state"):
    published.read(empty)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of old types
def test_a_quantised_module_is_refused(tmp_path):
  module = torch.nn.Sequential(torch.nn.Linear(3, 4))
  packed = torch.ao.quantization.quantize_dynamic(module)
  torch.jit.save(torch.jit.script(packed), tmp_path / "a.pt")
  with pytest.raises(BadInput, match="a module that is packed or quantised"):
    torch_file.read(tmp_path / "a.pt")


MANY = b"".join(text(f"a{i}") + b"N" for i in range(20_000))
HOSTILE = {
  "another class": (module(text("a"), b"cos\nsystem\n"), "os.system"),
  "called": (
    module(text("a"), b"cposix\nsystem\n" + text("true") + b"\x85R"),
    "posix.system",
  ),
  "a class like it": (b"c__torch__x.a\nB\n)\x81}b", "__torch__x.a.B"),
  "with arguments": (CLASS + text("a") + b"\x85R", "damaged"),
  "with a call inside": (
    CLASS + b"cbuiltins\neval\n" + text("1") + b"\x85R\x85R",
    "builtins.eval",
  ),
  "no dict": (CLASS + b")\x81K\1\x85b", "packed or quantised"),
  "the class itself": (CLASS + b"}" + text("state") + b"}sb", "damaged"),
  "slots": (
    CLASS + b")\x81N}" + text("state") + b"}s\x86b",
    "packed or quantised",
  ),
  "a number for a name": (module(b"K\1", TENSOR), "damaged"),
  "a dot in a name": (
    module(text("m.w"), TENSOR, text("m"), module(text("w"), TENSOR)),
    "damaged",
  ),
  "itself": (
    CLASS + b")\x81q\0}" + text("m") + b"h\0sb",
    "modules are in each other without end",
  ),
  "each twice in the next": (
    module(text("w"), TENSOR)
    + b"".join(
      b"q" + bytes([i]) + b"0" + module(text("a"), g, text("b"), g)
      for i in range(60)
      for g in [b"h" + bytes([i])]
    ),
    "modules are in each other without end",
  ),
  "one of many in many": (
    module(MANY)
    + b"q\0"
    + b"0"
    + module(*(text(f"m{i}") + b"h\0" for i in range(20_000))),
    "modules are in each other without end",
  ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(tmp_path, name):
  content, match = HOSTILE[name]
  path = archive(tmp_path / "a.pt", content)
  start = time.monotonic()
  with bounded(path), pytest.raises(BadInput, match=match) as error:
    torch_file.read(path)
  assert time.monotonic() - start < 10
  said = str(error.value)
  assert str(path) in said and "\n" not in said and len(said) < 500
