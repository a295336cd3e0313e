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
  """

  def __init__(
    self,
    towers: TextTowers,
    prompts: dict[str, pointclip.Prompts],
    templates: Sequence[str],
  ):
    self._towers, self._prompts = towers, prompts
    self._templates = templates

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

  def ours(self, config: EncoderConfig, checkpoint: str) -> Made | None:
    """Makes them as for all; None for an encoder of no published space.

    Raises:
      BadInput: naming the file that is missing.
    """
    tower = self._towers.find(config, checkpoint)
    if tower is None:
      return None
    features = functools.partial(
      class_features, tower, templates=self._templates
    )
    words = f"{tower.name}, {len(self._templates)} templates, the same for all"
    return Made(features, words)

  def _sentences(self, split: str) -> pointclip.Prompts | None:
    """Finds the sentences that were searched for a test set."""
    fitting = [x for x in self._prompts if split.startswith(x.split("_")[0])]
    if len(fitting) > 1:
      fitting = [x for x in fitting if x.endswith("vit_b16")]
    return self._prompts[fitting[0]] if fitting else None
