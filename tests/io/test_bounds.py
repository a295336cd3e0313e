"""What a file takes, of memory and time, is bounded by the file."""

import io
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
from bounds import bounded
from meshes import CORNERS, QUAD, QUAD_FACES, QUAD_UV, Gltf
from PIL import Image

from mrd_jax.errors import BadInput
from mrd_jax.io import images
from mrd_jax.io.arrays import map_npz, read_npz
from mrd_jax.io.images import encode_png
from mrd_jax.io.meshes import textures
from mrd_jax.io.meshes.read import read_mesh
from mrd_jax.io.safe_pickle import load_npy


def write_npy(path, pickled):
  """A .npy file of one object, with this pickle."""
  with path.open("wb") as file:
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(file, header)
    file.write(pickled)
  return path


def repeated(call):
  """A pickle that calls something with one text of a megabyte, 10,000 times."""
  text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x00"
  return b"\x80\x02" + text + b"0" + b"(" + call * 10_000 + b"l."


CALLS = {
  "encode": b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R",
  "list": b"cbuiltins\nlist\nh\x00\x85R",
  "set": b"cbuiltins\nfrozenset\nh\x00\x85R",
}
# One byte each, of which hundreds come.
OPCODES = {"dict": b"}", "set": b"\x8f"}


@pytest.mark.parametrize("name", CALLS)
def test_copies_in_a_pickle(name, tmp_path):
  path = write_npy(tmp_path / "bomb.npy", repeated(CALLS[name]))
  with (
    bounded(path),
    pytest.raises(BadInput, match=r"bomb\.npy: refused: it cop"),
  ):
    load_npy(path)


@pytest.mark.parametrize("name", OPCODES)
def test_objects_in_a_pickle(name, tmp_path):
  path = write_npy(
    tmp_path / "bomb.npy", b"\x80\x04(" + OPCODES[name] * 1_200_000 + b"l."
  )
  with (
    bounded(path),
    pytest.raises(BadInput, match=r"bomb\.npy: refused: its objects"),
  ):
    load_npy(path)


def test_one_list_in_many_arrays(tmp_path):
  """Each would have its own places for the items."""
  array = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    b"(K\x01M\xe8\x03\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R\x89h\x00tb"
  )
  items = b"](" + b"N" * 1000 + b"eq\x000"
  whole = b"\x80\x03" + items + b"(" + array * 100 + b"l."
  path = write_npy(tmp_path / "bomb.npy", whole)
  with (
    bounded(path),
    pytest.raises(BadInput, match="size differs from its shape"),
  ):
    load_npy(path)


@pytest.mark.parametrize("memo", [b"", b"q\x000h\x00"])
def test_a_tuple_in_a_tuple_and_so_on(memo, tmp_path):
  """Its hash would end the process."""
  nested = b"}N" + (b"\x85" + memo) * 500_000 + b"Ns."
  path = write_npy(tmp_path / "bomb.npy", b"\x80\x04" + nested)
  with bounded(path), pytest.raises(BadInput, match="nested more than 500"):
    load_npy(path)
  flat = [(1, (2, [3, {"a": (4,)}]))] * 3000
  for protocol in range(6):  # each list and dict is filled in another way
    path = write_npy(
      path, pickle.dumps(np.array({"x": flat}, object), protocol)
    )
    assert load_npy(path) == {"x": flat}


def test_many_axes(tmp_path):
  array = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    b"(K\x01("
    + b"M\xff\xff"
    * 200_000
    + b"tcnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R"
    b"\x89C\x00tb."
  )
  path = write_npy(tmp_path / "bomb.npy", b"\x80\x03" + array)
  start = time.monotonic()
  with pytest.raises(BadInput, match="array of 200000 axes"):
    load_npy(path)
  assert time.monotonic() - start < 5


def test_a_tensor_larger_than_its_storage(tmp_path):
  torch = pytest.importorskip("torch")
  from mrd_jax.encoder import published

  small = torch.ones(1).expand(20_000, 20_000)
  path = tmp_path / "a.npy"
  np.save(path, np.array({"x": small}, object), allow_pickle=True)
  with (
    bounded(path),
    pytest.raises(BadInput, match="more numbers than its stor"),
  ):
    load_npy(path)
  for new in (True, False):
    path = tmp_path / f"{new}.pt"
    content = {"cls_token": torch.ones(1, 4), "proj.weight": small}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    with bounded(path), pytest.raises(BadInput, match="proj.weight has more"):
      published.read_state(path)[0]["proj.weight"].read()


def claim(path, size):
  """Makes the first member of a zip archive say that it has so many bytes."""
  whole = bytearray(path.read_bytes())
  whole[(at := whole.index(b"PK\x01\x02") + 24) : at + 4] = struct.pack(
    "<I", size
  )
  path.write_bytes(whole)
  return path


def test_compressed_archives(tmp_path):
  np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10))
  for read in (read_npz, map_npz):
    with pytest.raises(BadInput, match=r"a\.npz is refused: its .* expand to"):
      read(claim(tmp_path / "a.npz", 2**31), "make it again")


def test_a_compressed_torch_file(tmp_path):
  torch = pytest.importorskip("torch")
  from mrd_jax.encoder import published

  torch.save({"cls_token": torch.ones(1)}, tmp_path / "a.pt")
  with pytest.raises(BadInput, match=r"a\.pt is refused: its .* expand to"):
    published.read_state(claim(tmp_path / "a.pt", 2**31))
  bomb = b"\x80\x02(" + b"}" * 800_000 + b"l."
  (tmp_path / "old.pt").write_bytes(bomb)
  with zipfile.ZipFile(tmp_path / "a.pt") as source:
    members = {name: source.read(name) for name in source.namelist()[1:]}
  with zipfile.ZipFile(tmp_path / "new.pt", "w") as target:
    target.writestr("a/data.pkl", bomb)
    for name, content in members.items():
      target.writestr(name, content)
  for name in ("old.pt", "new.pt"):
    path = tmp_path / name
    with (
      bounded(path),
      pytest.raises(BadInput, match="is refused: its objects"),
    ):
      published.read_state(path)


def test_what_is_large_itself_is_read(tmp_path):
  """The bound is one of what a file makes, not of files."""
  arrays = {
    f"cloud {i}": np.random.default_rng(i).random(9) for i in range(2000)
  }
  path = tmp_path / "many.npy"
  np.save(path, np.array(arrays, object), allow_pickle=True)
  found = load_npy(path)
  assert all((found[name] == x).all() for name, x in arrays.items())
  big = np.random.default_rng(0).integers(0, 256, 60_000_000, np.uint8)
  for protocol in (2, 4):
    path = write_npy(
      tmp_path / "big.npy", pickle.dumps(np.array({"x": big}, object), protocol)
    )
    with bounded(path):
      assert load_npy(path)["x"].nbytes == big.nbytes


# Textures.


def write_many(folder, names):
  """An .obj with a material for each of these pictures."""
  lines = ["mtllib a.mtl", *(f"v {x} {y} {z}" for x, y, z in QUAD)]
  lines += [f"vt {u} {v}" for u, v in QUAD_UV]
  library = []
  for index, name in enumerate(names):
    lines += [f"usemtl m{index}", "f 1/1 2/2 3/3"]
    library += [f"newmtl m{index}", f"map_Kd {name}"]
  library += ["newmtl unused", "map_Kd unused.png"]
  (folder / "a.mtl").write_text("\n".join(library))
  (folder / "a.obj").write_text("\n".join(lines))
  return folder / "a.obj"


@pytest.fixture
def decoded(monkeypatch):
  """An entry for each picture that was decoded."""
  calls, decode = [], images.decode_texture

  def counting(data, **options):
    calls.append(len(data))
    return decode(data, **options)

  monkeypatch.setattr(textures, "decode_texture", counting)
  return calls


def test_a_texture_is_decoded_once_and_only_if_it_is_used(tmp_path, decoded):
  for name in ("a.png", "b.png", "unused.png"):
    (tmp_path / name).write_bytes(encode_png(CORNERS))
  (tmp_path / "damaged.png").write_bytes(encode_png(CORNERS)[:40])
  names = ["a.png", "b.png", "./a.png"] * 50 + ["damaged.png"] * 50
  mesh = read_mesh(write_many(tmp_path, names))
  assert len(decoded) == 2
  assert sum(x.texture is not None for x in mesh.materials) == 150
  assert len(mesh.notes) == 50 and "damaged.png" in mesh.notes[0].detail


def test_a_gltf_names_one_picture_often(tmp_path, decoded):
  doc = Gltf()
  picture = doc.view(encode_png(CORNERS))
  for _ in range(20):
    image = doc.add("images", {"bufferView": picture, "mimeType": "image/png"})
    texture = doc.add("textures", {"source": image})
    material = {
      "pbrMetallicRoughness": {"baseColorTexture": {"index": texture}}
    }
    primitive = {
      "attributes": {
        "POSITION": doc.accessor(QUAD),
        "TEXCOORD_0": doc.accessor(QUAD_UV),
      },
      "indices": doc.accessor(QUAD_FACES.astype("u2").reshape(-1)),
      "material": doc.add("materials", material),
    }
    mesh = doc.add("meshes", {"primitives": [primitive]})
    doc.tree["scenes"][0]["nodes"].append(doc.add("nodes", {"mesh": mesh}))
  path = tmp_path / "a.gltf"
  doc.write(path)
  assert len(read_mesh(path).faces) == 40 and len(decoded) == 1


def test_many_textures_are_kept_smaller(tmp_path, monkeypatch):
  monkeypatch.setattr(textures, "_BYTES", 3 * 64 * 64)  # one, of this size
  monkeypatch.setattr(textures, "MAX_SIDE", 64)
  pixels = np.zeros((64, 64, 3), np.uint8)
  for index in range(9):
    pixels[:] = 20 * index
    (tmp_path / f"{index}.png").write_bytes(encode_png(pixels))
  mesh = read_mesh(write_many(tmp_path, [f"{i}.png" for i in range(9)]))
  found = [material.texture for material in mesh.materials]
  assert [len(x) for x in found if x is not None] == [64] + [32] * 4 + [16] * 4
  assert [int(x[0, 0, 0]) for x in found if x is not None] == [
    *range(0, 180, 20)
  ]


def test_one_texture_of_the_largest_size(tmp_path):
  path = tmp_path / "0.png"
  Image.new("RGBA", (8192, 8192), (1, 2, 3, 4)).save(path, compress_level=1)
  obj = write_many(tmp_path, ["0.png"])
  with bounded(path, obj):
    (material,) = read_mesh(obj).materials
  assert material.texture is not None
  assert material.texture.shape == (1024, 1024, 3)
  assert (material.texture == (1, 2, 3)).all()


@pytest.mark.slow
@pytest.mark.long
def test_sixteen_textures_of_the_largest_size(tmp_path):
  """The bars: 30 seconds, three times the files and 300 MB."""
  rng = np.random.default_rng(0)
  small = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
  file = io.BytesIO()
  small.resize((8192, 8192)).save(file, "PNG", compress_level=1)
  names = [f"{i}.png" for i in range(16)]
  for name in names:  # what follows the end makes another file of each
    (tmp_path / name).write_bytes(file.getvalue() + name.encode())
  obj = write_many(tmp_path, names * 20)
  start = time.process_time()
  with bounded(*(tmp_path / name for name in names)):
    mesh = read_mesh(obj)
  assert time.process_time() - start < 30
  assert len(mesh.materials) == 320 and not mesh.notes
