"""A folder of meshes, from the files to a trained encoder."""

import csv
import json
import os
import shutil
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import runs
from meshes import make_meshes
from PIL import Image
from prepared import assert_cloud, contents, rejects_of, report_of
from runs import REPOSITORY

from mrd_jax.data.dataset import class_features, open_split, read_meta
from mrd_jax.data.records import TextKind
from mrd_jax.data.surfaces import sample_mesh
from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.read import read_mesh
from mrd_jax.prepare.__main__ import main
from mrd_jax.prepare.job import add_features
from mrd_jax.prepare.mesh import convert as meshes
from mrd_jax.prepare.mesh.renders import render_views
from mrd_jax.teachers.prompts import prompt_features, read_templates

OPTIONS = ("--num-points", "400", "--views", "4", "--image-size", "32")
COUNT = 36


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, by_clip) -> tuple[Path, Path]:
  """(folder of meshes, dataset), four of the meshes unusable."""
  folder = tmp_path_factory.mktemp("meshes")
  files = make_meshes(folder / "in" / "some where", COUNT)
  (folder / "in" / "cut.glb").write_bytes(files[0].read_bytes()[:200])
  (folder / "in" / "empty.obj").write_text("v 0 0 0\n")
  flat = "OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n"  # without area
  (folder / "in" / "flat.off").write_text(flat)
  name = os.fsdecode(b"latin\xe9.stl")  # no UTF-8
  (folder / "in" / name).write_bytes(files[4].read_bytes())
  (folder / "in" / "readme.txt").write_text("no mesh")
  with open(folder / "table.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["file", "name", "caption", "caption", "category", "split"])
    for index, path in enumerate(files):
      kind = path.stem.split("_")[0]
      split = "val" if index % 4 == 0 else "train"
      captions = ["a red shape", ""] if index % 3 == 0 else ["", ""]
      rows.writerow([path.name, f"small {kind}", *captions, kind, split])
    rows.writerow(["nothing.glb", "", "", "", "", ""])
  assert main(arguments(folder, by_clip, "out")) == 0
  return folder, folder / "out"


def arguments(folder: Path, by_clip: list[str], output: str) -> list[str]:
  return [
    *("meshes", str(folder / "in"), "--output", str(folder / output)),
    *("--texts", str(folder / "table.csv"), *by_clip, *OPTIONS),
  ]


def test_totals(prepared):
  folder, data = prepared
  report, rejects = report_of(data), rejects_of(data).values()
  assert {(r["file"], r["split"], r["field"]) for r in rejects} == {
    ("cut.glb", "train", "file"),
    ("empty.obj", "train", "file"),
    ("flat.off", "train", "xyz"),
    ("latin?.stl", "train", "file"),
  }
  assert all(str(folder / "in" / r["file"]) in r["detail"] for r in rejects)
  counts = report["splits"]
  assert (counts["val"]["listed"], counts["val"]["converted"]) == (9, 9)
  assert (counts["train"]["listed"], counts["train"]["converted"]) == (31, 27)
  assert counts["train"]["refused"] == {"unusable mesh": 4}
  assert any("nothing.glb" in problem for problem in report["problems"])
  with Image.open(data / "thumbnails.png") as sheet:
    assert sheet.size[0] > 400


def test_records(prepared, teacher):
  folder, data = prepared
  meta = read_meta(data)
  assert meta.teacher == teacher.name and meta.embed_dim == teacher.embed_dim
  names = ["ball", "box", "capsule", "cone", "cylinder", "ring"]
  assert meta.class_names["val"] == names
  expected = prompt_features(teacher, names, read_templates())
  np.testing.assert_allclose(class_features(data, "val"), expected, atol=1e-6)
  records = {r["id"]: r for r in [*open_split(data, "train")]}
  id = "some where/ball_01.gltf"
  mesh = read_mesh(folder / "in" / id)
  xyz, rgb = sample_mesh(mesh, 400)
  record = records[id]
  assert_cloud(record, xyz)
  assert rgb is not None
  np.testing.assert_allclose(record["rgb"] / 255, rgb, atol=0.5 / 255 + 1e-6)
  views = render_views(mesh, views=4, image_size=32)
  found = teacher.image_features(list(views))
  np.testing.assert_allclose(record["image_feat"], found, atol=1e-3)
  assert record["texts"] == ["small ball"]
  expected = prompt_features(teacher, ["small ball"], read_templates())
  np.testing.assert_allclose(record["text_feat"], expected, atol=1e-3)
  assert record["label"] == 0
  captioned = records["some where/ring_03.ply"]
  assert captioned["texts"] == ["small ring", "a red shape"]
  assert captioned["text_kind"].tolist() == [TextKind.RAW, TextKind.BLIP]
  plain = teacher.text_features(["a red shape"])
  np.testing.assert_allclose(captioned["text_feat"][1:], plain, atol=1e-3)
  grey = records["some where/cone_10.stl"]  # the format has no colours
  assert (grey["rgb"] == 102).all()  # 0.4


def test_a_stop_between_the_stages(prepared, by_clip, monkeypatch, capsys):
  """What the workers drew is kept, and the end is the same, byte for byte."""
  folder, data = prepared

  stop = mock.Mock(side_effect=KeyboardInterrupt)
  monkeypatch.setattr(add_features, "ShardWriter", stop)
  again = arguments(folder, by_clip, "again")
  assert main(again) == 130
  drafts = folder / "again.incomplete" / "drafts"
  times = {p: p.stat().st_mtime_ns for p in drafts.glob("*.array_record")}
  assert times
  # Another job does not go on with it.
  assert main([*again, "--seed=1"]) == 2
  said = "begun with other settings or input (meshes)"
  assert said in capsys.readouterr().err
  monkeypatch.undo()
  assert main(again) == 0
  assert contents(folder / "again") == contents(data)
  assert not drafts.exists()


@pytest.mark.slow
def test_kills(prepared, by_clip):
  """SIGKILL of the whole command, once in each stage."""
  folder, data = prepared
  work = folder / "killed.incomplete"
  command = [sys.executable, "-m", "mrd_jax.prepare"]
  command += arguments(folder, by_clip, "killed")
  for sign in ("drafts/*.done", "shards/*.tmp-*", None):
    process = runs.start(command, devices=8)
    while process.poll() is None:
      if sign and any(work.glob(sign)):
        process.kill()
        break
      time.sleep(0.002)
    runs.finish(process, expect=-9 if sign else 0)
  assert contents(folder / "killed") == contents(data)


@pytest.mark.slow
@pytest.mark.long
def test_training_on_the_result(prepared, tmp_path):
  _, data = prepared
  options = ("train.steps=6", "train.batch_size=8", "eval.batch_size=8")
  flags = [f"--config.{option}" for option in options]
  runs.run(runs.command(data, tmp_path / "run", *flags))
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  assert results["step"] == 6


def test_a_share_for_validation():
  files = [f"shape_{i:03d}.glb" for i in range(1000)]

  def splits(share, **known):
    row = meshes.Row(**known)
    return [meshes._divided(file, row, share).split for file in files]

  tenth = splits(0.1)
  assert set(tenth) == {"train", "val"} and 70 < tenth.count("val") < 130
  assert set(splits(0.0)) == {"train"}
  assert set(splits(0.999, split="mine")) == {"mine"}
  files.reverse()
  assert splits(0.1) == tenth[::-1]


def test_names():
  names = {
    "chairs/OfficeChair_03.glb": "office chair",
    "8476c4170df24cf5bbe6967222d1a42d.glb": "",
    "0001.obj": "",
    "a/b/Grüner-Tisch 2.ply": "grüner tisch",
    "USB plug.off": "usb plug",
  }
  assert {file: meshes.name_of(file) for file in names} == names


def test_names_that_many_shapes_share(tmp_path, by_clip):
  """No text, said once; notes are counted, links followed, textures read."""
  case = REPOSITORY / "tests" / "cases" / "meshes" / "m01_shapenet_v2"
  folder, output = tmp_path / "in", tmp_path / "out"
  for name in ("1", "2", "3", "4"):
    shutil.copytree(case / "02691156" / "abc123", folder / "a" / name)
  (folder / "b").symlink_to(case)
  shutil.copytree(case, folder / "c", ignore=lambda *_: ["images"])
  quad = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
  for name in ("d/export.obj", "e/Export.obj", "e/red_chair.obj", "scene.obj"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(quad)
  table = tmp_path / "table.csv"
  table.write_text("file,name\na/1/models/model_normalized.obj,plane\n")
  flags = ["--output", str(output), "--texts", str(table), *by_clip, *OPTIONS]
  assert main(["meshes", str(folder), *flags]) == 0
  records = {r["id"]: r for r in open_split(output, "train")}
  texts = {id: r["texts"] for id, r in records.items() if r["texts"]}
  assert texts == {
    "a/1/models/model_normalized.obj": ["plane"],
    "e/red_chair.obj": ["red chair"],
  }
  linked = records["b/02691156/abc123/models/model_normalized.obj"]
  red = np.abs(linked["rgb"] - np.array([220, 40, 30])).max(axis=1) < 6
  assert len(records) == 10 and red.all()
  shared, lost = report_of(output)["problems"]
  assert "--texts): 8 files, a/2/models/" in shared and shared.endswith(", ...")
  assert "textures" in lost and ": 1 file, c/02691156/" in lost


def test_unusable_input(tmp_path, clip):
  def convert(folder, **options):
    config = meshes.TeacherConfig(model=str(clip))
    meshes.convert(folder, tmp_path / "out", config, **options)

  with pytest.raises(BadInput, match="is not a folder"):
    convert(tmp_path / "absent")
  with pytest.raises(BadInput, match="holds no mesh"):
    convert(tmp_path)
  (tmp_path / "a.obj").write_text("nonsense")
  with pytest.raises(BadInput, match="none of 1 shapes.*a.obj"):
    convert(tmp_path)
  with pytest.raises(BadInput, match="model.safetensors"):
    (tmp_path / "empty").mkdir()
    teacher = meshes.TeacherConfig(model=str(tmp_path / "empty"))
    meshes.convert(tmp_path, tmp_path / "out", teacher)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.obj", "empty"]
