"""Archives whose damage shows in any exception of the libraries."""

import io
import zipfile

import numpy as np
import pytest

from mrd_jax.errors import BadInput
from mrd_jax.io.archives import tar_members, unpack_zip
from mrd_jax.io.arrays import map_npz, read_npz


def change(path, mark, offset, value):
  """Overwrites bytes behind the first mark in a file."""
  content = bytearray(path.read_bytes())
  at = content.index(mark) + offset
  content[at : at + len(value)] = value
  path.write_bytes(content)


@pytest.mark.parametrize(
  ("mark", "offset", "value"),
  [
    (b"PK\x01\x02", 6, b"\xad\x00"),  # a version that does not exist
    (b"PK\x01\x02", 10, b"\x63\x00"),  # a compression likewise
    (b"PK\x01\x02", 8, b"\x01\x00"),  # encrypted
    (b"PK\x05\x06", 16, b"\xff\xff\xff\x00"),  # begins before the file
  ],
)
def test_a_damaged_zip(tmp_path, mark, offset, value):
  path = tmp_path / "a.npz"
  np.savez(path, points=np.ones(3))
  change(path, mark, offset, value)
  for read in (read_npz, map_npz):
    with pytest.raises(BadInput, match=r"a\.npz cannot be read.*make it anew"):
      read(path, "make it anew")
  with pytest.raises(BadInput, match=r"a\.npz: cannot be unpacked"):
    unpack_zip(path, tmp_path / "out", lambda size: None)


def test_a_name_that_no_folder_bears(tmp_path):
  path = tmp_path / "a.zip"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a" * 300, "")
  with pytest.raises(BadInput, match=r"a\.zip: cannot be unpacked"):
    unpack_zip(path, tmp_path / "out", lambda size: None)


def test_a_full_disk_is_no_damage(tmp_path):
  path = tmp_path / "a.zip"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a", "")

  def full(size):
    raise OSError(28, "No space left on device")

  with pytest.raises(OSError, match="No space"):
    unpack_zip(path, tmp_path / "out", full)


def test_a_tar_of_any_compression(tmp_path):
  for number, start in enumerate((b"\xfd7zXZ\x00", b"BZh9", b"\x1f\x8b\x08")):
    path = tmp_path / f"{number}.tar"
    path.write_bytes(start + io.BytesIO(b"\x01" * 600).read())
    with pytest.raises(BadInput, match=r"\d\.tar: damaged or incomplete"):
      list(tar_members(path, bool, 99))
