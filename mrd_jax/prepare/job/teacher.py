"""Loads the teacher of a preparation job."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrd_jax.teachers.prompts import class_features, read_templates

if TYPE_CHECKING:
  from mrd_jax.teachers.captions import Captioner
  from mrd_jax.teachers.clip import ClipTeacher


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A loaded teacher.

  Attributes:
    clip: Makes the features.
    templates: Prompts of names.
    captioner: Describes shapes that have no caption; None to leave them so.
  """

  clip: "ClipTeacher"
  templates: Sequence[str]
  captioner: "Captioner | None" = None

  def class_features(self, classes: Sequence[str]) -> np.ndarray:
    """Returns (C, D) features of class names by prompts."""
    return class_features(self.clip, classes, self.templates)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherConfig:
  """A CLIP model of Hugging Face, and how it is used.

  Attributes:
    model: Folder, or "user/model" on the hub.
    revision: Branch, tag or commit on the hub.
    dtype: "bfloat16" or "float32", of the matrix products.
    batch_size: Images or texts at a time on each device.
    templates: File of prompt templates; None for our own.
    template_key: Which list of that file.
    captioner: Image-to-text model for shapes without a caption, or None.
  """

  model: str
  revision: str | None = None
  dtype: str = "bfloat16"
  batch_size: int = 64
  templates: str | None = None
  template_key: str | None = None
  captioner: str | None = None

  def description(self) -> dict[str, Any]:
    """Says what decides the features, as far as is known without the model."""
    templates = read_templates(self.templates, self.template_key)
    return dataclasses.asdict(self) | {"templates": templates}

  def load(self) -> Teacher:
    """Loads the model, and the captioner.

    Raises:
      BadInput: in a sentence that says which file is missing or unusable.
    """
    from mrd_jax.teachers.clip import ClipTeacher

    clip = ClipTeacher.from_pretrained(
      self.model,
      revision=self.revision,
      dtype=self.dtype,
      batch_size=self.batch_size,
    )
    captioner = None
    if self.captioner is not None:
      from mrd_jax.teachers.captions import Captioner

      captioner = Captioner(self.captioner)
    templates = read_templates(self.templates, self.template_key)
    return Teacher(clip, templates, captioner)
