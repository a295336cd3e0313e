"""Decides how an encoder is measured on a test set: the protocols."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from mrd_jax.encoder import named
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.errors import BadInput
from mrd_jax.evaluate.class_texts import ClassTexts
from mrd_jax.evaluate.protocol import Protocol
from mrd_jax.zoo.registry import SYSTEMS
from mrd_jax.zoo.system import Preparation

Standard = Literal["own", "ours"]


class Setting(NamedTuple):
  """How an encoder is measured on a test set.

  Attributes:
    model: The module, for this test set.
    preparation: How it takes a cloud.
    protocol: What is done to every cloud before.
    class_features: Makes (C, D) features of class names; None takes those that
      are stored with the split.
    texts: What makes them, in words; "" for those stored.
    differs: What of a published protocol is not followed, in words.
  """

  model: Any
  preparation: Preparation
  protocol: Protocol
  class_features: Callable[[Sequence[str]], np.ndarray] | None = None
  texts: str = ""
  differs: str = ""


def choose(
  standard: Standard,
  encoder: Encoder,
  split: str,
  checkpoint: str,
  texts: ClassTexts,
  protocol: Protocol,
) -> Setting:
  """Sets an encoder to be measured on a test set by a standard protocol.

  Args:
    standard: "own", that of its authors, or "ours", the same for all.
    encoder: The encoder.
    split: Name of the test set.
    checkpoint: Where the encoder was loaded from.
    texts: Makes the features of classes.
    protocol: What is done to every cloud, of "ours".

  Raises:
    BadInput: if a text tower is needed that is not at hand, or the authors'
      protocol would be changed.
  """
  if standard == "ours":
    return _ours(encoder, checkpoint, texts, protocol)
  if protocol != Protocol():
    raise BadInput(
      "--points and --colour are not what the authors do: leave them out, or "
      "say --protocol ours"
    )
  return _own(encoder, split, checkpoint, texts)


def _own(
  encoder: Encoder, split: str, checkpoint: str, texts: ClassTexts
) -> Setting:
  """Sets what its authors set: their preparation, texts, views and weights.

  An encoder of ours, or one of another size than any that is published, is
  measured as it takes clouds, by the features that are stored.
  """
  config = encoder.config
  release = named.release_of(config)
  if release is None:
    return Setting(encoder.model, config.preparation, Protocol())
  other = named.differing(config.system, config.architecture, release)
  made = texts.own(config, release.texts, split, checkpoint)
  # What was searched for the published weights is not another's.
  changed = {} if other else dict(release.set_on(split))
  if made and made.view_weights:
    changed["view_weights"] = made.view_weights
  of_size = {x.name for x in fields(config.architecture)} & changed.keys()
  size = replace(config.architecture, **{k: changed[k] for k in of_size})
  model = encoder.model
  if of_size:
    model = SYSTEMS[config.system].make(size, model.dtype)
  prepared = {k: v for k, v in changed.items() if k in Preparation._fields}
  return Setting(
    model=model,
    preparation=config.preparation._replace(**prepared),
    protocol=Protocol(changed.get("drawn"), changed.get("colour")),
    class_features=made.features if made else None,
    texts=made.words if made else "",
    differs="; ".join(filter(None, (other, release.differs))),
  )


def _ours(
  encoder: Encoder, checkpoint: str, texts: ClassTexts, protocol: Protocol
) -> Setting:
  """Sets what is the same for all: one protocol, which nobody has published.

  All see the same clouds, centred and scaled, in one order, and templates
  by their own text towers.  How many of the points a network takes, by farthest
  point sampling or not, how it groups them and what is up in its clouds is a
  part of the network.
  """
  config = encoder.config
  prepared = protocol.preparation(config)
  order = "farthest" if prepared.order == "farthest" else "shuffled"
  made = texts.ours(config, checkpoint)
  return Setting(
    model=encoder.model,
    preparation=prepared._replace(order=order, normalized=True),
    protocol=protocol,
    class_features=made.features if made else None,
    texts=made.words if made else "",
  )
