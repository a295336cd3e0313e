"""The teacher's stage: drafts in, records with features out.

One process with all its devices, because a teacher is loaded and compiled
once and wants large batches: inside the Beam workers each of them would hold
its own copy, and they could not share an accelerator.  What is left to do
afterwards, encoding and writing, takes milliseconds a shape, so it is done
here and there is no second Beam stage (figures: `docs/benchmarks.md`).
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mrd_jax.data.records import ImageKind, Shape, TextKind, encode
from mrd_jax.errors import BadInput
from mrd_jax.io.images import to_rgb
from mrd_jax.prepare.job import shards
from mrd_jax.prepare.job.drafts import Draft, Text, read_draft
from mrd_jax.prepare.job.shards import (
  Commit,
  Reject,
  ShardWriter,
  field_of,
  serialize_record,
)
from mrd_jax.prepare.job.teacher import Teacher
from mrd_jax.teachers.prompts import prompt_features

if TYPE_CHECKING:
  from mrd_jax.teachers.captions import Captioner
  from mrd_jax.teachers.clip import ClipTeacher

_GROUP = 32  # shards of drafts that become one of records


def teach(
  drafts: Path,
  stems: Sequence[str],
  folder: Path,
  teacher: Teacher,
) -> list[Commit]:
  """Makes records of drafts; what is in `folder` already is not made again.

  Args:
    drafts: Folder of the drafts' shards.
    stems: Their commits, in order.
    folder: Where the records' shards go.
    teacher: Makes the features; its captioner, if any, describes the first
      image of every shape that has no caption.

  Returns:
    All commits, in order.  The rejects of the drafts are among theirs.

  Raises:
    BadInput: when what is in `folder` is by another teacher, or this one's
      features are not finite.
  """
  folder.mkdir(exist_ok=True)
  shards.remove_temporaries(folder)
  _check_same_teacher(folder, teacher.clip)
  groups = [stems[i : i + _GROUP] for i in range(0, len(stems), _GROUP)]
  commits = []
  for index, group in enumerate(tqdm(groups, unit="shard", disable=None)):
    stem = f"{index:06d}"
    if not shards.is_committed(folder, stem):
      _make(drafts, group, folder, stem, teacher)
    commits.append(shards.read_commit(folder, stem))
  done = teacher.clip.throughput
  if done.images or done.texts:
    print(f"teacher: {done}", file=sys.stderr)
  return commits


def _check_same_teacher(folder: Path, clip: "ClipTeacher") -> None:
  """A model can change under its name while a job waits to go on."""
  file = folder / "teacher"
  if not file.is_file():
    shards.write_text(file, clip.fingerprint)
  elif file.read_text() != clip.fingerprint:
    raise BadInput(
      f"{folder}: was begun with other files of the model than {clip.name}; "
      f"bring those back to go on, or remove {folder.parent} to start afresh"
    )


def _make(
  drafts: Path,
  group: Sequence[str],
  folder: Path,
  stem: str,
  teacher: Teacher,
) -> None:
  """Makes one shard of records."""
  clip, captioner = teacher.clip, teacher.captioner
  serialize = functools.partial(serialize_record, embed_dim=clip.embed_dim)
  with ShardWriter(folder, stem, serialize) as writer:
    loaded: list[tuple[str, Draft]] = []
    for commit in (shards.read_commit(drafts, name) for name in group):
      writer.rejects += commit.rejects
      writer.problems += commit.problems
      files = shards.read_files(drafts, commit)
      loaded += [(split, read_draft(content)) for split, content in files]
    try:
      features = _image_features(clip, loaded)
    except BadInput:  # of one image, and it must not cost the others
      loaded = _readable(loaded, writer.rejects)
      features = _image_features(clip, loaded)
    if captioner is not None:
      loaded = _captioned(loaded, captioner)
    texts = _text_features(clip, [d for _, d in loaded], teacher.templates)
    for (split, draft), images in zip(loaded, features, strict=True):
      try:
        record = encode(_shape(draft, images, texts))
      except BadInput as error:
        why = field_of(error), "bad value", str(error)
        writer.rejects.append(Reject(split, draft.file, draft.id, *why))
      else:
        writer.add(split, record)
    writer.commit()


def _image_features(
  teacher: "ClipTeacher", loaded: Sequence[tuple[str, Draft]]
) -> list[np.ndarray]:
  """For each draft its (V, D) features."""
  images = (image for _, draft in loaded for image in draft.images)
  features = teacher.image_features(images)
  ends = np.cumsum([len(draft.images) for _, draft in loaded])
  return np.split(features, ends[:-1]) if loaded else []


def _readable(
  loaded: Sequence[tuple[str, Draft]], rejects: list[Reject]
) -> list[tuple[str, Draft]]:
  """Those whose images can all be read; the others become rejects."""

  def problem(draft: Draft) -> str | None:
    for view, image in enumerate(draft.images):
      try:
        to_rgb(image)
      except BadInput as error:
        return f"image {view}: {error}"
    return None

  with ThreadPoolExecutor() as pool:
    problems = list(pool.map(problem, [draft for _, draft in loaded]))
  kept = []
  for (split, draft), detail in zip(loaded, problems, strict=True):
    if detail is None:
      kept.append((split, draft))
    else:
      why = "images", "unreadable image", detail
      rejects.append(Reject(split, draft.file, draft.id, *why))
  return kept


def _captioned(
  loaded: Sequence[tuple[str, Draft]], captioner: "Captioner"
) -> list[tuple[str, Draft]]:
  """Adds a caption of the first image to the drafts that have none."""
  silent = [
    row
    for row, (_, draft) in enumerate(loaded)
    if draft.images and all(t.kind == TextKind.RAW for t in draft.texts)
  ]
  images = [np.asarray(to_rgb(loaded[row][1].images[0])) for row in silent]
  captions = captioner.caption(images) if silent else []
  found = list(loaded)
  for row, caption in zip(silent, captions, strict=True):
    split, draft = loaded[row]
    if caption.strip():
      text = Text(caption.strip(), TextKind.BLIP, view=0)
      draft = dataclasses.replace(draft, texts=[*draft.texts, text])
    found[row] = split, draft
  return found


def _text_features(
  teacher: "ClipTeacher", drafts: Sequence[Draft], templates: Sequence[str]
) -> dict[tuple[str, bool], np.ndarray]:
  """(text, prompted) -> (D,) feature, each different text embedded once."""
  wanted = {(t.text, t.prompted): None for d in drafts for t in d.texts}
  plain = [text for text, prompted in wanted if not prompted]
  named = [text for text, prompted in wanted if prompted]
  found: dict[tuple[str, bool], np.ndarray] = {}
  if plain:
    rows = teacher.text_features(plain)
    found |= {(t, False): row for t, row in zip(plain, rows, strict=True)}
  if named:
    rows = prompt_features(teacher, named, templates)
    found |= {(t, True): row for t, row in zip(named, rows, strict=True)}
  return found


def _shape(
  draft: Draft,
  images: np.ndarray,
  texts: Mapping[tuple[str, bool], np.ndarray],
) -> Shape:
  """The draft with its features; of texts about one view the best is kept."""
  rows = [texts[text.text, text.prompted] for text in draft.texts]
  best: dict[int, tuple[float, int]] = {}  # view -> (cosine, index)
  for index, text in enumerate(draft.texts):
    if text.view >= 0:
      score = float(rows[index] @ images[text.view])
      if text.view not in best or score > best[text.view][0]:
        best[text.view] = score, index
  chosen = [
    index
    for index, text in enumerate(draft.texts)
    if text.view < 0 or best[text.view][1] == index
  ]
  return Shape(
    id=draft.id,
    xyz=draft.xyz,
    rgb=draft.rgb,
    image_feat=images,
    image_kind=[ImageKind.VIEW] * len(images),
    texts=[draft.texts[i].text for i in chosen],
    text_feat=np.array([rows[i] for i in chosen]).reshape(
      len(chosen), images.shape[1]
    ),
    text_kind=[draft.texts[i].kind for i in chosen],
    dataset=draft.dataset,
    label=draft.label,
  )
