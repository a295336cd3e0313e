"""Reads meshes of every format, whatever is wrong with them."""

import warnings

import numpy as np
import pytest
import trimesh
from meshes import FORMATS, QUAD, QUAD_FACES, make_meshes, write_obj

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes import read as files
from mrd_jax.io.meshes.read import read_mesh


def triangles(mesh):
  """The corners of all faces, in an order that does not depend on the file."""
  corners = mesh.vertices[mesh.faces].round(5).tolist()
  return sorted(sorted(map(tuple, face)) for face in corners)


def read_or_refuse(path):
  """The mesh, without any warning; None after a sentence that names the file."""
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    try:
      return read_mesh(path)
    except BadInput as error:
      assert str(path) in str(error) and "\n" not in str(error)


def test_made_meshes_of_all_formats(tmp_path):
  paths = make_meshes(tmp_path, 36)
  assert {path.suffix[1:] for path in paths} == set(FORMATS)
  meshes = [read_mesh(path) for path in paths]
  assert not any(mesh.notes for mesh in meshes)
  colored = [mesh.colored for mesh in meshes]
  assert 15 < sum(colored) < 30
  for path, mesh in zip(paths, meshes, strict=True):
    assert np.isfinite(mesh.vertices).all() and len(mesh.faces) >= 12
    assert mesh.linear == (path.suffix in (".glb", ".gltf"))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("up", ["y", "z"])
def test_geometry_is_what_trimesh_wrote(tmp_path, suffix, up):
  shape = trimesh.creation.capsule(1.5, 0.4, (8, 8))
  shape.apply_translation([0.1, 0.2, 0.3])
  path = tmp_path / f"capsule.{suffix}"
  if suffix == "gltf":
    for name, data in shape.export(file_type="gltf").items():
      (tmp_path / name.replace("model", "capsule")).write_bytes(data)
  else:
    shape.export(path)
  mesh = read_mesh(path, up=up)
  expected = np.asarray(shape.vertices)
  if up == "z" and suffix not in ("glb", "gltf"):  # a quarter turn about x
    turn = trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0])
    expected = expected @ turn[:3, :3].T
  reference = trimesh.Trimesh(expected, shape.faces, process=False)
  found = np.array(triangles(mesh))
  np.testing.assert_allclose(found, triangles(reference), atol=2e-5)
  assert not mesh.colored and not mesh.notes
  with pytest.raises(BadInput, match="up is 'x'"):
    read_mesh(path, up="x")


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("a.off", "OFF\n4 2 0\n0 0 0\n", "cut off"),
    ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n", "refers to row 3"),
    ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1\n", "fewer vertices"),
    ("a.off", "OFF BINARY\n", "binary"),
    ("a.off", "", "does not begin with OFF"),
    ("a.obj", "", "no triangles"),
    ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "refers to row 3"),
    ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -4\n", "refers to -4"),
    ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "refers to 0"),
    ("a.obj", "v 0 0 0\nv 1 0\nv 0 1 0\nf 1 2 3\n", "cannot be read as .obj"),
    ("a.obj", "v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n", "NaN"),
    ("a.obj", "v 0 0 0\nv 1 0 inf\nv 0 1 0\nf 1 2 3\n", "NaN or infinite"),
    ("a.obj", "v 0 0 0\nv 1e30 0 0\nv 0 1 0\nf 1 2 3\n", "1e.30 large"),
    ("a.obj", "v 5 5 5\nf 1 1 1\n", "0 large"),
    ("a.ply", "", "no end_header"),
    ("a.ply", "ply\nformat ascii 1.0\nelement vertex 4", "no end_header"),
    ("a.stl", "", "a.stl"),
    ("a.stl", "solid x\nfacet normal 0 0 1\nvertex 0 0 0\n", "endsolid"),
    ("a.gltf", "", "a.gltf"),
    ("a.glb", "glTF", "a.glb"),
    ("c.obj", "v 0 0 0\nv 1 1 1\n", "no triangles.*mrd_jax.embed"),
    ("a.fbx", "", "suffix '.fbx' is unknown"),
  ],
)
def test_bad_files(tmp_path, name, text, message):
  path = tmp_path / name
  path.write_text(text)
  with pytest.raises(BadInput, match=message) as caught:
    read_mesh(path)
  assert str(path) in str(caught.value)


def test_no_such_file(tmp_path):
  with pytest.raises(BadInput, match="no such file"):
    read_mesh(tmp_path / "a.obj")
  (tmp_path / "b.obj").mkdir()
  with pytest.raises(BadInput, match="no such file"):
    read_mesh(tmp_path / "b.obj")


def test_far_shapes_are_moved(tmp_path):
  far = [500_000.25, 4_649_000.5, 100]
  path = write_obj(tmp_path / "far.obj", QUAD + np.array(far), QUAD_FACES)
  mesh = read_mesh(path)
  np.testing.assert_allclose(
    mesh.vertices[mesh.faces], QUAD[QUAD_FACES], atol=1e-6
  )
  assert (
    "moved to the origin from [500000.25, 4649000.5" in mesh.notes[0].detail
  )
  near = write_obj(tmp_path / "near.obj", QUAD + 50, QUAD_FACES)
  assert read_mesh(near).vertices.min() == 49


def test_too_many_faces(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "MAX_FACES", 1)
  path = write_obj(tmp_path / "q.obj", QUAD, QUAD_FACES)
  with pytest.raises(BadInput, match="has 2 triangles, at most 1 are"):
    read_mesh(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_cut_is_refused_or_read(tmp_path, suffix):
  """A file that ends anywhere: BadInput, or a mesh of what is there."""
  path = make_meshes(tmp_path, 6)[FORMATS.index(suffix)]
  data = path.read_bytes()
  rng = np.random.default_rng(0)
  whole = len(read_mesh(path).faces)
  refused = 0
  for end in rng.integers(0, len(data) - 8, 60):
    path.write_bytes(data[:end])
    found = read_or_refuse(path)
    assert found is None or len(found.faces) <= whole
    refused += found is None
  # An .obj does not say how long it is.
  assert refused == 60 or suffix == "obj"


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_bytes_never_raise_anything_else(tmp_path, suffix, capfd):
  path = make_meshes(tmp_path, 6)[FORMATS.index(suffix)]
  data = np.frombuffer(path.read_bytes(), np.uint8)
  rng = np.random.default_rng(1)
  for _ in range(60):
    damaged = data.copy()
    # Half of the time in what describes the rest.
    end = len(data) if rng.random() < 0.5 else min(400, len(data))
    places = rng.integers(0, end, rng.integers(1, 6))
    damaged[places] = rng.integers(0, 256, len(places))
    path.write_bytes(damaged.tobytes())
    found = read_or_refuse(path)
    assert found is None or np.isfinite(found.vertices).all()
  assert capfd.readouterr() == ("", "")


def test_the_log_of_trimesh_is_left_as_it_was(tmp_path, caplog):
  read_mesh(make_meshes(tmp_path, 1)[0])
  trimesh.util.log.warning("still heard")
  assert "still heard" in caplog.text
