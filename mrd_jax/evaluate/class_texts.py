"""Makes the features of classes by the text towers of the published systems."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.encoder.text_towers import TextTowers
from mrd_jax.teachers.prompts import class_features
from mrd_jax.zoo import pointclip
from mrd_jax.zoo.system import Texts


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
  """Makes features of classes.

  Args:
    towers: The text towers.
    prompts: PointCLIP v2's sentences, of `pointclip.read_prompts`.
    templates: What is the same for all systems.
    keep_underscores: Of names, likewise.
  """

  def __init__(
    self,
    towers: TextTowers,
    prompts: dict[str, pointclip.Prompts],
    templates: Sequence[str],
    keep_underscores: bool = False,
  ):
    self._towers, self._prompts = towers, prompts
    self._templates, self._keep_underscores = templates, keep_underscores

  def own(
    self, config: EncoderConfig, texts: Texts, split: str, checkpoint: str
  ) -> Made | None:
    """Makes them as the authors do; None: they are stored with the test set.

    Raises:
      BadInput: naming the file that is missing.
    """
    tower = self._towers.find(config, checkpoint) if texts.templates else None
    if tower is None:
      return None
    words = f"{len(texts.templates)} of its templates, {texts.pooling}"
    if config.system == "pointclip" and config.architecture.version == 2:
      clip = pointclip.CLIPS.get(config.architecture.tower)
      for name, (sentences, view_weights) in self._prompts.items():
        data, _, of = name.partition("_")
        if split.startswith(data) and of == clip:
          features = functools.partial(
            class_features, tower, templates=(), sentences=sentences
          )
          return Made(
            features, f"{tower.name}, {name} of --prompts", view_weights
          )
      if self._prompts:
        words += f"; --prompts has none for {split} and {clip or 'its CLIP'}"
    features = functools.partial(
      class_features,
      tower,
      templates=texts.templates,
      keep_underscores=texts.raw_names,
      pooling=texts.pooling,
    )
    return Made(features, f"{tower.name}, {words}")

  def ours(self, config: EncoderConfig, checkpoint: str) -> Made | None:
    """Makes them as for all; None for an encoder of no published space.

    Raises:
      BadInput: naming the file that is missing.
    """
    tower = self._towers.find(config, checkpoint)
    if tower is None:
      return None
    features = functools.partial(
      class_features,
      tower,
      templates=self._templates,
      keep_underscores=self._keep_underscores,
    )
    words = f"{tower.name}, {len(self._templates)} templates, the same for all"
    return Made(features, words)
