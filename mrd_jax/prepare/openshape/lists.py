"""Reads the lists of an OpenShape bundle: entries, labels, class features."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json
from mrd_jax.io.safe_pickle import load_npy

DEFAULT_SPLITS = ("train", "val", "lvis", "modelnet40", "scanobjectnn")
MODELNET = "modelnet40"
MODELNET_CLOUDS = "meta_data/modelnet40/test_pc.npy"
SCANOBJECTNN = "scanobjectnn"
SCANOBJECTNN_CLOUDS = "meta_data/scanobjectnn/xyz_label.npy"
_LVIS_FEATURES = "meta_data/lvis_cat_name_pt_feat.npy"
_CLASS_FILE = "cat_name_pt_feat.npy"
_CLASS_KEY = "open_clip_text_feat"
# The order of the labels in the .h5 files, which is not alphabetical.
SCANOBJECTNN_CLASSES = (
  *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
  *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of a list; `label` -1 where it has no class."""

  id: str
  path: str
  dataset: str = ""
  group: str = ""
  label: int = -1
  named: bool = True  # whether its first text says what it is


@dataclasses.dataclass(frozen=True)
class Split:
  """One list.

  Attributes:
    name: Split name.
    entries: In the order of the list.
    class_names: In label order; empty for a split without labels.
    class_features: (C, D) float32 text features of `class_names`.
    problems: What the user should know about the list.
  """

  name: str
  entries: Sequence[Entry]
  class_names: Sequence[str]
  class_features: np.ndarray
  problems: Sequence[str] = ()


def read_splits(root: Path, wanted: Sequence[str] | None) -> list[Split]:
  """Reads the wanted lists, or all that exist of `DEFAULT_SPLITS`.

  Raises:
    BadInput: naming the list or feature file that is missing or unusable.
  """
  # `train_all.json` is the list of "train".
  files = sorted((root / "meta_data" / "split").rglob("*.json"))
  lists = {f.stem if f.stem != "train_all" else "train": f for f in files}
  modelnet = root / "meta_data" / MODELNET / "test_split.json"
  sets = {MODELNET: modelnet, SCANOBJECTNN: root / SCANOBJECTNN_CLOUDS}
  lists |= {name: file for name, file in sets.items() if file.is_file()}
  if not lists:
    raise BadInput(
      f"{root}: holds no meta_data/split/*.json; give the folder into which "
      "OpenShape's meta_data.zip was unpacked"
    )
  if wanted is None:
    wanted = [name for name in DEFAULT_SPLITS if name in lists] or list(lists)
  wanted = [name for name in wanted if name]
  if unknown := [name for name in wanted if name not in lists]:
    raise BadInput(
      f"splits: {', '.join(unknown)} not in {root}; it has: "
      f"{', '.join(sorted(lists))}"
    )
  special = {MODELNET: _modelnet, SCANOBJECTNN: _scanobjectnn}
  listed = functools.partial(_listed, root, lists)
  return [
    special[name](lists[name]) if name in special else listed(name)
    for name in dict.fromkeys(wanted)
  ]


def _rows(path: Path) -> list[dict[str, Any]]:
  rows = read_json(path)
  if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
    raise BadInput(f"{path}: expected a list of objects")
  for number, row in enumerate(rows):
    if not isinstance(row.get("category") or "", str):
      raise BadInput(
        f"{path}: row {number}: category {row['category']!r} is no text"
      )
  return rows


def _listed(root: Path, lists: Mapping[str, Path], name: str) -> Split:
  """Reads a list of files; labels come from the classes of lvis.json."""
  rows = _rows(lists[name])
  names: list[str] = []
  features = np.zeros((0, 0), np.float32)
  problems: list[str] = []
  used = {row["category"] for row in rows if row.get("category")}
  if used:
    lvis = rows
    if name != "lvis":
      lvis = _rows(lists["lvis"]) if "lvis" in lists else []
    names = sorted({row["category"] for row in lvis if row.get("category")})
    if used <= set(names):
      features = _lvis_features(root / _LVIS_FEATURES, len(names))
    else:
      problems = [
        f"{lists[name]}: categories that lvis.json lacks, for example "
        f"{min(used - set(names))!r}; the split is kept without labels"
      ]
      names = []
  label = {category: i for i, category in enumerate(names)}
  entries = [
    Entry(
      id=str(row.get("id") or row.get("uid") or ""),
      path=str(row.get("data_path") or ""),
      dataset=str(row.get("dataset") or ""),
      group=str(row.get("group") or ""),
      label=label.get(row.get("category") or "", -1),
    )
    for row in rows
  ]
  return Split(name, entries, names, features, problems)


def _lvis_features(path: Path, classes: int) -> np.ndarray:
  rows = load_npy(path)
  try:
    features = np.stack([np.float32(np.ravel(row)) for row in rows])
  except (TypeError, ValueError) as error:
    why = f"{path}: expected one feature per category ({error})"
    raise BadInput(why) from error
  if len(features) != classes:
    raise BadInput(
      f"{path}: {len(features)} rows for the {classes} categories of "
      "lvis.json; the two files are of different versions"
    )
  return features


def load_class_features(
  path: str | os.PathLike[str], wanted: Sequence[str] | None = None
) -> tuple[list[str], np.ndarray]:
  """Reads class features as OpenShape ships them (`cat_name_pt_feat.npy`).

  Args:
    path: A pickled dict, class name -> {"open_clip_text_feat": (1, D)}, of
      which no more than data is read (`io/safe_pickle.py`).
    wanted: Names in the order that is asked for; case does not count, nor
      whether they are joined by blanks or underscores.  None: all as they come.

  Returns:
    C names, and (C, D) float32 in their order.

  Raises:
    BadInput: naming the file, if it holds something else or lacks a class.
  """
  classes = load_npy(path)
  try:
    features = np.stack(
      [np.float32(np.ravel(row[_CLASS_KEY])) for row in classes.values()]
    )
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    raise BadInput(
      f"{path}: expected class name -> {{{_CLASS_KEY!r}: (1, D)}} ({error!r})"
    ) from error
  if not np.isfinite(features).all():
    raise BadInput(f"{path}: holds NaN or infinite features; fetch it again")
  names = [str(name) for name in classes]
  if wanted is None:
    return names, features
  row = {_plain(name): i for i, name in enumerate(names)}
  if missing := [name for name in wanted if _plain(name) not in row]:
    raise BadInput(
      f"{path}: lacks the class {missing[0]!r}; it has {', '.join(names)}"
    )
  return list(wanted), features[[row[_plain(name)] for name in wanted]]


def _plain(name: str) -> str:
  return name.replace("_", " ").lower()


def _modelnet(path: Path) -> Split:
  """Reads ModelNet40's list; its class order is that of its feature file."""
  names, features = load_class_features(path.with_name(_CLASS_FILE))
  label = {name: i for i, name in enumerate(names)}
  entries = [
    Entry(
      id=str(row.get("name") or f"{MODELNET}_{i}"),
      path=MODELNET_CLOUDS,
      dataset="ModelNet40",
      label=label.get(str(row.get("category")), -1),
    )
    for i, row in enumerate(_rows(path))
  ]
  return Split(MODELNET, entries, names, features)


def _scanobjectnn(path: Path) -> Split:
  """Reads ScanObjectNN's one file; its labels follow the published names."""
  names, features = load_class_features(
    path.with_name(_CLASS_FILE), SCANOBJECTNN_CLASSES
  )
  content = load_npy(path)
  try:
    count = len(content["xyz"])
  except (TypeError, KeyError, IndexError) as error:
    raise BadInput(f"{path}: expected a dict of xyz and label") from error
  entries = [
    Entry(f"{SCANOBJECTNN}_{i}", SCANOBJECTNN_CLOUDS) for i in range(count)
  ]
  return Split(SCANOBJECTNN, entries, names, features)
