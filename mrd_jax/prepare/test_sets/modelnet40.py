"""Reads ModelNet40 in its three usual forms.

All have y up, other than the meshes of the original release: PointNet's
augmentation of the .h5 files turns them "along up direction" about y, KPConv's
`orient_correction` of the .txt files swaps y and z to get z up, and
OpenShape's configuration (`modelnet40: y_up: True`) swaps them for its .npy.
So nothing is turned here.
"""

import collections
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from mrd_jax.data.records import Shape
from mrd_jax.errors import BadInput
from mrd_jax.io.files import read_json
from mrd_jax.io.safe_pickle import load_npy
from mrd_jax.prepare.job.shards import Reject
from mrd_jax.prepare.openshape import lists
from mrd_jax.prepare.openshape.sample import BadField
from mrd_jax.prepare.test_sets import common
from mrd_jax.prepare.test_sets.common import EvaluationSet, Part

_PUBLISHED = {
  40: {"train": 9843, "test": 2468},
  10: {"train": 3991, "test": 908},
}


def read_hdf5(
  folder: str | os.PathLike[str], part: Part, embed_dim: int
) -> EvaluationSet:
  """Reads `modelnet40_ply_hdf5_2048`: 2,048 points a shape, no colours.

  Args:
    folder: Holds `shape_names.txt`, `{part}_files.txt` and the
      `ply_data_{part}N.h5` that the latter names (by the end of its paths).
    part: "train" or "test".
    embed_dim: Width D of the (0, D) features.

  Returns:
    Ids are the names in `ply_data_{part}_N_id2file.json`, such as
    "airplane_0627", or "hdf5-test-00012" where that file is missing.
    Underscores in class names become spaces, as in ULIP's labels.

  Raises:
    BadInput: naming the file that is missing, damaged or has wrong labels.
  """
  common.check_part(part)
  root = Path(folder)
  classes = _lines(root / "shape_names.txt")
  entries: list[lists.Entry] = []
  problems: list[str] = []
  for line in _lines(root / f"{part}_files.txt"):
    file = root / PurePosixPath(line).name
    labels = common.h5_labels(file, len(classes)).tolist()
    first = len(entries)
    ids = [f"hdf5-{part}-{first + row:05d}" for row in range(len(labels))]
    number = file.stem.removeprefix(f"ply_data_{part}")
    names = root / f"ply_data_{part}_{number}_id2file.json"
    if names.is_file():
      ids = _ids(names, [classes[label] for label in labels], problems)
    entries += [
      lists.Entry(id=id, path=str(file), dataset="ModelNet40", label=label)
      for id, label in zip(ids, labels, strict=True)
    ]
  count = len(entries)
  problems += common.count_problems(root, count, _PUBLISHED[40][part])
  return EvaluationSet(
    name=f"modelnet40_hdf5_{part}",
    class_names=_spaced(classes),
    count=count,
    shapes=functools.partial(common.read_h5, entries, embed_dim),
    problems=tuple(problems),
  )


def _ids(
  path: Path, classes: Sequence[str], problems: list[str]
) -> Sequence[str]:
  """Reads names, such as airplane_0627 of airplane/airplane_0627.ply."""
  names = read_json(path)
  if not isinstance(names, list) or len(names) != len(classes):
    raise BadInput(
      f"{path}: must be a list of the {len(classes)} names of its .h5 file; "
      "fetch it again, or remove it to number the shapes instead"
    )
  paths = [PurePosixPath(str(name)) for name in names]
  pairs = zip(paths, classes, strict=True)
  wrong = [pair for pair in pairs if pair[0].parent.name not in ("", pair[1])]
  if wrong:
    problems.append(
      f"{path}: {len(wrong)} of {len(paths)} names contradict the labels, "
      f"first {wrong[0][0]} with label {wrong[0][1]!r}; the labels are used"
    )
  return [path.stem for path in paths]


def read_txt(
  folder: str | os.PathLike[str],
  part: Part,
  embed_dim: int,
  classes: Literal[10, 40],
) -> EvaluationSet:
  """Reads `modelnet40_normal_resampled`: 10,000 points a shape, no colours.

  Args:
    folder: Holds, with C = `classes`, `modelnetC_shape_names.txt`,
      `modelnetC_{part}.txt` and `CLASS/CLASS_0001.txt`, whose rows are x, y, z
      and perhaps a normal, between commas.  Normals are not used.
    part: "train" or "test".
    embed_dim: Width D of the (0, D) features.
    classes: 40, or 10 for ModelNet10, which lies in the same folder.

  Returns:
    Ids such as "airplane_0627".  Underscores in class names become spaces.

  Raises:
    BadInput: naming the list that is missing or unusable.  A shape's own file
      that is missing or damaged is a `Reject`.
  """
  common.check_part(part)
  if classes not in _PUBLISHED:
    raise BadInput(f"classes: {classes} is neither 40 nor 10")
  root = Path(folder)
  names = _lines(root / f"modelnet{classes}_shape_names.txt")
  listed = root / f"modelnet{classes}_{part}.txt"
  ids = _lines(listed)
  return EvaluationSet(
    name=f"modelnet{classes}_txt_{part}",
    class_names=_spaced(names),
    count=len(ids),
    shapes=functools.partial(
      _read_txt, root, f"ModelNet{classes}", names, ids, embed_dim
    ),
    problems=common.count_problems(listed, len(ids), _PUBLISHED[classes][part]),
  )


def _read_txt(
  root: Path,
  dataset: str,
  classes: Sequence[str],
  ids: Sequence[str],
  embed_dim: int,
) -> Iterator[Shape | Reject]:
  for name in ids:
    stem = PurePosixPath(name).name  # a list must not point out of its folder
    category = stem.rpartition("_")[0]
    file = root / category / f"{stem}.txt"
    label = classes.index(category) if category in classes else -1
    entry = lists.Entry(id=name, path=str(file), dataset=dataset, label=label)
    if label < 0:
      bad = BadField("category", "bad value", f"no class {category!r}")
      yield common.to_shape(bad, embed_dim, entry)
      continue
    try:
      text = file.read_text().strip()
      if not text:
        raise ValueError("the file is empty")  # where numpy would only warn
      points = np.loadtxt(
        text.splitlines(), np.float32, comments=None, delimiter=",", ndmin=2
      )
      # x, y, z and a normal; any other width is for `to_shape` to refuse.
      cloud = {"xyz": points[:, :3] if points.shape[1] == 6 else points}
    except OSError as error:
      cloud = BadField("xyz", "missing file", f"{file} {error.strerror}")
    except ValueError as error:
      cloud = BadField("xyz", "unreadable file", str(error))
    yield common.to_shape(cloud, embed_dim, entry)


def read_openshape(
  root: str | os.PathLike[str], embed_dim: int
) -> EvaluationSet:
  """Reads OpenShape's test set: 10,000 points and colour 100/255 a shape.

  `python -m mrd_jax.prepare openshape --splits modelnet40` converts the same
  with OpenShape's own class features; this is for those of another teacher.

  Args:
    root: Holds `meta_data/modelnet40/` with `test_split.json`, `test_pc.npy`
      and `cat_name_pt_feat.npy`, which gives the order of the classes.
    embed_dim: Width D of the (0, D) features.

  Raises:
    BadInput: naming the file that is missing or unusable.
  """
  split = lists.read_splits(Path(root), [lists.MODELNET])[0]
  file, count = Path(root) / lists.MODELNET_CLOUDS, len(split.entries)
  return EvaluationSet(
    name="modelnet40_openshape_test",
    class_names=_spaced(split.class_names),
    count=count,
    shapes=functools.partial(read_clouds, file, split.entries, embed_dim),
    problems=common.count_problems(root, count, _PUBLISHED[40]["test"]),
  )


def read_clouds(
  file: Path, entries: Sequence[lists.Entry], embed_dim: int
) -> Iterator[Shape | Reject]:
  """Yields the first clouds of `test_pc.npy`, each with its entry."""
  clouds = load_npy(file)
  if not isinstance(clouds, np.ndarray) or clouds.ndim != 1:
    raise BadInput(f"{file}: expected an array of dicts")
  why = f"{file.name} holds only {len(clouds)} clouds"
  for i, entry in enumerate(entries):
    missing = BadField("xyz", "missing file", why)
    cloud = clouds[i] if i < len(clouds) else missing
    yield common.to_shape(cloud, embed_dim, entry)


def _lines(path: Path) -> list[str]:
  """Reads the lines of a list that are not blank; none may stand twice."""
  try:
    lines = [line.strip() for line in path.read_text().splitlines()]
  except (OSError, UnicodeDecodeError) as error:
    raise BadInput(
      f"{path}: cannot be read ({error}); name the folder into which the "
      "published archive was unpacked"
    ) from None
  lines = [line for line in lines if line]
  if not lines:
    raise BadInput(f"{path}: is empty; fetch it again")
  [(line, count)] = collections.Counter(lines).most_common(1)
  if count > 1:
    raise BadInput(
      f"{path}: names {line!r} {count} times; it is damaged, fetch it again"
    )
  return lines


def _spaced(names: Sequence[str]) -> tuple[str, ...]:
  return tuple(name.replace("_", " ") for name in names)
