"""Reads ScanObjectNN as published (.h5), and OpenShape's .npy of it.

Both have y up: OpenShape's configuration (`scanobjectnn: y_up: True`) swaps y
and z on reading, OpenPoints declares `gravity_dim = 1` for the .h5 files, and
the authors' own augmentation turns about y (hkust-vgd/scanobjectnn, issue 33).
So nothing is turned here.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrd_jax.data.records import Shape
from mrd_jax.errors import BadInput
from mrd_jax.io.safe_pickle import load_npy
from mrd_jax.prepare.job.shards import Reject
from mrd_jax.prepare.openshape.lists import SCANOBJECTNN_CLASSES, Entry
from mrd_jax.prepare.test_sets import common
from mrd_jax.prepare.test_sets.common import EvaluationSet, Part

Variant = Literal["obj_bg", "obj_only", "pb_t50_rs"]

DATASET = "ScanObjectNN"
CLASS_NAMES = SCANOBJECTNN_CLASSES
# Folder, rest of the file name, and published number of clouds by part.
# main_split_nobg has augmented files too, but PB_T50_RS is with background.
_VARIANTS = {
  "obj_bg": ("main_split", "", {"train": 2309, "test": 581}),
  "obj_only": ("main_split_nobg", "", {"train": 2309, "test": 581}),
  "pb_t50_rs": (
    "main_split",
    "_augmentedrot_scale75",
    {"train": 11416, "test": 2882},
  ),
}
_OPENSHAPE_CLOUDS = 2890


def read(
  path: str | os.PathLike[str], variant: Variant, part: Part, embed_dim: int
) -> EvaluationSet:
  """Reads one variant and part of the published release.

  Args:
    path: The release's folder `h5_files`, a folder above or `main_split` in
      it; or one .h5 file.
    variant: "obj_bg" (objects as cropped, with background points), "obj_only"
      (background removed) or "pb_t50_rs" (the hardest: boxes moved by up to
      half their size, objects turned about the up axis and scaled).
    part: "train" or "test".
    embed_dim: Width D of the (0, D) features.

  Returns:
    Clouds of 2,048 points without colour, ids such as "obj_only-test-00012"
    (the row in the file).  The dataset `mask`, which marks background points,
    is not used.

  Raises:
    BadInput: naming the file, when it is missing, another one than was asked
      for, damaged, or its arrays or labels are wrong.
  """
  if variant not in _VARIANTS:
    raise BadInput(
      f"variant {variant!r} is unknown, must be one of {', '.join(_VARIANTS)}"
    )
  common.check_part(part)
  file = find(path, variant, part)
  labels = common.h5_labels(file, len(CLASS_NAMES))
  entries = [
    Entry(f"{variant}-{part}-{row:05d}", str(file), DATASET, label=label)
    for row, label in enumerate(labels.tolist())
  ]
  published = _VARIANTS[variant][2][part]
  return EvaluationSet(
    name=f"scanobjectnn_{variant}_{part}",
    class_names=CLASS_NAMES,
    count=len(labels),
    shapes=functools.partial(common.read_h5, entries, embed_dim),
    problems=common.count_problems(file, len(labels), published),
  )


def find(path: str | os.PathLike[str], variant: Variant, part: Part) -> Path:
  """Returns the published file of a variant and part; see `read`.

  A file that is given itself may have any name but that of another one.
  """
  root = Path(path)
  files = {
    (v, p): (folder, f"{prefix}_objectdataset{suffix}.h5")
    for v, (folder, suffix, _) in _VARIANTS.items()
    for p, prefix in (("train", "training"), ("test", "test"))
  }
  folder, name = files[variant, part]
  if root.is_file():
    folders, names = map(set, zip(*files.values(), strict=True))
    other_folder = root.parent.name in folders - {folder}
    if other_folder or root.name in names - {name}:
      raise BadInput(
        f"{root}: by its name this is not {variant} {part}, which is "
        f"{folder}/{name}; name that file, or the folder of the release"
      )
    return root
  near = [root / name] if root.name == folder else []
  for file in (*near, root / folder / name, root / "h5_files" / folder / name):
    if file.is_file():
      return file
  found = sorted(root.rglob(f"{folder}/{name}"))
  if len(found) != 1:
    what = f"{found[0]} and {found[1]} both are" if found else "holds no"
    raise BadInput(
      f"{root}: {what} {folder}/{name}; name the folder h5_files into which "
      "ScanObjectNN's h5_files.zip was unpacked"
    )
  return found[0]


def read_openshape(
  path: str | os.PathLike[str], embed_dim: int
) -> EvaluationSet:
  """Reads OpenShape's `meta_data/scanobjectnn/xyz_label.npy`.

  Its 2,890 clouds are as many as OBJ_ONLY has in both parts together.

  Args:
    path: The file, a dict of `xyz`, `label` and perhaps `rgb`.  Colours are on
      the scale 0 to 1, or 0 to 255 if any is above 1.
    embed_dim: Width D of the (0, D) features.

  Returns:
    Clouds with as many points as the file has, ids such as "openshape-00012"
    (the row in the file).

  Raises:
    BadInput: naming the file and the key, as for `read`; also where the
      pickle asks for more than arrays.
  """
  file = Path(path)
  _, labels = _load_openshape(file)
  return EvaluationSet(
    name="scanobjectnn_openshape",
    class_names=CLASS_NAMES,
    count=len(labels),
    shapes=functools.partial(_read_openshape, file, embed_dim),
    problems=common.count_problems(file, len(labels), _OPENSHAPE_CLOUDS),
  )


def _load_openshape(file: Path) -> tuple[dict[str, Any], np.ndarray]:
  """Returns the checked dict, `rgb` (if there) in 0..255, and the labels."""
  content = load_npy(file)
  arrays = content if isinstance(content, dict) else {}
  for key in ("xyz", "label"):
    if not isinstance(arrays.get(key), np.ndarray | list):
      raise BadInput(
        f"{file}: has no array {key!r}; it should be OpenShape's dict of xyz "
        "and label"
      )
  clouds = len(arrays["xyz"])
  if not clouds:
    raise BadInput(f"{file}: holds no clouds; fetch the file again")
  where = f"{file}: key 'label'"
  labels = common.check_labels(arrays["label"], clouds, len(CLASS_NAMES), where)
  if arrays.get("rgb") is None:
    return {"xyz": arrays["xyz"]}, labels
  try:
    rgb = [np.asarray(colours, np.float32) for colours in arrays["rgb"]]
    if len(rgb) != clouds:
      raise ValueError(f"{len(rgb)} rows for {clouds} clouds")
  except (TypeError, ValueError) as error:
    raise BadInput(
      f"{file}: key 'rgb' does not hold colours ({error}); fetch the file again"
    ) from None
  if not any((colours > 1).any() for colours in rgb):
    rgb = [colours * 255 for colours in rgb]
  return {"xyz": arrays["xyz"], "rgb": rgb}, labels


def _read_openshape(file: Path, embed_dim: int) -> Iterator[Shape | Reject]:
  arrays, labels = _load_openshape(file)
  for row, label in enumerate(labels.tolist()):
    entry = Entry(f"openshape-{row:05d}", str(file), DATASET, label=label)
    cloud = {key: values[row] for key, values in arrays.items()}
    yield common.to_shape(cloud, embed_dim, entry)
