"""Makes the features of classes by the text towers of the published systems."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrd_jax.encoder import named
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.errors import BadInput
from mrd_jax.io.hub import Repository
from mrd_jax.teachers.clip import ClipTeacher
from mrd_jax.teachers.prompts import (
  TextTeacher,
  class_features,
  read_templates,
)
from mrd_jax.teachers.text_tower import TextTower
from mrd_jax.zoo import pointclip
from mrd_jax.zoo.registry import SYSTEMS
from mrd_jax.zoo.system import Hub, Page, Release


class Made(NamedTuple):
  """How the features of classes are made.

  Attributes:
    features: Makes (C, D) of C names.
    words: What makes them.
    view_weights: That were searched together with sentences.
  """

  features: Callable[[Sequence[str]], np.ndarray]
  words: str
  view_weights: tuple[float, ...] = ()


class ClassTexts:
  """The text towers of a command, each loaded once.

  Args:
    teacher: A `CLIPModel` that stands for every system's own; "" for none.
    weights: A file with a text tower, for systems whose own is not in the
      encoder's file nor on the hub; None for none.
    tokenizer: Of `weights`; "" finds it.
    prompts: PointCLIP v2's sentences, of `pointclip.read_prompts`.
    dtype: Of the matrix products.
  """

  def __init__(
    self,
    *,
    teacher: str,
    weights: Path | None,
    tokenizer: str,
    prompts: dict[str, pointclip.Prompts],
    dtype: str,
  ):
    self._teacher, self._weights, self._prompts = teacher, weights, prompts
    self._clip = functools.cache(
      functools.partial(ClipTeacher.from_pretrained, dtype=dtype)
    )
    self._tower = functools.cache(
      functools.partial(
        TextTower.from_file, tokenizer=tokenizer or None, dtype=dtype
      )
    )

  def own(
    self, config: EncoderConfig, release: Release, split: str, checkpoint: str
  ) -> Made | None:
    """Makes them as the authors do; None: they are stored with the test set.

    Raises:
      BadInput: naming the file that is missing.
    """
    texts = release.texts
    if not texts.templates:
      return None
    tower = self._find(config, release, checkpoint)
    if config.system == "pointclip" and config.architecture.version == 2:
      found = self._sentences(split)
      if found:
        sentences, view_weights = found
        features = functools.partial(
          class_features, tower, templates=(), sentences=sentences
        )
        return Made(features, f"{tower.name}, --prompts", view_weights)
    features = functools.partial(
      class_features,
      tower,
      templates=texts.templates,
      keep_underscores=texts.raw_names,
      pooling=texts.pooling,
    )
    count = f"{len(texts.templates)} of its templates, {texts.pooling}"
    return Made(features, f"{tower.name}, {count}")

  def ours(
    self, config: EncoderConfig, release: Release | None, checkpoint: str
  ) -> Made | None:
    """Makes them of our templates; None for an encoder of no published space.

    Raises:
      BadInput: naming the file that is missing.
    """
    if self._teacher:
      tower = self._clip(self._teacher)
    elif release:
      tower = self._find(config, release, checkpoint)
    else:
      return None
    templates = read_templates()
    features = functools.partial(class_features, tower, templates=templates)
    return Made(features, f"{tower.name}, our {len(templates)} templates")

  def _find(
    self, config: EncoderConfig, release: Release, checkpoint: str
  ) -> TextTeacher:
    """Loads the text tower of an encoder's space."""
    if self._teacher:
      return self._clip(self._teacher)
    tower = release.texts.tower
    if isinstance(tower, str):
      return self._clip(tower)
    if self._weights:
      return self._tower(self._weights)
    system = SYSTEMS[config.system].NAME
    if isinstance(tower, Hub):
      file = Repository(
        tower.repository,
        kind=f"a repository with {tower.file}",
        remedy="; fetch it where there is a network, and name it with "
        "--text-weights",
        first=tower.file,
        type=tower.kind,
      ).get(tower.file)
      return self._tower(file)
    if isinstance(tower, Page):
      raise BadInput(
        f"{system}'s texts are of {tower.file}, which {tower.address} links "
        "to: fetch it, and name it with --text-weights"
      )
    reference = named.parse(checkpoint)
    file = named.find(reference)[0] if reference else Path(checkpoint)
    if not file.is_file():
      raise BadInput(
        f"{checkpoint} is a folder, and the text tower of {system} is in its "
        "published file: name that with --text-weights"
      )
    return self._tower(file)

  def _sentences(self, split: str) -> pointclip.Prompts | None:
    """Finds the sentences that were searched for a test set."""
    fitting = [x for x in self._prompts if split.startswith(x.split("_")[0])]
    if len(fitting) > 1:
      fitting = [x for x in fitting if x.endswith("vit_b16")]
    return self._prompts[fitting[0]] if fitting else None
