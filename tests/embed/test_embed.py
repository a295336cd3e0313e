"""The verb embed."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from encoders import EMBED_DIM, make_encoder
from runs import REPOSITORY, output_of

from mrd_jax.data.dataset import open_split
from mrd_jax.data.surfaces import sample_mesh
from mrd_jax.embed import files as embed
from mrd_jax.embed.__main__ import main
from mrd_jax.encoder.encoder import Encoder, fingerprint, load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.read import read_cloud
from mrd_jax.io.meshes.read import read_mesh
from mrd_jax.prepare import procedural
from mrd_jax.search import index
from mrd_jax.search.gallery import open_gallery


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
  """A model folder of a tiny encoder, as if it were trained."""
  folder = tmp_path_factory.mktemp("model")
  make_encoder(up_axis="y", num_points=300).save_pretrained(folder)
  return folder


@pytest.fixture(scope="module")
def encoder(model_dir) -> Encoder:
  return load_encoder(model_dir)


def alone(encoder: Encoder, clouds, **flags) -> np.ndarray:
  """Embeddings of clouds one by one: few programs are compiled."""
  return np.concatenate([encoder([cloud], **flags) for cloud in clouds])


def cloud(seed: int, n: int = 100, columns: int = 6) -> np.ndarray:
  return np.random.default_rng(seed).random((n, columns)).astype(np.float32)


# Those of the fixture `shapes`, as they are found.
NAMES = (
  *("a.npy", "b/a.npz", "b/c/a.npy", "b/k.xyz"),
  *("k.xyz", "m.npz", "y.XYZ", "z.npy"),
)


@pytest.fixture
def shapes(tmp_path) -> Path:
  """Eight clouds, some in folders, of several formats and sizes."""
  folder = tmp_path / "shapes"
  (folder / "b" / "c").mkdir(parents=True)
  for i, name in enumerate(("z.npy", "a.npy", "b/c/a.npy")):
    np.save(folder / name, cloud(i, 60 + i))
  for i, name in enumerate(("b/a.npz", "m.npz"), 3):
    np.savez(folder / name, xyz=cloud(i)[:, :3], rgb=cloud(i)[:, 3:])
  for i, name in enumerate(("b/k.xyz", "k.xyz", "y.XYZ"), 5):
    np.savetxt(folder / name, cloud(i, 350, 3))
  (folder / "readme.txt").write_text("not a cloud")
  return folder


def spoil(shapes: Path) -> set[str]:
  """Three files that cannot be embedded; their names."""
  (shapes / "b" / "b.ply").write_text("ply\n")
  np.save(shapes / "broken.npy", np.full((9, 3), np.nan))
  np.save(shapes / "one.npy", np.ones((9, 3)))  # found by the encoder
  return {str(shapes / name) for name in ("b/b.ply", "broken.npy", "one.npy")}


def read_lines(path: Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def read(output: Path) -> dict:
  """The arrays, and what the source says."""
  with np.load(output) as arrays:
    return {**arrays, "source": json.loads(str(arrays["source"]))}


def run(model, output, *more) -> int:
  arguments = ("--checkpoint", model, "--output", output, *more)
  return main([str(x) for x in arguments])


def test_folder(model_dir, encoder, shapes, tmp_path, capsys):
  output = tmp_path / "new" / "embeddings.npz"
  assert run(model_dir, output, "--input", shapes, "--batch-size", 2) == 0
  captured = capsys.readouterr()
  assert captured.out == f"8 embeddings written to {output}\n"
  assert captured.err == (
    "note: texts that are no table of points are left out: 1 file, "
    f"{shapes}/readme.txt (no row of three numbers)\n"
  )
  found = read(output)
  files, embedding = found["files"], found["embeddings"]
  assert files.tolist() == [f"{shapes}/{name}" for name in NAMES]
  assert embedding.dtype == np.float32 and embedding.shape == (8, EMBED_DIM)
  np.testing.assert_allclose(
    embedding, alone(encoder, map(read_cloud, files)), atol=1e-6
  )
  assert abs(embedding[0] - embedding[7]).max() > 1e-3
  assert found["source"] == {
    "checkpoint": str(model_dir),
    "step": 7,
    "embedding_space": "a teacher",
    "weights": fingerprint(encoder),
    "up": "y",
    "normalize": True,
  }
  assert [path.name for path in output.parent.iterdir()] == ["embeddings.npz"]


def test_meshes_and_clouds(model_dir, encoder, tmp_path, capsys):
  """One folder of both, through a link; what is lost is counted by kind."""
  folder, output = tmp_path / "in", tmp_path / "embeddings.npz"
  folder.mkdir()
  for kind in ("meshes", "clouds"):
    (folder / kind).symlink_to(REPOSITORY / "tests" / "cases" / kind)
  for number in range(4):
    mesh = folder / f"{number}.obj"
    mesh.write_text("mtllib no.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
  flags = ("--input", folder, folder / "clouds" / "modelnet.txt")
  assert run(model_dir, output, *flags) == 0
  notes = capsys.readouterr().err.splitlines()
  assert len(notes) == 4 and all(note.startswith("note: ") for note in notes)
  (lost,) = [note for note in notes if "materials" in note]
  assert f"4 files, {folder}/0.obj (mtllib: 'no.mtl' is missing" in lost
  assert "2.obj" in lost and "3.obj" not in lost
  found = read(output)
  files = found["files"].tolist()
  assert len(files) == 22 and f"{folder}/clouds/modelnet.txt" in files
  row = files.index(f"{folder}/meshes/m11_mixed/binary.ply")
  path = REPOSITORY / "tests" / "cases" / "meshes" / "m11_mixed" / "binary.ply"
  xyz, rgb = sample_mesh(read_mesh(path))
  expected = encoder([np.hstack([xyz, rgb])])[0]
  np.testing.assert_allclose(found["embeddings"][row], expected, atol=1e-6)


def test_texts_in_folders(model_dir, tmp_path, capsys):
  """As ModelNet40's, whose lists of names lie beside its shapes."""
  folder, output = tmp_path / "modelnet40", tmp_path / "embeddings.npz"
  (folder / "chair").mkdir(parents=True)
  shape = REPOSITORY / "tests" / "cases" / "clouds" / "modelnet.txt"
  for name in ("chair_0001.txt", "chair_0002.TXT"):
    shutil.copy(shape, folder / "chair" / name)
  table = "\n".join(["x,y,z", "1,2,3", "4,5,6", "1,2,9"])
  (folder / "chair" / "header.csv").write_text(table)
  for name, text in {
    "filelist.txt": "chair/chair_0001.txt\nchair/chair_0002.txt\n",
    "README.txt": "Point clouds,\nof 10 shapes.\n",
    "labels.txt": "1\n2\n3\n",
    "empty.txt": "",
    "metadata.csv": "object_id,class,split\nchair_0001,chair,train\n",
    "picture.txt": "\0\xff" * 9,
  }.items():
    (folder / name).write_text(text)
  assert run(model_dir, output, "--input", folder, "--batch-size", 1) == 0
  said = capsys.readouterr().err.splitlines()
  texts, normals, few = sorted(said, reverse=True)
  assert "note: normals are left out: 2 files" in normals
  assert "texts that are no table of points are left out: 6 files" in texts
  assert f"{folder}/empty.txt (no row of three numbers)" in texts
  assert f"1 file, {folder}/chair/header.csv (of 3 points)" in few
  files = [Path(file).name for file in read(output)["files"]]
  assert files == ["chair_0001.txt", "chair_0002.TXT", "header.csv"]
  # One that is named is a reject, and so is a table that is cut off.
  (folder / "cut.txt").write_text("1 2 3\n4 5")
  named = ("--input", folder / "README.txt", folder, "--batch-size", 1)
  assert run(model_dir, output, *named) == 1
  rejected = read_lines(tmp_path / "embeddings.rejects.jsonl")
  assert {Path(line["file"]).name for line in rejected} == {
    "README.txt",
    "cut.txt",
  }


def test_up_and_no_normalize(model_dir, encoder, shapes, tmp_path):
  output = tmp_path / "embeddings.npz"
  name = shapes / "a.npy"
  flags = ("--up", "z", "--no-normalize", "--which", "best")
  assert run(model_dir, output, "--input", name, *flags) == 0
  found = read(output)
  clouds = read_cloud(name)[None]
  expected = alone(encoder, clouds, up="z", normalize=False)
  np.testing.assert_allclose(found["embeddings"], expected, atol=1e-6)
  assert abs(found["embeddings"] - alone(encoder, clouds)).max() > 1e-3
  assert not found["source"]["normalize"] and found["source"]["up"] == "z"


def test_few_points_are_said(model_dir, shapes, tmp_path, capsys):
  few = ["b/few.npy", "c.npy", "d.npy", "e.npy"]
  for i, name in enumerate(few):
    np.save(shapes / name, np.repeat(cloud(i, 15), 2, axis=0))
  output = tmp_path / "embeddings.npz"
  command = (model_dir, output, "--input", shapes / "**" / "*.npy")
  assert run(*command, "--batch-size", 1) == 0
  assert capsys.readouterr().err == (
    "note: fewer than 16 different points hardly make a shape: 4 files, "
    + "".join(f"{shapes}/{name} (of 30 points), " for name in few[:3])
    + "...\n"
  )
  assert len(read(output)["files"]) == 7


def test_bad_files(model_dir, encoder, shapes, tmp_path, capsys):
  output = tmp_path / "a.b.npz"
  rejects = tmp_path / "a.b.rejects.jsonl"
  # Batches of one file: whole chunks are good or bad.
  command = (model_dir, output, "--input", shapes, "--batch-size", 1)
  bad = spoil(shapes)
  assert run(*command) == 1
  captured = capsys.readouterr()
  assert captured.out == f"8 embeddings written to {output}\n"
  said = f"3 of 11 files were rejected, {rejects} says why\n"
  assert captured.err.endswith(said) and captured.err.count("\n") == 2
  lines = read_lines(rejects)
  assert {line["file"] for line in lines} == bad
  reasons = {Path(line["file"]).name: line["reason"] for line in lines}
  assert "cannot be read" in reasons["b.ply"]
  assert "xyz holds NaN" in reasons["broken.npy"]
  assert "coincide" in reasons["one.npy"]
  found = read(output)
  assert not bad & set(found["files"])
  expected = alone(encoder, map(read_cloud, found["files"]))
  np.testing.assert_allclose(found["embeddings"], expected, atol=1e-6)

  for name in bad:
    os.remove(name)
  assert run(*command) == 0  # replaces both
  assert not rejects.exists()
  assert len(read(output)["files"]) == 8

  for path in shapes.rglob("*.*"):
    path.write_text("")
  assert run(*command) == 1
  assert len(read_lines(rejects)) == 8
  assert not output.exists()  # not the earlier one either


def test_a_full_disk_names_the_rejects(
  model_dir, shapes, tmp_path, monkeypatch, capsys
):
  spoil(shapes)
  path_open = Path.open

  def full(self, *mode, **options):
    device = Path("/dev/full") if self.name == "out.rejects.jsonl" else self
    return path_open(device, *mode, **options)

  monkeypatch.setattr(Path, "open", full)
  assert run(model_dir, tmp_path / "out.npz", "--input", shapes / "*.npy") == 2
  said = capsys.readouterr().err
  full_disk = "error: [Errno 28] No space left on device: "
  assert said == f"{full_disk}'{tmp_path / 'out.rejects.jsonl'}'\n"


def test_find_files(shapes, tmp_path, monkeypatch):
  monkeypatch.chdir(shapes)
  output = shapes / "m.npz"
  names = [f"./{name}" for name in NAMES if name != "m.npz"]

  def find(inputs, output=output):
    return [file.name for file in embed.find_files(inputs, output)]

  assert find(["."]) == names
  found = find(
    ["z.npy", str(shapes / "z.npy"), "b/*", "**/a.np?"], tmp_path / "out.npz"
  )
  assert found == ["a.npy", "b/a.npz", "b/c/a.npy", "b/k.xyz", "z.npy"]
  (shapes / "odd[1].npy").write_text("")
  (shapes / ".hidden.npy").write_text("")
  assert find(["odd[1].npy"], output) == ["odd[1].npy"]
  assert ".hidden.npy" not in str(find(["."]))
  monkeypatch.setenv("HOME", str(shapes))
  assert find(["~/z.npy"]) == [str(shapes / "z.npy")]
  (shapes / "empty").mkdir()
  for nothing in ("*.pcd", "missing.ply", "empty", "m.npz"):
    with pytest.raises(BadInput, match="no such point cloud"):
      embed.find_files(["a.npy", nothing], output)


def test_bad_arguments(model_dir, shapes, tmp_path, capsys):
  good = (model_dir, tmp_path / "out.npz", "--input", shapes)
  (tmp_path / "file").write_text("")
  (tmp_path / "dir.npz").mkdir()
  for flag, value, message in (
    ("--input", tmp_path / "*.obj", "no such point cloud"),
    ("--checkpoint", tmp_path, "config.json is missing"),
    ("--output", tmp_path / "out.npy", "must be a file that ends in .npz"),
    ("--output", tmp_path / "dir.npz", "must be a file that ends in .npz"),
    ("--output", tmp_path / "file" / "out.npz", "cannot be made"),
  ):
    assert run(*good, flag, value) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert captured.out == ""
  for wrong in (("--up", "x"), ("--batch-size", "0"), ("--which", "first")):
    with pytest.raises(SystemExit) as error:
      run(*good, *wrong)
    assert error.value.code == 2
  assert not (tmp_path / "out.npz").exists()


def test_kill(shapes, tmp_path):
  """Leaves the rejects so far, and the earlier embeddings as they were."""
  spoil(shapes)
  output = tmp_path / "out.npz"
  output.write_text("of an earlier run")
  rejects = tmp_path / "out.rejects.jsonl"
  rejects.write_text("of an earlier run\n")
  # No JAX: a stand-in for the encoder is enough and quick.
  script = f"""
    import os, signal
    from pathlib import Path
    from mrd_jax.embed import files as embed

    class Killed:
      def prepare(self, points, **_):
        return points
      def embed(self, clouds, **_):
        os.kill(os.getpid(), signal.SIGKILL)

    output = Path({str(output)!r})
    files = embed.find_files([{str(shapes)!r}], output)
    embed.embed_files(Killed(), files, output, checkpoint="", batch_size=2)
  """
  output_of(script, expect=-signal.SIGKILL)
  found = [line["file"] for line in read_lines(rejects)]
  assert found == [str(shapes / "b" / "b.ply"), str(shapes / "broken.npy")]
  assert output.read_text() == "of an earlier run"
  assert not list(tmp_path.glob("*.tmp"))


def test_split(model_dir, encoder, tmp_path, capsys):
  """Records of a prepared dataset, by their ids; a bad one is left out."""
  data = tmp_path / "data"
  procedural.generate(
    data, train=1, val=7, num_points=90, num_views=1, embed_dim=8
  )
  output = tmp_path / "val.npz"
  (tmp_path / "val.faiss").write_text("of an earlier run")
  command = (model_dir, output, "--data", data)
  flags = ("--split", "val", "--batch-size", 1, "--index")
  assert run(*command, *flags) == 0
  captured = capsys.readouterr()
  assert captured.out.startswith(f"7 embeddings written to {output}\nno index")
  assert captured.err == ""
  assert not (tmp_path / "val.faiss").exists()
  records = list(open_split(data, "val"))
  clouds = []
  for record in records:
    xyz = record["xyz"] / 32767 * record["scale"] + record["center"]
    clouds.append(np.concatenate([xyz, record["rgb"] / 255], axis=1))
  found = read(output)
  assert found["files"].tolist() == [record["id"] for record in records]
  assert found["records"].tolist() == list(range(7))
  expected = alone(encoder, clouds)
  np.testing.assert_allclose(found["embeddings"], expected, atol=1e-5)
  said = {"data": str(data), "split": "val", "up": "y", "normalize": True}
  assert said.items() <= found["source"].items()

  bad = Encoder(encoder.config, encoder.variables, encoder.model)
  prepare, seen = bad.prepare, []

  def picky(points, **flags):
    seen.append(points)
    if len(seen) == 3:
      raise BadInput("not this one")
    return prepare(points, **flags)

  object.__setattr__(bad, "prepare", picky)
  flags = {"checkpoint": "", "split": (str(data), "val"), "batch_size": 1}
  val = open_split(data, "val")
  assert embed.embed_files(bad, val, output, **flags) == (6, 1)
  rejects = read_lines(tmp_path / "val.rejects.jsonl")
  assert rejects == [{"file": records[2]["id"], "reason": "not this one"}]
  found = read(output)
  assert found["records"].tolist() == [0, 1, 3, 4, 5, 6]
  assert found["embeddings"].shape == (6, EMBED_DIM)

  for wrong, words in (
    (("--split", "test"), "split 'test' is not in"),
    (("--split", "val", "--up", "z"), "--up and --no-normalize are for files"),
    (("--split", "val", "--input", data), "give either --input, or both"),
    ((), "give either --input, or both"),
  ):
    assert run(*command, *wrong) == 2
    assert words in capsys.readouterr().err


def test_fingerprint(encoder, tmp_path):
  """Of the weights alone: the same in another folder, another for each bit."""
  own = fingerprint(encoder)
  assert len(own) == 12 and int(own, 16) > 0
  config = dataclasses.replace(encoder.config, step=8, source="elsewhere")
  Encoder(config, encoder.variables, encoder.model).save_pretrained(tmp_path)
  assert fingerprint(load_encoder(tmp_path)) == own
  values = jax.tree.map(np.array, encoder.variables)
  leaves, structure = jax.tree.flatten(values)
  for i in (0, len(leaves) // 2, -1):
    changed = [leaf.copy() for leaf in leaves]
    changed[i].flat[-1] = np.nextafter(changed[i].flat[-1], np.float32(9))
    variables = jax.tree.unflatten(structure, changed)
    other = Encoder(encoder.config, variables, encoder.model)
    assert fingerprint(other) != own


def test_index(model_dir, shapes, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(index, "SMALLEST", 4)
  output = tmp_path / "out.npz"
  command = (model_dir, output, "--input", shapes, "--batch-size", 1)
  assert run(*command, "--index") == 0
  path = tmp_path / "out.faiss"
  assert capsys.readouterr().out.endswith(f"index written to {path}\n")
  assert index.open_index(open_gallery(output))
  assert run(*command) == 0  # the index is of the embeddings before
  assert not path.exists()
