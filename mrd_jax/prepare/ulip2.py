"""Makes records of ULIP-2's ShapeNet triplets.

Layout: https://huggingface.co/datasets/SFXX/ulip (ULIP-ShapeNet Triplets) and
ULIP's `data/dataset_3d.py`:

shapenet_pc/SYNSET-MODEL.npy                        (8192, 3) xyz, no colours
rendered_images/SYNSET-MODEL/SYNSET-MODEL_r_000.png ... every 12 degrees
taxonomy.json                                       synset -> names
train.txt, test.txt                                 file names of the clouds
*captions*.json                                     path of an image -> texts
"""

import collections
import dataclasses
import functools
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mrd_jax.data.records import TextKind
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.read import read_cloud
from mrd_jax.io.files import read_json, write_json
from mrd_jax.io.notes import Note
from mrd_jax.prepare.job import drafts
from mrd_jax.prepare.job.add_features import make_records
from mrd_jax.prepare.job.dataset_writer import Made
from mrd_jax.prepare.job.drafts import Draft, Text
from mrd_jax.prepare.job.engine import Engine, Outcome
from mrd_jax.prepare.job.job import Report, make_dataset
from mrd_jax.prepare.job.shards import Reject
from mrd_jax.prepare.job.teacher import TeacherConfig
from mrd_jax.prepare.openshape.sample import GREY

_CLOUDS = "shapenet_pc"
_RENDERS = ("rendered_images", "only_rgb_depth_images")


def convert(
  input_dir: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  teacher: TeacherConfig,
  *,
  captions_per_view: int = 1,
  limit: int | None = None,
  engine: Engine | None = None,
) -> Report:
  """Makes a dataset of the triplets.

  The split "train" holds train.txt and test.txt together, as ULIP pre-trains
  on; their categories are names, not labels.

  Args:
    input_dir: Folder with the files above, or one that holds that folder.
    output_dir: Folder to create.
    teacher: Makes the features.
    captions_per_view: How many of a view's captions the teacher reads; the
      one that fits the view best, by cosine, is kept.  BLIP-2 left ten a view,
      unordered, so 1 takes the first as it comes.
    limit: At most so many shapes.
    engine: Where clouds are read.

  Returns:
    The counts, also written to `output_dir`.

  Raises:
    BadInput: naming the file that is missing or unusable.
  """
  root = _root(Path(input_dir))
  taxonomy = root / "taxonomy.json"
  rows = read_json(taxonomy)
  try:
    names = {str(row["synsetId"]): str(row["name"]) for row in rows}
  except (TypeError, KeyError) as error:
    raise BadInput(
      f"{taxonomy}: expected a list of objects with synsetId and name"
    ) from error
  listed = _listed(root)
  files = listed[:limit]
  renders = next((root / r for r in _RENDERS if (root / r).is_dir()), None)
  if renders is None:
    raise BadInput(f"{root}: has none of the folders {', '.join(_RENDERS)}")
  captions = sorted(root.glob("*captions*.json"))
  if not captions:
    raise BadInput(
      f"{root}: holds no *captions*.json; fetch "
      "ULIP-shapenet_triplets_captions.json"
    )
  sources = [taxonomy, *captions]
  job = {
    "input": str(root),
    "files": {file.name: file.stat().st_size for file in sources},
    "shapes": len(files),
    "list": zlib.crc32("\n".join(files).encode()),
    "captions_per_view": captions_per_view,
    "teacher": teacher.description(),
  }

  def make(folder: Path) -> Made:
    loaded = teacher.load()
    (folder / "captions").mkdir(exist_ok=True)
    parts: dict[Path, list[str]] = {}  # file of captions -> a unit's shapes
    for start in range(0, len(files), drafts.DRAFTS_PER_SHARD):
      own = folder / "captions" / f"shapes-{start:09d}"
      parts[own] = files[start:][: drafts.DRAFTS_PER_SHARD]
    _write_captions(parts, captions, captions_per_view, listed)
    items = []
    for own, part in parts.items():
      draft = functools.partial(_draft, root / _CLOUDS, renders, own)
      for file in part:
        name = names.get(file.partition("-")[0], "")
        items.append(functools.partial(draft, file, name))
    no_classes = {"class_names": {}, "class_features": {}}
    return make_records(folder, "shapes", items, loaded, engine, **no_classes)

  return make_dataset(output_dir, job, "ulip2", {"train": len(files)}, make)


def _root(given: Path) -> Path:
  """Finds the folder that holds `shapenet_pc`: the given one, or one below."""
  found = [given, *sorted(path.parent for path in given.glob(f"*/{_CLOUDS}"))]
  for folder in found:
    if (folder / _CLOUDS).is_dir():
      return folder
  raise BadInput(
    f"{given}: holds no folder {_CLOUDS}; give the one into which "
    "ULIP_Shapenet_Triplets was unpacked"
  )


def _listed(root: Path) -> list[str]:
  """Reads the file names of the clouds in train.txt and test.txt."""
  files: list[str] = []
  for name in ("train.txt", "test.txt"):
    if (root / name).is_file():
      files += (root / name).read_text(errors="replace").split()
  if not files:
    raise BadInput(f"{root}: train.txt is missing or empty; fetch it again")
  return list(dict.fromkeys(files))  # some releases list test in train, too


def _write_captions(
  parts: Mapping[Path, Sequence[str]],
  files: Sequence[Path],
  per_view: int,
  listed: Sequence[str],
) -> None:
  """Writes the captions of each part of the shapes to a file.

  There are a gigabyte of them, of which no worker needs more than those of its
  shapes; what is part of an item goes to all.

  Args:
    parts: The files to write, and whose captions each is to hold.
    files: The release's files of captions.
    per_view: So many of a view are kept.
    listed: All shapes of the release.

  Raises:
    BadInput: naming the file, if it is of another form or other shapes.
  """
  missing = [own for own in parts if not own.is_file()]
  if not missing:
    return
  found: dict[str, dict[str, list[str]]] = collections.defaultdict(dict)
  for file in files:
    rows = read_json(file)
    if not isinstance(rows, Mapping):
      raise BadInput(f"{file}: expected path of an image -> captions")
    for path, texts in rows.items():
      key, separator, view = PurePosixPath(path).stem.partition("_r_")
      degree = view.partition("_")[0]
      texts = [texts] if isinstance(texts, str) else texts
      good = separator and re.fullmatch(r"\d{1,3}", degree)
      good = good and isinstance(texts, list)
      if not good or not all(isinstance(text, str) for text in texts):
        raise BadInput(
          f"{file}: {path!r} is not SYNSET-MODEL_r_DEGREES with a list of "
          "captions"
        )
      # Half of a surrogate pair, which JSON can hold, is no text.
      texts = [text.encode(errors="replace").decode() for text in texts]
      kept = [text.strip() for text in texts if text.strip()]
      found[key][f"{int(degree):03d}"] = kept[:per_view]
  if found.keys().isdisjoint(map(_key, listed)):
    raise BadInput(
      f"{files[0]}: holds captions of {min(found, default='nothing')} and none "
      f"of {_key(listed[0])} or any other shape of train.txt; fetch the file "
      "that belongs to them"
    )
  for own in missing:
    keys = map(_key, parts[own])
    write_json(own, {key: found[key] for key in keys if key in found})


def _key(file: str) -> str:
  """Returns SYNSET-MODEL, the name of a shape in all of the files."""
  return PurePosixPath(file).stem


def _draft(
  clouds: Path, renders: Path, captions: Path, file: str, name: str
) -> list[Outcome]:
  """Reads one shape; the teacher reads the images itself.

  Args:
    clouds: Folder of the clouds.
    renders: Folder of the renders.
    captions: JSON file, shape -> degree -> captions.
    file: Name of the cloud's file.
    name: What the shape is, or "".
  """
  key, path = _key(file), clouds / file

  def reject(field: str | None, reason: str, detail: str) -> list[Outcome]:
    return [Reject("train", file, key, field, reason, detail)]

  if PurePosixPath(file).name != file:
    detail = f"{file!r} in train.txt or test.txt is not the name of a file"
    return reject(None, "bad name", detail)
  notes: list[Note] = []
  try:
    xyz = read_cloud(path, notes=notes)[:, :3]
  except BadInput as error:
    missing = not path.is_file()
    reason = "missing file" if missing else "unreadable cloud"
    return reject("xyz", reason, str(error))
  with np.errstate(over="ignore"):  # becomes infinite, which is refused
    xyz = xyz.astype(np.float32)
  images: dict[str, Path] = {}  # by degrees
  for degree in (f"{d:03d}" for d in range(0, 360, 12)):
    image = f"{key}_r_{degree}.png"
    places = (renders / key / image, renders / image)
    if found := next((p for p in places if p.is_file()), None):
      images[degree] = found
  if not images:
    detail = f"{renders}: holds no render of {key}"
    return reject("images", "missing file", detail)
  texts = []
  if name := name.partition(",")[0].strip():
    texts.append(Text(name, TextKind.RAW, prompted=True))
  said = read_json(captions).get(key, {})  # by degrees
  for view, degree in enumerate(images):
    texts += [
      Text(caption, TextKind.BLIP, view=view)
      for caption in said.get(degree, ())
    ]
  draft = Draft(
    split="train",
    id=key,
    file=file,
    xyz=xyz,
    rgb=np.full_like(xyz, GREY),
    images=[str(image) for image in images.values()],
    texts=texts,
    dataset="ShapeNet",
  )
  lost = [dataclasses.replace(note, file=file) for note in notes]
  return [*lost, ("train", drafts.to_record(draft))]
