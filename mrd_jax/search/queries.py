"""Embeds queries: texts, images and shapes, in the space of the gallery."""

import re
from collections.abc import Collection, Sequence

import numpy as np

from mrd_jax.config.pretraining import UpAxis
from mrd_jax.data.shape_files import read_shape
from mrd_jax.encoder.encoder import Encoder, fingerprint
from mrd_jax.encoder.input import TOO_FEW, few_points
from mrd_jax.encoder.text_towers import TextTowers
from mrd_jax.errors import BadInput
from mrd_jax.io.notes import Note, count_notes
from mrd_jax.search.gallery import Gallery
from mrd_jax.search.nearest import Query
from mrd_jax.teachers.clip import ClipTeacher

_DIGEST = re.compile(r"\(sha256 (\w+)\)")


def check_gallery(
  gallery: Gallery, encoder: Encoder, checkpoint: str, kinds: Collection[str]
) -> list[str]:
  """Checks that the queries and the gallery are of one space.

  Args:
    gallery: What is searched in.
    encoder: That of the queries.
    checkpoint: Its name.
    kinds: What is asked with.  Texts and images may be asked of the gallery of
      any encoder that learnt from their teacher; shapes only of their own's.

  Returns:
    Sentences that the user should read.

  Raises:
    BadInput: if they are not of the same teacher, or not as wide.
  """
  ours = encoder.config.embedding_space
  theirs = gallery.source["embedding_space"]
  if theirs != ours:
    raise BadInput(
      f"{gallery.path}: the embeddings are in the space of {theirs!r}, those "
      f"of {checkpoint} in that of {ours!r}; embed the gallery with the same "
      "checkpoint"
    )
  width = encoder.config.dim
  if gallery.width != width:
    raise BadInput(
      f"{gallery.path}: the embeddings have width {gallery.width}, those of "
      f"{checkpoint} {width}; embed the gallery with the same checkpoint"
    )
  step, weights = gallery.source["step"], gallery.source["weights"]
  if step != encoder.config.step:
    return [
      f"{gallery.path} was embedded at step {step}, the checkpoint is of step "
      f"{encoder.config.step}: embed the gallery anew"
    ]
  of_weights = "shape" in kinds or encoder.config.system == "pointclip"
  of_what = "with --shape " if "shape" in kinds else ""
  if of_weights and weights != fingerprint(encoder):
    return [
      f"{gallery.path} was embedded with other weights, those of "
      f"{gallery.source['checkpoint']}: cosines {of_what}mean nothing; "
      "name that as --checkpoint, or embed the gallery anew"
    ]
  return []


def embed_queries(
  queries: Sequence[Query],
  encoder: Encoder,
  checkpoint: str,
  towers: TextTowers,
  *,
  up: UpAxis,
  normalize: bool,
  columns: Sequence[str] | None = None,
) -> tuple[np.ndarray, list[str]]:
  """Embeds queries: shapes by the encoder, texts and images by the teacher.

  Args:
    queries: Q of them.
    encoder: The encoder of the gallery.
    checkpoint: Its name.
    towers: The teacher's towers, which are loaded only if a query needs them.
    up: The axis of the shapes that is up.
    normalize: Whether shapes are centred and scaled, as in the gallery.
    columns: Of clouds, as in `read_cloud`.

  Returns:
    (Q, D) float32 of unit length, and sentences that the user should read.

  Raises:
    BadInput: naming the query that cannot be embedded, or the teacher.
  """
  width = encoder.config.dim
  found = np.zeros((len(queries), width), np.float32)
  places: dict[str, list[int]] = {"text": [], "shape": [], "image": []}
  for row, query in enumerate(queries):
    if not query.value.strip():
      raise BadInput(f"--{query.kind} is empty; say what to look for")
    places[query.kind].append(row)
  clouds: list[np.ndarray] = []
  lost: list[Note] = []
  for row in places["shape"]:
    name = queries[row].value
    cloud, axis = read_shape(name, up=up, columns=columns, notes=lost)
    try:
      clouds.append(encoder.prepare(cloud, up=axis, normalize=normalize))
    except BadInput as error:
      raise BadInput(f"{name}: {error}") from None
    if few_points(clouds[-1]):
      lost.append(Note(TOO_FEW, f"of {len(clouds[-1])} points", name))
  if clouds:
    found[places["shape"]] = encoder.embed(clouds)
  notes = count_notes(lost)
  if places["text"] or places["image"]:
    space = encoder.config.embedding_space
    clip = towers.find(encoder.config, checkpoint)
    if clip is None:
      raise BadInput(
        f"the checkpoint's embedding space is {space!r}, which is no name to "
        "load a teacher by; name its CLIP model with --teacher, a folder or "
        "user/model on the Hugging Face hub"
      )
    if clip.embed_dim != width:
      raise BadInput(
        f"the teacher {clip.name} has embeddings of width {clip.embed_dim}, "
        f"the encoder {width}; name the encoder's own teacher, {space!r}"
      )
    ours, said = (_DIGEST.search(text) for text in (clip.name, space))
    if ours and said and ours[1] != said[1]:
      notes.append(
        f"the teacher {clip.name} has other weights than the encoder's, "
        f"{space}; if they are not another form of the same, scores mean "
        "nothing"
      )
    for row in places["text"]:
      text, before = queries[row].value, clip.throughput.truncated
      found[row] = clip.text_features([text])[0]
      if clip.throughput.truncated > before:
        notes.append(
          f"--text {text[:40]!r}... is longer than the teacher reads: what "
          "follows its first tokens was not looked for"
        )
    for row in places["image"]:
      if not isinstance(clip, ClipTeacher):
        raise BadInput(
          f"--image needs the whole CLIP, and {clip.name} is a text tower "
          "alone: name it with --teacher"
        )
      try:
        found[row] = clip.image_features([queries[row].value])[0]
      except BadInput as error:
        raise BadInput(f"--image {queries[row].value}: {error}") from None
  return found, notes
