"""Makes records of a folder of meshes.

read -> sample the surface -> render views (workers, `job/drafts.py`) ->
features of views and texts (all accelerators, `job/add_features.py`) -> records.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from mrd_jax.data.records import TextKind
from mrd_jax.data.surfaces import sample_mesh
from mrd_jax.errors import BadInput
from mrd_jax.io.files import walk
from mrd_jax.io.images import encode_png, to_rgb
from mrd_jax.io.meshes.read import SUFFIXES, read_mesh
from mrd_jax.io.notes import Note, count_notes
from mrd_jax.prepare.job import drafts, shards
from mrd_jax.prepare.job.add_features import DRAFTS, make_records
from mrd_jax.prepare.job.dataset_writer import Made
from mrd_jax.prepare.job.engine import Engine, Outcome, read_commits
from mrd_jax.prepare.job.job import Report, make_dataset
from mrd_jax.prepare.job.teacher import TeacherConfig
from mrd_jax.prepare.mesh.renders import render_views
from mrd_jax.prepare.mesh.table import Row, read_table
from mrd_jax.prepare.openshape.sample import GREY

THUMBNAILS_FILE = "thumbnails.png"
_THUMBNAILS, _COLUMNS = 96, 8
_SHARED_NAME = (
  "no text from the name of a file that several shapes share, so name them in a "
  "table (--texts)"
)
# What ShapeNet, Objaverse, Google Scanned Objects and programs call any shape.
_OF_EXPORTS = {
  *("mesh", "model", "model_normalized", "object", "scene", "textured"),
  *("texturedmesh", "untitled"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """How a mesh becomes a cloud and pictures.

  Attributes:
    up: Axis that points up in formats that do not say ("y" or "z"); glTF is
      always y up.
    num_points: Points drawn from the surface.
    views: Pictures around it.
    image_size: Their side in pixels; a teacher resizes what does not fit.
    seed: Of the points.
    names_from_files: Whether a shape without a name in the table is named
      after its file.
    val_share: Share of the split "train" that becomes "val", by a hash of the
      file's path.
  """

  up: Literal["y", "z"] = "y"
  num_points: int = 10_000
  views: int = 12
  image_size: int = 224
  seed: int = 0
  names_from_files: bool = True
  val_share: float = 0.0


def convert(
  input_dir: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  teacher: TeacherConfig,
  *,
  texts: str | os.PathLike[str] | None = None,
  config: MeshConfig | None = None,
  engine: Engine | None = None,
) -> Report:
  """Makes a dataset of all meshes below a folder.

  Args:
    input_dir: Folder with files that `read_mesh` reads, at any depth; hidden
      ones are left out.
    output_dir: Folder to create.
    teacher: Makes the features.
    texts: A table with what is known of the meshes (`table.py`).
    config: How a mesh becomes a cloud and pictures.
    engine: Where meshes are read and rendered.

  Returns:
    The counts, also written to `output_dir`, with a sheet of thumbnails.

  Raises:
    BadInput: if there is no mesh, the table or the teacher cannot be used, or
      not one mesh could be converted.
  """
  root = Path(input_dir)
  config = config or MeshConfig()
  files = _find(root)
  table, problems = read_table(texts, files) if texts else ({}, [])
  rows = {
    file: _divided(file, table.get(file, Row()), config.val_share)
    for file in files
  }
  if config.names_from_files:
    shared = _shared_names(files)
    for file in [file for file in files if not rows[file].name]:
      if file not in shared:
        rows[file] = dataclasses.replace(rows[file], name=name_of(file))
    nameless = [
      file for file in files if file in shared and not rows[file].name
    ]
    problems += count_notes(
      Note(_SHARED_NAME, Path(file).name, file) for file in nameless
    )
  stats = {file: (root / file).stat() for file in files}
  classes = sorted({row.category for row in rows.values() if row.category})
  job = {
    "input": str(root),
    # By size and time a later run sees that a file was changed.
    "files": {file: [s.st_size, s.st_mtime_ns] for file, s in stats.items()},
    "texts": {file: dataclasses.asdict(rows[file]) for file in table},
    "meshes": dataclasses.asdict(config),
    "teacher": teacher.description(),
  }

  def make(folder: Path) -> Made:
    loaded = teacher.load()  # first, so that what is missing is said at once
    labelled = sorted({row.split for row in rows.values() if row.category})
    features = {split: loaded.class_features(classes) for split in labelled}
    draft = functools.partial(_draft, root, config, classes)
    return make_records(
      folder,
      "meshes",
      [functools.partial(draft, file, row) for file, row in rows.items()],
      loaded,
      engine,
      class_names=dict.fromkeys(labelled, classes),
      class_features=features,
      add_files=functools.partial(_write_sheet, folder / DRAFTS),
    )

  listed = collections.Counter(row.split for row in rows.values())
  return make_dataset(output_dir, job, "meshes", listed, make, problems)


def _divided(file: str, row: Row, val_share: float) -> Row:
  """Moves a share of the files of "train" to "val"."""
  digest = hashlib.sha256(os.fsencode(file)).digest()
  place = int.from_bytes(digest[:8]) / 2**64
  if row.split == "train" and place < val_share:
    return dataclasses.replace(row, split="val")
  return row


def _find(root: Path) -> list[str]:
  """Returns the paths below `root` of all meshes, sorted."""
  if not root.is_dir():
    raise BadInput(f"{root}: is not a folder; give the one that holds meshes")
  files = sorted(
    path.relative_to(root).as_posix()
    for path in walk(root)
    if path.suffix.lower() in SUFFIXES
  )
  if not files:
    raise BadInput(f"{root}: holds no mesh; known are {', '.join(SUFFIXES)}")
  return files


def _draft(
  root: Path, config: MeshConfig, classes: Sequence[str], file: str, row: Row
) -> list[Outcome]:
  """Reads, samples and renders one mesh."""
  path, field = root / file, "file"
  try:
    if _utf8(file) != file:
      raise BadInput("its name cannot be written as UTF-8; rename the file")
    mesh = read_mesh(path, up=config.up, root=root)
    field = "xyz"
    xyz, rgb = sample_mesh(mesh, config.num_points, seed=config.seed)
    field = "images"
    size = config.image_size
    views = render_views(mesh, views=config.views, image_size=size)
  except BadInput as error:
    detail = str(error)
    if not detail.startswith(str(path)):
      detail = f"{path}: {detail}"
    id, why = _utf8(file), _utf8(detail)
    return [shards.Reject(row.split, id, id, field, "unusable mesh", why)]
  texts = [drafts.Text(caption, TextKind.BLIP) for caption in row.captions]
  if name := row.name:
    texts.insert(0, drafts.Text(name, TextKind.RAW, prompted=True))
  draft = drafts.Draft(
    split=row.split,
    id=file,
    file=file,
    xyz=xyz,
    rgb=np.full_like(xyz, GREY) if rgb is None else rgb,
    images=[encode_png(view) for view in views],
    texts=texts,
    dataset=row.dataset,
    label=classes.index(row.category) if row.category else -1,
  )
  notes = [dataclasses.replace(note, file=file) for note in mesh.notes]
  return [*notes, (row.split, drafts.to_record(draft))]


def _shared_names(files: Sequence[str]) -> set[str]:
  """Finds files whose name says nothing of the shape: it stands in many folders.

  One that is usual for exports is such a name even of a single shape.
  """
  folders: dict[str, set[str]] = collections.defaultdict(set)
  for file in files:
    folders[Path(file).stem.lower()].add(os.path.dirname(file))
  return {
    file
    for file in files
    if (stem := Path(file).stem.lower()) in _OF_EXPORTS
    or len(folders[stem]) > 1
  }


def name_of(file: str) -> str:
  """Reads a file's name as words: "" for numbers and hashes.

  "chairs/OfficeChair_03.glb" is "office chair".
  """
  stem = Path(file).stem
  if re.fullmatch(r"[0-9a-fA-F-]{8,}", stem):  # a hash or UUID
    return ""
  spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
  words = re.findall(r"[^\W\d_]{2,}", spaced)
  return " ".join(words).lower()


def _utf8(text: str) -> str:
  """Replaces the bytes of a file's name that are not UTF-8."""
  return text.encode("utf-8", "replace").decode()


def _write_sheet(folder: Path, target: Path) -> None:
  """Draws the first view of shapes spread over the whole dataset."""
  from mrd_jax.draw.sheet import Line, Tile, draw_sheet, in_rows

  stems = sorted(path.stem for path in folder.glob("*.json"))
  commits = read_commits(folder, stems)
  total = sum(shard.records for commit in commits for shard in commit.shards)
  chosen = set(np.linspace(0, total - 1, min(total, _THUMBNAILS)).astype(int))
  files = (shards.read_files(folder, commit) for commit in commits)
  tiles = []
  for index, (_, content) in enumerate(itertools.chain.from_iterable(files)):
    if index in chosen:
      draft = drafts.read_draft(content)
      name = Line(draft.id, size=7, most=2, middle=True)
      tiles.append(Tile(np.asarray(to_rgb(draft.images[0])), [name]))
  draw_sheet(
    target / THUMBNAILS_FILE,
    f"{len(tiles)} of {total:,} shapes",
    ["their first views", "spread over the whole dataset"],
    in_rows(tiles, _COLUMNS),
    columns=_COLUMNS,
  )
