"""Makes class features of prompts: what zero-shot classification compares with.

A class's feature is the mean of the unit features of its name in each
template, made unit length again (Radford et al. 2021, section 3.1.4).
"""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.arrays import read_npz
from mrd_jax.io.files import parse_json, replacing
from mrd_jax.metrics.embeddings import unit

TEMPLATES = Path(__file__).with_name("templates.json")


class TextTeacher(Protocol):
  """What is needed of a teacher here; see `ClipTeacher`."""

  name: str
  fingerprint: str
  dtype: str
  embed_dim: int

  def text_features(self, texts: Sequence[str]) -> np.ndarray: ...


def class_features(
  teacher: TextTeacher,
  class_names: Sequence[str],
  templates: Sequence[str],
  *,
  keep_underscores: bool = False,
) -> np.ndarray:
  """Computes features of classes by prompts: normalise, mean, normalise.

  They are kept in `mrd_jax` in XDG_CACHE_HOME, or in ~/.cache, in a file that
  is named by a hash of all that they depend on: the teacher's weights, config
  and tokenizer, its dtype, the names, and the templates.  A damaged file is
  made again.

  Args:
    teacher: Makes text features.
    class_names: C of them.
    templates: T of them, each with one "{}" (`read_templates`).
    keep_underscores: Without it "night_stand" is read as "night stand", as
      the names of datasets mean it.

  Returns:
    (C, D) float32, unit length, in the order of the names.

  Raises:
    BadInput: naming the class or template that cannot be used.
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
  check_templates(templates, "templates")
  inputs = {
    "format": 1,
    "teacher": teacher.fingerprint,
    "dtype": teacher.dtype,
    "class_names": names,
    "templates": list(templates),
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
  features = prompt_features(teacher, names, templates)
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
  prompts = [
    template.replace("{}", name) for name in names for template in templates
  ]
  found = teacher.text_features(prompts).astype(np.float64)
  found = found.reshape(len(names), len(templates), -1)
  return unit(unit(found).mean(axis=1)).astype(np.float32)


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
