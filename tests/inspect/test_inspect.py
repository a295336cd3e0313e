"""Inspection of datasets: numbers against naive forms, the verb, its files."""

import dataclasses
import json
import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from planted import TRAIN, VAL, inspect, spoil, write
from runs import output_of
from shapes import NO_TEXT

from mrd_jax.data.dataset import open_split
from mrd_jax.data.records import ImageKind
from mrd_jax.inspect import duplicates, output, summary
from mrd_jax.inspect.__main__ import main
from mrd_jax.inspect.scan import hash_cloud, scan
from mrd_jax.inspect.text_report import text_report


def test_clean_data_has_no_warnings(tmp_path, splits):
  inspection = inspect(write(tmp_path / "data", splits))
  report = inspection.report
  assert not report["warnings"] and not report["notes"]
  train, val = report["splits"]["train"], report["splits"]["val"]
  assert train["records"] == train["counted"] == train["measured"] == TRAIN
  assert train["collections"] == {"procedural": TRAIN}
  up = train["up_axis"]["procedural"]
  assert up["axis"] == "y" and up["confidence"] == 1 and up["shapes"] == TRAIN
  assert not val["up_axis"]  # too few to say
  assert report["schema"] == 1 and report["embed_dim"] == 32
  assert report["duplicates"]["within"]["train"]["shapes"] == 0
  text = text_report(report)
  assert "no warnings" in text and "all 120 counted, all 120 measured" in text
  assert "procedural y (100% sure)" in text


def test_sampled_splits_say_what_was_looked_at(tmp_path, splits):
  splits["val"] = splits["train"][:VAL]  # all leaked
  data = write(tmp_path / "data", splits)
  inspection = inspect(data, samples=30, counted=60)
  report = inspection.report
  train, val = report["splits"]["train"], report["splits"]["val"]
  assert (train["counted"], train["measured"]) == (30, 30)
  assert (val["counted"], val["measured"]) == (60, 30)
  (pair,) = report["duplicates"]["across"]
  # Whatever was drawn of train, a quarter of all.
  drawn = set(inspection.scans["train"].census.row.tolist())
  leaked = len(drawn & set(range(VAL)))
  assert 0 < leaked < 30 and pair["shapes"] == pair["by_points"] == leaked
  assert pair["estimated_total"] == min(4 * leaked, 60)
  # (1 - 1/4)**n <= 5 %
  assert pair["detectable"] == 11
  text = text_report(report)
  assert "30 of 120 (drawn at random) counted" in text
  assert "all 60 counted, 30 of 60 (drawn at random) measured" in text
  assert "overlap of 11 shapes" in text and "--full" in text
  assert f"{leaked} of 60 shapes are in train too (about" in text
  full = inspect(data, samples=30, counted=sys.maxsize).report
  assert full["duplicates"]["across"][0]["shapes"] == VAL
  assert "--full" not in text_report(full)


def test_draws_follow_the_seed(tmp_path, splits):
  data = write(tmp_path / "data", splits)
  first = inspect(data, samples=30, counted=1)
  again = inspect(data, samples=30, counted=1)
  other = inspect(data, samples=30, counted=1, seed=1)
  assert first.report == again.report
  rows = [i.scans["train"].census.row.tolist() for i in (first, other)]
  assert rows[0] != rows[1]
  assert all(row == sorted(set(row)) and len(row) == 30 for row in rows)


def test_measures_against_naive_forms(tmp_path, splits):
  grey = {"rgb": np.full((400, 3), 0.4, np.float32)}
  splits["train"] = spoil(splits["train"], 4, lambda s: grey)
  splits["train"][0] = dataclasses.replace(splits["train"][0], **NO_TEXT)
  red = {"rgb": np.tile(np.float32([1, 0, 0]), (400, 1)), "label": -1}
  splits["train"][9] = dataclasses.replace(splits["train"][9], **red)
  data = write(tmp_path / "data", splits)
  source = open_split(data, "train")
  rows, rng = np.arange(TRAIN), np.random.default_rng(0)
  calls = []
  scanned = scan("train", source, rows, rows[::2], rng, lambda: calls.append(1))
  assert len(calls) == TRAIN
  sample, census = scanned.sample, scanned.census
  records = list(source)
  assert census.label.tolist() == [r["label"] for r in records]
  assert census.texts.tolist() == [len(r["texts"]) for r in records]
  measured = records[::2]
  np.testing.assert_array_equal(sample.at, rows[::2])
  for i, record in enumerate(measured):
    assert sample.distinct[i] == len(set(map(tuple, record["xyz"].tolist())))
    stored = sum(
      value.size * value.itemsize
      for value in record.values()
      if isinstance(value, np.ndarray | np.generic)
    )
    words = [record["id"], record["dataset"], *record["texts"]]
    assert sample.num_bytes[i] == stored + len("".join(words).encode())
    images = record["image_feat"].astype(np.float64)
    mean = np.mean([f / np.linalg.norm(f) for f in images], axis=0)
    mean /= np.linalg.norm(mean)
    np.testing.assert_allclose(sample.image[i], mean, atol=1e-6)
    owned = scanned.image_features[scanned.image_features.owner == i]
    assert owned.kind.tolist() == [ImageKind.VIEW, ImageKind.THUMBNAIL]
    norm = np.linalg.norm(images, axis=1)
    np.testing.assert_allclose(owned.norm, norm, rtol=1e-6)
    color = record["rgb"].astype(np.float64).mean(axis=0) / 255
    np.testing.assert_allclose(sample.color[i], color, atol=1e-6)
  assert not sample.text[0].any() and sample.text[1:].any(axis=1).all()
  report = inspect(data).report["splits"]["train"]
  assert report["colors"]["grey"] == 4 / TRAIN
  assert report["colors"]["constant"] == 5 / TRAIN
  assert report["without_text"] == 1 / TRAIN
  assert report["classes"] == summary.class_counts(census.label, 54)
  assert report["classes"]["unlabelled"] == 1
  texts = census.texts
  spread = {"min": texts.min(), "median": np.median(texts), "max": texts.max()}
  assert report["texts"] == spread
  files = sum(f.stat().st_size for f in data.glob("planted-train.*"))
  assert report["bytes"]["disk"] == files
  assert report["bytes"]["disk_per_record"] == files / TRAIN


def test_class_counts():
  label = np.array([0, 0, 0, 3, 3, -1, -2, 5, 5])
  of_classes = {"named": 5, "empty": 3, "fewest": 2, "most": 3}
  of_labels = {"unlabelled": 1, "out_of_range": 3}
  assert summary.class_counts(label, 5) == of_classes | of_labels
  none = summary.class_counts(np.array([-1]), 5)
  assert (none["empty"], none["fewest"], none["most"]) == (5, 0, 0)


def test_hash_cloud():
  rng = np.random.default_rng(0)
  xyz = rng.integers(-32767, 32768, (500, 3)).astype(np.int16)
  mask = (1 << 64) - 1

  def mix(point):
    x, y, z = (int(value) & 0xFFFF for value in point)
    h = ((x | y << 16 | z << 32) + 0x9E3779B97F4A7C15) & mask
    h = ((h ^ h >> 30) * 0xBF58476D1CE4E5B9) & mask
    h = ((h ^ h >> 27) * 0x94D049BB133111EB) & mask
    return h ^ h >> 31

  assert hash_cloud(xyz) == sum(map(mix, xyz)) & mask
  assert hash_cloud(xyz) == hash_cloud(rng.permutation(xyz))
  others = [xyz[:, [1, 0, 2]], -xyz, xyz[1:], np.concatenate([xyz, xyz])]
  changed = xyz.copy()
  changed[3, 1] += 1
  hashes = {hash_cloud(x) for x in (xyz, changed, *others)}
  assert len(hashes) == 6


def test_alignment_against_naive_form():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(40, 8))
  text = image + rng.normal(size=(40, 8))
  image, text = (
    x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)
  )
  text[7] = text[6]  # a text that repeats: each is found half the time
  image[3] = 0
  text[4] = 0
  got = summary.alignment(image, text, rng)
  assert got is not None
  both = [i for i in range(40) if i not in (3, 4)]
  score = np.array([[image[i] @ text[j] for j in both] for i in both])
  hits = [0.0, 0.0]
  for i in range(38):
    for way, row in ((0, score[i]), (1, score[:, i])):
      ahead = sum(s > row[i] + 1e-12 for s in row)
      equal = sum(abs(s - row[i]) <= 1e-12 for s in row)
      hits[way] += min(max((1 - ahead) / equal, 0), 1) / 38
  assert got["pairs"] == 38 and got["chance"] == 1 / 38
  assert got["image_to_text_r1"] == pytest.approx(hits[0])
  assert got["text_to_image_r1"] == pytest.approx(hits[1])
  assert got["cosine_matched"] == pytest.approx(np.diag(score).mean())
  assert got["cosine_all"] == pytest.approx(score.mean())
  gaps = np.diag(score) - score.mean(axis=1)
  error = gaps.std(ddof=1) / np.sqrt(38)
  assert got["gap"] == pytest.approx(gaps.mean() / error)
  assert summary.alignment(image[:1], text[:1], rng) is None


def test_zero_shot_of_the_images():
  classes = np.eye(3) * 2  # need not be of unit length
  image = np.eye(3)[[0, 1, 2, 2, 0]]
  label = np.array([0, 1, 0, -1, 7])
  got = summary.image_zero_shot(image, label, classes)
  assert got == {"shapes": 3, "top1": pytest.approx(2 / 3), "chance": 1 / 3}
  assert summary.image_zero_shot(image * 0, label, classes) is None
  assert summary.image_zero_shot(image, label, None) is None


def test_command(tmp_path, splits, capsys):
  splits["train"] = spoil(splits["train"], 3, lambda s: {"rgb": s.rgb / 255})
  data = write(tmp_path / "data", splits)
  before = sorted(tmp_path.rglob("*"))
  assert main([str(data)]) == 0
  printed = capsys.readouterr().out
  assert "1 warning:\n- train: 3 of 120 shapes have black" in printed
  assert sorted(tmp_path.rglob("*")) == before  # nothing written
  assert main([str(data), "--strict", "--samples", "120"]) == 1
  out = tmp_path / "a" / "b"
  assert main([str(data), "--output", str(out), "--shapes", "2"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[-2:] == [str(out / "report.json"), str(out / "shapes.png")]
  report = json.loads((out / "report.json").read_text())
  assert report["warnings"][0]["code"] == "black"
  assert {path.name for path in out.iterdir()} == {"report.json", "shapes.png"}
  picture = (out / "shapes.png").read_bytes()
  assert picture.startswith(b"\x89PNG")
  # Its own files are replaced, and the same seed gives the same.
  assert main([str(data), "--output", str(out), "--shapes", "2"]) == 0
  assert (out / "shapes.png").read_bytes() == picture


@pytest.mark.parametrize(
  "name, content", [("report.json", '{"splits": {}}'), ("shapes.png", "")]
)
def test_foreign_files_stay(tmp_path, splits, capsys, name, content):
  data = write(tmp_path / "data", splits)
  (data / name).write_text(content)
  assert main([str(data), "--output", str(data)]) == 2
  assert name in capsys.readouterr().err
  assert (data / name).read_text() == content


def test_bad_input(tmp_path, capsys):
  assert main([str(tmp_path / "nowhere")]) == 2
  assert "does not exist" in capsys.readouterr().err
  (tmp_path / "file").write_text("")
  assert main([str(tmp_path), "--output", str(tmp_path / "file")]) == 2
  assert re.search("--output: .*file.* cannot be made", capsys.readouterr().err)


def test_shapes_are_drawn_of_all_splits_alike(tmp_path, splits):
  splits["val"] = splits["val"][:2]
  inspection = inspect(write(tmp_path / "data", splits))

  def drawn(count):
    chosen = output.choose_shapes(inspection, count)
    assert len({record["id"] for _, record in chosen}) == len(chosen)
    return [split for split, _ in chosen]

  assert drawn(1) == ["train"]
  assert drawn(3) == ["train", "train", "val"]
  assert drawn(7) == ["train"] * 5 + ["val"] * 2
  assert len(drawn(1000)) == TRAIN + 2


def test_the_standard_library_keeps_its_inspect():
  output_of(
    "import sys, mrd_jax.inspect.__main__, inspect; "
    "assert 'mrd_jax' not in inspect.__file__; "
    "assert 'jax' not in sys.modules"
  )


def test_repeats_are_estimated_of_pairs():
  """Of n records drawn from N, a pair is found with (n / N)**2, about."""
  rng = np.random.default_rng(0)
  clouds = np.repeat(np.arange(500), 2).astype(np.uint64)

  estimates = []
  for _ in range(200):
    row = rng.choice(1000, 300, replace=False)
    census: Any = SimpleNamespace(id=row.astype(np.uint64), cloud=clouds[row])
    drawn: Any = SimpleNamespace(
      name="val", training=False, census=census, share=0.3, source=range(1000)
    )
    ((repeats,), _) = duplicates.find_repeats([drawn])
    estimates.append(repeats.counts["estimated_total"])
  assert np.mean(estimates) == pytest.approx(500, rel=0.05)
