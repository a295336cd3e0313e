"""Folders of runs and the data under them, for the tests of reports."""

import json

import numpy as np

from mrd_jax.data import dataset
from mrd_jax.encoder.embed_split import unit
from mrd_jax.io.files import write_json
from mrd_jax.prepare import procedural

DIM = 16
SHAPES = 60
TERMS = ("PP-II", "PP-TT", "PI-TI", "PI-IT", "PT-IT", "PT-TI")
EVIL = "</script><img src=x onerror=\"document.title='owned'\">&'"


def make_data(directory, shapes=SHAPES):
  procedural.generate(
    directory, train=1, val=shapes, num_points=300, num_views=1, embed_dim=DIM
  )
  return directory


def write_lines(workdir, lines):
  text = "".join(json.dumps({"time": 0.0} | line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)


def write_metrics(workdir, *, terms=TERMS, steps=80, seed=0):
  lines = []
  for step in range(1, steps + 1):
    values = {"loss": (9 + seed) / step, "contrast/image": 1 / step}
    values |= {"contrast/text": 2 / step, "intra": 0.5, "cross": 0.0}
    values |= {f"relation/{term}": 2 / step for term in terms}
    for i, term in enumerate(terms):
      values[f"weight/{term}"] = 0.5 + (-1) ** i * 0.001 * step
    lines.append({"step": step, "kind": "train"} | values)
    if step % 20 == 0:
      scores = {f"val/top{k}": k * step / 1000 for k in (1, 3, 5)}
      lines.append({"step": step, "kind": "eval"} | scores)
  write_lines(workdir, lines)


def change_embeddings(workdir, **changes):
  """Replaces arrays of the stored embeddings by others of their types."""
  path = workdir / "embeddings" / "val.npz"
  with np.load(path) as arrays:
    arrays = dict(arrays)
  for name, array in changes.items():
    arrays[name] = array.astype(arrays[name].dtype)
  np.savez(path, **arrays)


def make_run(workdir, data, *, seed=0, steps=80, **loss):
  """A finished run's folder, as training/set_up.py leaves it."""
  (workdir / "embeddings").mkdir(parents=True)
  write_json(
    workdir / "config.json",
    {
      "seed": seed,
      "data": {"dir": str(data), "made_from": EVIL},
      "loss": {"representation": "similarity", "intra": True} | loss,
      "eval": {"zero_shot": ["val"], "retrieval": ["val"]},
    },
  )
  write_metrics(workdir, steps=steps, seed=seed)
  metrics = {
    "top1": 0.08123 + 0.1 * seed,
    "class_mean": 0.5 - 0.1 * seed,
    "class_mean_top3": 0.6,
    "class_mean_top5": 0.7,
    "text_to_shape_r1": 0.25,
    "gap_p2p_i2i": 0.2 + 0.1 * seed,
  }
  write_json(
    workdir / "results.json",
    {
      "step": steps,
      "checkpoint": "best" if seed else "last",
      "selected_by": "val/top1" if seed else None,
      "chance_top1": {"val": 1 / 54},
      "metrics": {f"val/{name}": value for name, value in metrics.items()},
    },
  )
  records = list(dataset.open_split(data, "val"))
  label = np.array([record["label"] for record in records])
  rng = np.random.default_rng(seed)
  features = dataset.class_features(data, "val")[label]
  has_text = np.array([len(record["texts"]) > 0 for record in records])
  text = np.zeros_like(features)
  for i in np.flatnonzero(has_text).tolist():
    text[i] = records[i]["text_feat"][0]
  arrays = {
    "point": features + 0.3 * rng.normal(size=features.shape),
    "text": text,
    "image": np.stack([record["image_feat"][0] for record in records]),
  }
  arrays = {key: unit(x).astype(np.float32) for key, x in arrays.items()}
  arrays |= {"has_text": has_text, "label": label.astype(np.int32)}
  arrays["has_image"] = np.ones(len(records), bool)
  np.savez(workdir / "embeddings" / "val.npz", **arrays)
  return workdir
