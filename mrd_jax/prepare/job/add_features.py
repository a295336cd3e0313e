"""Adds a teacher's features: drafts in, records out.

One process with all its devices, because a teacher is loaded and compiled
once and wants large batches: inside the workers each of them would hold its
own copy, and they could not share an accelerator.  What is left to do
afterwards, encoding and writing, takes milliseconds a shape, so it is done
here and not by the workers again (figures: `docs/benchmarks.md`).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mrd_jax.data.records import ImageKind, Shape, TextKind, encode
from mrd_jax.errors import BadInput
from mrd_jax.io.files import write_text
from mrd_jax.io.images import to_rgb
from mrd_jax.io.terminal import say
from mrd_jax.prepare.job import drafts, engine, shards
from mrd_jax.prepare.job.dataset_writer import Made
from mrd_jax.prepare.job.drafts import Draft, Text
from mrd_jax.prepare.job.shards import Commit, Reject, ShardWriter, field_of
from mrd_jax.prepare.job.teacher import Teacher
from mrd_jax.teachers.prompts import prompt_features

DRAFTS = "drafts"  # folder of the drafts in that of the job
_GROUP = 32  # shards of drafts that become one of records

Features = Mapping[tuple[str, bool], np.ndarray]  # (text, prompted) -> (D,)


def make_records(
  folder: Path,
  name: str,
  items: Sequence[engine.Item],
  teacher: Teacher,
  where: engine.Engine | None,
  **others: Any,
) -> Made:
  """Makes the drafts of all items, and records of them.

  Args:
    folder: The job's folder.
    name: What the items are: the beginning of their units' names.
    items: Their outcomes are drafts.
    teacher: Makes the features.
    where: Where the drafts are made.
    **others: Further fields of `Made`.
  """
  size = drafts.DRAFTS_PER_SHARD
  units = [
    engine.ListedUnit(f"{name}-{start:09d}", items[start : start + size])
    for start in range(0, len(items), size)
  ]
  stems = engine.run(units, folder / DRAFTS, drafts.serialize_draft, where)
  return Made(
    folder=folder / "shards",
    commits=teach(folder / DRAFTS, stems, folder / "shards", teacher),
    teacher=teacher.clip.name,
    embed_dim=teacher.clip.embed_dim,
    **others,
  )


def teach(
  source: Path, stems: Sequence[str], folder: Path, teacher: Teacher
) -> list[Commit]:
  """Makes records of drafts; what is in `folder` already is not made again.

  Args:
    source: Folder of the drafts' shards.
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
  # A model can change under its name while a job waits to go on.
  file = folder / "teacher"
  if not file.is_file():
    write_text(file, teacher.clip.fingerprint)
  elif file.read_text() != teacher.clip.fingerprint:
    raise BadInput(
      f"{folder}: was begun with other files of the model than "
      f"{teacher.clip.name}; bring those back to go on, or remove "
      f"{folder.parent} to start afresh"
    )
  width = teacher.clip.embed_dim
  serialize = functools.partial(shards.serialize_record, embed_dim=width)
  commits = []
  for start in tqdm(range(0, len(stems), _GROUP), unit="shard", disable=None):
    stem = f"{start // _GROUP:06d}"
    if not shards.is_committed(folder, stem):
      given = engine.read_commits(source, stems[start : start + _GROUP])
      with ShardWriter(folder, stem, serialize) as writer:
        _write_records(source, given, writer, teacher)
    commits.append(shards.read_commit(folder, stem))
  done = teacher.clip.throughput
  if done.images or done.texts:
    say(f"teacher: {done}", error=True)
  return commits


def _write_records(
  source: Path, given: Sequence[Commit], writer: ShardWriter, teacher: Teacher
) -> None:
  """Makes one shard of records."""
  loaded: list[Draft] = []
  for commit in given:
    writer.rejects += commit.rejects
    writer.problems += commit.problems
    writer.notes += commit.notes
    contents = shards.read_files(source, commit)
    loaded += [drafts.read_draft(content) for _, content in contents]
  try:
    features = _image_features(teacher, loaded)
  except BadInput:  # of one image, and it must not cost the others
    loaded = _readable(loaded, writer.rejects)
    features = _image_features(teacher, loaded)
  _add_captions(teacher, loaded)
  texts = _text_features(teacher, loaded)
  for draft, images_VD in zip(loaded, features, strict=True):
    try:
      record = encode(to_shape(draft, images_VD, texts))
    except BadInput as error:
      why = field_of(error), "bad value", str(error)
      writer.rejects.append(Reject(draft.split, draft.file, draft.id, *why))
    else:
      writer.add(draft.split, record)


def _image_features(
  teacher: Teacher, loaded: Sequence[Draft]
) -> list[np.ndarray]:
  """Returns for each draft its (V, D) features."""
  images = (image for draft in loaded for image in draft.images)
  features = teacher.clip.image_features(images)
  ends = np.cumsum([len(draft.images) for draft in loaded])
  return np.split(features, ends[:-1]) if loaded else []


def _readable(loaded: Sequence[Draft], rejects: list[Reject]) -> list[Draft]:
  """Keeps those whose images can all be read; the others become rejects."""

  def problem(draft: Draft) -> str | None:
    for view, image in enumerate(draft.images):
      try:
        to_rgb(image)
      except BadInput as error:
        return f"image {view}: {error}"
    return None

  with ThreadPoolExecutor() as pool:
    problems = list(pool.map(problem, loaded))
  why = "images", "unreadable image"
  for draft, detail in zip(loaded, problems, strict=True):
    if detail is not None:
      rejects.append(Reject(draft.split, draft.file, draft.id, *why, detail))
  return [d for d, p in zip(loaded, problems, strict=True) if p is None]


def _add_captions(teacher: Teacher, loaded: list[Draft]) -> None:
  """Adds a caption of the first image to the drafts that have none."""
  if teacher.captioner is None:
    return
  silent = [
    row
    for row, draft in enumerate(loaded)
    if draft.images and all(t.kind == TextKind.RAW for t in draft.texts)
  ]
  images = [np.asarray(to_rgb(loaded[row].images[0])) for row in silent]
  captions = teacher.captioner.caption(images) if silent else []
  for row, caption in zip(silent, captions, strict=True):
    if caption.strip():
      text = Text(caption.strip(), TextKind.BLIP, view=0)
      texts = [*loaded[row].texts, text]
      loaded[row] = dataclasses.replace(loaded[row], texts=texts)


def _text_features(teacher: Teacher, loaded: Sequence[Draft]) -> Features:
  """Embeds each different text once."""
  wanted = {(t.text, t.prompted): None for d in loaded for t in d.texts}
  plain = [text for text, prompted in wanted if not prompted]
  named = [text for text, prompted in wanted if prompted]
  rows = [*teacher.clip.text_features(plain)] if plain else []
  if named:
    rows += [*prompt_features(teacher.clip, named, teacher.templates)]
  keys = [(text, False) for text in plain] + [(text, True) for text in named]
  return dict(zip(keys, rows, strict=True))


def to_shape(draft: Draft, images_VD: np.ndarray, features: Features) -> Shape:
  """Joins a draft with its features; of texts about one view the best stays.

  That is the one whose feature has the largest cosine with the view's.
  """
  rows = [features[text.text, text.prompted] for text in draft.texts]
  best: dict[int, tuple[float, int]] = {}  # view -> (cosine, index)
  for index, text in enumerate(draft.texts):
    if text.view >= 0:
      score = float(rows[index] @ images_VD[text.view])
      if text.view not in best or score > best[text.view][0]:
        best[text.view] = score, index
  chosen = [
    index
    for index, text in enumerate(draft.texts)
    if text.view < 0 or best[text.view][1] == index
  ]
  width = images_VD.shape[1]
  return Shape(
    id=draft.id,
    xyz=draft.xyz,
    rgb=draft.rgb,
    image_feat=images_VD,
    image_kind=[ImageKind.VIEW] * len(images_VD),
    texts=[draft.texts[i].text for i in chosen],
    text_feat=np.array([rows[i] for i in chosen]).reshape(len(chosen), width),
    text_kind=[draft.texts[i].kind for i in chosen],
    dataset=draft.dataset,
    label=draft.label,
  )
