"""PyTorch files without PyTorch: every layout, what hostile ones are refused."""

import pytest

torch = pytest.importorskip("torch", reason="parity tests need the torch extra")

import argparse
import collections
import os
import pathlib
import pickle
import struct
import time
import zipfile

import flax.linen as nn
import numpy as np
from bounds import bounded, measure
from openshape_bundle import Attack

from benchmarks import load_published
from mrd_jax.errors import BadInput
from mrd_jax.io import torch_file
from mrd_jax.io.torch_tensor import Tensor
from mrd_jax.zoo import layouts, tensors

FORMS = {"zip": True, "old": False}
form = pytest.mark.parametrize("form", FORMS)


def save(content, path, form="zip"):
  torch.save(content, path, _use_new_zipfile_serialization=FORMS[form])


def numbers(tensor):
  """PyTorch's own tensor as an array, as ours reads it."""
  tensor = tensor.detach()
  return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def assert_same(ours, theirs):
  """Ours is theirs, whatever holds it."""
  if isinstance(theirs, argparse.Namespace):
    theirs = vars(theirs)
  if isinstance(theirs, pathlib.PurePath):
    theirs = str(theirs)
  if isinstance(theirs, torch.Tensor):
    assert isinstance(ours, Tensor)
    expected = numbers(theirs)
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    for found in (ours.read(), np.asarray(ours)):
      np.testing.assert_array_equal(found, expected, strict=True)
  elif isinstance(theirs, dict):
    assert type(ours) is dict and list(ours) == list(theirs)
    for key in theirs:
      assert_same(ours[key], theirs[key])
  elif isinstance(theirs, list | tuple):
    assert type(ours) is (tuple if isinstance(theirs, tuple) else list)
    for mine, other in zip(ours, theirs, strict=True):
      assert_same(mine, other)
  elif isinstance(theirs, np.ndarray):
    np.testing.assert_array_equal(ours, theirs, strict=True)
  else:
    assert type(ours) is type(theirs) and ours == theirs


# What the trainers write.


def weights(**more):
  """A few tensors as a state dict, which has an attribute of its own."""
  generator = torch.Generator().manual_seed(0)
  state = collections.OrderedDict(
    {
      "cls_token": torch.randn(1, 1, 8, generator=generator),
      "blocks.0.attn.qkv.weight": torch.randn(24, 8, generator=generator),
      "norm.weight": torch.randn(8, generator=generator),
      "bn.running_var": torch.rand(8, generator=generator),
      "bn.num_batches_tracked": torch.tensor(7),
    }
  )
  state.update(more)
  vars(state)["_metadata"] = {"": {"version": 1}}
  return state


def under(prefix, state):
  return collections.OrderedDict((prefix + k, v) for k, v in state.items())


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{}]}
# A file, and where in it the weights are, and what their keys begin with.
LAYOUTS = {
  "OpenShape": lambda w: {
    "state_dict": under("module.", w),
    "logit_scale": under("module.", {"logit_scale": torch.tensor(2.5)}),
    "optimizer": OPTIMIZER,
    "scheduler": {},
    "epoch": 1,
    "best_lvis_acc": 0.4,
  },
  "Uni3D": lambda w: {
    "module": under("point_encoder.", w) | {"logit_scale": torch.tensor(2.5)},
    "epoch": 1,
    "best_acc1": 50.0,
  },
  "Uni3D, in two modules": lambda w: {
    "module": under("module.point_encoder.", w),
  },
  "ULIP": lambda w: {
    "epoch": 1,
    "state_dict": under(
      "module.",
      under("point_encoder.", w)
      | {"logit_scale": torch.tensor(2.5), "pc_projection": torch.ones(8, 2)},
    ),
    "optimizer": OPTIMIZER,
    "scaler": {},
    "best_acc1": 60.0,
    "args": argparse.Namespace(model="ULIP_PointBERT", npoints=8192, seed=None),
    "output": pathlib.Path("runs", "slip"),  # of SLIP's
  },
  "ReCon": lambda w: {
    "base_model": under("module.MAE_encoder.", w)
    | {"module.img_proj.bias": torch.ones(2)},
    "optimizer": {},
    "metrics": {"acc": 66.8},
  },
  "ReCon++": lambda w: {
    "base_model": under("module.model.", w),
    "optimizer": None,
    "best_lvis_acc": torch.tensor(53.2),
  },
  "CG3D": lambda w: {
    "base_model": under("module.", w),
    "optimizer": OPTIMIZER,
    "metrics": {"acc": np.float64(48.7)},
    "best_metrics": {"acc": np.float32(48.7), "step": np.int64(3)},
  },
  "CLIP2Point": lambda w: under("module.point_model.", w),
  "model": lambda w: {"model": dict(w), "epoch": 3},
  "bare": lambda w: w,
}
KEPT = {
  "Uni3D": "point_encoder.",
  "Uni3D, in two modules": "point_encoder.",
  "ULIP": "point_encoder.",
  "ReCon": "MAE_encoder.",
  "ReCon++": "model.",
  "CLIP2Point": "point_model.",
}


@form
@pytest.mark.parametrize("half", [False, True], ids=["float", "half"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout, half, form):
  path, published = tmp_path / "model.pt", weights()
  if half:
    published = collections.OrderedDict(
      (k, v.half() if v.is_floating_point() else v)
      for k, v in published.items()
    )
  content = LAYOUTS[layout](published)
  save(content, path, form)
  ours = torch_file.read(path)
  assert_same(ours, torch.load(path, weights_only=False))
  state, scale = layouts.state_dict(ours, str(path))
  assert scale == (2.5 if layout in ("OpenShape", "Uni3D", "ULIP") else None)
  for key, value in published.items():
    assert_same(state[KEPT.get(layout, "") + key], value)


def test_layouts_that_hold_no_weights():
  with pytest.raises(BadInput, match="a.pt holds no state dict but a list"):
    layouts.state_dict([1], "a.pt")
  with pytest.raises(BadInput, match="a.pt holds no tensors"):
    layouts.state_dict({"state_dict": {}}, "a.pt")


def test_keys_that_become_one_are_refused(tmp_path):
  state = {"module.a": torch.ones(2), "a": torch.ones(2)}
  save({"state_dict": state}, tmp_path / "a.pt")
  with pytest.raises(BadInput, match=r"a\.pt holds a twice"):
    layouts.state_dict(torch_file.read(tmp_path / "a.pt"), "a.pt")


def test_sparse_weights_are_refused_by_name(tmp_path):
  save({"a": torch.ones(2), "b": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
  with pytest.raises(BadInput, match="a.pt: b must be a dense tensor of real"):
    layouts.state_dict(torch_file.read(tmp_path / "a.pt"), "a.pt")


@pytest.mark.parametrize("scale", [torch.ones(2), torch.tensor(np.nan), "3"])
def test_a_logit_scale_that_is_none(tmp_path, scale):
  save({"model": weights(), "logit_scale": scale}, tmp_path / "a.pt")
  with pytest.raises(BadInput, match="a.pt: logit_scale"):
    layouts.state_dict(torch_file.read(tmp_path / "a.pt"), "a.pt")


# What is in them.

DTYPES = (
  *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64),
  *(torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@form
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types_and_views(tmp_path, dtype, form):
  x = (torch.arange(120).reshape(4, 5, 6) % 7 - 2).to(dtype)
  content = {
    "whole": x,
    "transposed": x.permute(2, 0, 1),
    "part": x[1:, ::2, 3],
    "one": x[3, 4, 5],
    "an axis of one": x[:, 2:3],
    "empty": x[:, :0],
    "empty storage": torch.empty(0, 3, dtype=dtype),
    "expanded within what is stored": x[0, 0, :1].expand(10),
  }
  save(content, tmp_path / "a.pt", form)
  assert_same(torch_file.read(tmp_path / "a.pt"), content)


@form
def test_other_values(tmp_path, form):
  x = torch.arange(6.0)
  content = {
    "parameter": torch.nn.Parameter(x),
    "buffer": torch.nn.Buffer(x),
    "numpy": [np.float16(1.5), np.bool_(True), np.arange(3), np.dtype("f4")],
    "plain": [1, 2.5, None, True, "text", b"bytes", bytearray(b"b"), 1j, (2,)],
    "sets": [{1, "a"}, frozenset({2})],
    "nested": {"a": [{"b": (x, [x[2:]])}], 3: x.half()},
    "milestones": collections.Counter("aab"),
    "args": argparse.Namespace(x=x, more=argparse.Namespace(y=1)),
  }
  save(content, tmp_path / "a.pt", form)
  assert_same(torch_file.read(tmp_path / "a.pt"), content)
  texts = {"size": x.shape, "dtype": torch.bfloat16}
  texts |= {"device": torch.device("cuda", 1), "cpu": torch.device("cpu")}
  save(texts, tmp_path / "a.pt", form)
  assert torch_file.read(tmp_path / "a.pt") == {
    "size": (6,),
    "dtype": "torch.bfloat16",
    "device": "cuda:1",
    "cpu": "cpu",
  }


def test_what_is_in_a_file_twice_is_one(tmp_path):
  inner = [torch.ones(2)]
  save({"a": inner, "b": inner}, tmp_path / "a.pt")
  found = torch_file.read(tmp_path / "a.pt")
  assert found["a"] is found["b"]


@form
def test_repeated_numbers_are_refused_when_they_are_asked_for(tmp_path, form):
  save({"w": torch.ones(2).expand(1000, 2)}, tmp_path / "a.pt", form)
  with pytest.raises(BadInput, match=r"a\.pt: w has more numbers than are sto"):
    torch_file.read(tmp_path / "a.pt")["w"].read()


def members(path):
  with zipfile.ZipFile(path) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, content, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, value in content.items():
      archive.writestr(name, value)


def test_the_other_order_of_bytes(tmp_path):
  x = torch.arange(6.0)
  save({"a": x, "b": x.bfloat16()}, tmp_path / "a.pt")
  content = members(tmp_path / "a.pt")
  content["a/byteorder"] = b"big"
  for name, size in (("a/data/0", 4), ("a/data/1", 2)):
    swapped = np.frombuffer(content[name], f"u{size}").byteswap()
    content[name] = swapped.tobytes()
  write_members(tmp_path / "a.pt", content)
  assert_same(torch_file.read(tmp_path / "a.pt"), {"a": x, "b": x.bfloat16()})


def test_checksums_that_were_not_written_are_not_missed(tmp_path):
  torch.serialization.set_crc32_options(False)
  try:
    save({"a": torch.ones(3)}, tmp_path / "a.pt")
  finally:
    torch.serialization.set_crc32_options(True)
  assert_same(torch_file.read(tmp_path / "a.pt"), {"a": torch.ones(3)})


# Nothing is held.


@form
def test_a_file_that_changes_or_goes(tmp_path, form):
  path = tmp_path / "a.pt"
  save({"a": torch.ones(3)}, path, form)
  tensor = torch_file.read(path)["a"]
  assert tensor.read().tolist() == [1, 1, 1]
  save({"a": torch.zeros(3), "b": 1}, path, form)
  with pytest.raises(BadInput, match=r"a\.pt has changed since"):
    tensor.read()
  path.unlink()
  with pytest.raises(BadInput, match=r"a\.pt cannot be read: No such file"):
    np.asarray(tensor)


def test_damaged_numbers_are_found(tmp_path):
  path = tmp_path / "a.pt"
  save({"w": torch.arange(999.0)}, path)
  whole = bytearray(path.read_bytes())
  whole[whole.index(torch.arange(999.0).numpy().tobytes()) + 999] ^= 1
  path.write_bytes(whole)
  with pytest.raises(BadInput, match=r"a\.pt: .* checksum differs"):
    torch_file.read(path)["w"].read()


def test_a_model_is_loaded_a_tensor_at_a_time(tmp_path):
  """The bar: 2.5 times the file, of which the float32 weights are two."""
  path = tmp_path / "model.pt"
  load_published.write(path, 512, 16)
  size = path.stat().st_size
  assert size > 100e6
  rows = [
    row
    for key in load_published.shapes(512, 16)
    for row in tensors.linear(key, key.replace(".", "/"))
  ]
  taken = measure()
  state, _ = layouts.state_dict(torch_file.read(path))
  assert taken() < size / 10
  taken = measure()
  tree = tensors.to_tree(rows, state, str(path))
  assert taken() < 2.5 * size
  for row in rows:
    *parents, leaf = row.path.split("/")[1:]
    node = tree["params"]
    for parent in parents:
      node = node[parent]
    expected = np.asarray(state[row.key], np.float32)
    np.testing.assert_array_equal(
      node[leaf], expected.T if row.rank else expected
    )
    assert node[leaf].dtype == np.float32 and node[leaf].flags["C_CONTIGUOUS"]


class OneLayer(nn.Module):
  @nn.compact
  def __call__(self, points, num_points, *, train):
    return nn.Dense(3, name="layer")(points)


def test_tensors_are_read_once_and_only_if_all_fits(tmp_path, monkeypatch):
  path, names = tmp_path / "a.pt", []
  read = Tensor.read
  monkeypatch.setattr(
    Tensor, "read", lambda self: names.append(self.name) or read(self)
  )

  def load(**state):
    names.clear()
    save({f"l.{key}": x for key, x in state.items()}, path)
    rows, content = tensors.linear("l", "layer"), torch_file.read(path)
    return tensors.to_variables(rows, OneLayer(), content, "a.pt")

  weight, bias = torch.randn(3, 6), torch.ones(3)
  with pytest.raises(BadInput, match=r"a.pt: l.bias has shape \(4,\), must be"):
    load(weight=weight, bias=torch.ones(4))
  assert not names
  for wrong in (
    torch.full((3,), np.nan),
    torch.full((3,), 1e300, dtype=torch.float64),
  ):
    with pytest.raises(BadInput, match="a.pt: l.bias holds NaN or infinite"):
      load(weight=weight, bias=wrong)
  layer = load(weight=weight.half(), bias=bias.double())["params"]["layer"]
  assert names == ["l.weight", "l.bias"]
  expected = weight.half().float().numpy().T
  np.testing.assert_array_equal(layer["kernel"], expected, strict=True)
  np.testing.assert_array_equal(layer["bias"], bias.numpy(), strict=True)


def test_the_benchmark_loads_without_torch(tmp_path):
  args = load_published.parse(
    ["--width=64", "--blocks=2", "--rounds=1", f"--dir={tmp_path}"]
  )
  result = load_published.measure(args)
  (row,) = result["rows"]
  assert not row["torch"] and row["seconds"] > 0 and 1.9 < row["tree"] < 2
  assert len(load_published.table(result).splitlines()) == 3


# Hostile files.


def refused(path, match):
  """Refused in one sentence that names the file, soon, and in little memory."""
  start = time.monotonic()
  with bounded(path), pytest.raises(BadInput, match=match) as error:
    torch_file.read(path)
  assert time.monotonic() - start < 10
  said = str(error.value)
  assert str(path) in said and "\n" not in said and len(said) < 500


def text(words):
  return b"X" + struct.pack("<I", len(words)) + words.encode()


TENSOR = (
  b"ctorch._utils\n_rebuild_tensor_v2\n(("
  + text("storage")
  + b"ctorch\nFloatStorage\n"
  + text("0")
  + text("cpu")
  + b"K\x0ctQK\0K\3K\4\x86K\4K\1\x86\x89}tR"
)


def pickled(path, content, storage=bytes(48)):
  """A file with this pickle, and a storage of twelve numbers."""
  members = {"a/data.pkl": b"\x80\x02" + content + b"."}
  write_members(path, members | {"a/data/0": storage, "a/version": b"3\n"})
  return path


def test_the_hand_made_file_is_sound(tmp_path):
  path = pickled(tmp_path / "a.pt", TENSOR)
  assert_same(torch_file.read(path), torch.zeros(3, 4))


@form
def test_nothing_is_executed(tmp_path, form):
  trace = tmp_path / "executed"
  save({"a": torch.ones(2), "b": Attack(trace)}, tmp_path / "a.pt", form)
  refused(
    tmp_path / "a.pt", "refused, nothing in it was executed: .*posix.syst"
  )
  assert not trace.exists()
  torch.load(tmp_path / "a.pt", weights_only=False)
  assert trace.exists()  # it would have worked


@pytest.mark.parametrize(
  "name",
  [
    "os\nsystem",
    "builtins\neval",
    "torch\nload",
    "argparse\nNamespace.__init__",
  ]
  + ["torch.storage\n_load_from_bytes", "torch.nn.modules.linear\nLinear"],
)
def test_other_globals_are_refused_by_name(tmp_path, name):
  path = pickled(tmp_path / "a.pt", b"c" + name.encode() + b"\n")
  refused(path, name.replace("\n", "."))


@pytest.mark.parametrize(
  "content",
  [
    TENSOR + b"N}" + text("name") + text("b") + b"s\x86b",
    b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0")
    + text("cpu") + b"K\x0ctQN}" + text("start") + b"K\0s\x86b",
    b"ccollections\nOrderedDict\nN}" + text("_function") + b"Ns\x86b",
    b"cargparse\nNamespace\n}" + text("state") + b"}sb",
    b"cargparse\nNamespace\nN}" + text("state") + b"}s\x86b",
  ],
  ids=["tensor", "storage", "function", "class", "slots of a class"],
)  # fmt: skip
def test_the_reader_itself_cannot_be_altered(tmp_path, content):
  refused(pickled(tmp_path / "a.pt", content), "tries to change|damaged")


@pytest.mark.parametrize(
  ("old", "new"),
  [
    (b"K\3K\4\x86K\4K\1\x86", b"K\3K\5\x86K\5K\1\x86"),  # beyond the storage
    (b"QK\0", b"QK\1"),
    (b"QK\0", b"QJ\xff\xff\xff\xff"),
    (b"QK\0", b"QG\0\0\0\0\0\0\0\0"),  # a float
    (b"K\4K\1\x86", b"K\4J\xff\xff\xff\xff\x86"),
    (b"K\4K\1\x86", b"K\4K\1K\1\x87"),
    (b"K\3K\4\x86", b"K\0J\xff\xff\xff\x7f\x86"),
    (b"K\x0ct", b"K\x0bt"),  # the storage has other sizes
    (b"K\x0ct", b"J\xff\xff\xff\x7ft"),
    (b"FloatStorage", b"DoubleStorage"),
    (text("0"), text("1")),  # there is no such storage
    (text("0"), text("../data/0")),
    (text("storage"), text("module")),
  ],
)
def test_tensors_and_storages_that_lie(tmp_path, old, new):
  assert TENSOR.count(old) == 1
  path = pickled(tmp_path / "a.pt", TENSOR.replace(old, new))
  if b"K\0J" in new:  # empty, of however many rows
    assert torch_file.read(path).read().shape == (0, 2**31 - 1)
  else:
    refused(path, "cannot be read as a PyTorch file; it is damaged")


def test_an_old_file_whose_storage_lies(tmp_path):
  path, x = tmp_path / "a.pt", torch.arange(100.0)
  save({"a": x}, path, "old")
  whole = path.read_bytes()
  at = whole.index(x.numpy().tobytes()) - 8
  for count in (0, 99, 101, 2**62):
    path.write_bytes(whole[:at] + struct.pack("<q", count) + whole[at + 8 :])
    refused(path, "damaged")


@form
def test_cut_files(tmp_path, form):
  path = tmp_path / "a.pt"
  save(weights(), path, form)
  whole = path.read_bytes()
  for cut in (*range(0, len(whole), 97), len(whole) - 1):
    path.write_bytes(whole[:cut])
    with pytest.raises(BadInput, match="cannot be read as a PyTorch file"):
      torch_file.read(path)


NESTED = {
  "tuples": b"N" + b"\x85" * 300_000,
  "lists": b"]" * 200_000 + b"a" * 199_999,
  # Each is put into the next by its number.
  "lists by numbers": b"]q\0"
  + b"".join(
    b"0]r" + struct.pack("<I", i) + b"j" + struct.pack("<I", i - 1) + b"a"
    for i in range(1, 5000)
  ),
  "namespaces": b"cargparse\nNamespace\n)\x81}" * 3000 + b"N" + b"ssb" * 3000,
}


@pytest.mark.parametrize("name", NESTED)
def test_deep_nesting(tmp_path, name):
  refused(pickled(tmp_path / "a.pt", NESTED[name]), "damaged")


WIDE = b"K\1" + b"2\x86" * 40  # a tuple of a tuple twice, and so on
HASHES = {
  "key": b"}" + WIDE + b"Ns",
  "set": b"c__builtin__\nset\n]" + WIDE + b"a\x85R",
  "frozenset": b"(" + WIDE + b"\x91",
  "one tuple in a list": b"("
  + b"K\1" * 60_000
  + b"tq\x000c__builtin__\nset\n]("
  + b"h\0" * 60_000
  + b"e\x85R",
  "dict": b"ccollections\nOrderedDict\n]" + WIDE + b"N\x86a\x85R",
  "by number": b"}" + WIDE + b"q\x000h\0Ns",
}


@pytest.mark.parametrize("name", HASHES)
def test_hashes_that_never_end(tmp_path, name):
  refused(
    pickled(tmp_path / "a.pt", HASHES[name]), "tuples of tuples|it copies"
  )


@form
def test_a_storage_in_a_thousand_tensors(tmp_path, form):
  big = torch.zeros(1_000_000)
  shifted = {f"w{i}": big[i:] for i in range(1000)}
  one = dict.fromkeys((f"w{i}" for i in range(1000)), big)
  for content in (shifted, one, {"a": shifted, "b": one}, [big] * 1000):
    save(content, tmp_path / "a.pt", form)
    refused(tmp_path / "a.pt", "is refused: its .* are used again and again")
  # Wide apart: read for a few numbers each.
  far = {f"w{i}": big[i::999_000] for i in range(1000)}
  save(far, tmp_path / "a.pt", form)
  refused(tmp_path / "a.pt", "is refused: its .* are used again and again")
  # A network whose layers share weights is none.
  save(dict.fromkeys("abc", big), tmp_path / "a.pt", form)
  torch_file.read(tmp_path / "a.pt")


def test_a_namespace_of_one_dict_in_many(tmp_path):
  """None of them copies it."""
  items = b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(60_000))
  content = b"}(" + items + b"uq\x000("
  content += b"cargparse\nNamespace\n)\x81h\0b" * 20_000 + b"l"
  path = pickled(tmp_path / "a.pt", content)
  with bounded(path):
    found = torch_file.read(path)
  assert len(found) == 20_000 and found[0] is found[-1]


def test_a_copy_again_and_again(tmp_path):
  for name in (
    "collections\nOrderedDict",
    "collections\nCounter",
    "torch\nSize",
  ):
    items = b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(60_000))
    content = b"}(" + items + b"uq\x000("
    content += (b"c" + name.encode() + b"\nh\0\x85R") * 2000 + b"l"
    refused(pickled(tmp_path / "a.pt", content), "it copies what it holds")


def test_many_opcodes(tmp_path):
  path = pickled(tmp_path / "a.pt", b"N0" * 600_000 + b"N")
  refused(path, "pickle has more than 1,000,000 opcodes")


def test_compressed_members(tmp_path):
  path = tmp_path / "a.pt"
  content = {"a/data.pkl": b"\x80\x02" + TENSOR + b".", "a/data/0": bytes(48)}
  write_members(path, content, zipfile.ZIP_DEFLATED)
  refused(path, "'a/data.pkl' is compressed or encrypted")
  bomb = content | {"a/data/0": bytes(330_000_000)}
  write_members(path, bomb, zipfile.ZIP_DEFLATED)
  del bomb
  refused(path, "is refused: its .* expand to .* without compression")


def test_members_over_each_other(tmp_path):
  path = pickled(tmp_path / "a.pt", TENSOR)
  whole = bytearray(path.read_bytes())
  entries = [i for i in range(len(whole)) if whole[i : i + 4] == b"PK\1\2"]
  first, second, _ = (slice(i + 42, i + 46) for i in entries)
  for one, other in ((second, first), (first, second)):
    damaged = bytearray(whole)
    damaged[one] = whole[other]
    path.write_bytes(damaged)
    refused(path, "damaged")


def test_members_of_one_name(tmp_path):
  path = pickled(tmp_path / "a.pt", TENSOR)
  path.write_bytes(path.read_bytes().replace(b"a/version", b"a/data//0"))
  torch_file.read(path)
  with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as archive:
    archive.writestr("a/data/0", bytes(48))
  refused(path, "damaged")


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b", "..\\b"])
def test_members_outside(tmp_path, name):
  path = pickled(tmp_path / "a.pt", TENSOR)
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr(name, b"")
  refused(path, "points out of the archive")


def test_too_many_members(tmp_path):
  path = tmp_path / "a.pt"
  write_members(path, {f"a/{i:060}": b"" for i in range(80_000)})
  refused(path, "more than 104,857 members")


def test_no_pytorch_file(tmp_path):
  path = tmp_path / "a.pt"
  for content in (b"", b"\n", b"hello world", b"<!DOCTYPE html>\n", b"\x80"):
    path.write_bytes(content)
    refused(path, "cannot be read as a PyTorch file")
  path.write_bytes(pickle.dumps({"a": 1}, 2))
  refused(path, "cannot be read as a PyTorch file")
  path.unlink()
  os.mkfifo(path)  # nobody waits for it
  with pytest.raises(BadInput, match="cannot be read"):
    torch_file.read(path)
  with pytest.raises(BadInput, match="cannot be read: No such file"):
    torch_file.read(tmp_path / "none.pt")
