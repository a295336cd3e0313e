"""Search: the gallery, the ranking, the index, and the verb."""

import dataclasses
import functools
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from encoders import EMBED_DIM, cloud, make_encoder
from PIL import Image

from mrd_jax.embed import __main__ as embed
from mrd_jax.encoder import encoder
from mrd_jax.encoder.encoder import load_encoder
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.read import read_cloud
from mrd_jax.search import gallery as galleries
from mrd_jax.search import index as indexes
from mrd_jax.search import queries, ranking
from mrd_jax.search.__main__ import main
from mrd_jax.search.gallery import open_gallery
from mrd_jax.search.index import build_index, index_path, open_index
from mrd_jax.search.sheet import draw_hits
from mrd_jax.teachers.clip import ClipTeacher

SOURCE = {
  "checkpoint": "model",
  "step": 7,
  "embedding_space": "a teacher",
  "up": "y",
  "normalize": True,
}


def unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def write_gallery(path: Path, x: np.ndarray, save=np.savez, **changes) -> Path:
  """An .npz as embed writes it; an array that is None is left out."""
  arrays = {
    "files": np.array([f"{i}.ply" for i in range(len(x))]),
    "embeddings": x,
    "source": np.array(json.dumps(SOURCE)),
  }
  arrays |= changes
  save(path, **{k: v for k, v in arrays.items() if v is not None})
  return path


def clustered(n: int, width: int, seed: int = 0):
  """n shapes in clusters, and queries: near shapes, and like texts.

  Texts, as CLIP's, share a direction that no shape has, and are nearly as far
  from their own cluster as from the others.
  """
  rng = np.random.default_rng(seed)

  def noise(rows: int) -> np.ndarray:
    return rng.normal(size=(rows, width)) / width**0.5

  centres, shared = noise(100), noise(2)
  x = unit(centres[rng.integers(0, 100, n)] + 0.7 * noise(n) + shared[0])
  near = unit(x[:: n // 40][:40] + 0.3 * noise(40))
  texts = unit(0.5 * centres[:40] + 0.3 * noise(40) + 1.5 * shared[1])
  return x, near, texts


def picture_width(path: Path) -> int:
  with Image.open(path) as picture:
    return picture.size[0]


def naive(x, query, top, shift=0.0, scale=1.0, threshold=-np.inf):
  """Rows by the least of (cosine - shift) / scale, ties by row; cosines."""
  cosine = x.astype(np.float64) @ query.T.astype(np.float64)
  score = ((cosine - shift) / scale).min(axis=1).round(12)
  order = [i for i in range(len(x)) if (cosine[i] >= threshold).all()]
  order.sort(key=lambda i: (-score[i], i))
  return order[:top], score, cosine


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_exact_search_and_ties(tmp_path, monkeypatch, block):
  monkeypatch.setattr(galleries, "_BLOCK_BYTES", 4 * 24 * block)
  x, near, _ = clustered(400, 24)
  x[50:400:3] = x[4]  # equal, all over the gallery
  x[7] = -near[4]
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  for query in (x[4], near[0], near[5]):
    for top in (1, 3, 100, 400):
      hits = ranking.search(gallery, query[None], ["shape"], top=top)
      expected, score, cosine = naive(x, query[None], top)
      assert hits.rows.tolist() == expected
      np.testing.assert_allclose(hits.score, score[expected], atol=1e-9)
      np.testing.assert_allclose(hits.cosine, cosine[expected], atol=1e-9)
  first = ranking.search(gallery, x[4][None], ["text"], top=3).rows
  assert first.tolist() == [4, 50, 53]


def test_joint_of_one_kind_is_the_least_cosine(tmp_path):
  x, near, _ = clustered(500, 16)
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  for asked in (near[:2], near[5:8]):
    hits = ranking.search(gallery, asked, ["shape"] * len(asked), top=20)
    expected, score, cosine = naive(x, asked, 20)
    assert hits.rows.tolist() == expected
    np.testing.assert_allclose(hits.score, score[expected], atol=1e-9)
    assert hits.cosine.shape == (20, len(asked))
    np.testing.assert_allclose(hits.cosine, cosine[expected], atol=1e-9)


def test_joint_of_several_kinds_standardises(tmp_path, monkeypatch):
  monkeypatch.setattr(galleries, "_BLOCK_BYTES", 4 * 16 * 60)
  x, near, texts = clustered(500, 16)
  # As a text's cosines are: low, and hardly different.
  text = unit(0.1 * texts[0] - x.mean(axis=0))
  asked = np.stack([text, near[3]])
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  hits = ranking.search(gallery, asked, ["text", "shape"], top=20)
  cosine = x.astype(np.float64) @ asked.T.astype(np.float64)
  expected, score, _ = naive(x, asked, 20, cosine.mean(axis=0), cosine.std(0))
  assert hits.rows.tolist() == expected
  np.testing.assert_allclose(hits.score, score[expected], atol=1e-6)
  # The least cosine would be the text's, for every shape.
  raw = ranking.search(gallery, asked, ["shape", "shape"], top=20).rows
  alone = ranking.search(gallery, asked[:1], ["text"], top=20).rows
  assert len(set(raw) & set(alone)) > 15
  assert len(set(hits.rows) & set(alone)) < 15
  # A query that all shapes are equally close to decides nothing.
  same = np.tile(x[:1], (50, 1))
  gallery = open_gallery(write_gallery(tmp_path / "b.npz", same))
  hits = ranking.search(gallery, asked, ["text", "shape"], top=3)
  assert hits.rows.tolist() == [0, 1, 2]
  np.testing.assert_allclose(hits.score, 0, atol=1e-9)


def test_threshold(tmp_path):
  x, near, texts = clustered(500, 16)
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  asked = np.stack([texts[1], near[3]])
  for threshold in (-1.0, 0.05, 0.2, 0.99):
    hits = ranking.search(
      gallery, asked, ["text", "shape"], top=500, threshold=threshold
    )
    cosine = x.astype(np.float64) @ asked.T.astype(np.float64)
    assert len(hits.rows) == (cosine.min(axis=1) >= threshold).sum()
    assert (hits.cosine >= threshold).all()
    found = ranking.search(
      gallery, near[:1], ["shape"], top=40, threshold=threshold
    )
    expected, *_ = naive(x, near[:1], 40, threshold=threshold)
    assert found.rows.tolist() == expected
  assert not len(hits.rows)


def test_gallery_of_any_storage(tmp_path):
  x, near, _ = clustered(300, 12)
  expected, *_ = naive(x, near[:1], 10)
  for name, array, save in (
    ("compressed", x, np.savez_compressed),
    ("columns", np.asfortranarray(x), np.savez),
    ("half", x.astype(np.float16), np.savez),
    ("double", x.astype(np.float64), np.savez),
  ):
    path = write_gallery(tmp_path / f"{name}.npz", array, save)
    gallery = open_gallery(path)
    if save is np.savez:
      assert isinstance(gallery.embeddings, np.memmap)
    np.testing.assert_array_equal(gallery.embeddings, array)
    hits = ranking.search(gallery, near[:1], ["text"], top=10)
    if name == "half":
      expected_half, *_ = naive(array, near[:1], 10)
      assert hits.rows.tolist() == expected_half
    else:
      assert hits.rows.tolist() == expected
  sample = open_gallery(write_gallery(tmp_path / "a.npz", x)).sample(4)
  np.testing.assert_array_equal(sample, x[[0, 99, 199, 299]])


def test_bad_galleries(tmp_path):
  x = clustered(40, 8)[0]
  bad = {
    "missing": None,
    "lacks embeddings": {"embeddings": None},
    "lacks files, source": {"files": None, "source": None},
    "embeddings is": {"embeddings": x[0]},
    "must be floats": {"embeddings": np.ones((40, 8), int)},
    "holds no embeddings": {
      "embeddings": x[:0],
      "files": np.zeros(0, "U3"),
    },
    "files is": {"files": np.array(["a"])},
    "records is": {"records": np.arange(3)},
    "a pickle": {"files": np.array(["a", None] * 20, dtype=object)},
    "does not say checkpoint": {"source": np.array("no JSON")},
    "not say embedding_space, up": {
      "source": np.array(
        json.dumps({"checkpoint": "", "step": 1, "normalize": True})
      )
    },
  }
  for words, changes in bad.items():
    path = tmp_path / "bad.npz"
    if changes is None:
      words = "no such file"
    else:
      write_gallery(path, x, **changes)
    with pytest.raises(BadInput, match=words) as error:
      open_gallery(path)
    assert str(path) in str(error.value)
  whole = write_gallery(tmp_path / "whole.npz", x).read_bytes()
  for content in (b"", whole[:-1], whole[:1000], whole[1000:], b"text" * 99):
    path.write_bytes(content)
    with pytest.raises(BadInput, match="bad.npz"):
      open_gallery(path)


def test_bad_rows_and_queries(tmp_path):
  x, near, _ = clustered(40, 8)
  for value, length in ((0.0, "0"), (np.nan, "nan"), (np.inf, "inf"), (2, "")):
    spoilt = x.copy()
    spoilt[33] *= value if value == 2 else 0
    spoilt[33, 0] += 0 if value == 2 else value
    path = write_gallery(tmp_path / "a.npz", spoilt)
    words = rf"a\.npz: embedding 33 \(33\.ply\) has length {length}"
    with pytest.raises(BadInput, match=words):
      ranking.search(open_gallery(path), near[:1], ["text"], top=1)
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  with pytest.raises(BadInput, match=r"--top is 41, but .*a\.npz holds 40"):
    ranking.search(gallery, near[:1], ["text"], top=41)
  with pytest.raises(BadInput, match=r"a\.npz: .* width 8, the query 5"):
    ranking.search(gallery, near[:1, :5], ["text"], top=1)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
  """A gallery of 20,000 with its index."""
  x, near, texts = clustered(20_000, 128)
  path = write_gallery(tmp_path_factory.mktemp("large") / "a.npz", x)
  assert build_index(path) == index_path(path) == path.with_suffix(".faiss")
  return path, x, near, texts


def test_index_recall(large):
  path, x, near, texts = large
  gallery = open_gallery(path)
  index = open_index(gallery)
  assert index is not None
  assert index_path(path).stat().st_size < x.nbytes / 15
  for queries_QD, kind in ((near, "shape"), (texts, "text")):
    found = 0.0
    for query in queries_QD[:, None]:
      exact = ranking.search(gallery, query, [kind], top=10)
      hits = ranking.search(gallery, query, [kind], top=10, index=index)
      assert (exact.compared, hits.compared) == (20_000, 1000)
      found += len(set(exact.rows) & set(hits.rows)) / 10 / len(queries_QD)
      np.testing.assert_allclose(
        hits.cosine, x[hits.rows].astype(float) @ query.T.astype(float)
      )
    assert found >= 0.95
  # What is close to several is among the closest to none: all are compared.
  for query, kinds in (
    (near[[0, 9, 18, 27]], ["shape"] * 4),
    (np.stack([near[3], -near[3]]), ["shape"] * 2),
    (np.stack([texts[5], near[30]]), ["text", "shape"]),
  ):
    exact = ranking.search(gallery, query, kinds, top=10)
    hits = ranking.search(gallery, query, kinds, top=10, index=index)
    assert hits.rows.tolist() == exact.rows.tolist()
    assert hits.compared == 20_000
  # More than the candidates of one query.
  hits = ranking.search(gallery, near[:1], ["shape"], top=2000, index=index)
  assert len(set(hits.rows)) == 2000
  assert len(index.candidates(near[0], 30_000)) == 20_000


@pytest.mark.parametrize("width", [9, 131])
def test_index_in_pieces_and_of_odd_width(tmp_path, monkeypatch, width):
  x, near, _ = clustered(11_000, width)
  path = write_gallery(tmp_path / "a.npz", x)
  build_index(path)
  whole = index_path(path).read_bytes()
  monkeypatch.setattr(galleries, "_BLOCK_BYTES", 4 * width * 777)
  build_index(path)
  assert index_path(path).read_bytes() == whole
  gallery = open_gallery(path)
  index = open_index(gallery)
  hits = ranking.search(gallery, near[:1], ["shape"], top=10, index=index)
  assert hits.rows.tolist() == naive(x, near[:1], 10)[0]


def test_small_galleries_need_no_index(tmp_path):
  path = write_gallery(tmp_path / "a.npz", clustered(300, 8)[0])
  index_path(path).write_text("of an earlier gallery")
  assert build_index(path) is None
  assert not index_path(path).exists()
  assert open_index(open_gallery(path)) is None


def test_stale_and_damaged_indexes(large, tmp_path):
  whole = index_path(large[0]).read_bytes()
  path = write_gallery(tmp_path / "a.npz", large[1])
  other = write_gallery(tmp_path / "b.npz", large[1][::-1])
  index, gallery = index_path(path), open_gallery(path)
  index.write_bytes(whole)
  assert open_index(gallery)
  index_path(other).write_bytes(whole)
  with pytest.raises(BadInput, match=r"b\.faiss is stale: .*--index"):
    open_index(open_gallery(other))
  middle, last = bytearray(whole), bytearray(whole)
  middle[len(whole) // 2] ^= 1
  last[-30] = 0
  for content in (
    b"",
    b"short",
    b"foreign" * 100,
    whole[:-1],
    whole[: len(whole) // 2],
    whole[1:],
    whole[-500:],
    whole[-16:],
    bytes(middle),
    bytes(last),
  ):
    index.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.faiss is .*(--index)"):
      open_index(gallery)


def test_index_that_cannot_be_written(large, tmp_path):
  path = write_gallery(tmp_path / "a.npz", large[1][:10_000])
  (tmp_path / "a.faiss.tmp").mkdir()
  with pytest.raises(BadInput, match=r"a\.faiss cannot be written"):
    build_index(path)
  assert not index_path(path).exists()
  bad = write_gallery(tmp_path / "b.npz", large[1] * 0)
  with pytest.raises(BadInput, match=r"b\.npz: embedding 0 .* length 0"):
    build_index(bad)
  assert not index_path(bad).exists()


def test_without_faiss(large, monkeypatch):
  monkeypatch.setitem(sys.modules, "faiss", None)
  with pytest.raises(ModuleNotFoundError, match="faiss"):
    open_index(open_gallery(large[0]))
  with pytest.raises(ModuleNotFoundError, match="faiss"):
    build_index(large[0])


def test_killed_while_writing(tmp_path):
  """The index of before is whole; what was begun is not taken for one."""
  path = write_gallery(tmp_path / "a.npz", clustered(10_000, 8)[0])
  build_index(path)
  before = index_path(path).read_bytes()
  script = f"""
    import os, signal
    import faiss
    from mrd_jax.search import index
    write = faiss.write_index
    def killed(built, name):
      write(built, name)
      os.truncate(name, 5000)
      os.kill(os.getpid(), signal.SIGKILL)
    faiss.write_index = killed
    index.build_index({str(path)!r})
  """
  for keep in (True, False):
    if not keep:
      index_path(path).unlink()
    done = subprocess.run(
      [sys.executable, "-c", textwrap.dedent(script)],
      stderr=subprocess.PIPE,
      check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "a.faiss.tmp").exists()
    index = open_index(open_gallery(path))
    assert (index is not None) == keep
  build_index(path)
  assert index_path(path).read_bytes() == before
  assert not (tmp_path / "a.faiss.tmp").exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A model, its teacher, twelve shapes, a picture, and embeddings."""
  folder = tmp_path_factory.mktemp("world")
  # One length of texts, one size of batches: each is compiled once.
  short = {"max_position_embeddings": 16}
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
  assert embed.main([*arguments, *files, "--index", "--batch-size=1"]) == 0
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
    np.testing.assert_allclose(
      [hit["score"] for hit in hits], score[rows], atol=1e-5
    )
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
  np.testing.assert_allclose(
    found["all"]["hits"][0]["cosines"], cosine[rows[0]], atol=1e-5
  )


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
  make_encoder(embedding_space=space, step=8).save_pretrained(
    tmp_path / "later"
  )
  with np.load(folder / "shapes.npz") as arrays:
    earlier = dict(arrays)
  source = json.loads(str(earlier["source"])) | {"embedding_space": space}
  np.savez(tmp_path / "earlier.npz", **earlier | {"source": json.dumps(source)})
  later = [
    f"--{k}={tmp_path / v}"
    for k, v in (("checkpoint", "later"), ("index", "earlier.npz"))
  ]
  assert main([*later, "--text=a", clip]) == 0
  notes = capsys.readouterr().err.splitlines()
  assert len(notes) == 2
  assert "was embedded at step 7, the checkpoint is of step 8" in notes[0]
  assert notes[1].startswith("note: the teacher clip (sha256 ")
  assert "has other weights" in notes[1]
  # What CLIP does not read of a text; of this one, it reads all.
  long = "a chair " * 50
  assert (
    main([*arguments, "--text=a chair", f"--text={long}", "--text=a", clip])
    == 0
  )
  captured = capsys.readouterr()
  assert captured.err.count("\n") == 1
  assert f"note: --text {long[:40]!r}... is longer than" in captured.err


def test_gallery_of_another_run(world, tmp_path, capsys):
  """Of the same teacher, width and step: of no use for a shape."""
  folder, teacher, arguments = world
  make_encoder(seed=1, embedding_space=teacher.name).save_pretrained(
    tmp_path / "other"
  )
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
  # One that was embedded before galleries said so.
  with np.load(folder / "shapes.npz") as arrays:
    old = dict(arrays)
  source = json.loads(str(old["source"]))
  assert len(source.pop("weights")) == 12
  np.savez(tmp_path / "old.npz", **old | {"source": json.dumps(source)})
  assert main([*flags, f"--index={tmp_path / 'old.npz'}", shape]) == 0
  assert capsys.readouterr().err == ""


def test_index_is_used_if_there(world, tmp_path, capsys, monkeypatch):
  folder, _, arguments = world
  x = unit(np.random.default_rng(0).normal(size=(10_000, EMBED_DIM)))
  with np.load(folder / "shapes.npz") as arrays:
    source = arrays["source"]
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
  assert "4 of the 4 candidates of the index, of 10,000" in (
    capsys.readouterr().err
  )
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
  files += ["a$b_{\n" + "ü" * 99 + "ü漢.ply"] * 57
  x = unit(np.random.default_rng(0).normal(size=(60, 8)))
  source = np.array(json.dumps(SOURCE | {"up": "z"}))
  path = write_gallery(
    tmp_path / "a.npz", x, files=np.array(files), source=source
  )
  drawn = []
  from mrd_jax.search import sheet

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
  hits = ranking.Hits(np.arange(60), np.zeros(60), np.zeros((60, 2)), 60)
  asked = [queries.Query("image", "gone.png"), queries.Query("text", "x" * 999)]
  output = tmp_path / "sheet.png"
  draw_hits(open_gallery(path), asked, hits, output, up="y")
  words = [t.picture for t in tiles if isinstance(t.picture, str)]
  assert words[:3] == ["cannot be read", "file not found", "cannot be read"]
  assert words[3:] == ["file not found"] * 47
  (xyz,) = drawn
  original = read_cloud(files[0])[:, :3]
  assert {tuple(p) for p in xyz} == {(x, z, -y) for x, y, z in original}
  assert picture_width(output) == 1600
  draw_hits(
    open_gallery(path),
    asked[1:],
    ranking.Hits(*(a[:0] for a in hits[:3]), 60),
    output,
    up="y",
  )


def test_bad_arguments(world, tmp_path, capsys):
  folder, _, arguments = world
  clip = f"--teacher={folder / 'clip'}"
  wide = make_clip(tmp_path / "wide", embed_dim=EMBED_DIM + 2)
  x = unit(np.random.default_rng(0).normal(size=(5, EMBED_DIM)))
  source = json.loads(str(np.load(folder / "shapes.npz")["source"]))
  foreign = write_gallery(tmp_path / "foreign.npz", x)
  narrow = write_gallery(
    tmp_path / "narrow.npz",
    unit(x[:, :4]),
    source=np.array(json.dumps(source)),
  )
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
  query = [queries.Query("text", "a")]
  made = make_encoder()

  def ask(space, teacher=None):
    config = dataclasses.replace(made.config, embedding_space=space)
    with pytest.raises(BadInput) as error:
      queries.embed_queries(
        query,
        dataclasses.replace(made, config=config),
        teacher=teacher,
        up="y",
        normalize=True,
      )
    return str(error.value)

  for space in (
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k@0123456789ab (sha256 ab12)",
    "openai/clip-vit-base-patch32 (sha256 ab12)",
    "openai/clip-vit-base-patch32",
  ):
    ask(space)
  assert asked == [
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "openai/clip-vit-base-patch32",
    "openai/clip-vit-base-patch32",
  ]
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


def test_help_without_jax():
  script = (
    "import runpy, sys; sys.argv = ['search', '--help']\n"
    "try: runpy.run_module('mrd_jax.search', run_name='__main__')\n"
    "finally: print(*('jax faiss matplotlib'.split() & sys.modules.keys()))"
  ).replace("'jax faiss matplotlib'.split()", "{'jax', 'faiss', 'matplotlib'}")
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=True
  )
  assert "--sheet" in done.stdout
  assert done.stdout.endswith("\n\n")
