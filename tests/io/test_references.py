"""Reads what a mesh file refers to: from its own folder, or not at all."""

import pytest

from mrd_jax.io.meshes.references import read_reference


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "in"
  (folder / "sub").mkdir(parents=True)
  (folder / "in it.bin").write_bytes(b"\0\1")
  (tmp_path / "out.bin").write_bytes(b"secret")
  (folder / "link.bin").symlink_to(tmp_path / "out.bin")
  return folder


@pytest.mark.parametrize(
  ("reference", "escaped", "message"),
  [
    ("../out.bin", False, "lies outside"),
    ("%2e%2e/out.bin", True, "lies outside"),
    ("sub/../../out.bin", False, "lies outside"),
    ("link.bin", False, "lies outside"),
    ("http://a.b/in.bin", False, "is not a file beside"),
    ("file:///in.bin", True, "is not a file beside"),
    ("/etc/passwd", False, "is missing beside"),
    ("no.bin", False, "is missing beside"),
    ("%2e%2e/out.bin", False, "is missing beside"),  # a name like any other
    ("data:a/b;base64,&&", False, "the data: URI is damaged"),
  ],
)
def test_what_lies_elsewhere_is_refused(folder, reference, escaped, message):
  with pytest.raises(OSError, match=message):
    read_reference(folder, reference, escaped=escaped)


@pytest.mark.parametrize(
  ("reference", "escaped"),
  [
    ("in it.bin", False),
    ("in%20it.bin", True),
    ("sub/../in it.bin", False),
    # Of another machine: the file of that name beside the mesh is meant.
    ("C:\\Users\\me\\in it.bin", False),
    ("/home/me/in it.bin", False),
    ("sub\\..\\in it.bin", False),
    ("data:a/b;base64,AAE=", False),
    ("data:,%00%01", False),
  ],
)
def test_what_lies_beside_the_mesh_or_in_it(folder, reference, escaped):
  assert read_reference(folder, reference, escaped=escaped) == b"\0\1"
