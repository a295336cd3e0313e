"""Readers of datasets, models, runs and tables, and small files for each."""

import dataclasses
import functools
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import clips
import jax
import jax.numpy as jnp
import labelled_sets
import numpy as np
import runs
from encoders import EMBED_DIM, TINY, TRAINED, make_encoder, random_variables
from fuzzing import Reader
from galleries import clustered, write_gallery
from openshape_bundle import make_sample, npy_bytes, simple_bundle, write_tar
from report_runs import make_data, make_run
from shapes import random_shape

from mrd_jax.checkpoint.save import Checkpoints
from mrd_jax.checkpoint.state import TrainState
from mrd_jax.data import dataset
from mrd_jax.data.captions import read_captions
from mrd_jax.data.description import describe
from mrd_jax.encoder import files as encoder_files
from mrd_jax.encoder.embed_split import read_embeddings
from mrd_jax.evaluate.results import read_rows, short_names
from mrd_jax.finetune import start
from mrd_jax.io import torch_file
from mrd_jax.io.archives import tar_members, unpack_zip
from mrd_jax.io.safe_pickle import load_npy
from mrd_jax.prepare import ulip2
from mrd_jax.prepare.job.dataset_writer import write_dataset
from mrd_jax.prepare.mesh.table import read_table
from mrd_jax.prepare.openshape import convert, lists
from mrd_jax.prepare.test_sets import modelnet40, scanobjectnn
from mrd_jax.report.page import write_page
from mrd_jax.report.run_folder import read_folder
from mrd_jax.search import index
from mrd_jax.search.gallery import open_gallery
from mrd_jax.search.nearest import nearest
from mrd_jax.teachers.prompts import read_templates
from mrd_jax.zoo import layouts, openshape


def _of(kind: str, name: str, make, read, **options: Any) -> Reader:
  """The reader of one file."""
  return Reader(
    kind,
    lambda folder: make(folder / name),
    lambda folder: read(folder / name),
    **options,
  )


# Pickles and archives.


def _torch_file(path: Path, new: bool) -> None:
  import torch

  state = openshape.to_state_dict(
    random_variables(TINY, EMBED_DIM), num_batches_tracked=7
  )
  content = {
    "state_dict": {
      f"module.{key}": torch.from_numpy(np.array(value))
      for key, value in state.items()
    },
    "logit_scale": {"module.logit_scale": torch.tensor(2.5)},
    "step": np.int64(3),
  }
  torch.save(content, path, _use_new_zipfile_serialization=new)


def _read_torch_file(path: Path) -> None:
  from mrd_jax.encoder import published

  state, scale = published.read_state(path)
  assert scale is None or np.isfinite(scale)
  assert all(np.asarray(x).dtype.kind in "biuf" for x in state.values())


def _published_file(path: Path, new: bool) -> None:
  """A trainer's file of another system, with all that such files hold."""
  import argparse

  import torch

  x = torch.arange(12.0).reshape(3, 4)
  content = {
    "base_model": {
      "module.a": x.half(),
      "module.b": x.t(),
      "module.c": torch.nn.Parameter(x[1:, ::2]),
      "module.d": x.bfloat16(),
      "module.e": x > 3,
      "logit_scale": torch.tensor(2.5),
    },
    "args": argparse.Namespace(npoints=8192, device=torch.device("cuda", 1)),
    "metrics": {"acc": np.float64(48.7), "all": np.arange(3), "s": x.shape},
    "optimizer": [{1, 2}, (3.5, None), x.dtype, x.to_sparse()],
  }
  torch.save(content, path, _use_new_zipfile_serialization=new)


def _read_published_file(path: Path) -> None:
  content = torch_file.read(path)
  state, scale = layouts.state_dict(content, str(path))
  assert scale is None or np.isfinite(scale)
  for tensor in state.values():
    array = np.asarray(tensor)
    assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
    assert array.dtype.kind in "biuf"


def _unpack(path: Path) -> None:
  unpack_zip(path, path.parent.with_name("unpacked"), lambda size: None)


def _zip(path: Path) -> None:
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("meta_data/a.json", "[1]" * 40)
    archive.writestr("b.txt", "some words")


def _read_tar(path: Path) -> None:
  for name, content in tar_members(path, lambda name: True, 2**20):
    assert isinstance(name, str) and len(content) <= 2**20


# Prepared datasets.


def _dataset(folder: Path) -> None:
  shapes = [random_shape(i, label=i % 2) for i in range(3)]
  splits = {"train": shapes, "val": shapes[:2]}
  classes = {"val": ["cat", "dog"]}
  features = {"val": random_shape().image_feat[:2]}
  write_dataset(folder, "test", splits, "t", classes, features)


def _read_dataset(folder: Path) -> None:
  meta, splits = describe(folder)
  for split in splits:
    for record in dataset.open_split(folder, split):
      n, views = len(record["xyz"]), len(record["image_feat"])
      assert record["xyz"].shape == record["rgb"].shape == (n, 3)
      assert record["image_feat"].shape == (views, meta.embed_dim)
      assert isinstance(record["id"], str) and record["label"].dtype == np.int32
  for split in meta.class_names:
    dataset.class_features(folder, split)


# Models and runs.


def _read_model(folder: Path) -> None:
  config, variables = encoder_files.read(folder)
  assert config.num_points > 0
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}


def _run(folder: Path) -> None:
  """As training leaves it, but for what nobody reads."""
  variables = random_variables(TINY, EMBED_DIM)
  config = runs.pretraining_config("nowhere")
  model = dataclasses.replace(config.model, **dataclasses.asdict(TINY))
  config = dataclasses.replace(config, model=model)
  (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
  (folder / "data.json").write_text(json.dumps(TRAINED["data"]))
  (folder / "results.json").write_text(json.dumps(TRAINED["results"]))
  state = TrainState(
    step=jnp.int32(7),
    params={"encoder": variables["params"], "logit_scale": jnp.float32(2.5)},
    batch_stats=variables["batch_stats"],
    opt_state={},
    average={},
  )
  checkpoints = Checkpoints(
    folder / "checkpoints", keep_latest=1, keep_best=0, best_metric=""
  )
  checkpoints.save(7, jax.tree.map(jnp.asarray, state), {"val/top1": 0.25})
  checkpoints.close()


def _read_run(folder: Path) -> None:
  config, variables = encoder_files.read_run(folder, "latest")
  assert config.step == 7 and config.embed_dim == EMBED_DIM
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}


def _report_run(folder: Path) -> None:
  make_run(folder, make_data(folder.with_name("data"), shapes=8), steps=20)


def _read_report_run(folder: Path) -> None:
  write_page([read_folder(folder)], folder.with_name("report.html"))


def _evaluation(folder: Path) -> None:
  suite = {"split": "val", "metrics": {"top1": 0.5, "class_mean": 0.25}}
  row = {"name": "m", "checkpoint": "runs/m", "step": 3, "rule": "best"}
  row |= {"selected_by": "val/top1", "suites": {"modelnet40": suite}}
  table = [{"name": "theirs", "metrics": {"top1": 84.4}}]
  values = {"kind": "evaluation", "rows": [row]}
  values["published"] = {"modelnet40": table}
  (folder / "results.json").write_text(json.dumps(values))


def _read_evaluation(folder: Path) -> None:
  short_names(["m"], read_rows(folder))
  _read_report_run(folder)


def _embeddings(path: Path) -> None:
  make_run(
    path.parent.with_name("run"), make_data(path.parent.with_name("data"), 8)
  )
  made = path.parent.with_name("run") / "embeddings" / "val.npz"
  path.write_bytes(made.read_bytes())


def _start(path: Path) -> None:
  values: dict[str, Any] = {
    "checkpoint": "runs/m",
    "which": "latest",
    "step": 7,
  }
  values |= {"source": "ours", "architecture": dataclasses.asdict(TINY)}
  values |= {"up_axis": "y", "colour_fill": 0.4}
  path.write_text(json.dumps(values))


def _read_clip(folder: Path) -> None:
  teacher = clips.load_teacher(folder)
  assert teacher.embed_dim == 24


# Galleries.


def _gallery(folder: Path) -> None:
  write_gallery(folder / "a.npz", clustered(200, 128)[0])
  smallest = index.SMALLEST
  index.SMALLEST = 4
  try:
    assert index.build_index(folder / "a.npz")
  finally:
    index.SMALLEST = smallest


def _search(folder: Path) -> None:
  gallery = open_gallery(folder / "a.npz")
  found = index.open_index(gallery)
  query = np.eye(1, gallery.width, dtype=np.float32)
  hits = nearest(gallery, query, ["shape"], top=1, index=found)
  assert np.isfinite(hits.score).all() and hits.rows.max() < len(gallery)


# What prepare reads.


def _outcomes(items: Iterable[Any]) -> None:
  for item in items:
    list(item())


def _bundle(folder: Path) -> None:
  simple_bundle(folder, [npy_bytes(make_sample(i, points=8)) for i in range(2)])


def _read_bundle(folder: Path) -> None:
  chosen = lists.read_splits(folder, None)
  for unit in convert._plan(folder, chosen, None):
    _outcomes(unit.items())


def _modelnet(folder: Path) -> None:
  clouds = labelled_sets.clouds(3)
  labelled_sets.write_openshape(
    folder, [{"xyz": cloud, "rgb": 99 + 0 * cloud} for cloud in clouds]
  )


def _scanobjectnn(path: Path) -> None:
  content = {"xyz": labelled_sets.clouds(3), "label": np.arange(3)}
  path.write_bytes(npy_bytes(content))


def _hdf5(folder: Path) -> None:
  labelled_sets.write_hdf5(folder)


def _txt(folder: Path) -> None:
  clouds = labelled_sets.clouds(2)
  labelled_sets.write_txt(
    folder, {"airplane_0001": clouds[0], "tv_stand_0002": clouds[1]}
  )


def _read_ulip2(path: Path) -> None:
  own = path.with_name("own")
  own.unlink(missing_ok=True)
  ulip2._write_captions({own: ["02-a.npy"]}, [path], 2, ["02-a.npy"])


def _text(words: str, path: Path) -> None:
  path.write_text(words)


_CAPTIONS = 'a1,a chair\nb2,"a ""red"" table, with legs"\nc3,\na1,again\n'
_TABLE = (
  "file,name,caption,caption,category,split\nchair.glb,chair,a chair,,x,val\n"
  'a/b.obj,"a b","it, too",more,y,train\n'
)
_SAID = {"02-a_r_000": ["a chair", "b"], "02-a_r_012_depth.png": "one"}
_FILES = ("chair.glb", "a/b.obj")

READERS = (
  _of(
    "pickle .npy",
    "a.npy",
    lambda path: path.write_bytes(npy_bytes(make_sample(0, points=8))),
    load_npy,
  ),
  *(
    _of(
      f".pt {form}",
      "a.pt",
      functools.partial(_torch_file, new=form == "zip"),
      _read_torch_file,
      needs="torch",
    )
    for form in ("zip", "old")
  ),
  *(
    _of(
      f"published .pt {form}",
      "a.pt",
      functools.partial(_published_file, new=form == "zip"),
      _read_published_file,
      needs="torch",
    )
    for form in ("zip", "old")
  ),
  _of("archive .zip", "a.zip", _zip, _unpack),
  _of(
    "archive .tar.gz",
    "a.tar.gz",
    lambda path: write_tar(path, {"a/b.npy": b"x" * 99, "c": b""}),
    _read_tar,
  ),
  Reader("dataset", _dataset, _read_dataset),
  Reader("dataset JSON", _dataset, _read_dataset, "*.json"),
  Reader(
    "model folder",
    lambda folder: make_encoder().save_pretrained(folder),
    _read_model,
    "[!R]*",
  ),
  Reader(
    "model JSON",
    lambda folder: make_encoder(**TRAINED).save_pretrained(folder),
    _read_model,
    "*.json",
  ),
  Reader("run JSON", _run, _read_run, "*.json"),
  Reader("checkpoint", _run, _read_run, "checkpoints/**/*"),
  Reader("report of a run", _report_run, _read_report_run, "*.json*"),
  Reader("report of an evaluation", _evaluation, _read_evaluation),
  _of("embeddings .npz", "val.npz", _embeddings, read_embeddings),
  _of(
    "start.json",
    "start.json",
    _start,
    lambda path: start.read(path.parent, "runs/m", "latest"),
  ),
  Reader("CLIP folder", clips.make_clip, _read_clip, needs="transformers"),
  Reader("CLIP JSON", clips.make_clip, _read_clip, "*.json", "transformers"),
  Reader("gallery and .faiss", _gallery, _search, needs="faiss"),
  Reader("OpenShape bundle", _bundle, _read_bundle),
  Reader("OpenShape lists", _bundle, _read_bundle, "*.json"),
  Reader(
    "OpenShape's ModelNet40",
    _modelnet,
    lambda folder: _outcomes(modelnet40.read_openshape(folder, 4).items()),
  ),
  _of(
    "OpenShape's ScanObjectNN",
    "a.npy",
    _scanobjectnn,
    lambda path: _outcomes(scanobjectnn.read_openshape(path, 4).items()),
  ),
  Reader(
    "ModelNet40 .h5",
    _hdf5,
    lambda folder: _outcomes(modelnet40.read_hdf5(folder, "test", 4).items()),
  ),
  Reader(
    "ModelNet40 .txt",
    _txt,
    lambda folder: _outcomes(
      modelnet40.read_txt(folder, "test", 4, 40).items()
    ),
  ),
  _of(
    "ULIP-2's captions",
    "captions.json",
    functools.partial(_text, json.dumps(_SAID)),
    _read_ulip2,
  ),
  _of(
    "Cap3D's captions",
    "a.csv",
    functools.partial(_text, _CAPTIONS),
    lambda path: read_captions(path, []),
  ),
  _of(
    "table of meshes",
    "a.csv",
    functools.partial(_text, _TABLE),
    lambda path: read_table(path, _FILES),
  ),
  _of(
    "templates",
    "a.json",
    functools.partial(_text, json.dumps({"a": ["a {}", "the {}."]})),
    read_templates,
  ),
)
