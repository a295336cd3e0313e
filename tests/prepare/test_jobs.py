"""The commands of `prepare`: what they print, restart and refuse; real data."""

import collections
import os
import re
import shutil
from pathlib import Path

import pytest
from bounds import full_disk
from openshape_bundle import make_sample, npy_bytes, simple_bundle
from runs import REPOSITORY

from mrd_jax.data.dataset import class_features, open_split, read_meta
from mrd_jax.data.records import TextKind
from mrd_jax.errors import BadInput
from mrd_jax.prepare import kinds, procedural
from mrd_jax.prepare.__main__ import main
from mrd_jax.prepare.job import job
from mrd_jax.prepare.openshape import convert


def test_procedural(tmp_path, capsys):
  command = "procedural --train 9 --val 4 --num-points 64 --embed-dim 32"
  assert main([*command.split(), "--output", str(tmp_path / "out")]) == 0
  meta = read_meta(tmp_path / "out")
  assert meta.teacher == procedural.TEACHER and meta.embed_dim == 32
  assert set(meta.class_names) == {"train", "val"}
  assert len(open_split(tmp_path / "out", "train")) == 9
  features = class_features(tmp_path / "out", "val")
  assert features.shape == (len(meta.class_names["val"]), 32)
  out, err = capsys.readouterr()
  assert "not CLIP" in out and not err


def test_a_kind_is_one_file(tmp_path, monkeypatch, capsys):
  (tmp_path / "mine.py").write_text(
    '''"""Makes mine."""
def add_flags(parser):
  parser.add_argument("--name")
def run(args):
  return f"made {args.name}"
'''
  )
  monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
  assert main(["mine", "--name=x"]) == 0
  with pytest.raises(SystemExit):
    main(["--help"])
  out = capsys.readouterr().out
  assert out.startswith("made x\n") and "Makes mine" in out
  assert "Makes records of ULIP-2's ShapeNet triplets" in out


@pytest.fixture(scope="module")
def mini() -> Path:
  shared = os.environ.get("MRD_SHARED_DATA", str(REPOSITORY / "../shared/data"))
  root = Path(shared) / "openshape-mini"
  if not root.is_dir():
    pytest.skip(f"no real data at {root}; set MRD_SHARED_DATA")
  return root


def test_lists_of_the_real_bundle(mini, tmp_path, capsys):
  """Counts are those of its README."""
  paths = ["--input", str(mini), "--output", str(tmp_path / "out")]
  assert main(["openshape", *paths, "--splits=val,lvis"]) == 0
  assert "refused:" not in capsys.readouterr().out
  meta = read_meta(tmp_path / "out")
  assert meta.embed_dim == 384 and meta.max_points == 2048
  assert len(meta.class_names["lvis"]) == 110
  assert "not CLIP" in meta.teacher
  assert sources_of(tmp_path / "out", "val") == {
    "Quaternius": 128,
    "KayKit": 50,
    "SweetHome3D": 80,
    "MarketAssets": 29,
  }
  assert len(open_split(tmp_path / "out", "lvis")) == 214


def sources_of(data: Path, split: str) -> dict[str, int]:
  records = open_split(data, split)
  return collections.Counter(record["dataset"] for record in records)


@pytest.mark.slow
def test_the_whole_real_bundle(mini, tmp_path):
  paths = ["--input", str(mini), "--output", str(tmp_path / "out")]
  assert main(["openshape", *paths, "--workers=2"]) == 0
  assert len(open_split(tmp_path / "out", "modelnet40")) == 1000
  assert sources_of(tmp_path / "out", "train") == {
    "Quaternius": 1147,
    "KayKit": 455,
    "SweetHome3D": 715,
    "MarketAssets": 265,
  }
  kinds: collections.Counter[int] = collections.Counter()
  for split in ("train", "val"):
    for record in open_split(tmp_path / "out", split):
      kinds.update(set(record["text_kind"].tolist()) or {TextKind.NONE})
  # Shapes, of all 2,869, with a text of this kind.
  assert kinds[TextKind.NONE] == 57
  assert kinds[TextKind.BLIP] == 166
  assert kinds[TextKind.MSFT] == 830
  assert kinds[TextKind.RETRIEVAL] == 2812


def test_input_that_was_added_during_a_stop(tmp_path, monkeypatch):
  """Nothing that was found missing before is kept as missing."""
  root = simple_bundle(tmp_path / "in", [npy_bytes(make_sample(0)), None])

  def stop(*_, **__):
    raise InterruptedError("stopped")

  with monkeypatch.context() as patch:
    patch.setattr(job, "assemble", stop)
    with pytest.raises(InterruptedError):
      convert.convert(root, tmp_path / "out")
  (root / "Objaverse/a/id1.npy").write_bytes(npy_bytes(make_sample(1)))
  with pytest.raises(BadInput, match=r"other settings or input \(unpacked\)"):
    convert.convert(root, tmp_path / "out")
  shutil.rmtree(tmp_path / "out.incomplete")
  assert convert.convert(root, tmp_path / "out").splits["train"].converted == 2


def test_a_kill_after_the_last_rename(tmp_path, monkeypatch):
  root = simple_bundle(tmp_path / "in", [npy_bytes(make_sample(0))])
  with monkeypatch.context() as patch:
    patch.setattr(job.shutil, "rmtree", lambda *_, **__: None)
    convert.convert(root, tmp_path / "out")
  assert (tmp_path / "out.incomplete").exists()
  assert convert.convert(root, tmp_path / "out").splits["train"].converted == 1
  assert not (tmp_path / "out.incomplete").exists()


def test_a_full_disk_is_one_sentence(tmp_path, capsys):
  """A limit of 4 KiB a file stands in for it; then the same command works."""
  command = ["procedural", "--train", "54", "--val", "54", "--embed-dim", "8"]
  arguments = [
    *command,
    "--num-points",
    "64",
    "--output",
    str(tmp_path / "out"),
  ]
  with full_disk(4096):
    assert main(arguments) == 2
  said = capsys.readouterr().err
  assert re.match(r"error: .*File too large.*/out", said.splitlines()[-1])
  assert "Traceback" not in said and not (tmp_path / "out").exists()
  assert main(arguments) == 0
