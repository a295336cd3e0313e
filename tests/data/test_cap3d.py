"""Cap3D's captions: parsing, what is reported, and a split's own file."""

import csv
import io

import numpy as np
import pytest

from mrd_jax.data import captions as cap3d
from mrd_jax.data.dataset import open_split
from mrd_jax.errors import BadInput
from mrd_jax.prepare import procedural

UID = "{:032x}".format
CAPTIONS = (
  "A green and white rifle.",
  "a house, with trees, and a road",
  'a sign that reads "open"',
  '"all quoted"',
  "two\nlines",
  "two\r\nlines, and a comma",
  "été, 椅子, 🪑",
  "a 5' door; 12\" wide",
)


def write(path, text, encoding="utf-8"):
  path.write_bytes(text.encode(encoding))
  return path


def read(path):
  problems = []
  captions = cap3d.read_captions(path, problems)
  assert not problems
  return captions


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_what_was_written_comes_back(tmp_path, encoding, end, quoting):
  stream = io.StringIO(newline="")
  writer = csv.writer(stream, quoting=quoting, lineterminator=end)
  rows = [(UID(i), caption) for i, caption in enumerate(CAPTIONS)]
  writer.writerows(rows)
  path = write(tmp_path / "a.csv", stream.getvalue(), encoding)
  assert list(read(path).items()) == rows


def test_literal_text(tmp_path):
  text = 'a1,plain\nb2,"one, ""two""\nthree"\n\n c3 , spaced \nd4,5" tall\n'
  assert read(write(tmp_path / "a.csv", text)) == {
    "a1": "plain",
    "b2": 'one, "two"\nthree',
    "c3": "spaced",
    "d4": '5" tall',
  }


def test_repeated_ids_and_empty_captions_are_reported(tmp_path):
  text = "a,first\nb,\nc,  \na,second\na,first\nb,late\nd,x\nd,x\n"
  problems = []
  captions = cap3d.read_captions(write(tmp_path / "a.csv", text), problems)
  assert captions == {"a": "first", "b": "late", "d": "x"}
  assert len(problems) == 2
  assert "a.csv: 3 rows repeat an id; its first caption" in problems[0]
  assert "a.csv: 2 captions are empty" in problems[1]


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    ("a,x\nb\n", "line 2: has 1 columns"),
    ("a,x\nb,chair, red\n", "line 2: has 3 columns"),
    ('a,"x\ny\nz"\n,chair\n', "line 4: has no uid"),
    ('a,x\nb,"y" z\nc,w\n', "line 2: ',' expected after"),
    ('a,x\nb,"y\nc,z\nd,w\n', "line 2: unexpected end of data"),
    ('a,x\nb,"' + "long\n" * 40_000, "line 2: field larger than"),
    ("version https://git-lfs.github.com/spec/v1\n", "line 1: has 1 columns"),
    ("", "holds no captions"),
    ("a,\n", "holds no captions"),
  ],
)
def test_unusable_files(tmp_path, text, problem):
  with pytest.raises(BadInput, match=rf"a\.csv.*{problem}"):
    cap3d.read_captions(write(tmp_path / "a.csv", text), [])


def test_other_encodings_and_missing_files(tmp_path):
  path = write(tmp_path / "a.csv", "a,été\n", "latin-1")
  with pytest.raises(BadInput, match=r"a\.csv: is not UTF-8 text"):
    cap3d.read_captions(path, [])
  with pytest.raises(BadInput, match=r"b\.csv: cannot be read \(No such file"):
    cap3d.read_captions(tmp_path / "b.csv", [])


def test_coverage():
  captions = {"a": "1", "b": "2", "c": "3"}
  assert cap3d.coverage(captions, ["z", "b", "a", "y", "b"]) == (
    "2 of 4 shapes (50.0%) have a caption; 1 captions belong to no shape here; "
    "2 shapes have none, first: z, y"
  )
  assert cap3d.coverage(captions, ["c"]) == (
    "1 of 1 shapes (100.0%) have a caption; 2 captions belong to no shape here"
  )
  assert "0 of 0 shapes (none)" in cap3d.coverage({}, [])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  """A split "val" of 4 shapes; returns its folder and ids."""
  folder = tmp_path_factory.mktemp("cap3d") / "data"
  procedural.generate(folder, train=1, val=4, num_points=64, embed_dim=16)
  return folder, [record["id"] for record in open_split(folder, "val")]


def test_captions_of_a_split(dataset):
  folder, ids = dataset
  captions = {UID(7): "another"} | {
    ids[i]: CAPTIONS[i + 3] for i in np.array([2, 0, 1])
  }
  found = cap3d.write_captions(folder, "val", captions)
  assert found == cap3d.coverage(captions, ids)
  assert "3 of 4 shapes" in found and f"first: {ids[3]}" in found
  written = read(folder / "captions_val.csv")
  assert list(written.items()) == [(i, captions[i]) for i in ids[:3]]
  before = (folder / "captions_val.csv").read_bytes()
  cap3d.write_captions(folder, "val", captions)
  assert (folder / "captions_val.csv").read_bytes() == before
  cap3d.write_captions(folder, "val", {ids[1]: "new"})
  assert read(folder / "captions_val.csv") == {ids[1]: "new"}
  assert not list(folder.glob("*.tmp"))


def test_a_failed_write_leaves_the_old_file(dataset, monkeypatch):
  folder, ids = dataset
  cap3d.write_captions(folder, "val", {ids[0]: "old"})

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.replace", full)
  with pytest.raises(BadInput, match=r"captions_val\.csv: cannot be written"):
    cap3d.write_captions(folder, "val", {ids[0]: "new"})
  assert read(folder / "captions_val.csv") == {ids[0]: "old"}
  assert not list(folder.glob("*.tmp"))
