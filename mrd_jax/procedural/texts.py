"""Writes captions by a small grammar, and reads them by its vocabulary.

What `draw_texts` writes, `mentions` understands; the synthetic teacher sees a
text only through `mentions`.
"""

import re
from collections.abc import Mapping

import numpy as np

from mrd_jax.data.records import TextKind
from mrd_jax.procedural.families import FAMILIES
from mrd_jax.procedural.objects import (
  COLORS,
  MATERIALS,
  SIZES,
  Concept,
  Description,
  draw_similar,
)

NO_TEXT_SHARE = 0.03  # of all shapes
CAPTION_SHARE = 0.85  # of the others, for BLIP and for MSFT independently

# How likely a text of a kind says each fact that is true of the object.
_SAYS: Mapping[TextKind, Mapping[str, float]] = {
  TextKind.RAW: {"color": 0.6, "material": 0.1, "size": 0.2, "part": 0.0},
  TextKind.BLIP: {"color": 0.9, "material": 0.3, "size": 0.2, "part": 0.6},
  TextKind.MSFT: {"color": 0.8, "material": 0.6, "size": 0.6, "part": 0.4},
  TextKind.RETRIEVAL: {"color": 0.7, "material": 0.4, "size": 0.3, "part": 0.3},
}
_TEMPLATES: Mapping[TextKind, tuple[str, ...]] = {
  TextKind.BLIP: ("{}", "a 3d model of {}", "{} on a plain background"),
  TextKind.MSFT: ("{}", "a close up of {}", "a rendering of {}"),
  TextKind.RETRIEVAL: ("{}", "{} for sale", "photo of {}, stock image"),
}


def draw_texts(
  description: Description, rng: np.random.Generator
) -> list[tuple[str, TextKind]]:
  """Writes the texts of one shape.

  Returns:
    Nothing for about 3 % of the shapes; else one RAW name, a BLIP-like and an
    MSFT-like caption (each missing from 15 %), and up to two RETRIEVAL texts,
    which describe *other* objects of the family and so may be wrong about
    everything but that.
  """
  if rng.random() < NO_TEXT_SHARE:
    return []
  subjects = [(description, TextKind.RAW)]
  subjects += [
    (description, kind)
    for kind in (TextKind.BLIP, TextKind.MSFT)
    if rng.random() < CAPTION_SHARE
  ]
  subjects += [
    (draw_similar(description, rng), TextKind.RETRIEVAL)
    for _ in range(rng.integers(3))
  ]
  return [(_caption(about, kind, rng), kind) for about, kind in subjects]


def with_article(noun: str, plural: bool = False) -> str:
  """Adds an article: "an orange cup", "a pair of scissors"."""
  if plural:
    return f"a pair of {noun}"
  return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def mentions(text: str) -> list[Concept]:
  """Lists the distinct concepts that a text names, in order.

  The longest phrase wins ("traffic cone" is no "cone"), words that mean
  nothing here are passed over, case and punctuation do not matter.
  """
  words = re.findall(r"[a-z0-9]+", text.lower())
  found: dict[Concept, None] = {}
  at = 0
  while at < len(words):
    for length in range(min(_LONGEST, len(words) - at), 0, -1):
      phrase = " ".join(words[at : at + length])
      if phrase in VOCABULARY:
        found[VOCABULARY[phrase]] = None
        break
    else:
      length = 1
    at += length
  return list(found)


def _caption(
  description: Description, kind: TextKind, rng: np.random.Generator
) -> str:
  """Writes a bare name for RAW, else a phrase in one of the kind's frames."""
  family = FAMILIES[description.family]
  says = {what: rng.random() < share for what, share in _SAYS[kind].items()}
  nouns = (family.name, *family.synonyms)
  noun = nouns[rng.integers(len(nouns))] if rng.random() < 0.4 else family.name
  words = [
    description.size if says["size"] else "",
    description.color if says["color"] else "",
    description.material if says["material"] else "",
    noun,
  ]
  phrase = " ".join(word for word in words if word)
  if kind == TextKind.RAW:
    return phrase
  phrase = with_article(phrase, family.plural)
  if says["part"] and description.parts:
    part = description.parts[rng.integers(len(description.parts))]
    phrase += " with " + (part if part.endswith("s") else with_article(part))
  templates = _TEMPLATES[kind]
  return templates[rng.integers(len(templates))].format(phrase)


def _vocabulary() -> dict[str, Concept]:
  """Lists every phrase that means something; ValueError on a homonym."""
  vocabulary: dict[str, Concept] = {}

  def add(phrase: str, kind: str, name: str) -> None:
    if vocabulary.setdefault(phrase, (kind, name)) != (kind, name):
      raise ValueError(
        f"{phrase!r} would mean both {vocabulary[phrase]} and {(kind, name)}"
      )

  words = {"color": COLORS, "material": MATERIALS, "size": SIZES}
  for kind, names in words.items():
    for name in names:
      add(name, kind, name)
  for family in FAMILIES.values():
    for phrase in (family.name, *family.synonyms):
      add(phrase, "family", family.name)
    for part in family.parts:
      add(part, "part", part)
  return vocabulary


VOCABULARY: Mapping[str, Concept] = _vocabulary()
_LONGEST = max(len(phrase.split()) for phrase in VOCABULARY)
