"""The table of what meshes are."""

import pytest

from mrd_jax.errors import BadInput
from mrd_jax.prepare.mesh.table import Row, read_table

FILES = ["a.obj", "chairs/b.glb", "chairs/old/c.d.ply", "tables/b.stl"]


@pytest.fixture
def read(tmp_path):
  path = tmp_path / "table.csv"

  def run(content, files=FILES):
    if isinstance(content, str):
      content = content.encode()
    path.write_bytes(content)
    return read_table(path, files)

  return run


def test_all_columns(read):
  rows, problems = read(
    "file,name,caption,category,split,dataset,caption\n"
    'a.obj, office chair ,"red, with ""arms""",chair,val,Mine,second\n'
    "\n"
    ",,,,,,\n"
    "chairs/b.glb,,,,,,only the second\n"
  )
  assert problems == []
  assert rows == {
    "a.obj": Row(
      name="office chair",
      captions=('red, with "arms"', "second"),
      category="chair",
      split="val",
      dataset="Mine",
    ),
    "chairs/b.glb": Row(captions=("only the second",)),
  }
  assert Row() == Row("", (), "", "train", "meshes")


@pytest.mark.parametrize(
  "content",
  [
    "\ufefffile,name\na.obj,Stühlchen 椅子\n".encode(),
    "\ufeff FILE , Name\r\na.obj,Stühlchen 椅子\r\n".encode(),
    'name,file\n"Stühlchen 椅子","a.obj"'.encode(),
  ],
)
def test_byte_order_mark_case_blanks_line_ends_and_order(read, content):
  assert read(content) == ({"a.obj": Row(name="Stühlchen 椅子")}, [])


def test_a_caption_may_have_lines(read):
  rows, _ = read('file,caption\na.obj,"one\ntwo"\nchairs/b.glb,x\n')
  assert rows["a.obj"].captions == ("one\ntwo",)
  assert rows["chairs/b.glb"].captions == ("x",)


@pytest.mark.parametrize(
  "cell, file",
  [
    ("a.obj", "a.obj"),
    ("a", "a.obj"),
    (" ./chairs//b.glb ", "chairs/b.glb"),
    ("b.glb", "chairs/b.glb"),
    ("tables/b", "tables/b.stl"),
    ("c.d.ply", "chairs/old/c.d.ply"),
    ("old/c.d", "chairs/old/c.d.ply"),
  ],
)
def test_names_of_meshes(read, cell, file):
  assert read(f"file,name\n{cell},x\n") == ({file: Row(name="x")}, [])


@pytest.mark.parametrize(
  "cell, what",
  [
    ("b", "'b' is 2 meshes"),
    ("z.obj", "'z.obj' is no mesh"),
    ("A.OBJ", "is no mesh"),
    ("hairs/b.glb", "is no mesh"),
    ("../a.obj", "is no mesh"),
    ("/a.obj", "is no mesh"),
  ],
)
def test_rows_of_no_mesh_are_told(read, cell, what):
  rows, problems = read(f"file,name\n{cell},x\nchairs/b.glb,y\n")
  assert rows == {"chairs/b.glb": Row(name="y")}
  (problem,) = problems
  assert what in problem and "row 2" in problem


def test_a_whole_path_is_meant_before_an_end(read):
  files = ["b.obj", "old/b.obj", "b/c.obj", "a/b/c.obj"]
  for cell in ("b.obj", "b", "old/b", "b/c", "a/b/c"):
    found = read(f"file,name\n{cell},x\n", files)
    file = cell.removesuffix(".obj") + ".obj"
    assert found == ({file: Row(name="x")}, [])
  rows, problems = read("file,name\nc.obj,x\n", files)
  assert rows == {} and "2 meshes" in problems[0]


def test_one_name_with_two_suffixes(read):
  files = ["b.obj", "b.ply", "b.ply.obj"]
  rows, problems = read("file,name\nb.ply,x\nb,y\nb.ply.obj,z\n", files)
  assert rows == {"b.ply": Row(name="x"), "b.ply.obj": Row(name="z")}
  assert len(problems) == 1 and "'b' is 2 meshes" in problems[0]


def test_unknown_columns_are_told(read):
  rows, problems = read("file,names,Notes,caption\na.obj,x,y,z\n")
  assert rows == {"a.obj": Row(captions=("z",))}
  assert [p.partition(": ")[2] for p in problems] == [
    "column 'names' is not used",
    "column 'notes' is not used",
  ]


def test_a_split_may_have_capitals_and_digits(read):
  rows, _ = read("file,split\na.obj,Test_2\n")
  assert rows["a.obj"].split == "Test_2"


@pytest.mark.parametrize(
  "split", ["all", "_", "2024", "my-split", "a b", "train[:5]", "é", "a/b", "."]
)
def test_bad_splits(read, split):
  """TFDS cannot store, or not open, a split of such a name."""
  with pytest.raises(BadInput, match=r"table\.csv: row 3: split .* must begin"):
    read(f"file,split\na.obj,train\nchairs/b.glb,{split}\n")


@pytest.mark.parametrize(
  "content, message",
  [
    ("", "must name the columns"),
    ("a.obj,chair\n", "must name the columns"),
    ("file;name\na.obj;x\n", "with commas between"),
    ("file,file\na.obj,a.obj\n", "must name the columns"),
    ("file,name,Name\na.obj,x,y\n", "column 'name' is there twice"),
    ("file,name\na.obj,red, with arms\n", "row 2 has 3 cells .* has 2; quote"),
    ("file,name\na.obj\n", "row 2 has 1 cells"),
    ('file,name\na.obj,"open\n', "cannot be read as CSV"),
    ("file,name\na.obj,St\xfchl\n".encode("latin-1"), "save it as UTF-8"),
    ("file,name\na.obj,x\na,y\n", "row 3: a.obj has a row already"),
  ],
)
def test_tables_that_cannot_be_used(read, content, message):
  with pytest.raises(BadInput, match=message) as error:
    read(content)
  assert "table.csv" in str(error.value)


def test_no_table(tmp_path):
  with pytest.raises(BadInput, match=r"none\.csv: cannot be read \(No such"):
    read_table(tmp_path / "none.csv", FILES)
