"""Reads the lists of an OpenShape bundle: entries, labels, class features."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.prepare.safe_pickle import load_npy

DEFAULT_SPLITS = ("train", "val", "lvis", "modelnet40")
MODELNET = "modelnet40"
MODELNET_CLOUDS = "meta_data/modelnet40/test_pc.npy"
_LVIS_FEATURES = "meta_data/lvis_cat_name_pt_feat.npy"
_CLASS_KEY = "open_clip_text_feat"


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of a list; `label` -1 where it has no class."""

  id: str
  path: str
  dataset: str = ""
  group: str = ""
  label: int = -1


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
  class_names: Sequence[str] = ()
  class_features: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((0, 0), np.float32)
  )
  problems: Sequence[str] = ()


def read_splits(
  root: Path, wanted: Sequence[str] | None, limit: int | None
) -> list[Split]:
  """Reads the wanted lists, or all that exist of `DEFAULT_SPLITS`.

  Raises:
    BadInput: naming the list or feature file that is missing or unusable.
  """
  lists = _lists(root)
  if not lists:
    raise BadInput(
      f"{root}: holds no meta_data/split/*.json; give the folder into which "
      "OpenShape's meta_data.zip was unpacked"
    )
  if wanted is None:
    wanted = [name for name in DEFAULT_SPLITS if name in lists] or list(lists)
  unknown = [name for name in wanted if name not in lists]
  if unknown:
    raise BadInput(
      f"splits: {', '.join(unknown)} not in {root}; it has: "
      f"{', '.join(sorted(lists))}"
    )
  return [
    _modelnet(root, lists[name], limit)
    if name == MODELNET
    else _listed(root, name, lists, limit)
    for name in dict.fromkeys(wanted)
  ]


def read_json(path: Path) -> Any:
  """Returns the content of a JSON file, or raises BadInput naming it."""
  try:
    return json.loads(path.read_text())
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  except ValueError as error:
    raise BadInput(f"{path}: is not JSON ({error}); fetch it again") from error


def _lists(root: Path) -> dict[str, Path]:
  """Split name -> list file; `train_all.json` is the split "train"."""
  files = sorted((root / "meta_data" / "split").rglob("*.json"))
  lists = {f.stem if f.stem != "train_all" else "train": f for f in files}
  modelnet = root / "meta_data" / MODELNET / "test_split.json"
  return lists | ({MODELNET: modelnet} if modelnet.is_file() else {})


def _rows(path: Path) -> list[dict[str, Any]]:
  rows = read_json(path)
  if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
    raise BadInput(f"{path}: expected a list of objects")
  return rows


def _listed(
  root: Path, name: str, lists: Mapping[str, Path], limit: int | None
) -> Split:
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
    for row in rows[:limit]
  ]
  return Split(name, entries, names, features, problems)


def _lvis_features(path: Path, classes: int) -> np.ndarray:
  try:
    features = np.stack(
      [np.float32(np.ravel(row)) for row in load_npy(path, allow_torch=True)]
    )
  except (TypeError, ValueError) as error:
    if isinstance(error, BadInput):
      raise
    raise BadInput(
      f"{path}: expected one feature per category ({error})"
    ) from error
  if len(features) != classes:
    raise BadInput(
      f"{path}: {len(features)} rows for the {classes} categories of "
      "lvis.json; the two files are of different versions"
    )
  return features


def _modelnet(root: Path, path: Path, limit: int | None) -> Split:
  """Reads ModelNet40's list; its class order is that of its feature file."""
  file = path.with_name("cat_name_pt_feat.npy")
  classes = load_npy(file, allow_torch=True)
  try:
    features = np.stack(
      [np.float32(np.ravel(row[_CLASS_KEY])) for row in classes.values()]
    )
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise BadInput(
      f"{file}: expected class name -> {{{_CLASS_KEY!r}: (1, D)}} ({error!r})"
    ) from error
  label = {str(name): i for i, name in enumerate(classes)}
  entries = [
    Entry(
      id=str(row.get("name") or f"{MODELNET}_{i}"),
      path=MODELNET_CLOUDS,
      dataset="ModelNet40",
      label=label.get(str(row.get("category")), -1),
    )
    for i, row in enumerate(_rows(path)[:limit])
  ]
  return Split(MODELNET, entries, list(label), features)
