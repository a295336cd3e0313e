"""Embeds clouds and meshes or a split, and writes the embeddings as .npz."""

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mrd_jax.data.records import record_cloud
from mrd_jax.data.shape_files import SUFFIXES, read_shape
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.xyz import may_have_points
from mrd_jax.io.files import naming, replacing, walk
from mrd_jax.io.notes import Note, count_notes
from mrd_jax.io.terminal import say
from mrd_jax.search.index import index_path

if TYPE_CHECKING:
  from mrd_jax.config.pretraining import UpAxis
  from mrd_jax.data.dataset import RecordSource
  from mrd_jax.encoder.encoder import Encoder

_NO_TABLE = "texts that are no table of points are left out"
_CHUNK = 4  # batches that are read before they are embedded


class ShapeFile(NamedTuple):
  """A file, and the folder below which what it refers to may lie."""

  name: str
  root: Path


def find_files(
  inputs: Sequence[str], output: Path, notes: list[Note] | None = None
) -> list[ShapeFile]:
  """Finds the files that the arguments name, sorted, each of them once.

  Args:
    inputs: Files, folders (every file below whose suffix is known, but hidden
      ones, and texts that are no table of points) or glob patterns (** is any
      depth).
    output: Left out, as an .npz of an earlier run.
    notes: The texts that are left out are appended.

  Raises:
    BadInput: naming the argument that matches no file.
  """
  found = {}
  for given in inputs:
    name = os.path.expanduser(given)
    root = os.path.dirname(name)
    if os.path.isfile(name):
      names = [name]  # even if it reads as a pattern
    elif os.path.isdir(name):
      root = name
      names = []
      for path in walk(Path(name)):
        if path.suffix.lower() not in SUFFIXES:
          continue
        file = os.path.join(name, path.relative_to(name))
        if may_have_points(path):
          names.append(file)
        elif notes is not None:
          notes.append(Note(_NO_TABLE, "no row of three numbers", file))
    else:
      while glob.has_magic(root):
        root = os.path.dirname(root)
      names = glob.glob(name, recursive=True)
    files = {
      os.path.abspath(x): ShapeFile(x, Path(root))
      for x in names
      if os.path.isfile(x)
    }
    files.pop(os.path.abspath(output), None)
    if not files:
      raise BadInput(
        f"--input {given}: no such point cloud or mesh; name a file, a pattern, "
        f"or a folder with files of {', '.join(SUFFIXES)}"
      )
    found = files | found  # by the name that came first
  return sorted(found.values())


def embed_files(
  encoder: "Encoder",
  shapes: "Sequence[ShapeFile] | RecordSource",
  output: Path,
  *,
  notes: Sequence[Note] = (),
  checkpoint: str,
  split: tuple[str, str] | None = None,
  up: "UpAxis" = "y",
  columns: Sequence[str] | None = None,
  normalize: bool | None = None,
  batch_size: int = 32,
) -> tuple[int, int]:
  """Embeds shapes and writes the embeddings as one .npz.

  A shape that cannot be embedded goes to `rejects_path(output)`, at once, and
  the others are embedded all the same.  Both files of an earlier run are
  replaced, an index of it is removed; if every shape is rejected, there is no
  .npz.

  Args:
    encoder: The encoder.
    shapes: What to embed, files or the records of a split; a few
      batches are in memory at a time.
    notes: Of `find_files`; with those of reading, and of clouds with few
      different points, all are counted and said at the end.
    output: The .npz: `files` (N,) str, of a split the ids; `embeddings` (N, D)
      float32 of unit length; `source`, JSON of what the embeddings were made
      with; and of a split `records`, (N,) int64 rows in it.
    checkpoint: The name of the encoder, for `source`.
    split: The dataset and the split that records are of, for `source`.
    up: The axis of the shapes that is up.
    columns: Of clouds, as in `read_cloud`.
    normalize: Whether clouds are centred and scaled; None does as the
      encoder's protocol says.
    batch_size: Clouds at a time.

  Returns:
    How many shapes were embedded, and how many rejected.
  """
  # Brings JAX.
  from mrd_jax.encoder.input import TOO_FEW, few_points

  count = len(shapes)
  notes = list(notes)
  rejects = rejects_path(output)
  rejects.unlink(missing_ok=True)
  names: list[str] = []
  rows: list[int] = []
  embeddings = np.zeros((0, 0), np.float32)
  with tqdm(total=count, unit="shape", disable=None) as progress:
    for start in range(0, count, _CHUNK * batch_size):
      clouds = []
      for row in range(start, min(start + _CHUNK * batch_size, count)):
        name = str(row)
        try:
          shape = shapes[row]
          if isinstance(shape, ShapeFile):
            name = shape.name
            cloud, axis = read_shape(
              name, up=up, root=shape.root, columns=columns, notes=notes
            )
          else:
            name = shape["id"]
            cloud, axis = record_cloud(shape), up
          cloud = encoder.prepare(cloud, up=axis, normalize=normalize)
          if few_points(cloud):
            notes.append(Note(TOO_FEW, f"of {len(cloud)} points", name))
          clouds.append(cloud)
          names.append(name)
          rows.append(row)
        except BadInput as error:
          # Opened for each line, so that a kill loses none.
          with naming(rejects), rejects.open("a") as lines:
            reject = {"file": name, "reason": str(error)}
            lines.write(json.dumps(reject) + "\n")
          progress.update()
      if clouds:
        part = encoder.embed(clouds, batch_size=batch_size)
        if not embeddings.size:
          # Room for all: joining parts would need twice the memory.
          embeddings = np.zeros((count, part.shape[1]), np.float32)
        embeddings[len(rows) - len(part) : len(rows)] = part
        progress.update(len(clouds))
  for sentence in count_notes(notes):
    say(f"note: {sentence}", error=True)
  # An index of earlier embeddings goes before they do, never after.
  index_path(output).unlink(missing_ok=True)
  if rows:
    from mrd_jax.encoder.encoder import fingerprint  # brings JAX

    source = {
      "checkpoint": checkpoint,
      "step": encoder.config.step,
      "embedding_space": encoder.config.embedding_space,
      "weights": fingerprint(encoder),
      "up": up,
      "normalize": encoder.config.normalized
      if normalize is None
      else normalize,
    }
    arrays: dict[str, Any] = {
      "files": np.array(names),
      "embeddings": embeddings[: len(rows)],
    }
    if columns:
      source["columns"] = list(columns)
    if split:
      source |= {"data": split[0], "split": split[1]}
      arrays["records"] = np.array(rows, np.int64)
    arrays["source"] = np.array(json.dumps(source))
    with replacing(output) as temporary, temporary.open("wb") as file:
      np.savez(file, **arrays)
  else:
    output.unlink(missing_ok=True)
  return len(rows), count - len(rows)


def rejects_path(output: Path) -> Path:
  """Names the list of rejected files: embeddings.rejects.jsonl."""
  return output.with_suffix(".rejects.jsonl")
