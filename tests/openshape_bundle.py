"""Hand-made bundles in OpenShape's layout, for the tests of `prepare`."""

import io
import json
import os
import tarfile

import numpy as np

DIM = 16
ABSOLUTE = "/mnt/data/objaverse-processed/merged_for_training_final"


def feature(rng, key="prompt_avg"):
  return {key: rng.normal(size=(1, DIM)).astype(np.float16)}


def make_sample(seed, dataset="Objaverse", points=40):
  rng = np.random.default_rng(seed)
  return {
    "dataset": dataset,
    "group": "000-000",
    "id": f"id{seed}",
    "xyz": rng.uniform(-1, 1, (points, 3)).astype(np.float16),
    "rgb": rng.uniform(0, 1, (points, 3)).astype(np.float16),
    "image_feat": rng.normal(size=(3, DIM)).astype(np.float16),
    "thumbnail_feat": rng.normal(size=DIM).astype(np.float16),
    "text": ["name", "tag"],
    "text_feat": [feature(rng) | feature(rng, "original") for _ in range(2)],
    "blip_caption": "a blip",
    "blip_caption_feat": feature(rng),
    "msft_caption": "",
    "msft_caption_feat": {"prompt_avg": np.zeros((1, DIM), np.float16)},
    "retrieval_text": ["like this", "like that"],
    "retrieval_text_feat": [feature(rng, "original") for _ in range(2)],
  }


def npy_bytes(value):
  file = io.BytesIO()
  np.save(file, np.array(value, object), allow_pickle=True)
  return file.getvalue()


def write_tar(path, files):
  """Writes {member: bytes}."""
  with tarfile.open(path, "w:gz", compresslevel=1) as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


def write_bundle(root, files, archive=False, absolute=False, **lists):
  """Writes {path: bytes}, and one list per keyword ([entry, ...])."""
  meta = root / "meta_data" / "split"
  meta.mkdir(parents=True, exist_ok=True)
  if archive:
    write_tar(root / "Objaverse.tar.gz", files)
  else:
    for path, content in files.items():
      (root / path).parent.mkdir(parents=True, exist_ok=True)
      (root / path).write_bytes(content)
  prefix = f"{ABSOLUTE}/" if absolute else ""
  for name, entries in lists.items():
    rows = [e | {"data_path": prefix + e["data_path"]} for e in entries]
    (meta / f"{name}.json").write_text(json.dumps(rows))
  return root


def simple_bundle(root, contents, **options):
  """A bundle whose list train_all names id0, id1, ... with these contents."""
  files = {f"Objaverse/a/id{i}.npy": c for i, c in enumerate(contents)}
  entries = [
    {"id": f"id{i}", "dataset": "Objaverse", "group": "a", "data_path": path}
    for i, path in enumerate(files)
  ]
  files = {path: c for path, c in files.items() if c is not None}
  return write_bundle(root, files, train_all=entries, **options)


class Attack:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f"touch {self.path}",)


def write_archives(root, contents):
  """A bundle of one archive a folder, {folder: [bytes of samples]}."""
  entries = []
  root.mkdir()
  for folder, samples in contents.items():
    ids = [f"{folder}-{i}" for i in range(len(samples))]
    paths = [f"{folder}/{id}.npy" for id in ids]
    write_tar(root / f"{folder}.tar.gz", dict(zip(paths, samples, strict=True)))
    entries += [
      {"id": id, "dataset": "Objaverse", "group": folder, "data_path": path}
      for id, path in zip(ids, paths, strict=True)
    ]
  return write_bundle(root, {}, absolute=True, train_all=entries)
