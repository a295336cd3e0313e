"""Makes class features of prompts: what zero-shot classification compares with.

A class's feature is the mean of the unit features of its name in each
template, made unit length again (Radford et al. 2021, section 3.1.4).  Other
systems add up features as they are, or have one sentence for each class.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.arrays import read_npz
from mrd_jax.io.files import parse_json, replacing
from mrd_jax.metrics.embeddings import unit

Pooling = Literal["mean", "sum"]

TEMPLATES = Path(__file__).with_name("templates.json")


class TextTeacher(Protocol):
  """What is needed of a teacher here; see `TextEmbedder`."""

  name: str
  fingerprint: str
  dtype: str
  embed_dim: int

  def text_features(
    self, texts: Sequence[str], *, unit: bool = True
  ) -> np.ndarray: ...


def class_features(
  teacher: TextTeacher,
  class_names: Sequence[str],
  templates: Sequence[str],
  *,
  keep_underscores: bool = False,
  pooling: Pooling = "mean",
  sentences: Sequence[str] | None = None,
) -> np.ndarray:
  """Computes features of classes by prompts.

  They are kept in `mrd_jax` in XDG_CACHE_HOME, or in ~/.cache, in a file that
  is named by a hash of all that they depend on: the teacher's weights, config
  and tokenizer, its dtype, and the other arguments.  A damaged file is made
  again.

  Args:
    teacher: Makes text features.
    class_names: C of them.
    templates: T of them, each with one "{}" (`read_templates`); () with
      `sentences`.
    keep_underscores: Without it "night_stand" is read as "night stand", as
      the names of datasets mean it.
    pooling: "mean" normalises features, averages those of a class, and
      normalises again; "sum" adds up features as they are, and leaves it so.
    sentences: C of them, whole ones, in the order of the names: the prompts
      instead of those by templates.

  Returns:
    (C, D) float32, in the order of the names; of unit length if averaged.

  Raises:
    BadInput: naming the class, template or argument that cannot be used.
  """
  if isinstance(class_names, str) or not len(class_names):
    raise BadInput(
      f"class_names is {'one text' if class_names else 'empty'}; give a list"
    )
  names = [
    name if keep_underscores else name.replace("_", " ") for name in class_names
  ]
  for name, given in zip(names, class_names, strict=True):
    if not name.strip():
      raise BadInput(f"class_names has {given!r}: give every class a name")
    if names.count(name) > 1:
      raise BadInput(f"class_names has {name!r} twice: classes must differ")
  if pooling not in ("mean", "sum"):
    raise BadInput(f"pooling is {pooling!r}, must be 'mean' or 'sum'")
  if sentences is None:
    check_templates(templates, "templates")
  elif isinstance(sentences, str) or len(sentences) != len(names):
    count = "one text" if isinstance(sentences, str) else len(sentences)
    raise BadInput(
      f"sentences is {count} for {len(names)} classes; give one for each"
    )
  elif templates:
    raise BadInput("sentences and templates are given; give one of them")
  inputs = {
    "format": 2,
    "teacher": teacher.fingerprint,
    "dtype": teacher.dtype,
    "class_names": names,
    "templates": list(templates),
    "pooling": pooling,
    "sentences": None if sentences is None else list(sentences),
  }
  key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
  caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  folder = Path(caches, "mrd_jax")
  path = folder / f"class_features-{key[:32]}.npz"
  try:
    cached = read_npz(path, "remove it")
    features = cached["features"]
    if (
      str(cached["key"]) == key
      and features.shape == (len(names), teacher.embed_dim)
      and features.dtype == np.float32
      and np.isfinite(features).all()
    ):
      return features
  except (BadInput, KeyError):
    pass  # there is none that can be used
  prompts = sentences or _fill(names, templates)
  features = _pool(teacher, prompts, len(names), pooling)
  about = json.dumps({"teacher_name": teacher.name} | inputs)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # Under a name of its own: several runs may make the same file at once.
    suffix = f".{uuid.uuid4().hex}"
    with replacing(path, suffix) as temporary, temporary.open("wb") as file:
      np.savez(file, features=features, key=key, about=about)
  except OSError as error:
    raise BadInput(
      f"{path}: class features cannot be kept there ({error.strerror}); name "
      "another folder in XDG_CACHE_HOME"
    ) from error
  return features


def prompt_features(
  teacher: TextTeacher, names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
  """Computes (N, D) float32 features of names: normalise, mean, normalise."""
  return _pool(teacher, _fill(names, templates), len(names), "mean")


def _fill(names: Sequence[str], templates: Sequence[str]) -> list[str]:
  """Puts each name into all of the templates."""
  return [
    template.replace("{}", name) for name in names for template in templates
  ]


def _pool(
  teacher: TextTeacher, prompts: Sequence[str], count: int, pooling: Pooling
) -> np.ndarray:
  """Computes (N, D) float32 features of as many prompts for each of N names."""
  if pooling == "mean":
    found = teacher.text_features(prompts)
  else:
    found = teacher.text_features(prompts, unit=False)
  found = found.astype(np.float64).reshape(count, -1, found.shape[1])
  if pooling == "mean":
    found = unit(unit(found).mean(axis=1))
  else:
    found = found.sum(axis=1)
  return found.astype(np.float32)


def read_templates(
  path: str | os.PathLike[str] | None = None, key: str | None = None
) -> list[str]:
  """Reads templates; without a path, our own 30 for renders and photos.

  Args:
    path: A .txt file with a template a line; or JSON: a list of templates, or
      as ULIP's, {"modelnet40_64": [...], ...}.
    key: Which list of such an object; may be left out if it has only one.

  Raises:
    BadInput: naming the file, and the key or template that cannot be used.
  """
  path = TEMPLATES if path is None else Path(path)
  try:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
      found = [line.strip() for line in text.splitlines() if line.strip()]
    else:
      found = parse_json(text)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  except ValueError as error:
    raise BadInput(
      f"{path}: is not JSON ({error}); a file with a template a line must be "
      "named .txt"
    ) from error
  if isinstance(found, dict):
    choice = ", ".join(map(repr, found))
    if key is None and len(found) != 1:
      raise BadInput(f"{path}: has several lists, choose a key of {choice}")
    if key is not None and key not in found:
      raise BadInput(f"{path}: has no key {key!r}, it has {choice}")
    found = found[next(iter(found)) if key is None else key]
  elif key is not None:
    raise BadInput(f"{path}: is one list, so there is no key {key!r} in it")
  if not isinstance(found, list):
    raise BadInput(f"{path}: expected a list of templates")
  check_templates(found, str(path))
  return found


def check_templates(templates: Sequence[str], name: str) -> None:
  """Raises BadInput if there is none, or one lacks its single "{}"."""
  if isinstance(templates, str) or not len(templates):
    raise BadInput(f"{name}: expected a list of at least one template")
  for template in templates:
    if not isinstance(template, str) or template.count("{}") != 1:
      raise BadInput(
        f"{name}: the template {template!r} must have exactly one {{}}, where "
        "the class name goes"
      )
