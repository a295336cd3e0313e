"""The reader of `.npy` pickles: reads what numpy reads, executes nothing."""

import contextlib
import io
import pickle
import sys
import time

import numpy as np
import pytest
from openshape_bundle import Attack, make_sample, npy_bytes

from mrd_jax.errors import BadInput
from mrd_jax.io.safe_pickle import load_npy


def npy(pickled, shape=()):
  """A .npy file of objects, with this pickle."""
  file = io.BytesIO()
  header = {"descr": "|O", "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(file, header)
  return io.BytesIO(file.getvalue() + pickled)


def damage(good, low, high):
  """Reads the file with three bytes of this range changed, 300 times."""
  rng = np.random.default_rng(0)
  for _ in range(300):
    damaged = bytearray(good)
    for place in rng.integers(low, high, 3):
      damaged[place] = rng.integers(256)
    with contextlib.suppress(BadInput):  # anything else fails the test
      load_npy(io.BytesIO(bytes(damaged)))


@pytest.mark.parametrize("protocol", range(6))
def test_load_npy_equals_numpy(protocol):
  inner = {
    "half": np.ones((2, 3), np.float16),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
    "strings": np.array(["a", "bc"]),
    "empty": np.zeros((0, 3)),
    "scalars": (np.str_("x"), np.float32(2), b"raw", {1}, None, True),
    "nested": [np.array({"deep": np.arange(2)}, dtype=object)],
  }
  file = npy(pickle.dumps(np.array(inner, object), protocol))
  assert repr(load_npy(file)) == repr(inner)


def test_load_npy_reads_plain_and_object_arrays(tmp_path):
  np.save(tmp_path / "plain.npy", np.arange(6).reshape(2, 3))
  assert load_npy(tmp_path / "plain.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
  rows = np.array([{"xyz": np.ones(3)}, {"xyz": np.zeros(3)}], dtype=object)
  np.save(tmp_path / "rows.npy", rows, allow_pickle=True)
  assert load_npy(tmp_path / "rows.npy")[1]["xyz"].tolist() == [0, 0, 0]


def test_load_npy_executes_nothing(tmp_path):
  trace = tmp_path / "executed"
  (tmp_path / "evil.npy").write_bytes(npy_bytes({"xyz": Attack(trace)}))
  with pytest.raises(BadInput, match=r"evil\.npy.*posix\.system"):
    load_npy(tmp_path / "evil.npy")
  assert not trace.exists()


def test_what_a_pickle_asks_for_is_named_in_one_line(tmp_path):
  for name in (b"numpy.\n.ndarray", b"numpy\x1b[2J"):
    asked = b"\x80\x04\x8c" + bytes([len(name)]) + name + b"\x8c\x01x\x93."
    with pytest.raises(BadInput) as refused:
      load_npy(npy(asked), "odd.npy")
    assert "asks for 'numpy" in str(refused.value)
    assert str(refused.value).isprintable()


def test_load_npy_refuses_pointers_from_bytes():
  """numpy itself would follow these eight bytes as a pointer."""
  crafted = (
    b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\n"
    b"tbI00\nS'AAAAAAAA'\ntb."
  )
  with pytest.raises(BadInput, match="object array whose size differs"):
    load_npy(npy(crafted, (1,)), "crafted.npy")


def test_load_npy_survives_any_damage():
  good = npy_bytes(make_sample(0))
  rng = np.random.default_rng(0)
  for cut in rng.integers(0, len(good), 50):
    with pytest.raises(BadInput, match=r"cut\.npy"):
      load_npy(io.BytesIO(good[:cut]), "cut.npy")
  damage(good, 0, 400)


def test_load_npy_refuses_a_memory_bomb():
  bomb = npy(b"\x80\x04N" + b"r\xff\xff\xff\x7f" + b".")
  start = time.monotonic()
  with pytest.raises(BadInput, match="memo"):
    load_npy(bomb, "bomb.npy")
  assert time.monotonic() - start < 1


def test_load_npy_reads_torch_tensors(monkeypatch):
  torch = pytest.importorskip("torch")
  tensor = torch.arange(12, dtype=torch.float32).reshape(3, 4).T
  halves = torch.tensor([1, -2.5], dtype=torch.bfloat16)
  others = {
    kind: torch.arange(3).to(getattr(torch, kind))
    for kind in (
      *("float64", "float16", "int64", "int32", "int16", "int8", "uint8"),
      "bool",
    )
  }
  content = npy_bytes(
    {
      "x": tensor,
      "part": tensor[1:, 1],
      "h": halves,
      "parameter": torch.nn.Parameter(tensor),
    }
    | others
  )
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, "torch", None)  # is not asked for anything
    loaded = load_npy(io.BytesIO(content))
  np.testing.assert_array_equal(loaded["x"], tensor.numpy())
  np.testing.assert_array_equal(loaded["part"], tensor[1:, 1].numpy())
  np.testing.assert_array_equal(loaded["parameter"], tensor.numpy())
  assert loaded["h"].tolist() == [1, -2.5]
  for kind, expected in others.items():
    np.testing.assert_array_equal(loaded[kind], expected.numpy())
    assert loaded[kind].dtype == expected.numpy().dtype


def test_load_npy_survives_damaged_tensors(tmp_path):
  torch = pytest.importorskip("torch")
  good = npy_bytes({"x": torch.arange(12)})
  damage(good, 128, len(good))
  trace = tmp_path / "executed"
  inner = pickle.dumps(Attack(trace), protocol=2)

  class Storage:
    def __reduce__(self):
      return torch.storage._load_from_bytes, (inner,)

  with pytest.raises(BadInput, match=r"posix\.system"):
    load_npy(io.BytesIO(npy_bytes({"x": Storage()})))
  assert not trace.exists()


def test_load_npy_missing_file(tmp_path):
  with pytest.raises(BadInput, match=r"absent\.npy"):
    load_npy(tmp_path / "absent.npy")
