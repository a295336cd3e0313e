"""The verb `search`."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from encoders import EMBED_DIM, cloud, make_encoder
from galleries import SOURCE, naive, unit, write_gallery
from PIL import Image
from runs import output_of

from mrd_jax.embed.__main__ import main as embed
from mrd_jax.encoder import encoder
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.encoder.text_towers import TextTowers
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.read import read_cloud
from mrd_jax.search import index as indexes
from mrd_jax.search import nearest, queries, sheet
from mrd_jax.search.__main__ import main
from mrd_jax.search.gallery import open_gallery
from mrd_jax.search.index import build_index
from mrd_jax.teachers.clip import ClipTeacher


def picture_width(path: Path) -> int:
  with Image.open(path) as picture:
    return picture.size[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A model, its teacher, twelve shapes, a picture, and embeddings."""
  folder = tmp_path_factory.mktemp("world")
  # One length of texts, one size of batches: each is compiled once.
  short = {"num_hidden_layers": 1, "max_position_embeddings": 16}
  clip = make_clip(folder / "clip", embed_dim=EMBED_DIM, text=short)
  load = functools.cache(ClipTeacher.from_pretrained)
  teacher = load(str(clip), batch_size=1)
  make_encoder(embedding_space=teacher.name).save_pretrained(folder / "model")
  for i in range(12):
    np.save(folder / f"{i:02}.npy", cloud(80 + i, 6, seed=i))
  pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
  Image.fromarray(pixels).save(folder / "picture.png")
  arguments = [f"--checkpoint={folder / 'model'}"]
  files = [f"--input={folder}/*.npy", f"--output={folder / 'shapes.npz'}"]
  assert embed([*arguments, *files, "--index", "--batch-size=1"]) == 0
  arguments.append(f"--index={folder / 'shapes.npz'}")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ClipTeacher, "from_pretrained", load)
    patch.setattr(encoder, "load_encoder", functools.cache(load_encoder))
    yield folder, teacher, arguments


def test_verb(world, tmp_path, capsys):
  folder, teacher, arguments = world
  found = {}
  flags = {
    "text": ["--text", "a red chair", f"--teacher={folder / 'clip'}"],
    "shape": [f"--shape={folder}/05.npy"],
  }
  flags["all"] = [*flags["text"], *flags["shape"]]
  flags["all"].append(f"--image={folder}/picture.png")
  for name, given in flags.items():
    output = tmp_path / f"{name}.json"
    more = ["--top=5", f"--json={output}"]
    if name == "all":
      more.append(f"--sheet={tmp_path / 'sheet.png'}")
    assert main([*arguments, *given, *more]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found[name] = json.loads(output.read_text())
    lines = captured.out.splitlines()
    hits = found[name]["hits"]
    assert len(lines) == len(hits) + 1 == 6
    for i, (line, hit) in enumerate(zip(lines[1:], hits, strict=True), 1):
      assert hit["rank"] == i
      rank, score, *_, file = line.split()
      assert (rank, file) == (str(i), hit["file"])
      assert score == f"{hit['score']:.4f}"
  assert picture_width(tmp_path / "sheet.png") == 1600
  with np.load(folder / "shapes.npz") as arrays:
    x, files = arrays["embeddings"], arrays["files"].tolist()
  text = teacher.text_features(["a red chair"])
  image = teacher.image_features([folder / "picture.png"])
  for name, query in (("text", text), ("shape", x[5:6])):
    rows, score, _ = naive(x, query, 5)
    hits = found[name]["hits"]
    assert [hit["file"] for hit in hits] == [files[i] for i in rows]
    assert [hit["row"] for hit in hits] == rows
    scores = [hit["score"] for hit in hits]
    np.testing.assert_allclose(scores, score[rows], atol=1e-5)
  assert found["shape"]["hits"][0]["file"] == str(folder / "05.npy")
  assert found["shape"]["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
  assert found["all"]["queries"] == [
    {"kind": "text", "value": "a red chair"},
    {"kind": "image", "value": f"{folder}/picture.png"},
    {"kind": "shape", "value": f"{folder}/05.npy"},
  ]
  asked = np.concatenate([text, image, x[5:6]])
  cosine = x @ asked.T
  rows, *_ = naive(x, asked, 5, cosine.mean(axis=0), cosine.std(axis=0))
  assert [hit["row"] for hit in found["all"]["hits"]] == rows
  cosines = found["all"]["hits"][0]["cosines"]
  np.testing.assert_allclose(cosines, cosine[rows[0]], atol=1e-5)


def test_verb_up_threshold_and_notes(world, tmp_path, capsys):
  folder, _, arguments = world
  shape = f"--shape={folder}/05.npy"
  assert main([*arguments, shape, "--threshold=0.9999"]) == 0
  captured = capsys.readouterr()
  assert captured.err == "1 of 12 shapes reach --threshold 0.9999\n"
  assert main([*arguments, shape, "--top=1", "--up=z"]) == 0
  turned = float(capsys.readouterr().out.splitlines()[1].split()[1])
  assert turned < 0.9999
  clip = f"--teacher={folder / 'clip'}"
  # As if it had learnt from other weights, and been trained further since.
  space = "clip (sha256 0123456789ab)"
  trained_on = make_encoder(embedding_space=space, step=8)
  trained_on.save_pretrained(tmp_path / "later")
  with np.load(folder / "shapes.npz") as arrays:
    earlier = dict(arrays)
  source = json.loads(str(earlier["source"])) | {"embedding_space": space}
  np.savez(tmp_path / "earlier.npz", **earlier | {"source": json.dumps(source)})
  later = f"--checkpoint={tmp_path / 'later'}"
  index = f"--index={tmp_path / 'earlier.npz'}"
  assert main([later, index, "--text=a", clip]) == 0
  notes = capsys.readouterr().err.splitlines()
  assert len(notes) == 2
  assert "was embedded at step 7, the checkpoint is of step 8" in notes[0]
  assert notes[1].startswith("note: the teacher clip (sha256 ")
  assert "has other weights" in notes[1]
  # What CLIP does not read of a text; of this one, it reads all.
  long = "a chair " * 50
  texts = ["--text=a chair", f"--text={long}", "--text=a"]
  assert main([*arguments, *texts, clip]) == 0
  captured = capsys.readouterr()
  assert captured.err.count("\n") == 1
  assert f"note: --text {long[:40]!r}... is longer than" in captured.err


def test_few_points_are_said(world, tmp_path, capsys):
  _, _, arguments = world
  few = tmp_path / "few.npy"
  np.save(few, np.repeat(cloud(15), 2, axis=0))
  assert main([*arguments, f"--shape={few}"]) == 0
  assert capsys.readouterr().err == (
    "note: fewer than 16 different points hardly make a shape: 1 file, "
    f"{few} (of 30 points)\n"
  )


def test_gallery_of_another_run(world, tmp_path, capsys):
  """Of the same teacher, width and step: of no use for a shape."""
  folder, teacher, arguments = world
  other = make_encoder(seed=1, embedding_space=teacher.name)
  other.save_pretrained(tmp_path / "other")
  flags = [f"--checkpoint={tmp_path / 'other'}", "--top=1"]
  shape = f"--shape={folder}/05.npy"
  text = ["--text=a", f"--teacher={folder / 'clip'}"]
  assert main([*flags, *arguments[1:], shape]) == 0
  note = capsys.readouterr().err
  assert note.count("\n") == 1
  assert f"other weights, those of {folder / 'model'}: cosines with" in note
  assert main([*flags, *arguments[1:], *text]) == 0
  assert capsys.readouterr().err == ""
  assert main([*flags, *arguments[1:], shape, *text]) == 0
  assert capsys.readouterr().err == note


def test_index_is_used_if_there(world, tmp_path, capsys, monkeypatch):
  folder, _, arguments = world
  x = unit(np.random.default_rng(0).normal(size=(10_000, EMBED_DIM)))
  source = np.load(folder / "shapes.npz")["source"]
  path = write_gallery(tmp_path / "a.npz", x, source=source)
  build_index(path)
  asked = []
  candidates = indexes.Index.candidates

  def spy(self, query_D, count):
    asked.append(count)
    return candidates(self, query_D, count)

  monkeypatch.setattr(indexes.Index, "candidates", spy)
  flags = [arguments[0], f"--index={path}", f"--shape={folder}/05.npy"]
  assert main(flags) == 0
  with_index = capsys.readouterr().out
  assert asked == [1000]
  assert main([*flags, "--exact"]) == 0
  assert asked == [1000]
  assert capsys.readouterr().out == with_index
  # Only candidates were looked at: it does not speak of all shapes.
  assert main([*flags, "--threshold=1"]) == 0
  assert capsys.readouterr().err == (
    "0 of the 1,000 candidates of the index, of 10,000 shapes in all, reach "
    "--threshold 1; --exact compares every shape\n"
  )
  # Of an index that loses rows there may be too few without a threshold.
  monkeypatch.setattr(
    indexes.Index, "candidates", lambda *_: np.arange(4, dtype=np.int64)
  )
  assert main(flags) == 0
  error = capsys.readouterr().err
  assert "4 of the 4 candidates of the index, of 10,000" in error
  # Several queries do without it, and say so.
  both = [*flags, f"--shape={folder}/06.npy"]
  assert main(both) == 0
  captured = capsys.readouterr()
  assert captured.err == (
    "note: the index finds what is close to one query; for several, all 10,000 "
    "embeddings are compared\n"
  )
  assert main([*both, "--exact"]) == 0
  assert capsys.readouterr() == (captured.out, "")
  assert captured.out.count("\n") == 11
  np.savez(path, files=[f"{i}" for i in range(10_000)], embeddings=-x,
           source=source)  # fmt: skip
  assert main(flags) == 2
  assert "a.faiss is stale" in capsys.readouterr().err
  assert main(both) == 0  # is not even opened


def test_sheet_of_what_is_gone(world, tmp_path, monkeypatch):
  """Frames with words, not errors; at most 50; up is up; odd names."""
  folder, *_ = world
  (tmp_path / "torn.npy").write_text("")
  files = [str(folder / "01.npy"), "gone.npy", str(tmp_path / "torn.npy")]
  files += ["a$b_{\n" + "ü" * 99 + "ü漢.ply"] * 56
  files.insert(3, 300 * "y" + ".ply")  # too long for any file
  x = unit(np.random.default_rng(0).normal(size=(60, 8)))
  source = np.array(json.dumps(SOURCE | {"up": "z"}))
  changes = {"files": np.array(files), "source": source}
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x, **changes))
  drawn = []
  monkeypatch.setattr(
    sheet.cloud,
    "render",
    lambda xyz, rgb, size: drawn.append(xyz) or np.zeros((size, size, 3)),
  )
  tiles = []
  draw = sheet.draw_sheet

  def look(path, title, notes, rows, **options):
    tiles.extend(tile for row in rows for tile in row)
    draw(path, title, notes, rows, **options)

  monkeypatch.setattr(sheet, "draw_sheet", look)
  hits = nearest.Hits(np.arange(60), np.zeros(60), np.zeros((60, 2)), 60)
  asked = [nearest.Query("image", "gone.png"), nearest.Query("text", "x" * 999)]
  output = tmp_path / "sheet.png"
  sheet.draw_hits(gallery, asked, hits, output, up="y")
  words = [t.picture for t in tiles if isinstance(t.picture, str)]
  assert words[:3] == ["cannot be read", "file not found", "cannot be read"]
  assert words[3:] == ["file not found"] * 47
  (xyz,) = drawn
  original = read_cloud(files[0])[:, :3]
  assert {tuple(p) for p in xyz} == {(x, z, -y) for x, y, z in original}
  assert picture_width(output) == 1600
  none = nearest.Hits(*(a[:0] for a in hits[:3]), 60)
  sheet.draw_hits(gallery, asked[1:], none, output, up="y")


def test_bad_arguments(world, tmp_path, capsys):
  folder, _, arguments = world
  clip = f"--teacher={folder / 'clip'}"
  wide = make_clip(tmp_path / "wide", embed_dim=EMBED_DIM + 2)
  x = unit(np.random.default_rng(0).normal(size=(5, EMBED_DIM)))
  source = np.load(folder / "shapes.npz")["source"]
  foreign = write_gallery(tmp_path / "foreign.npz", x)
  narrow = tmp_path / "narrow.npz"
  write_gallery(narrow, unit(x[:, :4]), source=source)
  for given, words in (
    ([], "nothing to look for"),
    (["--text=", clip], "--text is empty"),
    (["--text=  ", clip], "--text is empty"),
    (["--shape="], "--shape is empty"),
    (["--text=a"], "name its CLIP model with --teacher"),
    (["--text=a", f"--teacher={tmp_path / 'none'}"], "none"),
    (["--text=a", f"--teacher={wide}"], "has embeddings of width 12"),
    (["--shape=none.ply"], "none.ply: no such file"),
    ([f"--image={folder}/none.png", clip], "none.png"),
    (["--text=a", clip, "--top=13"], "--top is 13, but"),
    (["--text=a", "--threshold=2"], "--threshold is 2"),
    (["--text=a", "--threshold=nan"], "--threshold is nan"),
    (["--text=a", "--sheet=x.jpg"], "--sheet is x.jpg"),
    (["--text=a", "--json=none/x.json"], "--json is none/x.json"),
    (["--text=a", "--index=none.npz"], "none.npz: no such file"),
    (["--text=a", f"--index={foreign}"], "the space of 'a teacher'"),
    (["--text=a", f"--index={narrow}"], "narrow.npz: the embeddings have"),
  ):
    assert main([*arguments, *given]) == 2, words
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1
    assert captured.out == ""
  np.save(tmp_path / "one.npy", np.ones((9, 3)))
  assert main([*arguments, f"--shape={tmp_path / 'one.npy'}"]) == 2
  assert "one.npy: all points coincide" in capsys.readouterr().err


def test_default_teacher(monkeypatch):
  """The name that a teacher gives itself leads back to it, on the hub only."""
  asked = []

  def find(name, **_):
    asked.append(name)
    raise BadInput("no network")

  monkeypatch.setattr(ClipTeacher, "from_pretrained", find)
  query = [nearest.Query("text", "a")]
  made = make_encoder()

  def ask(space, teacher=None):
    config = dataclasses.replace(made.config, embedding_space=space)
    asking = dataclasses.replace(made, config=config)
    towers = TextTowers(teacher=teacher or "")
    with pytest.raises(BadInput) as error:
      queries.embed_queries(
        query, asking, "model", towers, up="y", normalize=True
      )
    return str(error.value)

  large, base = "laion/CLIP-ViT-bigG-14", "openai/clip-vit-base-patch32"
  ask(f"{large}@0123456789ab (sha256 ab12)")
  ask(f"{base} (sha256 ab12)")
  ask(base)
  assert asked == [large, base, base]
  for space in (
    "clip (sha256 ab12)",
    "OpenAI CLIP ViT-L/14",
    "OpenCLIP ViT-bigG-14, laion2b_s39b_b160k",
    "../clip",
    "unknown",
  ):
    assert repr(space) in ask(space) and "--teacher" in ask(space)
  assert len(asked) == 3
  ask("unknown", "user/given")
  assert asked[-1] == "user/given"


@pytest.mark.parametrize(
  ("verb", "flag"), [("search", "--sheet"), ("embed", "--no-normalize")]
)
def test_help_without_jax(verb, flag):
  script = (
    f"import runpy, sys; sys.argv = [{verb!r}, '--help']\n"
    f"try: runpy.run_module('mrd_jax.{verb}', run_name='__main__')\n"
    "finally: print({'jax', 'faiss', 'matplotlib', 'trimesh'} & {*sys.modules})"
  )
  printed = output_of(script)
  assert flag in printed and printed.endswith("\nset()\n")
