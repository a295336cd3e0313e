"""Galleries, what is nearest in them, and their indexes."""

import json
import signal
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from galleries import SOURCE, clustered, naive, unit, write_gallery
from runs import output_of

from mrd_jax.errors import BadInput
from mrd_jax.search import gallery as galleries
from mrd_jax.search import nearest
from mrd_jax.search.gallery import open_gallery
from mrd_jax.search.index import _identity as identity
from mrd_jax.search.index import build_index, index_path, open_index


def check(hits: nearest.Hits, plain, atol: float = 1e-9) -> None:
  """Holds hits against those of the plain form."""
  rows, score, cosine = plain
  assert hits.rows.tolist() == rows
  np.testing.assert_allclose(hits.score, score[rows], atol=atol)
  np.testing.assert_allclose(hits.cosine, cosine[rows], atol=atol)


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_exact_search_and_ties(tmp_path, monkeypatch, block):
  monkeypatch.setattr(galleries, "_BLOCK_BYTES", 4 * 24 * block)
  x, near, _ = clustered(400, 24)
  x[50:400:3] = x[4]  # equal, all over the gallery
  x[7] = -near[4]
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  for query in (x[4], near[0], near[5]):
    for top in (1, 3, 100, 400):
      hits = nearest.nearest(gallery, query[None], ["shape"], top=top)
      check(hits, naive(x, query[None], top))
  first = nearest.nearest(gallery, x[4][None], ["text"], top=3).rows
  assert first.tolist() == [4, 50, 53]


def test_joint_of_one_kind_is_the_least_cosine(tmp_path):
  x, near, _ = clustered(500, 16)
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  for asked in (near[:2], near[5:8]):
    hits = nearest.nearest(gallery, asked, ["shape"] * len(asked), top=20)
    check(hits, naive(x, asked, 20))
    assert hits.cosine.shape == (20, len(asked))


def test_joint_of_several_kinds_standardises(tmp_path, monkeypatch):
  monkeypatch.setattr(galleries, "_BLOCK_BYTES", 4 * 16 * 60)
  x, near, texts = clustered(500, 16)
  # As a text's cosines are: low, and hardly different.
  text = unit(0.1 * texts[0] - x.mean(axis=0))
  asked = np.stack([text, near[3]])
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  hits = nearest.nearest(gallery, asked, ["text", "shape"], top=20)
  cosine = x.astype(np.float64) @ asked.T.astype(np.float64)
  plain = naive(x, asked, 20, cosine.mean(axis=0), cosine.std(axis=0))
  check(hits, plain, atol=1e-6)
  # The least cosine would be the text's, for every shape.
  raw = nearest.nearest(gallery, asked, ["shape", "shape"], top=20).rows
  alone = nearest.nearest(gallery, asked[:1], ["text"], top=20).rows
  assert len(set(raw) & set(alone)) > 15
  assert len(set(hits.rows) & set(alone)) < 15
  # A query that all shapes are equally close to decides nothing.
  same = np.tile(x[:1], (50, 1))
  gallery = open_gallery(write_gallery(tmp_path / "b.npz", same))
  hits = nearest.nearest(gallery, asked, ["text", "shape"], top=3)
  assert hits.rows.tolist() == [0, 1, 2]
  np.testing.assert_allclose(hits.score, 0, atol=1e-9)


def test_threshold(tmp_path):
  x, near, texts = clustered(500, 16)
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  asked = np.stack([texts[1], near[3]])
  for threshold in (-1.0, 0.05, 0.2, 0.99):
    hits = nearest.nearest(
      gallery, asked, ["text", "shape"], top=500, threshold=threshold
    )
    cosine = x.astype(np.float64) @ asked.T.astype(np.float64)
    assert len(hits.rows) == (cosine.min(axis=1) >= threshold).sum()
    assert (hits.cosine >= threshold).all()
    found = nearest.nearest(
      gallery, near[:1], ["shape"], top=40, threshold=threshold
    )
    expected, *_ = naive(x, near[:1], 40, threshold=threshold)
    assert found.rows.tolist() == expected
  assert not len(hits.rows)


def test_gallery_of_any_storage(tmp_path):
  x, near, _ = clustered(300, 12)
  for name, array, save in (
    ("compressed", x, np.savez_compressed),
    ("columns", np.asfortranarray(x), np.savez),
    ("half", x.astype(np.float16), np.savez),
    ("double", x.astype(np.float64), np.savez),
  ):
    gallery = open_gallery(write_gallery(tmp_path / f"{name}.npz", array, save))
    if save is np.savez:
      assert isinstance(gallery.embeddings, np.memmap)
    np.testing.assert_array_equal(gallery.embeddings, array)
    hits = nearest.nearest(gallery, near[:1], ["text"], top=10)
    check(hits, naive(array, near[:1], 10))
  sample = open_gallery(write_gallery(tmp_path / "a.npz", x)).sample(4)
  np.testing.assert_array_equal(sample, x[[0, 99, 199, 299]])


def test_bad_galleries(tmp_path):
  x = clustered(40, 8)[0]
  lacking = json.dumps({"checkpoint": "", "step": 1, "normalize": True})
  bad = {
    "missing": None,
    "lacks embeddings": {"embeddings": None},
    "lacks files, source": {"files": None, "source": None},
    "embeddings is": {"embeddings": x[0]},
    "must be floats": {"embeddings": np.ones((40, 8), int)},
    "holds no embeddings": {"embeddings": x[:0], "files": np.zeros(0, "U3")},
    "files is": {"files": np.array(["a"])},
    "records is": {"records": np.arange(3)},
    "a pickle": {"files": np.array(["a", None] * 20, dtype=object)},
    "does not say checkpoint": {"source": np.array("no JSON")},
    "not say checkpoint, step": {"source": np.array("[" * 100_000)},
    "say checkpoint, step, w": {"source": np.array(json.dumps([*SOURCE]))},
    "not say weights, embedding_space, up": {"source": np.array(lacking)},
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
      nearest.nearest(open_gallery(path), near[:1], ["text"], top=1)
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", x))
  with pytest.raises(BadInput, match=r"--top is 41, but .*a\.npz holds 40"):
    nearest.nearest(gallery, near[:1], ["text"], top=41)


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
      exact = nearest.nearest(gallery, query, [kind], top=10)
      hits = nearest.nearest(gallery, query, [kind], top=10, index=index)
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
    exact = nearest.nearest(gallery, query, kinds, top=10)
    hits = nearest.nearest(gallery, query, kinds, top=10, index=index)
    assert hits.rows.tolist() == exact.rows.tolist()
    assert hits.compared == 20_000
  # More than the candidates of one query.
  hits = nearest.nearest(gallery, near[:1], ["shape"], top=2000, index=index)
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
  hits = nearest.nearest(gallery, near[:1], ["shape"], top=10, index=index)
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
  foreign = (b"", b"short", b"foreign" * 100)
  starts = (whole[:-1], whole[: len(whole) // 2])
  ends = (whole[1:], whole[-500:], whole[-16:])
  for content in (*foreign, *starts, *ends, bytes(middle), bytes(last)):
    index.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.faiss is .*(--index)"):
      open_index(gallery)


@pytest.mark.parametrize(
  ("width", "rows", "words"),
  [
    (128, 10_000, "its sizes are not those of the embeddings"),
    (130, 20_000, "its sizes are not those of the embeddings"),
    (None, 20_000, "is cut off, or of another program"),
  ],
)
def test_an_index_is_of_its_gallery(
  large, tmp_path, width, rows, words, monkeypatch
):
  """Also where its own signature says so: FAISS would read beyond its end."""
  gallery = open_gallery(write_gallery(tmp_path / "a.npz", large[1]))
  with monkeypatch.context() as patch:
    if width is None:
      patch.setattr(
        faiss, "IndexPQFastScan", lambda width, *_: faiss.IndexFlatIP(width)
      )
    x, _, _ = clustered(rows, width or 128)
    other = write_gallery(tmp_path / "b.npz", x)
    patch.setattr("mrd_jax.search.index._identity", lambda _: identity(gallery))
    built = build_index(other)
  built.rename(index_path(gallery.path))
  with pytest.raises(BadInput, match=rf"a\.faiss .*{words}"):
    open_index(gallery)


def test_index_that_cannot_be_written(large, tmp_path):
  path = write_gallery(tmp_path / "a.npz", large[1][:10_000])

  def full(built, name):
    Path(name).write_text("a part")
    raise RuntimeError("no space left")

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(faiss, "write_index", full)
    with pytest.raises(BadInput, match=r"a\.faiss cannot be written: no space"):
      build_index(path)
  assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]
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
    output_of(script, expect=-signal.SIGKILL)
    assert (tmp_path / "a.faiss.tmp").exists()
    index = open_index(open_gallery(path))
    assert (index is not None) == keep
  build_index(path)
  assert index_path(path).read_bytes() == before
  assert not (tmp_path / "a.faiss.tmp").exists()
